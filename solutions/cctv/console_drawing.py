"""Zones, lines and private areas, drawn on a camera's picture and saved to the site file.

Drawing happens in the browser (`console_drawing.js`); saving sends the whole drawing with the version of the file that
it is based on, so that nobody's work is overwritten unseen.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from nicegui import ui
from pydantic import ValidationError

from shared.errors import BadInput
from shared.serving.console import Words, tag
from solutions.cctv import console_site
from solutions.cctv.console import API, CameraPage, notify, script, select
from solutions.cctv.models import DrawingBody

_TEXT: dict[str, Words] = {
    "how": (
        "사진을 눌러 꼭짓점을 찍고, 첫 점을 다시 누르거나 Enter로 닫습니다. 선은 두 점입니다. 점은 끌어서 옮깁니다.",
        "Click on the picture to set corners; click the first one again, or press Enter, to close. A line has two "
        "points. Drag a point to move it.",
    ),
    "looking": (
        "조회 권한으로 들어왔습니다. 저장하려면 engineer 권한이 필요합니다.",
        "You may look. Saving needs the role engineer.",
    ),
    "kind": ("종류", "What"),
    "zones": ("구역", "Zone"),
    "lines": ("선", "Line"),
    "private": ("가릴 곳", "Private area"),
    "name": ("이름 (영문 소문자, 숫자, _)", "Name (lower-case letters, digits, _)"),
    "finish": ("닫기", "Close the shape"),
    "undo": ("점 취소", "Take back a point"),
    "save": ("저장", "Save"),
    "remove": ("삭제", "Remove"),
    "shapes": ("그려진 것", "What is drawn"),
    "none": ("아직 없습니다.", "Nothing yet."),
    "unsaved": ("저장하지 않은 변경이 있습니다.", "There are changes that are not saved."),
    "saved": ("현장 파일에 저장했습니다.", "Saved to the site file."),
    "comments": (
        "바뀐 부분의 주석은 사라졌습니다.",
        "Comments in what was written anew of the file are lost.",
    ),
    "bad_name": (
        "이름은 영문 소문자로 시작하고 소문자, 숫자, _만 씁니다.",
        "A name begins with a lower-case letter and holds lower-case letters, digits and _ only.",
    ),
}


class DrawingPage(CameraPage):
    """One camera's picture with what is drawn on it."""

    async def draw(self) -> None:
        """Picture, tools, list."""
        self.camera = self.chosen_camera()
        ui.add_body_html(script("console_live.js"))
        ui.add_body_html(script("console_drawing.js"))
        self.draw_choice(self.camera)
        with tag("div", "cv-draw"):
            with tag("section", "hc-card"):
                tag("h2", text=self.camera)
                with tag("div", "cv-canvas", tabindex="0", **{"data-camera": self.camera}):
                    source = f"{API}/cameras/{self.camera}/snapshot.jpg?marks=false"
                    tag("img", "cv-live", alt=self.camera, draggable="false", **{"data-src": source})
                    tag("div", "cv-overlay")
                tag("div", "hc-note", self.say(_TEXT["how"]))
            with tag("aside", "hc-card cv-tools"):
                self._draw_tools()
        await self._load()

    def _draw_tools(self) -> None:
        kinds = [(kind, self.say(_TEXT[kind])) for kind in console_site.SECTIONS]
        select("cv-kind", self.say(_TEXT["kind"]), kinds)
        with tag("label", "cv-field"):
            tag("span", text=self.say(_TEXT["name"]))
            tag("input", "cv-name", type="text", maxlength="64", autocomplete="off", spellcheck="false")
        with tag("div", "cv-actions"):
            for name in ("finish", "undo"):
                made = tag("button", f"hc-button small cv-{name}", self.say(_TEXT[name]), type="button")
                made.on("click", js_handler=f"() => haechiDrawing.{name}()")
        tag("h2", text=self.say(_TEXT["shapes"]))
        tag("ul", "cv-shapes")
        tag("div", "hc-note cv-unsaved", self.say(_TEXT["unsaved"]))
        if self.visit.may("engineer"):
            words = self.say(_TEXT["save"])
            self.button(words, "engineer", self._save, "agree cv-save", "() => emit(haechiDrawing.value())")
        else:
            tag("div", "hc-note", self.say(_TEXT["looking"]))

    async def _load(self) -> None:
        self.file = await asyncio.to_thread(self.desk.site_file)
        shown = console_site.drawing_of(self.file.site.cameras[self.camera])
        words = {key: self.say(_TEXT[key]) for key in ("remove", "none", "bad_name", *console_site.SECTIONS)}
        await ui.context.client.connected()
        ui.run_javascript(f"haechiDrawing.load({json.dumps(shown)}, {json.dumps(words)})")

    async def _save(self, event: Any) -> None:
        try:
            body = DrawingBody.model_validate({**event.args, "version": self.file.version})
        except (ValidationError, TypeError) as error:
            raise BadInput(f"the drawing is not valid: {_first(error)}.") from error
        places = {name: getattr(body, name) for name in console_site.SECTIONS}
        who = self.visit.check("engineer").name
        self.file, lost = await asyncio.to_thread(self.desk.draw, self.camera, places, self.file.version, who)
        shown = console_site.drawing_of(self.file.site.cameras[self.camera])
        ui.run_javascript(f"haechiDrawing.saved({json.dumps(shown)})")
        notify(self.say(_TEXT["saved"]) + (f" {self.say(_TEXT['comments'])}" if lost else ""))


def _first(error: Exception) -> str:
    return str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
