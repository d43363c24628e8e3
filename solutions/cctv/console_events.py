"""The events: search, evidence, and what a person says of them.

The list follows by itself what the cameras announce; the search stands in the page's address, so that it can be sent
to a colleague.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlencode

from nicegui import ui

from shared.errors import BadInput
from shared.serving.console import Words, tag
from shared.serving.errors import NotFound, Unavailable
from solutions.cctv.archive import COLOURS, Search
from solutions.cctv.console import SEVERITIES, STATES, TYPES, CameraPage, notify, select

PAGE_SIZE = 30
REFRESH_S = 3.0
_FIELDS = ("camera", "type", "state", "colour", "through", "since", "until")
_COLOURS: dict[str, Words] = {
    "black": ("검정", "black"),
    "white": ("흰색", "white"),
    "grey": ("회색", "grey"),
    "red": ("빨강", "red"),
    "orange": ("주황", "orange"),
    "yellow": ("노랑", "yellow"),
    "green": ("초록", "green"),
    "blue": ("파랑", "blue"),
    "purple": ("보라", "purple"),
    "pink": ("분홍", "pink"),
    "brown": ("갈색", "brown"),
}
_REASONS: tuple[tuple[str, Words], ...] = (
    ("shadow or light", ("그림자나 빛", "Shadow or light")),
    ("animal or plant", ("동물이나 식물", "Animal or plant")),
    ("weather", ("날씨", "Weather")),
    ("allowed person", ("허가된 사람", "Allowed person")),
    ("wrong object", ("다른 물체", "Another object")),
    ("nothing there", ("아무것도 없음", "Nothing there")),
)
_TEXT: dict[str, Words] = {
    "any": ("전체", "Any"),
    "camera": ("카메라", "Camera"),
    "type": ("종류", "Type"),
    "state": ("상태", "State"),
    "colour": ("옷 색", "Clothing"),
    "through": ("지나간 구역", "Path through"),
    "since": ("부터", "From"),
    "until": ("까지", "Until"),
    "search": ("찾기", "Search"),
    "none": ("조건에 맞는 이벤트가 없습니다.", "No events match."),
    "more": ("더 보기", "More"),
    "empty": ("이벤트를 고르면 증거가 여기에 나옵니다.", "Choose an event to see its evidence."),
    "place": ("위치", "Place"),
    "severity": ("중요도", "Severity"),
    "time": ("시각", "Time"),
    "going_on": ("진행 중", "going on"),
    "tracks": ("추적 번호", "Tracks"),
    "why": ("판단 근거", "Why"),
    "no_clip": ("영상이 없습니다.", "There is no clip."),
    "approve": ("승인", "Approve"),
    "dismiss": ("오경보로 처리", "Dismiss as a false alarm"),
    "reason": ("오경보 이유", "Reason of the false alarm"),
    "note": ("더 적기 (선택)", "More (optional)"),
    "lock": ("증거 잠금", "Lock the evidence"),
    "unlock": ("잠금 해제", "Unlock"),
    "locked": ("잠김", "locked"),
    "needs": ("확인하려면 operator 권한이 필요합니다.", "Reviewing needs the role operator."),
    "done": ("기록했습니다.", "Recorded."),
    "said": ("확인 기록", "Reviews"),
}
_READ_FORM = (
    "() => emit(Object.fromEntries([...document.querySelectorAll('.cv-search [name]')].map(e => [e.name, e.value])))"
)
_READ_REASON = (
    "() => emit([document.querySelector('.cv-reason select')?.value ?? '', "
    "document.querySelector('.cv-more-reason')?.value ?? ''])"
)


class EventsPage(CameraPage):
    """A search, its events, and the one that is open."""

    async def draw(self) -> None:
        """Search, list, event."""
        self.form = {name: self.visit.query.get(name, "")[:64] for name in _FIELDS}
        self.shown = PAGE_SIZE
        self.events: list[dict[str, Any]] = []
        self.following: str | None = None
        self.current: dict[str, Any] | None = None
        self._draw_search()
        with tag("div", "cv-grid"):
            with tag("section", "hc-card"):
                self.list_area = tag("div", "cv-rows")
                self.more = self.button(self.say(_TEXT["more"]), "viewer", self._show_more, "cv-more")
            self.detail_area = tag("section", "hc-card cv-detail")
        try:
            if wanted := self.visit.query.get("event", ""):
                self.current = await asyncio.to_thread(self.desk.event, wanted)
            await self._load()
        except (BadInput, NotFound, Unavailable) as error:  # such as the address of an event that is no more
            tag("div", "hc-card hc-note", str(error))
            return
        self._draw_detail()
        ui.timer(REFRESH_S, self.visit.handler("viewer", self._refresh))

    # -- search ------------------------------------------------------------------------------------------------------

    def _draw_search(self) -> None:
        site = self.file.site
        zones = sorted({zone for camera in site.cameras.values() for zone in camera.zones})
        choices: dict[str, list[tuple[str, str]]] = {
            "camera": [(name, name) for name in self.cameras],
            "type": [(kind, self.say(words)) for kind, words in TYPES.items()],
            "state": [(state, self.say(STATES[state])) for state in ("new", "approved", "dismissed")],
            "colour": [(name, self.say(_COLOURS.get(name, (name, name)))) for name in COLOURS],
            "through": [(name, name) for name in zones],
        }
        with tag("div", "hc-card cv-search"):
            for name, options in choices.items():
                every = [("", self.say(_TEXT["any"])), *options]
                select(f"cv-by-{name}", self.say(_TEXT[name]), every, self.form[name]).props["name"] = name
            for name in ("since", "until"):
                with tag("label", "cv-field"):
                    tag("span", text=self.say(_TEXT[name]))
                    made = tag("input", f"cv-by-{name}", type="datetime-local", value=self.form[name])
                    made.props["name"] = name
            self.button(self.say(_TEXT["search"]), "viewer", self._search, "agree cv-find", _READ_FORM)

    def _wanted(self) -> Search:
        form = self.form
        state: Any = form["state"] if form["state"] in ("new", "approved", "dismissed") else None
        return Search(
            since=self._moment(form["since"]),
            until=self._moment(form["until"]),
            camera=form["camera"] or None,
            type=form["type"] or None,
            colour=form["colour"] or None,
            through=form["through"] or None,
            state=state,
        )

    def _moment(self, written: str) -> dt.datetime | None:
        """What `datetime-local` gives, in the browser's time zone."""
        if not written:
            return None
        try:
            return dt.datetime.fromisoformat(written).replace(tzinfo=self.visit.zone)
        except ValueError:
            raise BadInput(f"{written!r} is no date and time; write it as 2030-01-31T08:00.") from None

    async def _search(self, event: Any) -> None:
        given = event.args if isinstance(event.args, Mapping) else {}
        self.form = {name: str(given.get(name) or "")[:64] for name in _FIELDS}
        self.shown = PAGE_SIZE
        await self._load()
        self._note_address()

    def _note_address(self) -> None:
        query = {name: value for name, value in self.form.items() if value}
        if self.current is not None:
            query["event"] = self.current["id"]
        ui.navigate.history.replace(f"/events?{urlencode(query)}")

    # -- list --------------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        self.events, self.following = await asyncio.to_thread(self.desk.events, self._wanted(), self.shown)
        self._draw_list()

    async def _refresh(self) -> None:
        """Show what was announced or reviewed meanwhile."""
        found, following = await asyncio.to_thread(self.desk.events, self._wanted(), self.shown)
        if _seen(found) != _seen(self.events):
            self.events, self.following = found, following
            self._draw_list()

    async def _show_more(self) -> None:
        self.shown += PAGE_SIZE
        await self._load()

    def _draw_list(self) -> None:
        self.list_area.clear()
        with self.list_area:
            if not self.events:
                tag("div", "hc-note cv-none", self.say(_TEXT["none"]))
            for one in self.events:
                self._draw_row(one)
        self.more.set_visibility(self.following is not None)

    def _draw_row(self, one: dict[str, Any]) -> None:
        here = self.current is not None and self.current["id"] == one["id"]
        with tag("button", "cv-row here" if here else "cv-row", type="button", **{"data-event": one["id"]}) as row:
            with tag("span", "thumb"):
                if one["snapshot_url"]:
                    tag("img", src=one["snapshot_url"], alt="", loading="lazy")
            with tag("span"):
                tag("div", "name", self.type_name(one["type"]))
                tag("div", "when", f"{self.visit.local_time(one['start'])} · {one['camera']}")
            with tag("span", "end"):
                self.state_chip(one["state"])
                if one["locked"]:
                    self.chip("locked", self.say(_TEXT["locked"]))
        row.on("click", self.visit.handler("viewer", self._opener(one["id"])))

    def _opener(self, event_id: str) -> Callable[[], Any]:
        async def show() -> None:
            self.current = await asyncio.to_thread(self.desk.event, event_id)
            self._draw_list()
            self._draw_detail()
            self._note_address()

        return show

    # -- one event ---------------------------------------------------------------------------------------------------

    def _draw_detail(self) -> None:
        self.detail_area.clear()
        with self.detail_area:
            if self.current is None:
                tag("div", "hc-note", self.say(_TEXT["empty"]))
                return
            one = self.current
            with tag("div", "cv-head"):
                tag("h2", text=f"{self.type_name(one['type'])} · {one['camera']}")
                self.state_chip(one["state"])
                self.chip(one["severity"], self.say(SEVERITIES.get(one["severity"], (one["severity"],) * 2)))
            self._draw_evidence(one)
            self._draw_facts(one)
            self._draw_review(one)

    def _draw_evidence(self, one: dict[str, Any]) -> None:
        if one["clip_url"]:
            poster = {"poster": one["snapshot_url"]} if one["snapshot_url"] else {}
            tag("video", "cv-clip", src=one["clip_url"], controls="controls", preload="metadata", **poster)
            return
        if one["snapshot_url"]:
            tag("img", "cv-snapshot", src=one["snapshot_url"], alt=self.type_name(one["type"]))
        tag("div", "hc-note", self.say(_TEXT["no_clip"]))

    def _draw_facts(self, one: dict[str, Any]) -> None:
        end = self.say(_TEXT["going_on"]) if one["end"] is None else self.visit.local_time(one["end"])
        place = " ".join(filter(None, (one["zone"], one["line"], one["direction"])))
        colours = ", ".join(self.say(_COLOURS.get(name, (name, name))) for name in one["colours"])
        facts = {
            "time": f"{self.visit.local_time(one['start'])} – {end}",
            "place": place,
            "colour": colours,
            "tracks": ", ".join(map(str, one["track_ids"])),
        }
        with tag("dl", "cv-facts"):
            for key, words in facts.items():
                if words:
                    tag("dt", text=self.say(_TEXT[key]))
                    tag("dd", text=words)
            tag("dt", text=self.say(_TEXT["why"]))
            with tag("dd"):
                tag("div", text=one["rule"])
                for name, value in one["why"].items():
                    tag("div", "cv-why", f"{name}: {_short(value)}")

    def _draw_review(self, one: dict[str, Any]) -> None:
        if not self.visit.may("operator"):
            tag("div", "hc-note", self.say(_TEXT["needs"]))
        else:
            with tag("div", "cv-review"):
                self.button(self.say(_TEXT["approve"]), "operator", self._reviewer("approve"), "agree cv-approve")
                words = self.say(_TEXT["unlock" if one["locked"] else "lock"])
                self.button(words, "operator", self._lock, "cv-lock")
            with tag("div", "cv-review cv-reason"):
                reasons = [(name, self.say(said)) for name, said in _REASONS]
                select("", self.say(_TEXT["reason"]), [("", "–"), *reasons])
                note = self.say(_TEXT["note"])
                tag("input", "cv-more-reason", type="text", maxlength="1500", placeholder=note, **{"aria-label": note})
                dismiss = self._reviewer("dismiss")
                self.button(self.say(_TEXT["dismiss"]), "operator", dismiss, "differ cv-dismiss", _READ_REASON)
        with tag("ul", "cv-said"):
            for review in one["reviews"]:
                verdict = self.say(_TEXT["approve" if review["verdict"] == "approve" else "dismiss"])
                words = f"{self.visit.local_time(review['time'])} · {review['who']}: {verdict}"
                tag("li", text=f"{words} – {review['reason']}" if review["reason"] else words)

    def _reviewer(self, verdict: Literal["approve", "dismiss"]) -> Callable[..., Any]:
        async def record(reason: str) -> None:
            if self.current is not None:
                who = self.visit.check("operator").name
                act = self.desk.review
                self.current = await asyncio.to_thread(act, self.current["id"], verdict, reason, who)
                await self._load()
                self._draw_detail()
                notify(self.say(_TEXT["done"]))

        async def approve() -> None:
            await record("")

        async def dismiss(event: Any) -> None:
            await record(": ".join(str(part).strip() for part in event.args if str(part).strip()))

        return approve if verdict == "approve" else dismiss

    async def _lock(self) -> None:
        if self.current is None:
            return
        who = self.visit.check("operator").name
        locked = not self.current["locked"]
        self.current = await asyncio.to_thread(self.desk.lock, self.current["id"], locked, who)
        await self._load()
        self._draw_detail()


def _seen(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["id"], one["state"], one["locked"], one["end"], one["snapshot_url"]) for one in events]


def _short(value: Any) -> str:
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return words if len(words) <= 200 else f"{words[:199]}…"
