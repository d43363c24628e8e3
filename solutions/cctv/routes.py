"""The CCTV HTTP API: cameras and their live pictures, events with evidence and reviews, drawings, figures.

    GET  /api/cctv/cameras                              how each camera is                              viewer
    GET  /api/cctv/cameras/{camera}                                                                     viewer
    GET  /api/cctv/cameras/{camera}/snapshot.jpg        newest picture; If-None-Match answers 304       viewer
    GET  /api/cctv/cameras/{camera}/live                motion JPEG for as long as one looks            viewer
    GET  /api/cctv/cameras/{camera}/drawing             zones, lines, private areas                     viewer
    PUT  /api/cctv/cameras/{camera}/drawing             into the site file, if its version still holds  engineer
    GET  /api/cctv/cameras/{camera}/heatmap.png         where people and things were                    viewer
    GET  /api/cctv/events                               newest first, searched, in pages                viewer
    GET  /api/cctv/events/{id}                                                                          viewer
    GET  /api/cctv/events/{id}/snapshot.jpg                                                             viewer
    GET  /api/cctv/events/{id}/clip.mp4                 takes Range                                     viewer
    POST /api/cctv/events/{id}/review                   {"verdict": "approve" or "dismiss", "reason"}   operator
    POST /api/cctv/events/{id}/lock                     {"locked": true}: evidence is not deleted       operator
    GET  /api/cctv/counts                               events and line crossings over time             viewer

Whether a picture is clear depends on the role, by the site's `privacy`. Without a site (`haechi cctv run` notes which
one this machine watches) every route answers 404.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from shared.errors import BadInput, HaechiError
from shared.serving import openapi
from shared.serving.errors import Busy, NotFound, Unavailable
from shared.serving.keys import Principal
from solutions.cctv import console_site
from solutions.cctv.archive import Search
from solutions.cctv.desk import SOLUTION, Desk, desk_of, folder_of
from solutions.cctv.live import Variant
from solutions.cctv.models import (
    CameraAnswer,
    CountsAnswer,
    DrawingAnswer,
    DrawingBody,
    EventAnswer,
    EventsPage,
    LockBody,
    Moment,
    ReviewBody,
    State,
)
from solutions.cctv.store import KeptArchive

if TYPE_CHECKING:
    from shared.serving.state import ServerState

PREFIX = f"/api/{SOLUTION}"
MAX_STREAMS = 64
"""Live streams of one server; each holds a connection."""
MAX_EVENTS = 200
WAIT_S = 3.0
"""For the first picture of a camera that nobody looked at before."""
_POLL_S = 0.03
_ASK_AGAIN_S = 5.0
"""A stream asks so often whether who watches still may."""
_BOUNDARY = "haechi"
_FRESH = {"cache-control": "no-store"}
_KEPT = {"cache-control": "private, no-cache"}
_PATTERN = r"^[^\x00-\x1f]{1,64}$"
Text = Annotated[str | None, Query(min_length=1, max_length=64, pattern=_PATTERN)]
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_LOST = (
    "Comments in what was written anew of the site file are lost; comments elsewhere stay where the file's form allows."
)


def router_for(state: ServerState) -> APIRouter:
    """The routes on a server."""
    desk = desk_of(state)
    desk.keep(KeptArchive(state.records, folder_of(state.settings.home) / "evidence"))
    router = APIRouter(prefix=PREFIX, tags=[SOLUTION])
    _add_cameras(router, desk)
    _add_live(router, desk)
    _add_drawing(router, desk)
    _add_events(router, desk)
    _add_evidence(router, desk)
    _add_reviewing(router, desk)
    _add_figures(router, desk)
    return router


def _content(media_type: str, **more: str) -> dict[int | str, dict[str, Any]]:
    """The description of answers that are no JSON: statuses beside 200 with their words."""
    error = openapi.refusal(400)["content"]
    others: dict[int | str, dict[str, Any]] = {
        int(code[1:]): {"description": words} | ({"content": error} if code >= "_400" else {})
        for code, words in more.items()
    }
    return {200: {"description": "Its bytes.", "content": {media_type: _BYTES}}} | others


def _aware(name: str, moment: dt.datetime | None) -> dt.datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise BadInput(f"{name} has no time zone; write it as 2030-01-31T08:00:00Z or with +09:00.")
    return moment


def _add_cameras(router: APIRouter, desk: Desk) -> None:
    viewer = [Depends(desk.state.require("viewer"))]

    @router.get("/cameras", response_model=list[CameraAnswer], dependencies=viewer)
    def cameras() -> Any:
        return desk.cameras()

    @router.get("/cameras/{camera}", response_model=CameraAnswer, dependencies=viewer)
    def camera_status(camera: str) -> Any:
        desk.camera(camera)
        return next(one for one in desk.cameras() if one["name"] == camera)


def _add_live(router: APIRouter, desk: Desk) -> None:
    viewer = Depends(desk.state.require("viewer"))
    streams = asyncio.Semaphore(MAX_STREAMS)
    picture = _content("image/jpeg", _304="There is no newer picture.")

    @router.get("/cameras/{camera}/snapshot.jpg", response_class=Response, responses=picture)
    async def snapshot(
        camera: str,
        request: Request,
        marks: Annotated[bool, Query(description="whether what is seen is drawn in")] = True,
        principal: Principal = viewer,
    ) -> Response:
        variant = await asyncio.to_thread(desk.variant, camera, principal, marks)
        known = request.headers.get("if-none-match", "")
        desk.live.watch(camera, variant)
        found = await _first(desk, camera, variant, wait_s=0.0 if known else WAIT_S)
        if found is None:
            if known:
                return Response(status_code=304, headers=_KEPT | {"etag": known})
            raise Unavailable(f"there is no picture of camera {camera} now; see its status.")
        tag = f'"{found[0]:x}-{variant}"'
        if tag == known:
            return Response(status_code=304, headers=_KEPT | {"etag": tag})
        return Response(found[1], media_type="image/jpeg", headers=_KEPT | {"etag": tag})

    @router.get(
        "/cameras/{camera}/live",
        response_class=StreamingResponse,
        responses=_content(f"multipart/x-mixed-replace; boundary={_BOUNDARY}") | {429: openapi.refusal(429)},
    )
    async def live(camera: str, request: Request, principal: Principal = viewer) -> Response:
        variant = await asyncio.to_thread(desk.variant, camera, principal)
        if streams.locked():
            raise Busy(f"{MAX_STREAMS} live streams are open already; close one.")
        parts = _parts(desk, camera, variant, request, streams)
        media_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return StreamingResponse(parts, media_type=media_type, headers=_FRESH)


async def _first(desk: Desk, camera: str, variant: Variant, wait_s: float) -> tuple[int, bytes] | None:
    """The newest picture; where there is none yet, the first within this time."""
    until = time.monotonic() + wait_s
    while (found := await asyncio.to_thread(desk.live.newer, camera, variant)) is None:
        if time.monotonic() >= until or desk.state.draining or desk.live.status(camera) is None:
            return None
        await asyncio.sleep(_POLL_S)
    return found


async def _parts(
    desk: Desk, camera: str, variant: Variant, request: Request, streams: asyncio.Semaphore
) -> AsyncIterator[bytes]:
    """The parts of a motion JPEG stream, until the server stops or the visitor may not look any more."""
    headers = dict(request.scope["headers"])
    stamp, asked = 0, -_ASK_AGAIN_S
    async with streams:
        while not desk.state.draining:
            if time.monotonic() - asked >= _ASK_AGAIN_S:
                asked = time.monotonic()
                if not await asyncio.to_thread(_still_may, desk, camera, variant, headers):
                    return
                desk.live.watch(camera, variant)
            found = await asyncio.to_thread(desk.live.newer, camera, variant, stamp)
            if found is None:
                await asyncio.sleep(_POLL_S)
                continue
            stamp, content = found
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            yield head.encode() + content + b"\r\n"


def _still_may(desk: Desk, camera: str, variant: Variant, headers: dict[bytes, bytes]) -> bool:
    principal = desk.state.auth.identify(headers)
    if principal is None or not principal.may("viewer"):
        return False
    try:
        return desk.variant(camera, principal) == variant
    except HaechiError:
        return False


def _add_drawing(router: APIRouter, desk: Desk) -> None:
    viewer = [Depends(desk.state.require("viewer"))]
    engineer = Depends(desk.state.require("engineer"))
    changed = {"description": "The site file has another version by now.", "content": openapi.refusal(400)["content"]}
    refusals: dict[int | str, dict[str, Any]] = {code: openapi.refusal(code) for code in (408, 413, 429, 500)}

    def answer(file: console_site.SiteFile, camera: str, note: str | None = None) -> Any:
        return console_site.drawing_of(file.site.cameras[camera]) | {"version": file.version, "note": note}

    @router.get("/cameras/{camera}/drawing", response_model=DrawingAnswer, dependencies=viewer)
    def drawing_now(camera: str) -> Any:
        desk.camera(camera)
        return answer(desk.site_file(), camera)

    @router.put("/cameras/{camera}/drawing", response_model=DrawingAnswer, responses=refusals | {409: changed})
    def draw(camera: str, body: DrawingBody, principal: Principal = engineer) -> Any:
        places = {name: shapes for name in console_site.SECTIONS if (shapes := getattr(body, name)) is not None}
        file, lost = desk.draw(camera, places, body.version, principal.name)
        return answer(file, camera, _LOST if lost else None)


def _add_events(router: APIRouter, desk: Desk) -> None:
    viewer = [Depends(desk.state.require("viewer"))]

    @router.get("/events", response_model=EventsPage, dependencies=viewer)
    def events(
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 50,
        before: Annotated[str | None, Query(max_length=200, description="next_before of the page before")] = None,
        since: Moment | None = None,
        until: Moment | None = None,
        camera: Text = None,
        type: Text = None,
        severity: Literal["info", "warning", "critical"] | None = None,
        zone: Annotated[str | None, Query(max_length=64, description="the zone or line it is about")] = None,
        label: Text = None,
        colour: Annotated[str | None, Query(max_length=64, description="of the clothing")] = None,
        through: Annotated[str | None, Query(max_length=64, description="a zone that its path led through")] = None,
        state: State | None = None,
        locked: bool | None = None,
    ) -> Any:
        search = Search(
            since=_aware("since", since),
            until=_aware("until", until),
            camera=camera,
            type=type,
            severity=severity,
            zone=zone,
            label=label,
            colour=colour,
            through=through,
            state=state,
            locked=locked,
        )
        found, following = desk.events(search, limit, before)
        return {"events": found, "next_before": following}

    @router.get("/events/{event_id}", response_model=EventAnswer, dependencies=viewer)
    def event(event_id: str) -> Any:
        return desk.event(event_id)


def _add_evidence(router: APIRouter, desk: Desk) -> None:
    viewer = Depends(desk.state.require("viewer"))
    part = {
        "_206": "The part that Range asked for.",
        "_400": "Range cannot be read.",
        "_416": "Range lies outside the clip.",
    }

    @router.get("/events/{event_id}/snapshot.jpg", response_class=Response, responses=_content("image/jpeg"))
    def event_snapshot(event_id: str, principal: Principal = viewer) -> Response:
        content = desk.snapshot(event_id, principal)
        if content is None:
            raise NotFound(f"the snapshot of event {event_id[:64]} is not kept on this machine (any more).")
        return Response(content, media_type="image/jpeg", headers=_KEPT)

    @router.get("/events/{event_id}/clip.mp4", response_class=FileResponse, responses=_content("video/mp4", **part))
    def event_clip(event_id: str, principal: Principal = viewer) -> Response:
        path = desk.clip(event_id, principal)
        if path is None:
            raise NotFound(f"the clip of event {event_id[:64]} is not kept on this machine (yet, or any more).")
        return _Film(path, media_type="video/mp4", headers=_KEPT, filename=path.name, content_disposition_type="inline")


class _Film(FileResponse):
    """A file in parts, whose refusals of a Range are JSON as all others here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: JSONResponse | None = None

        async def told(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                size = {k.decode(): v.decode() for k, v in message["headers"] if k == b"content-range"}
                refusal = JSONResponse({"error": "Range is not within the clip."}, message["status"], size)
            elif refusal is None:
                await send(message)

        await super().__call__(scope, receive, told)
        if refusal is not None:
            await refusal(scope, receive, send)


def _add_reviewing(router: APIRouter, desk: Desk) -> None:
    operator = Depends(desk.state.require("operator"))

    @router.post("/events/{event_id}/review", response_model=EventAnswer)
    def review(event_id: str, body: ReviewBody, principal: Principal = operator) -> Any:
        return desk.review(event_id, body.verdict, body.reason, principal.name)

    @router.post("/events/{event_id}/lock", response_model=EventAnswer)
    def lock(event_id: str, body: LockBody, principal: Principal = operator) -> Any:
        return desk.lock(event_id, body.locked, principal.name)


def _add_figures(router: APIRouter, desk: Desk) -> None:
    viewer = [Depends(desk.state.require("viewer"))]

    @router.get("/counts", response_model=CountsAnswer, dependencies=viewer)
    def counts(
        since: Moment,
        until: Moment | None = None,
        bucket: Literal["hour", "day"] = "hour",
        camera: Text = None,
    ) -> Any:
        start, end = _aware("since", since), _aware("until", until)
        assert start is not None
        return desk.counts(start, end or dt.datetime.now(dt.UTC), bucket, camera)

    @router.get(
        "/cameras/{camera}/heatmap.png",
        response_class=Response,
        dependencies=viewer,
        responses=_content("image/png"),
    )
    def heatmap(camera: str, since: Moment | None = None, until: Moment | None = None) -> Response:
        content = desk.heatmap(camera, _aware("since", since), _aware("until", until))
        return Response(content, media_type="image/png", headers=_FRESH)
