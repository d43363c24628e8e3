"""The cameras' pages of the console, and what they share: words, chips, buttons, the choice of a camera.

    /cameras      live wall, health of each camera              viewer
    /zones        zones, lines and private areas on a picture   viewer; engineer saves
    /events       events with evidence: search, review, lock    viewer; operator reviews
    /figures      counts and heat maps over time                viewer

They appear where a site is known (`<home>/cctv/current.json`). What a page shows and does goes through the same `Desk`
as the HTTP API; pictures and clips come from the API's own addresses, with the session's cookie and the role's privacy.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nicegui import ui

from shared.serving.console import ConsolePage, PageFactory, Visit, Words, tag
from shared.serving.errors import Refusal
from shared.serving.keys import Role
from solutions.cctv.desk import Desk, desk_of, site_known

if TYPE_CHECKING:
    from shared.serving.state import ServerState

API = "/api/cctv"
TYPES: dict[str, Words] = {
    "intrusion": ("침입", "Intrusion"),
    "loitering": ("배회", "Loitering"),
    "crowding": ("밀집", "Crowding"),
    "working_alone": ("단독 작업", "Working alone"),
    "line_crossing": ("선 통과", "Line crossing"),
    "wrong_direction": ("역방향", "Wrong direction"),
    "tailgating": ("꼬리물기", "Tailgating"),
    "vehicle_near_person": ("차량 근접", "Vehicle near a person"),
    "ppe_missing": ("보호구 미착용", "Helmet or vest missing"),
    "fall": ("쓰러짐", "Person down"),
    "fighting": ("싸움", "Fighting"),
    "queue": ("대기열", "Queue"),
    "abandoned_object": ("방치된 물건", "Abandoned object"),
    "removed_object": ("사라진 물건", "Removed object"),
    "fire": ("화재", "Fire"),
    "smoke": ("연기", "Smoke"),
    "camera_offline": ("카메라 끊김", "Camera offline"),
    "camera_frozen": ("화면 멈춤", "Camera frozen"),
    "camera_covered": ("카메라 가림", "Camera covered"),
    "camera_defocused": ("초점 흐림", "Camera out of focus"),
    "camera_moved": ("카메라 움직임", "Camera moved"),
    "camera_dark": ("화면 어두움", "Camera too dark"),
    "disk_full": ("디스크 가득 참", "Disk full"),
}
STATES: dict[str, Words] = {
    "new": ("미확인", "new"),
    "approved": ("승인", "approved"),
    "dismissed": ("오경보", "false alarm"),
    "live": ("연결됨", "live"),
    "connecting": ("연결 중", "connecting"),
    "offline": ("끊김", "offline"),
    "ended": ("끝남", "ended"),
    "unknown": ("알 수 없음", "unknown"),
}
SEVERITIES: dict[str, Words] = {
    "info": ("정보", "info"),
    "warning": ("주의", "warning"),
    "critical": ("위험", "critical"),
}
_NO_SITE: Words = (
    "감시 중인 현장이 없습니다. haechi cctv run SITE.yaml로 시작하세요.",
    "No site is watched on this machine. Start one with haechi cctv run SITE.yaml.",
)


class CameraPage:
    """One visitor's page about the site; each page of the solution draws itself on it."""

    role: Role = "viewer"
    """Needed to see it."""

    def __init__(self, desk: Desk, visit: Visit) -> None:
        self.desk = desk
        self.visit = visit

    async def open(self) -> None:
        """Draw the page, or say why there is nothing to draw."""
        try:
            self.file = await asyncio.to_thread(self.desk.site_file)
        except Refusal:
            tag("div", "hc-card hc-note", self.say(_NO_SITE))
            return
        self.cameras = list(self.file.site.cameras)
        await self.draw()

    async def draw(self) -> None:
        """Everything below the header."""
        raise NotImplementedError

    # -- helpers -----------------------------------------------------------------------------------------------------

    def say(self, words: Words) -> str:
        """In the visitor's language."""
        return self.visit.say(words)

    def type_name(self, kind: str) -> str:
        """A type of event as people know it."""
        return self.say(TYPES.get(kind, (kind, kind)))

    def chip(self, kind: str, words: str) -> Any:
        """A small label, coloured by what it says."""
        return tag("span", f"cv-chip {kind}", words)

    def state_chip(self, state: str) -> Any:
        """A label for the state of a camera or an event."""
        return self.chip(state, self.say(STATES.get(state, (state, state))))

    def button(self, words: str, role: Role, act: Callable[..., Any], classes: str = "", script: str = "") -> Any:
        """A button that does something after asking again who presses it; `script` is the browser's part of it."""
        made = tag("button", f"hc-button {classes}", words, type="button")
        if script:
            made.on("click", self.visit.handler(role, act), js_handler=script)
        else:
            made.on("click", self.visit.handler(role, act))
        return made

    def chosen_camera(self) -> str:
        """The camera that the address names, else the first."""
        wanted = self.visit.query.get("camera", "")
        return wanted if wanted in self.cameras else self.cameras[0]

    def draw_choice(self, chosen: str) -> None:
        """Links to the same page about another camera."""
        if len(self.cameras) < 2:
            return
        with tag("nav", "cv-choice"):
            for name in self.cameras:
                tag("a", "here" if name == chosen else "", name, href=f"?camera={name}")


def select(classes: str, label: str, options: list[tuple[str, str]], chosen: str = "") -> Any:
    """A labelled box to choose from; options are values and words."""
    with tag("label", "cv-field"):
        tag("span", text=label)
        with tag("select", classes, **{"aria-label": label}) as made:
            for value, words in options:
                tag("option", text=words, value=value, **({"selected": "selected"} if value == chosen else {}))
    return made


def notify(words: str) -> None:
    """Say that something is done."""
    ui.notify(words, type="positive", timeout=1500)


@functools.cache
def stylesheet() -> Path:
    """Of all pages of the cameras."""
    return Path(__file__).with_name("console.css")


@functools.cache
def script(name: str) -> str:
    """A page's part that runs in the browser, as a script element."""
    return f"<script>{Path(__file__).with_name(name).read_text(encoding='utf-8')}</script>"


def page_of(path: str, title: Words, kind: type[CameraPage]) -> PageFactory:
    """A page for `console_for`."""

    def factory(state: ServerState) -> ConsolePage:
        desk = desk_of(state)

        async def build(visit: Visit) -> None:
            await kind(desk, visit).open()

        return ConsolePage(path, title, build, css=(stylesheet(),))

    return factory


def pages(state: ServerState) -> list[PageFactory]:
    """All of them in the order of the navigation; none where no site is known."""
    from solutions.cctv.console_drawing import DrawingPage
    from solutions.cctv.console_events import EventsPage
    from solutions.cctv.console_figures import FiguresPage
    from solutions.cctv.console_live import LivePage

    if not site_known(state.settings.home):
        return []
    return [
        page_of("/cameras", ("실시간", "Cameras"), LivePage),
        page_of("/zones", ("구역", "Zones"), DrawingPage),
        page_of("/events", ("이벤트", "Events"), EventsPage),
        page_of("/figures", ("집계", "Figures"), FiguresPage),
    ]
