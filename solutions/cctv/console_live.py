"""The live wall: the newest picture of every camera with what is seen on it, and how each camera is.

Tiles ask for pictures one at a time and only while the page is in front (`console_live.js`), since a browser holds few
connections to a server; the one camera that is opened streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nicegui import ui

from shared.serving.console import Words, tag
from solutions.cctv.console import API, CameraPage, script

REFRESH_S = 2.0
_TEXT: dict[str, Words] = {
    "none": ("화면 없음", "No picture"),
    "dropped": ("건너뜀", "dropped"),
    "reconnects": ("재연결", "re-connections"),
    "enlarge": ("크게 보기", "Enlarge"),
    "silent": (
        "감시 서비스가 실행되고 있지 않습니다: haechi cctv run",
        "The service that watches the cameras does not run: haechi cctv run",
    ),
}


class LivePage(CameraPage):
    """Every camera, and one enlarged."""

    async def draw(self) -> None:
        """The wall."""
        ui.add_body_html(script("console_live.js"))
        self.note = tag("div", "hc-card hc-note cv-silent", self.say(_TEXT["silent"]))
        self.health: dict[str, Any] = {}
        with tag("div", "cv-wall"):
            for name in self.cameras:
                self._draw_tile(name)
        with ui.dialog() as self.zoom, tag("div", "cv-zoom hc-card"):
            self.zoomed = tag("img", "cv-stream", alt="")
        # A stream goes on for as long as its image has an address.
        self.zoom.on("hide", lambda: self.zoomed.props.update({"src": "data:,"}))
        await self._refresh()
        ui.timer(REFRESH_S, self.visit.handler("viewer", self._refresh))

    def _draw_tile(self, name: str) -> None:
        with tag("figure", "hc-card cv-tile", **{"data-camera": name}):
            with tag("figcaption"):
                tag("b", text=name)
                self.health[name] = tag("span", "cv-health")
            with tag(
                "button", "cv-frame", type="button", **{"aria-label": f"{self.say(_TEXT['enlarge'])}: {name}"}
            ) as b:
                tag("img", "cv-live", alt=name, **{"data-src": f"{API}/cameras/{name}/snapshot.jpg"})
                tag("span", "cv-gone", self.say(_TEXT["none"]))
            b.on("click", self.visit.handler("viewer", self._enlarger(name)))

    def _enlarger(self, name: str) -> Callable[[], None]:
        def show() -> None:
            self.zoomed.props.update({"src": f"{API}/cameras/{name}/live", "alt": name})
            self.zoom.open()

        return show

    async def _refresh(self) -> None:
        told = await asyncio.to_thread(self.desk.cameras)
        self.note.set_visibility(all(one["state"] == "unknown" for one in told))
        for one in told:
            area = self.health.get(one["name"])
            if area is None:
                continue
            area.clear()
            with area:
                self._draw_health(one)

    def _draw_health(self, one: dict[str, Any]) -> None:
        self.state_chip(one["state"])
        for problem in one["problems"]:
            self.chip("critical", self.type_name(problem))
        figures = []
        if one["fps"] is not None:
            figures.append(f"{one['fps']:.1f} fps")
        for key in ("dropped", "reconnects"):
            if one[key]:
                figures.append(f"{self.say(_TEXT[key])} {one[key]}")
        if figures:
            tag("span", "cv-figures", " · ".join(figures))
        if one["error"]:
            tag("span", "cv-error", one["error"])
