"""Conversations: the newest first, each turn by turn, with what was understood, how surely, and what was done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nicegui import ui

from shared.serving.console import Words, tag
from solutions.contact_center.console import BotPage, every
from solutions.contact_center.history import TurnSeen

if TYPE_CHECKING:
    from shared.streams import StreamHead

REFRESH_S = 3.0
_TEXT: dict[str, Words] = {
    "recent": ("최근 대화", "Recent conversations"),
    "none": ("아직 대화가 없습니다.", "No conversations yet."),
    "choose": ("왼쪽에서 대화를 고르세요.", "Choose a conversation on the left."),
    "scope": ("범위 안일 확률", "in scope"),
    "threshold": ("기준", "threshold"),
    "question": ("질문 답변", "question"),
    "learned": ("학습된 정책", "learned policy"),
    "instead": ("사다리의 선택", "the ladder's choice"),
    "opened": ("대화 시작", "opened"),
    "agent": ("상담원", "agent"),
}
STATUS: dict[str, Words] = {
    "bot": ("봇", "bot"),
    "waiting": ("대기 중", "waiting"),
    "agent": ("상담 중", "with an agent"),
    "callback": ("회신 요청", "call-back"),
    "ended": ("끝남", "ended"),
}


class ConversationsPage(BotPage):
    """List and transcript."""

    async def draw(self) -> None:
        """Both, side by side."""
        self.current = self.visit.query.get("conversation", "")
        self.filter = ""
        self.heads: list[StreamHead] = []
        self.turns: list[TurnSeen] = []
        with tag("div", "bc-grid"):
            with tag("section", "hc-card bc-list"):
                tag("h2", text=self.say(_TEXT["recent"]))
                self.filters = tag("div", "bc-filter")
                self.list = tag("div", "bc-rows")
            self.area = tag("section", "hc-card bc-detail")
        await self._load()
        every(REFRESH_S, self, self._refresh)

    async def _load(self) -> None:
        self.heads = await asyncio.to_thread(self.desk.heads, self.name, self.filter)
        self.turns = []
        if self.current:
            self.turns = await asyncio.to_thread(self.desk.turns, self.name, self.current)
        self._draw_list()
        self._draw_turns()

    async def _refresh(self) -> None:
        before = [(head.stream, head.seq) for head in self.heads]
        heads = await asyncio.to_thread(self.desk.heads, self.name, self.filter)
        if [(head.stream, head.seq) for head in heads] != before:
            await self._load()

    def _draw_list(self) -> None:
        self.filters.clear()
        with self.filters:
            for status in ("", *STATUS):
                words = self.say(STATUS[status]) if status else self.say(("전체", "All"))
                self.button(words, "operator", self._filterer(status), "here" if status == self.filter else "")
        self.list.clear()
        with self.list:
            if not self.heads:
                tag("div", "hc-note", self.say(_TEXT["none"]))
            for head in self.heads:
                here = " here" if head.stream == self.current else ""
                with self.button("", "operator", self._opener(head.stream), f"bc-row{here}") as row:
                    tag("span", "name", head.stream.partition("/")[2] or head.stream)
                    tag("span", f"bc-chip {head.status}", self.say(STATUS.get(head.status, ("", ""))))
                    tag("span", "when", self.visit.local_time(head.updated))
                row.props["data-conversation"] = head.stream

    def _draw_turns(self) -> None:
        self.area.clear()
        with self.area:
            if not self.turns:
                tag("div", "hc-note", self.say(_TEXT["choose"]))
                return
            tag("h2", text=self.current.partition("/")[2] or self.current)
            for turn in self.turns:
                self._draw_turn(turn)

    def _draw_turn(self, turn: TurnSeen) -> None:
        with tag("div", "bc-turn"):
            with tag("div", "bc-line user"):
                tag("span", "text", turn.text or f"({self.say(_TEXT['opened'])})")
                tag("span", "when", f"{self.visit.local_time(turn.time)} · {turn.channel}")
            self._draw_understood(turn)
            for said in turn.said:
                if said["text"]:
                    with tag("div", "bc-line bot"):
                        tag("span", "text", str(said["text"]))
                        variant = f" #{int(said.get('variant', 0)) + 1}"
                        tag("span", "when", f"{said['response']}{variant}")
            for who, text in turn.agent_said:
                with tag("div", "bc-line agent"):
                    tag("span", "text", text)
                    tag("span", "when", f"{self.say(_TEXT['agent'])} {who}")

    def _draw_understood(self, turn: TurnSeen) -> None:
        """Rung, guesses with their probabilities as bars, scope against its threshold."""
        if turn.scope is None and not turn.rung:
            return
        with tag("div", "bc-understood"):
            if turn.rung:
                tag("span", f"bc-chip {turn.rung}", self.rung(turn.rung))
            if turn.hand_over:
                tag("span", "bc-chip hand_over", self.reason(turn.hand_over))
            if turn.good is not None:
                tag("span", "bc-thumb", "👍" if turn.good else "👎")
            for decision in turn.decided:
                self._draw_policy(decision.get("policy"))
            guesses = [*turn.intents[:2], *((name, share) for name, share in turn.faqs[:1])]
            for name, share in sorted(guesses, key=lambda pair: -pair[1])[:3]:
                self._draw_share(self.title_of(name), share, turn.thresholds.get("answer"))
            if turn.scope is not None:
                self._draw_share(self.say(_TEXT["scope"]), turn.scope, turn.thresholds.get("scope"))
            if turn.ms is not None:
                tag("span", "when", f"{turn.ms:.0f} ms")

    def _draw_policy(self, choice: Any) -> None:
        if isinstance(choice, dict) and choice["arm"] != choice["ladder"]:
            words = f"{self.say(_TEXT['learned'])} ({self.say(_TEXT['instead'])}: {self.rung(choice['ladder'])})"
            tag("span", "bc-chip policy", words)

    def _draw_share(self, words: str, share: float, threshold: float | None) -> None:
        with tag("span", "bc-share", title=f"{words}: {share:.1%}"):
            tag("span", "name", words)
            with tag("span", "track"):
                tag("i", style=f"width:{100 * share:.1f}%")
                if threshold is not None:
                    tag("b", style=f"left:{100 * threshold:.1f}%")
            tag("span", "value", f"{share:.0%}")

    def _opener(self, stream: str) -> Callable[[], Any]:
        async def act() -> None:
            self.current = stream
            ui.navigate.history.replace(f"?bot={self.name}&conversation={quote(stream)}")
            await self._load()

        return act

    def _filterer(self, status: str) -> Callable[[], Any]:
        async def act() -> None:
            self.filter = status
            await self._load()

        return act
