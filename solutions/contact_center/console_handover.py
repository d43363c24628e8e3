"""The hand-over queue: who waits and why, what the bot knows, and a person's answers; it renews itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from nicegui import ui

from shared.serving.console import Words, tag
from solutions.contact_center.console import BotPage, every, waited
from solutions.contact_center.console_conversations import STATUS
from solutions.contact_center.dialogue.handover import Line, Request

REFRESH_S = 1.0
_TEXT: dict[str, Words] = {
    "queue": ("상담을 기다리는 대화", "Conversations that want a person"),
    "none": ("기다리는 고객이 없습니다.", "Nobody waits."),
    "choose": ("왼쪽에서 대화를 고르세요.", "Choose a conversation on the left."),
    "gone": ("이 대화는 더 이상 상담을 기다리지 않습니다.", "This conversation no longer wants a person."),
    "take": ("상담 시작", "Take over"),
    "send": ("보내기", "Send"),
    "return": ("봇에게 돌려주기", "Return to the bot"),
    "resume": ("하던 일 이어서 하기", "and go on with what was under way"),
    "say": ("고객에게 보낼 말", "What to say to the customer"),
    "reason": ("연결 사유", "Reason"),
    "waits": ("대기 시간", "Waiting"),
    "flow": ("하던 일", "Under way"),
    "known": ("알고 있는 것", "Known"),
    "masked": ("개인정보는 가려져 있습니다.", "Personal data is masked."),
    "with": ("상담원", "with"),
    "bot": ("봇", "bot"),
    "customer": ("고객", "customer"),
    "nothing": ("없음", "nothing"),
}
_SAY_SCRIPT = "() => { const box = document.querySelector('.bc-say'); emit(box.value); }"
_ENTER_SCRIPT = (
    "(event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing)"
    " { event.preventDefault(); emit(event.target.value); } }"
)


class HandoverPage(BotPage):
    """Queue on the left, the conversation on the right."""

    async def draw(self) -> None:
        """Both."""
        self.current = self.visit.query.get("conversation", "")
        self.requests: list[Request] = []
        self.lines: list[Line] = []
        self.drawn: tuple[str, str, str] | None = None
        with tag("div", "bc-grid"):
            with tag("section", "hc-card bc-list"):
                tag("h2", text=self.say(_TEXT["queue"]))
                self.list = tag("div", "bc-rows")
            self.area = tag("section", "hc-card bc-detail")
        await self._load()
        every(REFRESH_S, self, self._load)

    async def _load(self) -> None:
        """Read the queue and the open conversation; draw what has changed."""
        requests = await asyncio.to_thread(self.desk.requests, self.name)
        lines: list[Line] = []
        if self.current:
            lines = await asyncio.to_thread(self.desk.queue(self.name).transcript, self.current)
        changed, said = requests != self.requests, lines != self.lines
        self.requests, self.lines = requests, lines
        if changed or self.drawn is None:
            self._draw_list()
        else:
            self._renew_times()
        request = self._request()
        standing = (self.current, request.status if request else "", request.agent if request else "")
        if standing != self.drawn:
            self.drawn = standing
            self._draw_area(request)
        elif said:
            self._draw_lines()

    def _request(self) -> Request | None:
        return next((one for one in self.requests if one.conversation == self.current), None)

    def _draw_list(self) -> None:
        self.list.clear()
        self.times: list[tuple[Any, str]] = []
        with self.list:
            if not self.requests:
                tag("div", "hc-note", self.say(_TEXT["none"]))
            for request in self.requests:
                self._draw_row(request)

    def _draw_row(self, request: Request) -> None:
        here = " here" if request.conversation == self.current else ""
        with self.button("", "operator", self._opener(request.conversation), f"bc-row{here}") as row:
            tag("span", "name", self.reason(request.reason))
            tag("span", f"bc-chip {request.status}", self.say(STATUS[request.status]))
            summary = request.summary
            about = ", ".join(str(one["title"]) for one in summary.get("flows", ())) or summary.get("channel", "")
            tag("span", "about", f"{request.agent or about} · {summary.get('language', '')}")
            clock = tag("span", "when", waited(_moment(request.time)))
        self.times.append((clock, request.time))
        row.props["data-conversation"] = request.conversation

    def _renew_times(self) -> None:
        for clock, time in self.times:
            clock.text = waited(_moment(time))

    def _draw_area(self, request: Request | None) -> None:
        self.area.clear()
        with self.area:
            if request is None:
                tag("div", "hc-note", self.say(_TEXT["gone" if self.current else "choose"]))
                return
            self._draw_summary(request)
            self.said = tag("div", "bc-transcript", role="log")
            self._draw_lines()
            me = self.visit.principal.name
            if request.status != "agent":
                self.button(self.say(_TEXT["take"]), "operator", self._take, "hc-button agree bc-take")
            elif request.agent == me:
                self._draw_answering()

    def _draw_summary(self, request: Request) -> None:
        summary = request.summary
        with tag("dl", "bc-summary"):
            for key, value in (
                ("reason", self.reason(request.reason)),
                ("flow", ", ".join(str(one["title"]) for one in summary.get("flows", ()))),
                ("with", request.agent),
            ):
                if value:
                    tag("dt", text=self.say(_TEXT[key]))
                    tag("dd", text=value)
            slots = {k: v for one in summary.get("flows", ()) for k, v in one["slots"].items()}
            for name, value in {**summary.get("known", {}), **slots}.items():
                tag("dt", "slot", self.slot_title(name))
                tag("dd", "slot", str(value))
        tag("div", "hc-note", self.say(_TEXT["masked"]))

    def _draw_lines(self) -> None:
        self.said.clear()
        with self.said:
            for line in self.lines:
                who = line.who if line.who in ("user", "bot") else "agent"
                name = {"user": "customer", "bot": "bot"}.get(line.who)
                with tag("div", f"bc-line {who}"):
                    tag("span", "text", line.text)
                    when = self.visit.local_time(_moment(line.time))
                    tag("span", "when", f"{self.say(_TEXT[name]) if name else line.who} · {when}")
        ui.run_javascript(f"const box = getHtmlElement({self.said.id}); if (box) box.scrollTop = box.scrollHeight")

    def _draw_answering(self) -> None:
        words = self.say(_TEXT["say"])
        box = tag("textarea", "bc-say", rows="3", maxlength="4000", placeholder=words, **{"aria-label": words})
        box.on("keydown", self.visit.handler("operator", self._say), js_handler=_ENTER_SCRIPT)
        with tag("div", "bc-actions"):
            send = tag("button", "hc-button agree bc-send", self.say(_TEXT["send"]), type="button")
            send.on("click", self.visit.handler("operator", self._say), js_handler=_SAY_SCRIPT)
            back = functools.partial(self._return, False)
            self.button(self.say(_TEXT["return"]), "operator", back, "hc-button bc-return")
            request = self._request()
            if request is not None and request.summary.get("flows"):
                words = f"{self.say(_TEXT['return'])}, {self.say(_TEXT['resume'])}"
                on = functools.partial(self._return, True)
                self.button(words, "operator", on, "hc-button bc-resume")

    # -- what the agent does -----------------------------------------------------------------------------------------

    def _opener(self, conversation: str) -> Callable[[], Any]:
        async def act() -> None:
            self.current = conversation
            ui.navigate.history.replace(f"?bot={self.name}&conversation={quote(conversation)}")
            await self._load()
            self._draw_list()

        return act

    async def _take(self) -> None:
        who = self.visit.check("operator").name
        await asyncio.to_thread(self.desk.queue(self.name).take, self.current, who)
        await self._load()

    async def _say(self, event: Any) -> None:
        text = str(event.args or "").strip()
        if not text:
            return
        who = self.visit.check("operator").name
        await asyncio.to_thread(self.desk.queue(self.name).say, self.current, who, text)
        ui.run_javascript("const box = document.querySelector('.bc-say'); if (box) box.value = ''")
        await self._load()

    async def _return(self, resume: bool) -> None:
        who = self.visit.check("operator").name
        give_back = functools.partial(self.desk.queue(self.name).give_back, self.current, who, resume=resume)
        await asyncio.to_thread(give_back)
        self.current = ""
        ui.navigate.history.replace(f"?bot={self.name}")
        await self._load()


def _moment(time: str) -> dt.datetime:
    return dt.datetime.fromisoformat(time) if time else dt.datetime.now(dt.UTC)
