"""The analytics page: figures to look at, not to read. The same figures as JSON come from the API."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from shared.serving.console import Words, tag
from shared.serving.keys import Role
from solutions.contact_center.analytics import CONFIRM
from solutions.contact_center.console import RUNGS, BotPage, every

REFRESH_S = 10.0
DAYS = (1, 7, 30, 90)
_TEXT: dict[str, Words] = {
    "none": ("이 기간에는 대화가 없습니다.", "No conversations in this time."),
    "conversations": ("대화", "conversations"),
    "containment": ("봇이 끝까지 처리", "contained"),
    "handed_over": ("상담원 연결", "handed over"),
    "turns_per_conversation": ("대화당 메시지", "messages each"),
    "answer_ms_p95": ("답변 시간 p95", "answer time, p95"),
    "thumbs": ("좋아요 / 싫어요", "thumbs up / down"),
    "by_day": ("날마다: 봇이 처리한 대화와 상담원에게 간 대화", "Day by day: contained, and handed over"),
    "rungs": ("사다리", "The ladder"),
    "reasons": ("상담원 연결 사유", "Why a person was asked for"),
    "flows": ("흐름에서 떠난 곳", "Where flows are left"),
    "topics": ("모르는 주제", "Unknown topics"),
    "no_topics": ("없습니다.", "None."),
    "intents": ("많이 찾는 것", "What is asked for most"),
    "channels": ("채널", "Channels"),
    "languages": ("언어", "Languages"),
    "days": ("일", "days"),
    "all": ("전체", "all"),
    "came": ("도달", "came"),
    "left": ("떠남", "left"),
    "confirm": ("확인", "confirmation"),
    "started": ("시작", "started"),
    "completed": ("완료", "completed"),
}
LANGUAGES: dict[str, Words] = {"ko": ("한국어", "Korean"), "en": ("영어", "English")}


class AnalyticsPage(BotPage):
    """Cards with bars."""

    role: Role = "viewer"

    async def draw(self) -> None:
        """The filters and everything below."""
        self.days, self.channel, self.language = 30, "", ""
        self.shown: dict[str, Any] = {}
        self.filters = tag("div", "bc-filter bc-top")
        self.area = tag("div", "bc-cards")
        await self._load()
        every(REFRESH_S, self, self._load)

    async def _load(self) -> None:
        options = {"days": self.days, "channel": self.channel, "language": self.language}
        report = await asyncio.to_thread(functools.partial(self.desk.report, self.name, **options))
        if report != self.shown:
            self.shown = report
            self._draw_filters(report)
            self._draw_report(report)

    def _draw_filters(self, report: dict[str, Any]) -> None:
        self.filters.clear()
        with self.filters:
            for days in DAYS:
                words = f"{days} {self.say(_TEXT['days'])}"
                self.button(words, "viewer", self._setter(days=days), "here" if days == self.days else "")
            for key, chosen in (("channel", self.channel), ("language", self.language)):
                tag("span", "gap")
                for name in ("", *({one["name"] for one in report[f"by_{key}"]} | ({chosen} - {""}))):
                    words = self.say(LANGUAGES[name]) if name in LANGUAGES else name or self.say(_TEXT["all"])
                    self.button(words, "viewer", self._setter(**{key: name}), "here" if name == chosen else "")

    def _setter(self, **values: Any) -> Callable[[], Any]:
        async def act() -> None:
            for name, value in values.items():
                setattr(self, name, value)
            await self._load()

        return act

    def _draw_report(self, report: dict[str, Any]) -> None:
        self.area.clear()
        with self.area:
            self._draw_figures(report)
            if not report["conversations"]:
                tag("div", "hc-card hc-note wide", self.say(_TEXT["none"]))
                return
            with self._card("by_day", "wide"):
                self._draw_days(report["by_day"])
            with self._card("rungs"):
                total = sum(report["rungs"].values())
                rows = [(self.rung(name), report["rungs"].get(name, 0)) for name in RUNGS]
                self.bars([(words, count, f"{count:,} · {count / max(total, 1):.0%}") for words, count in rows])
            with self._card("reasons"):
                reasons = report["hand_over_reasons"].items()
                self.bars([(self.reason(name), count, f"{count:,}") for name, count in reasons], "hand_over")
            with self._card("topics"):
                self._draw_topics(report["unknown_topics"])
            with self._card("intents"):
                intents = list(report["intents"].items())[:10]
                self.bars([(self.title_of(name), count, f"{count:,}") for name, count in intents])
            for key in ("channel", "language"):
                with self._card(f"{key}s"):
                    self._draw_split(report[f"by_{key}"])
            with self._card("flows", "wide"):
                for flow in report["flows"]:
                    self._draw_flow(flow)

    def _card(self, key: str, classes: str = "") -> Any:
        card = tag("section", f"hc-card bc-{key} {classes}")
        with card:
            tag("h2", text=self.say(_TEXT[key]))
        return card

    def _draw_figures(self, report: dict[str, Any]) -> None:
        contained, time = report["containment"], report["answer_ms_p95"]
        thumbs = report["feedback"]
        with tag("div", "bc-figures wide"):
            for key, value in (
                ("conversations", f"{report['conversations']:,}"),
                ("containment", "–" if contained is None else f"{contained:.1%}"),
                ("handed_over", f"{report['handed_over']:,}"),
                ("turns_per_conversation", str(report["turns_per_conversation"] or "–")),
                ("answer_ms_p95", "–" if time is None else f"{time:g} ms"),
                ("thumbs", f"{thumbs.get('up', 0)} / {thumbs.get('down', 0)}"),
            ):
                with tag("div", f"figure {key}"):
                    tag("b", text=value)
                    tag("span", text=self.say(_TEXT[key]))

    def _draw_days(self, days: Sequence[dict[str, Any]]) -> None:
        """Columns: contained below, handed over above."""
        most = max(day["conversations"] for day in days)
        with tag("div", "bc-days"):
            for day in days:
                handed = day["handed_over"]
                kept = day["conversations"] - handed
                title = f"{day['name']}: {kept} + {handed}"
                with tag("div", "day", title=title):
                    with tag("div", "column"):
                        tag("i", "hand_over", style=f"height:{100 * handed / most:.1f}%")
                        tag("i", "answer", style=f"height:{100 * kept / most:.1f}%")
                    tag("span", text=day["name"][5:])

    def _draw_flow(self, flow: dict[str, Any]) -> None:
        """A funnel: how many came to each question, and how many left there."""
        completed = flow["ended"].get("completed", 0)
        with tag("div", "bc-flow"):
            tag("b", text=self.title_of(flow["flow"]))
            words = f"{self.say(_TEXT['started'])} {flow['started']} · {self.say(_TEXT['completed'])} {completed}"
            tag("span", "hc-note", words)
            most = max(flow["started"], 1)
            for step in flow["steps"]:
                name = self.say(_TEXT["confirm"]) if step["step"] == CONFIRM else self.slot_title(step["step"])
                with tag("div", "row"):
                    tag("span", "name", name, title=name)
                    with tag("span", "track"):
                        stayed = step["entered"] - step["dropped"]
                        tag("i", "answer", style=f"width:{100 * stayed / most:.1f}%")
                        tag("i", "hand_over", style=f"width:{100 * step['dropped'] / most:.1f}%")
                    left = f" · {self.say(_TEXT['left'])} {step['dropped']}" if step["dropped"] else ""
                    tag("span", "value", f"{self.say(_TEXT['came'])} {step['entered']}{left}")

    def _draw_topics(self, topics: Sequence[dict[str, Any]]) -> None:
        if not topics:
            tag("div", "hc-note", self.say(_TEXT["no_topics"]))
            return
        most = topics[0]["count"]
        for topic in topics:
            with tag("details", "bc-topic"):
                with tag("summary"):
                    tag("span", "name", topic["name"])
                    with tag("span", "track"):
                        tag("i", "ask_again", style=f"width:{100 * topic['count'] / most:.1f}%")
                    tag("span", "value", str(topic["count"]))
                for text in topic["examples"]:
                    tag("div", "hc-note", text)
        link = f"/review?bot={self.name}"
        self.button("→", "viewer", lambda: ui.navigate.to(link), "hc-button small")

    def _draw_split(self, parts: Sequence[dict[str, Any]]) -> None:
        rows = []
        for part in parts:
            name = part["name"]
            words = self.say(LANGUAGES[name]) if name in LANGUAGES else name
            contained = f"{self.say(_TEXT['containment'])} {part['containment']:.0%}"
            rows.append((words, part["conversations"], f"{part['conversations']:,} · {contained}"))
        self.bars(rows)
