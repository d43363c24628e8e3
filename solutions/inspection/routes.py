"""The inspection HTTP API: send a picture, get a decision; look decisions up; say what a person thinks of them.

    POST /api/inspection/inspect                        a picture as the multipart field `image`      role operator
    GET  /api/inspection/models                         what may be named as `model`                  role viewer
    GET  /api/inspection/results                        newest first, in pages                        role viewer
    GET  /api/inspection/results/{id}                                                                 role viewer
    GET  /api/inspection/results/{id}/picture           as it was sent (TIFF and BMP become PNG)      role viewer
    GET  /api/inspection/results/{id}/heatmap.png       heat map and boxes over the picture           role viewer
    GET  /api/inspection/results/{id}/thumbnail.jpg                                                   role viewer
    POST /api/inspection/results/{id}/review            {"verdict": "OK" or "NG", "note": "…"}        role operator

The answer to `inspect` carries the heat map as base64 PNG, so that a program which wants it needs no second request and
depends on no picture still being kept; `heatmap=false` leaves it out, which saves its drawing and its bytes (most of
the answer) where only the verdict counts. `heatmap_url` is there either way.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response

from shared.errors import BadInput
from shared.records import MAX_PAGE, StoredResult
from shared.serving.errors import NotFound
from shared.serving.keys import Principal
from shared.serving.middleware import request_id
from solutions.inspection.service import SOLUTION, InspectionService

if TYPE_CHECKING:
    from shared.serving.state import ServerState

PREFIX = f"/api/{SOLUTION}"
_KEPT = {"cache-control": "private, max-age=86400, immutable"}
"""For pictures, which never change: a browser need not ask again, and no shared cache may keep them."""

Verdict = Literal["OK", "REVIEW", "NG"]


def _written_out(moment: object) -> object:
    """A number would be taken for seconds or for milliseconds since 1970, whichever fits: say what is meant."""
    if isinstance(moment, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt]", moment):
        raise ValueError("write it as 2030-01-31T08:00:00Z or with +09:00")
    return moment


Moment = Annotated[dt.datetime, BeforeValidator(_written_out)]
"""A time in a query, as RFC 3339 writes it and as the description promises."""


class RegionAnswer(BaseModel):
    """A defective region."""

    box: list[int] = Field(min_length=4, max_length=4)
    """x0, y0, x1, y1 in pixels of the picture as sent; x1 and y1 are the first pixels outside."""
    score: float
    area: int
    """Pixels of the picture as sent."""


class ReviewAnswer(BaseModel):
    """What a person said of a result."""

    verdict: str
    who: str
    note: str
    time: dt.datetime


class ResultAnswer(BaseModel):
    """A recorded decision."""

    id: int
    time: dt.datetime
    file: str
    verdict: str
    score: float
    """Raw: below `thresholds.review` OK, from there REVIEW, from `thresholds.ng` NG."""
    thresholds: dict[str, float]
    regions: list[RegionAnswer]
    model: str
    version: str
    latency_ms: float
    """From the picture's bytes to the decision, waiting included."""
    width: int
    height: int
    asked_by: str
    reviewed: str | None
    """What the newest review says."""
    reviews: list[ReviewAnswer]
    picture_url: str
    heatmap_url: str


class InspectAnswer(ResultAnswer):
    """The answer to a picture."""

    heatmap: str | None
    """PNG in base64: the heat map and the regions' boxes over the picture; null with `heatmap=false`."""


class ResultsPage(BaseModel):
    """Recorded decisions, newest first."""

    results: list[ResultAnswer]
    next_before_id: int | None
    """Give it as `before_id` for the next page; null on the last one."""


class ModelAnswer(BaseModel):
    """A model that may be asked."""

    name: str
    version: str
    ready: bool
    thresholds: dict[str, float]


class ReviewRequest(BaseModel):
    """What a person says of a result."""

    verdict: Literal["OK", "NG"]
    """What the part really is, whatever was decided."""
    note: str = Field(default="", max_length=2000)


def describe(result: StoredResult) -> dict[str, Any]:
    """A stored result in the API's terms, as `ResultAnswer` has them."""
    base = f"{PREFIX}/results/{result.id}"
    return {
        "id": result.id,
        "time": result.time,
        "file": result.source,
        "verdict": result.verdict,
        "score": result.score,
        "thresholds": dict(result.thresholds),
        "regions": list(result.regions),
        "model": result.package,
        "version": result.package_version,
        "latency_ms": round(result.latency_ms, 3),
        "width": result.details.get("width", 0),
        "height": result.details.get("height", 0),
        "asked_by": result.actor,
        "reviewed": result.reviewed_verdict,
        "reviews": [{"verdict": r.verdict, "who": r.who, "note": r.note, "time": r.time} for r in result.reviews],
        "picture_url": f"{base}/picture",
        "heatmap_url": f"{base}/heatmap.png",
    }


def find(service: InspectionService, result_id: int) -> StoredResult:
    """The inspection result of this number.

    Raises:
        NotFound: there is none, or it belongs to another solution.
    """
    result = service.state.records.result(result_id)
    if result is None or result.solution != SOLUTION:
        raise NotFound(f"there is no inspection result {result_id}.")
    return result


def router_for(state: ServerState, service: InspectionService | None = None) -> APIRouter:
    """The routes on a server; `service` where pictures are kept elsewhere than in its home."""
    inspections = service or InspectionService(state)
    router = APIRouter(prefix=PREFIX, tags=[SOLUTION])
    _add_deciding(router, inspections)
    _add_looking_up(router, inspections)
    _add_pictures(router, inspections)
    return router


def _add_deciding(router: APIRouter, inspections: InspectionService) -> None:
    operator = Depends(inspections.state.require("operator"))

    @router.post("/inspect", response_model=InspectAnswer)
    async def inspect(
        request: Request,
        image: Annotated[UploadFile | None, File(description="PNG, JPEG, BMP or TIFF")] = None,
        file: Annotated[UploadFile | None, File(description="another name for image")] = None,
        model: Annotated[str | None, Form(description="which model, where there are several")] = None,
        heatmap: Annotated[bool, Form(description="whether the answer carries the heat map")] = True,
        principal: Principal = operator,
    ) -> Any:
        picture = image or file
        if picture is None:
            raise BadInput("the picture is missing; send it as the multipart field image.")
        inspection = await inspections.inspect(
            await picture.read(),
            picture.filename or "picture",
            model=model,
            actor=principal.name,
            actor_id=principal.id,
            request_id=request_id(request),
            request=request,
        )
        overlay = base64.b64encode(await inspections.overlay_of(inspection)).decode() if heatmap else None
        return describe(inspection.result) | {"heatmap": overlay}

    @router.post("/results/{result_id}/review", response_model=ResultAnswer, status_code=201)
    def review(result_id: int, body: ReviewRequest, principal: Principal = operator) -> Any:
        find(inspections, result_id)
        inspections.state.records.review(result_id, body.verdict, principal.name, body.note)
        return describe(find(inspections, result_id))


def _add_looking_up(router: APIRouter, inspections: InspectionService) -> None:
    viewer = [Depends(inspections.state.require("viewer"))]

    @router.get("/models", response_model=list[ModelAnswer], dependencies=viewer)
    def models() -> Any:
        served = [inspections.state.models[name] for name in inspections.models()]
        return [
            {
                "name": one.name,
                "version": one.version,
                "ready": one.ready,
                "thresholds": {name: threshold.value for name, threshold in one.manifest.thresholds.items()},
            }
            for one in served
        ]

    @router.get("/results", response_model=ResultsPage, dependencies=viewer)
    def results(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        before_id: Annotated[int | None, Query(ge=1)] = None,
        verdict: Verdict | None = None,
        model: str | None = None,
        file: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Any:
        for name, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise BadInput(f"{name} has no time zone; write it as 2030-01-31T08:00:00Z or with +09:00.")
        found = inspections.state.records.results(
            limit, before_id, SOLUTION, verdict, package=model, source=file, since=since, until=until
        )
        following = found[-1].id if len(found) == limit else None
        return {"results": [describe(result) for result in found], "next_before_id": following}

    @router.get("/results/{result_id}", response_model=ResultAnswer, dependencies=viewer)
    def result(result_id: int) -> Any:
        return describe(find(inspections, result_id))


def _add_pictures(router: APIRouter, inspections: InspectionService) -> None:
    viewer = [Depends(inspections.state.require("viewer"))]

    async def lookup(result_id: int) -> StoredResult:
        return await inspections.in_thread(find, inspections, result_id)

    def answer(content: bytes | None, media_type: str, result_id: int) -> Response:
        if content is None:
            raise NotFound(f"the picture of result {result_id} is not kept on this machine any more.")
        return Response(content, media_type=media_type, headers=_KEPT)

    @router.get("/results/{result_id}/picture", response_class=Response, dependencies=viewer)
    async def picture(result_id: int) -> Response:
        content, media_type = await inspections.kept_picture(await lookup(result_id)) or (None, "")
        return answer(content, media_type, result_id)

    @router.get("/results/{result_id}/heatmap.png", response_class=Response, dependencies=viewer)
    async def heatmap(result_id: int) -> Response:
        return answer(await inspections.kept_overlay(await lookup(result_id)), "image/png", result_id)

    @router.get("/results/{result_id}/thumbnail.jpg", response_class=Response, dependencies=viewer)
    async def thumbnail(result_id: int) -> Response:
        return answer(await inspections.kept_thumbnail(await lookup(result_id)), "image/jpeg", result_id)
