"""A skill for KakaoTalk channels: request and response in the platform's public JSON, version 2.0.

    POST /chat/{bot}/kakao

A bot is here if its `bot.yaml` has the channel `kakao`. Where `HAECHI_KAKAO_SECRET` is set, the skill must send it as
the header `X-Haechi-Secret` (the platform's skill settings have a place for headers). Kakao's user id is stored as a
keyed hash alone. Format: https://kakaobusiness.gitbook.io/main/tool/chatbot/skill_guide/answer_json_format

The platform waits 5 seconds. A turn that takes longer goes on: where the block has the callback option the answer is
sent to its address within a minute (`useCallback`); else the user gets a quick reply that fetches it. What a person
says during a hand-over cannot be pushed through a skill either, and is fetched the same way.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.errors import HaechiError
from shared.log import get_logger
from shared.serving.errors import NotFound, Unauthorized
from solutions.contact_center.bot_models import Channel
from solutions.contact_center.dialogue.actions import ActionContext, Actions
from solutions.contact_center.dialogue.events import Button, Message, Reply
from solutions.contact_center.flow_models import ActionConfig, Http
from solutions.contact_center.service import BotService, Line, lines_of, stream_of

CHANNEL: Literal["kakao"] = "kakao"
SECRET = "HAECHI_KAKAO_SECRET"  # noqa: S105 (the variable's name)
ANSWER_SECONDS = 4.0
"""Of the platform's 5: the rest is for the way there and back."""
CALLBACK_HOSTS = (".kakao.com", ".kakaoenterprise.com")
"""Where the platform's callback addresses are; no other host is ever called."""
MAX_OUTPUTS, MAX_TEXT, MAX_REPLIES, MAX_LABEL = 3, 1000, 10, 14
MAX_BUTTONS, MAX_CARD_TEXT, MAX_CARD_TITLE, MAX_ITEMS = 3, 400, 50, 5
_TAG = 6
"""Characters of a message's id by which a user's quick reply names it."""
_MAX_TOGETHER = 500
"""Slow turns whose answers are still to come, of all users."""
_FETCH = {"ko": "답변 확인", "en": "Show answer"}
_FETCHING = re.compile(rf"(?:{'|'.join(_FETCH.values())})(?: ([0-9a-f]{{{_TAG}}}))?")
_WORDS = {
    "ko": {
        "working": "처리하고 있어요. 잠시 후 아래 버튼을 눌러 주세요.",
        "failed": "죄송합니다. 지금은 답변드릴 수 없어요. 잠시 후 다시 말씀해 주세요.",
        "with_agent": "상담사에게 전달했어요. 답변이 오면 아래 버튼으로 확인해 주세요.",
        "nothing": "아직 새 답변이 없어요.",
        "choose": "선택해 주세요",
    },
    "en": {
        "working": "I am working on it. Please press the button below in a moment.",
        "failed": "Sorry, I cannot answer right now. Please try again in a moment.",
        "with_agent": "I have passed this on to our agent. Press the button below to see the answer.",
        "nothing": "There is no new answer yet.",
        "choose": "Please choose",
    },
}
_log = get_logger(__name__)

Json = dict[str, Any]


class _Payload(BaseModel):
    """Parts that are not named here are the platform's business."""

    model_config = ConfigDict(extra="allow", strict=True)


class KakaoUser(_Payload):
    """Who writes."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class KakaoUserRequest(_Payload):
    """What was written."""

    utterance: Annotated[str, StringConstraints(max_length=20_000)]
    user: KakaoUser
    lang: str | None = None
    callbackUrl: str | None = Field(default=None, max_length=2000)  # noqa: N815 (the platform's name)


class SkillPayload(_Payload):
    """The request of a skill."""

    userRequest: KakaoUserRequest  # noqa: N815 (the platform's name)


class SkillTemplate(BaseModel):
    """What KakaoTalk shows."""

    outputs: list[Json]
    quickReplies: list[Json] | None = None  # noqa: N815 (the platform's name)


class SkillResponse(BaseModel):
    """The answer of a skill."""

    version: str
    template: SkillTemplate | None = None
    useCallback: bool | None = None  # noqa: N815 (the platform's name)
    data: Json | None = None


def router_for(service: BotService) -> APIRouter:
    """The skill's route. It is below `/chat/`, which is open to all."""
    router = APIRouter(tags=["kakao"])
    skill = Skill(service)

    @router.post("/chat/{bot}/kakao", response_model=SkillResponse, response_model_exclude_none=True)
    async def answer(bot: str, body: SkillPayload, x_haechi_secret: Annotated[str | None, Header()] = None) -> Any:
        secret = os.environ.get(SECRET, "")
        if secret and not hmac.compare_digest(secret.encode(), (x_haechi_secret or "").encode("utf-8", "replace")):
            raise Unauthorized("the skill's secret is missing or wrong; send it as X-Haechi-Secret.")
        return await skill.answer(bot, body.userRequest)

    return router


class Skill:
    """Answers skill requests in time."""

    def __init__(self, service: BotService, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._service = service
        self._answer_seconds = answer_seconds
        self._under_way: dict[str, asyncio.Task[Reply]] = {}
        """Slow turns by their message's id."""
        self._callbacks: set[asyncio.Task[None]] = set()

    async def answer(self, bot: str, request: KakaoUserRequest) -> Json:
        """The response to one utterance.

        Raises:
            NotFound: there is no such bot, or its `bot.yaml` has no channel `kakao`.
            Unavailable: the bot is loading.
        """
        pipeline = await self._service.pipeline(bot)
        settings = pipeline.bot.settings
        if CHANNEL not in settings.channels:
            raise NotFound(f"the bot {bot} has no KakaoTalk; add the channel kakao to its bot.yaml and train it again.")
        language = settings.language
        customer = self._service.tokens.pseudonym(CHANNEL, request.user.id)
        fetching = _FETCHING.fullmatch(request.utterance.strip())
        if fetching is not None:
            return await self._fetch(bot, customer, fetching[1] or "", language)
        message = Message(request.utterance, uuid.uuid4().hex, CHANNEL)
        task = asyncio.create_task(self._service.reply(bot, customer, message, customer))
        done, _ = await asyncio.wait({task}, timeout=self._answer_seconds)
        if not done:
            return self._later(bot, customer, message, task, request.callbackUrl, language)
        return await self._finished(bot, customer, message.id, task, language)

    async def _finished(
        self, bot: str, conversation: str, message: str, task: asyncio.Task[Reply], language: str
    ) -> Json:
        """The response for a turn that is over."""
        try:
            reply = task.result()
            said = await self._agent_lines(bot, conversation, message)
        except HaechiError as error:
            # any other status shows the user the platform's own words, and people see what happened in our log
            _log.error("kakao_turn_failed", bot=bot, error=str(error))
            return _simple(_WORDS[language]["failed"])
        channel = (await self._service.pipeline(bot)).bot.settings.channels.get(CHANNEL) or Channel()
        texts = [*said, *reply.texts]
        buttons = list(reply.buttons) if channel.buttons else []
        if not texts:
            texts = [_WORDS[language]["with_agent"]]
        if reply.handed_over:
            buttons.append(Button(_FETCH[language], _FETCH[language]))
        return response_of(texts, buttons, language, min(channel.max_text, MAX_TEXT))

    def _later(
        self,
        bot: str,
        conversation: str,
        message: Message,
        task: asyncio.Task[Reply],
        callback: str | None,
        language: str,
    ) -> Json:
        """What is answered in time for a turn that goes on."""
        working = _WORDS[language]["working"]
        if len(self._under_way) < _MAX_TOGETHER:
            self._under_way[message.id] = task
            task.add_done_callback(lambda _: self._under_way.pop(message.id, None))
        if callback is not None and _is_callback(callback):
            sending = asyncio.create_task(self._call_back(bot, conversation, message.id, task, callback, language))
            self._callbacks.add(sending)
            sending.add_done_callback(self._callbacks.discard)
            return {"version": "2.0", "useCallback": True, "data": {"text": working}}
        task.add_done_callback(_log_failure)
        return _working(message.id[:_TAG], language)

    async def _call_back(
        self, bot: str, conversation: str, message: str, task: asyncio.Task[Reply], url: str, language: str
    ) -> None:
        await asyncio.wait({task})
        content = await self._finished(bot, conversation, message, task, language)
        error = await self._service.in_thread(_post, url, content, message)
        if error:
            _log.error("kakao_callback_failed", bot=bot, error=error)

    async def _fetch(self, bot: str, conversation: str, tag: str, language: str) -> Json:
        """What was said since the user's last message, or in answer to the one whose id begins with `tag`."""
        pipeline = await self._service.pipeline(bot)
        stream = stream_of(bot, conversation)
        if any(message.startswith(tag) for message in self._under_way if tag):
            return _working(tag, language)
        loaded = await self._service.in_thread(pipeline.conversations.load, stream)
        turns = list(loaded.turns.items())
        found = next((turn for name, turn in reversed(turns) if not tag or name.startswith(tag)), None)
        if found is None and tag:  # another server answers it
            return _working(tag, language)
        lines = [] if found is None else await self._service.lines(bot, conversation, found[0] - 1)
        said = [line for line in lines if line.who != "user"]
        if not tag:
            said = [line for line in said if line.who == "agent" or not line.message]
        if not said:
            waiting = [Button(_FETCH[language], _FETCH[language])]
            return response_of([_WORDS[language]["nothing"]], waiting, language)
        buttons = [Button.from_dict(button) for button in said[-1].buttons]
        if loaded.state.mode == "agent":
            buttons.append(Button(_FETCH[language], _FETCH[language]))
        return response_of([line.text for line in said], buttons, language)

    async def _agent_lines(self, bot: str, conversation: str, message: str) -> list[str]:
        """What a person said between the message before this one and this one."""
        pipeline = await self._service.pipeline(bot)
        stream = stream_of(bot, conversation)

        def look() -> list[Line]:
            loaded = pipeline.conversations.load(stream)
            spans = list(loaded.turns.values())
            mine = loaded.turns[message]
            before = [span for span in spans if span[0] < mine[0]]
            if not before or before[-1][1] + 1 == mine[0]:
                return []
            events = pipeline.conversations.events(stream, before[-1][1])
            return lines_of([event for event in events if event.seq < mine[0]])

        return [line.text for line in await self._service.in_thread(look) if line.who == "agent"]


# -- the platform's shape ---------------------------------------------------------------------------------------------


def response_of(texts: Sequence[str], buttons: Sequence[Button], language: str, max_text: int = MAX_TEXT) -> Json:
    """A response within the platform's limits.

    Texts become speech bubbles, the last one with links a text card (up to 3) or a list (up to 5); buttons that say
    something become quick replies. What does not fit three bubbles is joined, and cut as a last resort.
    """
    links = [button for button in buttons if button.url]
    spoken = [button for button in buttons if not button.url]
    texts = [text for text in texts if text.strip()] or ["…"]
    listed = len(links) > MAX_BUTTONS
    bubbles = _bubbles(texts, max_text, MAX_OUTPUTS - (1 if listed else 0))
    outputs: list[Json] = [{"simpleText": {"text": text}} for text in bubbles]
    if listed:
        items = [{"title": _cut(link.title, 36), "link": {"web": link.url}} for link in links[:MAX_ITEMS]]
        outputs.append({"listCard": {"header": {"title": _WORDS[language]["choose"]}, "items": items}})
    elif links:
        made = [_link(link) for link in links]
        if len(bubbles[-1]) <= MAX_CARD_TEXT:
            outputs[-1] = {"textCard": {"description": bubbles[-1], "buttons": made}}
        elif len(outputs) < MAX_OUTPUTS:
            outputs.append({"textCard": {"title": _WORDS[language]["choose"], "buttons": made}})
        else:
            outputs[-1] = {"textCard": {"description": _cut(bubbles[-1], MAX_CARD_TEXT), "buttons": made}}
    template: Json = {"outputs": outputs}
    if spoken:
        template["quickReplies"] = [
            {"label": _cut(one.title, MAX_LABEL), "action": "message", "messageText": one.say or one.title}
            for one in spoken[:MAX_REPLIES]
        ]
    return {"version": "2.0", "template": template}


def _link(button: Button) -> Json:
    label = _cut(button.title, MAX_LABEL)
    if button.url.startswith("tel:"):
        return {"action": "phone", "label": label, "phoneNumber": button.url.removeprefix("tel:")}
    return {"action": "webLink", "label": label, "webLinkUrl": button.url}


def _bubbles(texts: Sequence[str], longest: int, most: int) -> list[str]:
    """The texts in at most `most` pieces of at most `longest` characters, split where sentences or words end."""
    pieces = [piece for text in texts for piece in _pieces(text, longest)]
    joined: list[str] = []
    for index, piece in enumerate(pieces):
        too_many = len(pieces) - index + len(joined) > most
        if joined and too_many and len(joined[-1]) + 2 + len(piece) <= MAX_TEXT:
            joined[-1] += f"\n\n{piece}"
        else:
            joined.append(piece)
    if len(joined) > most:
        joined = [*joined[: most - 1], _cut("\n\n".join(joined[most - 1 :]), MAX_TEXT)]
    return joined


def _pieces(text: str, longest: int) -> list[str]:
    pieces, text = [], text.strip()
    while len(text) > longest:
        at = max(text.rfind(mark, 1, longest) + len(mark) for mark in ("\n", ". ", "? ", "! "))
        if at < longest // 2:
            at = text.rfind(" ", 1, longest) + 1
        at = at if at >= longest // 2 else longest
        pieces.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return [*pieces, text] if text else pieces


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _simple(text: str) -> Json:
    return {"version": "2.0", "template": {"outputs": [{"simpleText": {"text": text}}]}}


def _working(tag: str, language: str) -> Json:
    """The turn goes on; the quick reply fetches what comes of it."""
    fetch = Button(_FETCH[language], f"{_FETCH[language]} {tag}")
    return response_of([_WORDS[language]["working"]], [fetch], language)


def _is_callback(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and (parts.hostname or "").endswith(CALLBACK_HOSTS)
    except ValueError:
        return False


def _post(url: str, content: Json, message: str) -> str:
    """Send the late answer, with the caution of any action; what went wrong, or an empty text."""
    host = urlsplit(url).hostname or ""
    config = ActionConfig(action="callback", http=Http(method="POST", url=url, allow=[host], retries=1))
    context = ActionContext(conversation="", customer="", language="", time="", key=message)
    return Actions().run(config, json.loads(json.dumps(content)), context).error


def _log_failure(task: asyncio.Task[Reply]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("kakao_turn_failed", error=str(task.exception()))
