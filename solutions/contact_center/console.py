"""The contact centre's pages of the console, and what they share: the choice of the bot, roles, words.

    /handover        the queue of conversations that want a person          operator
    /conversations   what was said, with rungs and scores                   operator
    /review          what the bot should learn                              operator
    /analytics       figures                                                viewer
    /policy          the learned policy, and whether it may serve           viewer; engineer approves it

What customers wrote is masked in the store; these pages show nothing that is not stored.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from nicegui import ui

from shared.serving.console import ConsolePage, PageFactory, Visit, Words, tag
from shared.serving.keys import Role
from solutions.contact_center.config import Bot
from solutions.contact_center.desk import Desk, desk_of, stylesheet
from solutions.contact_center.dialogue.slots import Answers

if TYPE_CHECKING:
    from shared.serving.state import ServerState

_TEXT: dict[str, Words] = {
    "no_bot": (
        "상담봇이 없습니다. haechi bot train으로 만들어 등록하세요.",
        "There is no bot here. Train one with haechi bot train and add it.",
    ),
    "needs": ("이 화면에는 operator 권한이 필요합니다.", "This page needs the role operator."),
}
RUNGS: dict[str, Words] = {
    "answer": ("답변", "answer"),
    "confirm": ("확인", "confirm"),
    "choose": ("둘 중 선택", "choose"),
    "ask_again": ("다시 질문", "ask again"),
    "hand_over": ("상담원 연결", "hand over"),
}
REASONS: dict[str, Words] = {
    "asked": ("고객이 요청", "customer asked"),
    "not_understood": ("이해하지 못함", "not understood"),
    "attempts": ("입력 여러 번 실패", "too many attempts"),
    "insult": ("욕설", "insult"),
    "stuck": ("흐름이 막힘", "flow stuck"),
}


class BotPage:
    """One visitor's page about one bot; each page of the contact centre draws itself on it."""

    role: Role = "operator"
    """Needed to see it."""

    def __init__(self, desk: Desk, visit: Visit) -> None:
        self.desk = desk
        self.visit = visit
        names = desk.names()
        wanted = visit.query.get("bot", "")
        self.names = names
        self.name = wanted if wanted in names else names[0] if names else ""

    async def open(self) -> None:
        """Draw the page, or say why there is nothing to draw."""
        if not self.name:
            tag("div", "hc-card hc-note", self.visit.say(_TEXT["no_bot"]))
            return
        if not self.visit.may(self.role):
            tag("div", "hc-card hc-note", self.visit.say(_TEXT["needs"]))
            return
        self.bot: Bot = await asyncio.to_thread(self.desk.bot, self.name)
        self._draw_choice()
        await self.draw()

    async def draw(self) -> None:
        """Everything below the choice of the bot."""
        raise NotImplementedError

    def _draw_choice(self) -> None:
        if len(self.names) < 2:
            return
        with tag("nav", "bc-bots"):
            for name in self.names:
                tag("a", "here" if name == self.name else "", name, href=f"?bot={name}")

    # -- helpers -----------------------------------------------------------------------------------------------------

    def say(self, words: Words) -> str:
        """In the visitor's language."""
        return self.visit.say(words)

    def title_of(self, name: str) -> str:
        """An intent, a flow or a question as people know it."""
        if name in self.bot.faqs:
            faq = self.bot.faqs[name]
            return faq.title.get(self.visit.language) or (faq.questions or [name])[0]
        return self.bot.title_of(name, self.visit.language)

    def slot_title(self, name: str) -> str:
        """A slot as customers know it."""
        steps = (flow.slots().get(name) for flow in self.bot.flows.values())
        step = next((one for one in steps if one is not None), None)
        return name if step is None else Answers(self.bot, {}).title(step, self.visit.language)

    def rung(self, name: str) -> str:
        """A rung of the ladder."""
        return self.say(RUNGS.get(name, (name, name)))

    def reason(self, name: str) -> str:
        """Why a person was asked for."""
        return self.say(REASONS.get(name, (name, name)))

    def button(self, words: str, role: Role, act: Callable[..., Any], classes: str = "hc-button") -> Any:
        """A button that does something after asking again who presses it."""
        made = tag("button", classes, words, type="button")
        made.on("click", self.visit.handler(role, act))
        return made

    def bars(self, rows: Sequence[tuple[str, float, str]], kind: str = "") -> None:
        """Horizontal bars: words, length, and what is written behind it."""
        most = max([value for _, value, _ in rows], default=0) or 1
        with tag("div", "bc-bars"):
            for words, value, shown in rows:
                with tag("div", "row"):
                    tag("span", "name", words, title=words)
                    with tag("span", "track"):
                        tag("i", kind or "", style=f"width:{100 * value / most:.1f}%")
                    tag("span", "value", shown)


def waited(since: dt.datetime, now: dt.datetime | None = None) -> str:
    """How long ago, as `m:ss`, `h:mm:ss` or, from two days on, `n d`."""
    seconds = max(0, int(((now or dt.datetime.now(dt.UTC)) - since).total_seconds()))
    if seconds >= 2 * 86400:
        return f"{seconds // 86400} d"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def page_of(path: str, title: Words, kind: type[BotPage]) -> PageFactory:
    """A page for `console_for`."""

    def factory(state: ServerState) -> ConsolePage:
        desk = desk_of(state)

        async def build(visit: Visit) -> None:
            await kind(desk, visit).open()

        return ConsolePage(path, title, build, css=(stylesheet(),))

    return factory


def pages(first: str = "/handover") -> list[PageFactory]:
    """All of them, in the order of the navigation.

    Args:
        first: the path of the first one; `/` where no other solution has it.
    """
    from solutions.contact_center.console_analytics import AnalyticsPage
    from solutions.contact_center.console_conversations import ConversationsPage
    from solutions.contact_center.console_handover import HandoverPage
    from solutions.contact_center.console_policy import PolicyPage
    from solutions.contact_center.console_review import ReviewPage

    return [
        page_of(first, ("상담 대기", "Hand-over"), HandoverPage),
        page_of("/conversations", ("대화", "Conversations"), ConversationsPage),
        page_of("/review", ("검토", "Review"), ReviewPage),
        page_of("/analytics", ("통계", "Analytics"), AnalyticsPage),
        page_of("/policy", ("정책", "Policy"), PolicyPage),
    ]


def every(seconds: float, page: BotPage, act: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again while the page is open."""
    ui.timer(seconds, page.visit.handler(page.role, act))
