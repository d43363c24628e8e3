"""The inspection page of the console: drop a picture, see what the model sees, say whether it is right.

The browser sends pictures to the same `POST /api/inspection/inspect` as every program, with its session's cookie, so
that limits, queue, record and answers are the API's; this page then shows what is on record. Decisions that programs
ask for appear in the list by themselves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nicegui import ui

from shared.records import StoredResult
from shared.serving.console import ConsolePage, Visit, Words, tag
from solutions.inspection.pipeline import TASK
from solutions.inspection.routes import PREFIX, find
from solutions.inspection.service import SOLUTION, InspectionService

if TYPE_CHECKING:
    from shared.serving.state import ServerState

PAGE_SIZE = 20
REFRESH_S = 3.0
ACCEPTED = ".png,.jpg,.jpeg,.bmp,.tif,.tiff"
MOST_AT_ONCE = 50

_TITLE: Words = ("외관 검사", "Inspection")
_SAYS: dict[str, Words] = {
    "OK": ("양품입니다", "The part is good"),
    "REVIEW": ("사람의 확인이 필요합니다", "A person should look at it"),
    "NG": ("불량입니다", "The part is defective"),
}
_TRUTH: dict[str, Words] = {"OK": ("양품", "good"), "NG": ("불량", "defective")}
_TEXT: dict[str, Words] = {
    "drop": ("사진을 여기에 놓거나 눌러서 고르세요", "Drop a picture here, or choose one"),
    "formats": ("PNG, JPEG, BMP, TIFF · 여러 장도 됩니다", "PNG, JPEG, BMP, TIFF · several at once if you like"),
    "looking": (
        "조회 권한으로 들어왔습니다. 사진을 보내려면 operator 권한이 필요합니다.",
        "You may look. Sending pictures needs the role operator.",
    ),
    "no_model": (
        "검사 모델이 없습니다. haechi inspection train으로 만들어 등록하세요.",
        "There is no inspection model here. Train one with haechi inspection train and add it.",
    ),
    "model": ("모델", "Model"),
    "empty": (
        "아직 고른 판정이 없습니다. 사진을 놓으면 결과가 여기에 나옵니다.",
        "Nothing chosen yet. Drop a picture, and its decision appears here.",
    ),
    "picture": ("사진", "Picture"),
    "heatmap": ("열지도: 붉을수록 양품과 다릅니다", "Heat map: the redder, the less like a good part"),
    "gone": (
        "사진이 이 장비에 더 이상 없습니다. 판정 기록은 남아 있습니다.",
        "This picture is no longer kept on this machine. Its decision still is.",
    ),
    "review_from": ("확인 기준", "review from"),
    "ng_from": ("불량 기준", "NG from"),
    "regions": ("의심 영역", "Suspicious regions"),
    "no_regions": ("기준을 넘는 영역이 없습니다.", "No region is over the threshold."),
    "box": ("위치 (왼쪽 위 – 오른쪽 아래, 픽셀)", "Position (top left – bottom right, pixels)"),
    "area": ("넓이", "Area"),
    "value": ("점수", "Score"),
    "your_word": ("판정이 맞습니까?", "Is the decision right?"),
    "what_is_it": ("이 부품은 어느 쪽입니까?", "Which is this part?"),
    "right": ("맞음", "Correct"),
    "wrong": ("틀림", "Wrong"),
    "note": ("메모 (선택)", "Note (optional)"),
    "said": ("님의 확인:", "says:"),
    "recent": ("최근 판정", "Recent decisions"),
    "all": ("전체", "All"),
    "none": ("아직 판정이 없습니다.", "No decisions yet."),
    "more": ("더 보기", "Show more"),
    "asked_by": ("요청", "asked by"),
    "size": ("크기", "size"),
    "took": ("걸린 시간", "took"),
    "time": ("시각", "time"),
    "rejected": (
        "사진이 아니거나 너무 커서 보내지 않은 파일이 있습니다.",
        "Some files were not sent: no pictures, or too large.",
    ),
    "unreachable": ("서버에 닿지 않습니다.", "The server cannot be reached."),
    "thanks": ("기록했습니다.", "Recorded."),
}


def page_for(state: ServerState) -> ConsolePage:
    """The page on a server, for `console_for`."""
    service = InspectionService(state)

    async def build(visit: Visit) -> None:
        await _Page(service, visit).draw()

    return ConsolePage("/", _TITLE, build, css=(Path(__file__).with_name("console.css"),))


def scale_of(score: float, review: float, ng: float) -> tuple[float, float]:
    """Both ends of the score bar: they show the score, both thresholds, and some room on each side.

    Returns:
        (low, high) in the score's own units, low < high; low is not below 0 where all three are not.
    """
    reach = max(ng - review, abs(score - review), abs(score - ng), abs(ng) * 0.05, 1e-9)
    low, high = min(score, review) - 0.6 * reach, max(score, ng) + 0.35 * reach
    if min(score, review) >= 0:
        low = max(low, 0.0)
    return low, high


class _Page:
    """One visitor's page: the decision that is open, and the list beside it."""

    def __init__(self, service: InspectionService, visit: Visit) -> None:
        self.service = service
        self.visit = visit
        self.records = service.state.records
        self.current: StoredResult | None = None
        self.filter: str | None = None
        self.shown = PAGE_SIZE
        self.recent: list[StoredResult] = []

    def text(self, key: str) -> str:
        return self.visit.say(_TEXT[key])

    # -- drawing -----------------------------------------------------------------------------------------------------

    async def draw(self) -> None:
        number = self.visit.query.get("result", "")
        if number.isdigit():
            self.current = await self._find(int(number))
        await self._load()
        with tag("div", "in-grid"):
            with tag("div", "in-left"):
                self._draw_drop_zone()
                self.result_area = tag("section", "in-result")
            with tag("section", "hc-card in-recent"):
                tag("h2", text=self.text("recent"))
                self.filter_area = tag("div", "in-filter")
                self.list_area = tag("div", "in-list")
                self.more = tag("button", "hc-button in-more", self.text("more"), type="button")
                self.more.on("click", self.visit.handler("viewer", self._show_more))
        with ui.dialog() as self.zoom, tag("div", "in-zoom"):
            self.zoomed = tag("img", alt="")
        self._draw_result()
        self._draw_list()
        ui.timer(REFRESH_S, self.visit.handler("viewer", self._refresh))

    def _draw_drop_zone(self) -> None:
        served = self.service.state.of_task(TASK)
        if not self.visit.may("operator") or not served:
            tag("div", "hc-card hc-note", self.text("no_model" if not served else "looking"))
            return
        names = [model.name for model in served]
        if len(names) > 1:
            with tag("label", "in-models"):
                tag("span", text=self.text("model"))
                with tag("select"):
                    for name in names:
                        tag("option", text=name, value=name)
        with tag("div", "in-drop", tabindex="0", role="button") as drop:
            tag("div", "in-drop-title", self.text("drop"))
            tag("div", "hc-note", self.text("formats"))
            upload = ui.upload(
                multiple=True,
                auto_upload=True,
                max_file_size=self.service.state.limits.max_upload_bytes,
                max_files=MOST_AT_ONCE,
            )
            with tag("div", "in-bar"):
                tag("i")

        chosen = f"document.querySelector('.in-models select')?.value ?? {json.dumps(names[0])}"
        upload.props.update(
            {
                "url": f"{PREFIX}/inspect",
                "field-name": "image",
                "accept": ACCEPTED,
                ":form-fields": f"() => [{{name: 'heatmap', value: 'false'}}, {{name: 'model', value: {chosen}}}]",
            }
        )
        pick = f"getElement({upload.id}).$refs.qRef.pickFiles()"
        drop.on("click", js_handler=f"() => {pick}")
        drop.on("keydown.enter", js_handler=f"() => {pick}")
        busy = f"getHtmlElement({drop.id}).classList"
        upload.on("start", js_handler=f"() => {busy}.add('busy')")
        upload.on("finish", js_handler=f"() => {{ {busy}.remove('busy'); getElement({upload.id}).$refs.qRef.reset() }}")
        upload.on("rejected", lambda: ui.notify(self.text("rejected"), type="warning"), js_handler="() => emit()")
        answered = "(info) => emit(info.xhr.status, info.xhr.responseText)"
        upload.on("uploaded", self.visit.handler("viewer", self._answered), js_handler=answered)
        upload.on("failed", self.visit.handler("viewer", self._answered), js_handler=answered)

    def _draw_result(self) -> None:
        self.result_area.clear()
        with self.result_area:
            if self.current is None:
                tag("div", "hc-card in-empty", self.text("empty"))
                return
            result = self.current
            with tag("div", f"in-verdict {result.verdict}", role="status"):
                tag("div", "word", result.verdict)
                with tag("div"):
                    tag("div", "says", self.visit.say(_SAYS.get(result.verdict, ("", ""))))
                    tag("div", "file", result.source)
            with tag("div", "hc-card"):
                self._draw_scale(result)
            with tag("div", "hc-card"):
                self._draw_pictures(result)
            with tag("div", "hc-card"):
                tag("h2", text=self.text("regions"))
                self._draw_regions(result)
                self._draw_facts(result)
            with tag("div", "hc-card"):
                self._draw_review(result)

    def _draw_pictures(self, result: StoredResult) -> None:
        base = f"{PREFIX}/results/{result.id}"
        with tag("div", "in-pictures"):
            for name, source in (("picture", f"{base}/picture"), ("heatmap", f"{base}/heatmap.png")):
                with tag("figure"):
                    tag("figcaption", text=self.text(name))
                    with tag("div", "in-frame"):
                        image = _image(source, f"{self.text(name)}: {result.source}")
                        image.on("click", self._zoom_to(source))
                        tag("div", "in-gone", self.text("gone"))

    def _draw_scale(self, result: StoredResult) -> None:
        review, ng = result.thresholds["review"], result.thresholds["ng"]
        low, high = scale_of(result.score, review, ng)

        def at(value: float) -> float:
            return 100 * (value - low) / (high - low)

        with tag("div", "in-scale"):
            with tag("div", "track"):
                for name, begin, end in (("OK", low, review), ("REVIEW", review, ng), ("NG", ng, high)):
                    tag("i", name, style=f"width:{at(end) - at(begin):.2f}%")
            edge = "first" if at(result.score) < 15 else "last" if at(result.score) > 85 else ""
            with tag("div", f"mark {result.verdict} {edge}", style=f"left:{at(result.score):.2f}%"):
                tag("b", text=f"{self.text('value')} {_number(result.score)}")
            close = at(ng) - at(review) < 18  # the labels would overlap
            for key, value, side in (("review_from", review, "left"), ("ng_from", ng, "right")):
                with tag("div", f"tick {side if close else ''}", style=f"left:{at(value):.2f}%"):
                    tag("b", text=_number(value))
                    tag("span", text=self.text(key))

    def _draw_facts(self, result: StoredResult) -> None:
        width, height = result.details.get("width", 0), result.details.get("height", 0)
        facts = {
            "time": self.visit.local_time(result.time),
            "model": f"{result.package} {result.package_version}",
            "size": f"{width} × {height}",
            "took": f"{result.latency_ms:.0f} ms",
            "asked_by": result.actor,
        }
        with tag("div", "in-facts"):
            for key, value in facts.items():
                with tag("span"):
                    tag("span", text=f"{self.text(key)} ")
                    tag("b", text=value)

    def _draw_regions(self, result: StoredResult) -> None:
        if not result.regions:
            tag("div", "hc-note", self.text("no_regions"))
            return
        with tag("table", "in-table"):
            with tag("thead"), tag("tr"):
                for key in ("value", "area", "box"):
                    tag("th", text=self.text(key))
            with tag("tbody"):
                for region in result.regions:
                    x0, y0, x1, y1 = region["box"]
                    with tag("tr"):
                        tag("td", text=_number(region["score"]))
                        tag("td", text=f"{region['area']:,} px")
                        tag("td", text=f"({x0}, {y0}) – ({x1}, {y1})")

    def _draw_review(self, result: StoredResult) -> None:
        tag("h2", text=self.text("what_is_it" if result.verdict == "REVIEW" else "your_word"))
        if self.visit.may("operator"):
            with tag("div", "in-review"):
                choices = ("NG", "OK") if result.verdict == "NG" else ("OK", "NG")
                for truth in choices:
                    words = self.visit.say(_TRUTH[truth])
                    if result.verdict != "REVIEW":
                        words = f"{self.text('right' if truth == result.verdict else 'wrong')} · {words}"
                    look = "agree" if truth == "OK" else "differ"
                    button = tag("button", f"hc-button {look}", words, type="button")
                    button.props["data-truth"] = truth
                    button.on("click", self.visit.handler("operator", self._reviewer(truth)), js_handler=_NOTE_SCRIPT)
                note = self.text("note")
                tag("input", "in-note", type="text", maxlength="2000", placeholder=note, **{"aria-label": note})
        with tag("ul", "in-said"):
            for review in reversed(result.reviews):
                truth = self.visit.say(_TRUTH.get(review.verdict, (review.verdict, review.verdict)))
                words = f"{self.visit.local_time(review.time)} · {review.who} {self.text('said')} {truth}"
                tag("li", text=f"{words} – {review.note}" if review.note else words)

    def _draw_list(self) -> None:
        self.filter_area.clear()
        with self.filter_area:
            for verdict in (None, "OK", "REVIEW", "NG"):
                button = tag(
                    "button", "here" if verdict == self.filter else "", verdict or self.text("all"), type="button"
                )
                button.on("click", self.visit.handler("viewer", self._filterer(verdict)))
        self.list_area.clear()
        with self.list_area:
            if not self.recent:
                tag("div", "hc-note in-empty", self.text("none"))
            for result in self.recent:
                self._draw_row(result)
        self.more.set_visibility(len(self.recent) >= self.shown)

    def _draw_row(self, result: StoredResult) -> None:
        here = self.current is not None and self.current.id == result.id
        with tag("button", "in-row here" if here else "in-row", type="button") as row:
            with tag("span", "thumb"):
                _image(f"{PREFIX}/results/{result.id}/thumbnail.jpg", "")
            with tag("span"):
                tag("div", "name", result.source)
                tag("div", "when", f"{self.visit.local_time(result.time)} · {_number(result.score)}")
            with tag("span", "end"):
                tag("span", f"in-chip {result.verdict}", result.verdict)
                if result.reviewed_verdict:
                    tag("span", "said", f"✓ {self.visit.say(_TRUTH.get(result.reviewed_verdict, ('', '')))}")
        row.props["data-result"] = str(result.id)
        row.on("click", self.visit.handler("viewer", self._opener(result.id)))

    # -- what people do ----------------------------------------------------------------------------------------------

    async def _answered(self, event: Any) -> None:
        """The API has answered a picture: open its decision, or say what was wrong."""
        status, body = event.args
        if status == 200:
            await self._open(int(json.loads(body)["id"]))
            return
        try:
            words = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            words = self.text("unreachable")
        ui.notify(words, type="negative", multi_line=True, close_button=True, timeout=10_000)

    async def _open(self, number: int) -> None:
        self.current = await self._find(number)
        ui.navigate.history.replace(f"/?result={number}")
        await self._load()
        self._draw_result()
        self._draw_list()

    def _opener(self, number: int) -> Callable[[], Any]:
        async def open_and_show() -> None:
            await self._open(number)
            ui.run_javascript("window.scrollTo({top: 0, behavior: 'smooth'})")  # on a phone the list is far below

        return open_and_show

    def _filterer(self, verdict: str | None) -> Callable[[], Any]:
        async def show_only() -> None:
            self.filter, self.shown = verdict, PAGE_SIZE
            await self._load()
            self._draw_list()

        return show_only

    def _reviewer(self, truth: str) -> Callable[[Any], Any]:
        async def record(event: Any) -> None:
            if self.current is None:
                return
            note = str(event.args or "")[:2000]
            who = self.visit.check("operator").name
            await asyncio.to_thread(self.records.review, self.current.id, truth, who, note)
            await self._open(self.current.id)
            ui.notify(self.text("thanks"), type="positive", timeout=1500)

        return record

    def _zoom_to(self, source: str) -> Callable[[], None]:
        def show() -> None:
            self.zoomed.props["src"] = source
            self.zoom.open()

        return show

    async def _show_more(self) -> None:
        self.shown += PAGE_SIZE
        await self._load()
        self._draw_list()

    async def _refresh(self) -> None:
        """Show in the list what programs and other people have done meanwhile."""
        before = _state_of(self.recent)
        await self._load()
        if _state_of(self.recent) != before:
            self._draw_list()

    async def _load(self) -> None:
        self.recent = await asyncio.to_thread(self.records.results, self.shown, None, SOLUTION, self.filter)

    async def _find(self, number: int) -> StoredResult:
        return await asyncio.to_thread(find, self.service, number)


_NOTE_SCRIPT = "() => emit(document.querySelector('.in-note')?.value ?? '')"


def _state_of(results: Sequence[StoredResult]) -> list[tuple[int, int]]:
    return [(result.id, len(result.reviews)) for result in results]


def _image(source: str, description: str) -> Any:
    """An image whose frame says so when it cannot be had (any more)."""
    image = tag("img", src=source, alt=description, loading="lazy")
    image.on("error", js_handler="(e) => e.target.parentElement.classList.add('gone')")
    return image


def _number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3e}"
