"""Figures over time: events by type, crossings of each line in each direction, and where people and things were."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from shared.serving.console import Words, tag
from shared.serving.errors import Unavailable
from solutions.cctv.archive import Bucket
from solutions.cctv.console import API, CameraPage, script

_RANGES: dict[str, tuple[dt.timedelta, Bucket, Words]] = {
    "day": (dt.timedelta(days=1), "hour", ("24시간", "24 hours")),
    "week": (dt.timedelta(days=7), "day", ("7일", "7 days")),
    "month": (dt.timedelta(days=30), "day", ("30일", "30 days")),
}
_TEXT: dict[str, Words] = {
    "events": ("이벤트", "Events"),
    "crossings": ("선 통과", "Line crossings"),
    "over_time": ("시간별 이벤트", "Events over time"),
    "line": ("선", "Line"),
    "direction": ("방향", "Direction"),
    "count": ("수", "Count"),
    "heat": ("머문 곳", "Where people and things were"),
    "none": ("이 기간에는 없습니다.", "Nothing in this time."),
}


class FiguresPage(CameraPage):
    """One camera's figures."""

    async def draw(self) -> None:
        """Choices, counts, heat map."""
        self.camera = self.chosen_camera()
        self.range = "day"
        ui.add_body_html(script("console_live.js"))
        self.draw_choice(self.camera)
        self.ranges = tag("div", "cv-choice")
        self.area = tag("div", "cv-cards")
        await self._load()

    def _chooser(self, name: str) -> Callable[[], Any]:
        async def choose() -> None:
            self.range = name
            await self._load()

        return choose

    async def _load(self) -> None:
        length, bucket, _ = _RANGES[self.range]
        until = dt.datetime.now(dt.UTC)
        since = until - length
        try:
            counts = await asyncio.to_thread(self.desk.counts, since, until, bucket, self.camera)
        except Unavailable as error:
            tag("div", "hc-card hc-note", str(error))
            return
        self.ranges.clear()
        with self.ranges:
            for name, (_, _, words) in _RANGES.items():
                self.button(
                    self.say(words), "viewer", self._chooser(name), "small here" if name == self.range else "small"
                )
        self.area.clear()
        with self.area:
            self._draw_types(counts["events"])
            self._draw_time(counts["events"], bucket)
            self._draw_crossings(counts["crossings"])
            with tag("section", "hc-card wide"):
                tag("h2", text=self.say(_TEXT["heat"]))
                query = urlencode({"since": since.isoformat(), "until": until.isoformat()})
                source = f"{API}/cameras/{self.camera}/heatmap.png?{query}"
                with tag("div", "cv-heat"):
                    tag(
                        "img",
                        "cv-live",
                        alt="",
                        **{"data-src": f"{API}/cameras/{self.camera}/snapshot.jpg?marks=false"},
                    )
                    tag("img", "cv-heated", src=source, alt=self.say(_TEXT["heat"]))

    def _draw_types(self, events: list[dict[str, Any]]) -> None:
        totals: Counter[str] = Counter()
        for one in events:
            totals[one["type"]] += one["events"]
        with tag("section", "hc-card cv-types"):
            tag("h2", text=f"{self.say(_TEXT['events'])} ({totals.total()})")
            self._bars({self.type_name(kind): count for kind, count in totals.most_common()})

    def _draw_time(self, events: list[dict[str, Any]], bucket: str) -> None:
        totals: Counter[dt.datetime] = Counter()
        for one in events:
            totals[one["start"]] += one["events"]
        form = "%m-%d %H:00" if bucket == "hour" else "%m-%d"
        with tag("section", "hc-card cv-time"):
            tag("h2", text=self.say(_TEXT["over_time"]))
            self._bars({at.astimezone(self.visit.zone).strftime(form): totals[at] for at in sorted(totals)})

    def _bars(self, rows: Mapping[str, int]) -> None:
        if not rows:
            tag("div", "hc-note", self.say(_TEXT["none"]))
        most = max(rows.values(), default=1)
        with tag("div", "cv-bars"):
            for words, count in rows.items():
                with tag("div", "row"):
                    tag("span", "name", words, title=words)
                    with tag("span", "track"):
                        tag("i", style=f"width:{100 * count / most:.1f}%")
                    tag("span", "value", str(count))

    def _draw_crossings(self, crossings: list[dict[str, Any]]) -> None:
        totals: Counter[tuple[str, str]] = Counter()
        for one in crossings:
            totals[one["line"], one["direction"]] += one["crossings"]
        with tag("section", "hc-card cv-crossings"):
            tag("h2", text=self.say(_TEXT["crossings"]))
            if not totals:
                tag("div", "hc-note", self.say(_TEXT["none"]))
                return
            with tag("table", "cv-table"):
                with tag("thead"), tag("tr"):
                    for key in ("line", "direction", "count"):
                        tag("th", text=self.say(_TEXT[key]))
                with tag("tbody"):
                    for (line, direction), count in sorted(totals.items()):
                        with tag("tr"):
                            for words in (line, direction, str(count)):
                                tag("td", text=words)
