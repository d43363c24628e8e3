"""Conversations on a server: the bots that it serves, one turn at a time, for every channel.

A conversation is one stream of the records' database, called `BOT/ID` so that ids of different bots cannot meet. Turns
are taken in threads, a bounded number at once; what is refused beyond that was not begun. Whoever sends a message again
under the same id gets the answer that is stored, from whichever server.

Strangers in a browser hold a token for their conversation. It is not stored: it is the HMAC of the conversation and its
expiry under the key with which this machine seals personal data, so that every server with that key knows it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import functools
import hmac
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import anyio.to_thread
from prometheus_client import Counter, Histogram

from shared.errors import HaechiError
from shared.log import get_logger
from shared.serving.errors import Busy, NotFound, Unauthorized
from shared.streams import StreamEvent, Streams
from solutions.contact_center.bandit import LivePolicy, path_of
from solutions.contact_center.dialogue.actions import Actions
from solutions.contact_center.dialogue.events import Event, Message, Reply, iso
from solutions.contact_center.dialogue.sealing import Vault
from solutions.contact_center.dialogue.state import State
from solutions.contact_center.dialogue.store import SOLUTION
from solutions.contact_center.masking import mask
from solutions.contact_center.pipeline import BotPipeline, purge
from solutions.contact_center.understanding.model import TASK

if TYPE_CHECKING:
    from shared.package import Package
    from shared.serving.models import ServedModel
    from shared.serving.state import ServerState

TOKEN_SECONDS = 7 * 24 * 3600
"""How long a browser may come back to its conversation."""
MAX_WAITING = 256
"""Turns under way or waiting for a thread; more are answered 429."""
THREADS = 32
"""Turns at once. A turn that waits for an action of the outside world keeps its thread."""
_PURGE_SECONDS = 3600.0
_CONVERSATION = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Thumb = Literal["up", "down"]
_T = TypeVar("_T")
_log = get_logger(__name__)


@dataclass(frozen=True)
class Line:
    """One thing that was said, as a chat shows it; personal data in it is masked."""

    seq: int
    """Of its event within the conversation: ask for what came after it."""
    time: str
    who: Literal["user", "bot", "agent"]
    text: str
    name: str = ""
    """Of the agent."""
    message: str = ""
    """The id of the user's message, or of the one that the bot answers."""
    buttons: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Standing:
    """How a conversation stands."""

    mode: Literal["bot", "waiting", "agent"]
    """Who speaks."""
    agent: str
    position: int
    """From 1 in the queue for a person; 0 where it does not wait."""
    ended: bool
    last: int
    """Number of its events."""


class Tokens:
    """What proves that somebody began a conversation, and pseudonyms; both from one secret key."""

    def __init__(self, key: bytes) -> None:
        self._signing = hmac.digest(key, b"haechi conversation tokens", "sha256")
        self._naming = hmac.digest(key, b"haechi customers of channels", "sha256")

    @classmethod
    def of_vault(cls, vault: Vault) -> Tokens:
        """With a key made of the one that seals personal data: servers that share a database share it already."""
        return cls(vault.derive(b"haechi channels"))

    def issue(self, bot: str, conversation: str, seconds: float = TOKEN_SECONDS) -> str:
        """A token for a conversation."""
        expires = f"{int(time.time() + seconds):x}"
        return f"ct_{expires}_{self._sign(bot, conversation, expires)}"

    def check(self, token: str, bot: str, conversation: str) -> None:
        """Return if the token is this conversation's.

        Raises:
            Unauthorized: it is not, or its time is over.
        """
        kind, _, rest = token[:200].partition("_")
        expires, _, signature = rest.partition("_")
        known = self._sign(bot, conversation, expires)
        if kind != "ct" or not hmac.compare_digest(known.encode(), signature.encode("utf-8", "replace")):
            raise Unauthorized("the conversation's token is wrong; begin a new conversation.")
        if int(expires, 16) < time.time():
            raise Unauthorized("the conversation's token has expired; begin a new conversation.")

    def pseudonym(self, channel: str, user: str) -> str:
        """A name for another service's user, always the same, from which the user cannot be found again."""
        digest = hmac.digest(self._naming, f"{channel}\n{user}".encode("utf-8", "replace"), "sha256")
        return f"{channel}-{digest.hex()[:32]}"

    def _sign(self, bot: str, conversation: str, expires: str) -> str:
        signed = f"{bot}\n{conversation}\n{expires}".encode("utf-8", "replace")
        return base64.urlsafe_b64encode(hmac.digest(self._signing, signed, "sha256")).decode().rstrip("=")


Open = Callable[["Package", Streams, Vault], BotPipeline]


def open_bot(package: Package, streams: Streams, vault: Vault, actions: Actions | None = None) -> BotPipeline:
    """The bot in a served package.

    Args:
        actions: by default with the functions that are registered.

    Raises:
        HaechiError: the package holds none.
    """
    from solutions.contact_center.understanding import Understander

    understander = Understander.load(package)
    if understander.bot is None:
        raise HaechiError(f"{package.path} was trained from a table and holds no bot; train it from a bot's folder.")
    return BotPipeline(understander.bot, understander, streams, actions=actions, vault=vault)


class BotService:
    """Talks with the server's bots. For the event loop's thread; what blocks goes to threads of its own.

    Args:
        state: the server's models and records.
        opens: makes a pipeline of a package.
    """

    def __init__(self, state: ServerState, opens: Open = open_bot) -> None:
        self.state = state
        self.streams = Streams(state.records)
        self.changed: Callable[[str], None] = lambda _stream: None
        """Called with the stream in which something was said here."""
        self._opens = opens
        self._pipelines: dict[str, tuple[str, BotPipeline]] = {}
        self._opening = asyncio.Lock()
        self._threads = anyio.CapacityLimiter(THREADS)
        self._waiting = 0
        registry = state.metrics.registry
        self._turns = Counter("haechi_bot_turns", "Turns taken", ["bot", "channel", "rung"], registry=registry)
        self._seconds = Histogram(
            "haechi_bot_turn_seconds",
            "From the message to its stored answer",
            ["bot"],
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
            registry=registry,
        )

    @functools.cached_property
    def vault(self) -> Vault:
        """For personal slots. Made at the first conversation, so that a server without bots needs no key."""
        return Vault.of_home(self.state.settings.home)

    @functools.cached_property
    def tokens(self) -> Tokens:
        """For browsers."""
        return Tokens.of_vault(self.vault)

    # -- bots --------------------------------------------------------------------------------------------------------

    def bots(self) -> list[str]:
        """Names of the bots served here, sorted."""
        return sorted(served.name for served in self.state.of_task(TASK))

    def served(self, bot: str) -> ServedModel:
        """The package of this bot.

        Raises:
            NotFound: there is no such bot.
        """
        names = self.bots()
        if bot not in names:
            have = ", ".join(names) or "none; train one with haechi bot train"
            raise NotFound(f"there is no bot {bot[:64]}; this server has: {have}.")
        return self.state.find(bot)

    async def pipeline(self, bot: str) -> BotPipeline:
        """The bot, opened at its first use and again when another version is served.

        Raises:
            NotFound: there is no such bot.
            Unavailable: it is loading, or has failed.
            HaechiError: its package holds no bot.
        """
        served = self.served(bot)
        served.check_ready()
        known = self._pipelines.get(bot)
        if known is not None and known[0] == served.package.fingerprint:
            return known[1]
        async with self._opening:
            known = self._pipelines.get(bot)
            if known is None or known[0] != served.package.fingerprint:
                opened = await self.in_thread(self._opens, served.package, self.streams, self.vault)
                opened.follow(LivePolicy.of(path_of(opened.bot.settings.name, self.state.settings.home)))
                known = self._pipelines[bot] = (served.package.fingerprint, opened)
        return known[1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open bots before the first customer comes and delete conversations whose time is over, meanwhile."""
        task = asyncio.create_task(self._keep_house())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_house(self) -> None:
        purged = -_PURGE_SECONDS
        while True:
            await asyncio.sleep(1)
            for name in self.bots():
                if not self.state.find(name).ready:
                    continue
                try:
                    await self.pipeline(name)
                except HaechiError as error:
                    _log.error("bot_not_opened", bot=name, error=str(error))
            if self._pipelines and time.monotonic() - purged >= _PURGE_SECONDS:
                purged = time.monotonic()
                await self._purge()

    async def _purge(self) -> None:
        """By the longest retention of the bots here: a stream does not say which of them it belongs to."""
        bots = [pipeline.bot for _, pipeline in self._pipelines.values()]
        longest = max(bots, key=lambda bot: bot.settings.policies.retention_days)
        try:
            count = await self.in_thread(purge, self.streams, longest, dt.datetime.now(dt.UTC), "retention")
        except HaechiError as error:
            _log.error("conversations_not_purged", error=str(error))
            return
        if count:
            _log.info("conversations_purged", count=count)

    # -- talking -----------------------------------------------------------------------------------------------------

    async def start(self, bot: str, conversation: str, channel: str, language: str | None, customer: str = "") -> Reply:
        """Begin a conversation: the bot greets. Raises as `pipeline`, and `Busy`."""
        pipeline = await self.pipeline(bot)
        message = Message("", "start", channel, language)
        return await self._take(bot, channel, stream_of(bot, conversation), pipeline.greet, message, customer)

    async def reply(self, bot: str, conversation: str, message: Message, customer: str = "") -> Reply:
        """The answer to a message, stored before it is given. Raises as `pipeline`, and:

        Raises:
            Busy: too many turns are under way.
            HaechiError: the database refused.
        """
        pipeline = await self.pipeline(bot)
        return await self._take(bot, message.channel, stream_of(bot, conversation), pipeline.reply, message, customer)

    async def _take(
        self,
        bot: str,
        channel: str,
        stream: str,
        turn: Callable[[str, Message, str], Reply],
        message: Message,
        customer: str,
    ) -> Reply:
        if self._waiting >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} messages are being answered; send this one again.")
        started = time.perf_counter()
        self._waiting += 1
        try:
            reply = await self.in_thread(turn, stream, message, customer)
        finally:
            self._waiting -= 1
        if not reply.duplicate:
            self._turns.labels(bot, channel, reply.rung or "none").inc()
            self._seconds.labels(bot).observe(time.perf_counter() - started)
            self.changed(stream)
        return reply

    async def feedback(self, bot: str, conversation: str, message: str, value: Thumb, note: str, who: str) -> None:
        """Note a thumb for the turn that answered a message; the same thumb again changes nothing.

        Raises:
            NotFound: there is no such conversation or message.
        """
        pipeline = await self.pipeline(bot)
        stream = stream_of(bot, conversation)

        def decide(_state: State) -> list[Event]:
            found = pipeline.conversations.load(stream).turns.get(message)
            if found is None:
                raise NotFound(f"the conversation has no message {message[:64]}.")
            given = [
                one.data["value"]
                for one in pipeline.conversations.events(stream, found[0])
                if one.kind == "feedback" and one.data["message"] == message
            ]
            if given and given[-1] == value:
                return []
            data = {"message": message, "value": value, "note": mask(note).text, "who": who}
            return [Event("feedback", data, iso(dt.datetime.now(dt.UTC)))]

        await self.in_thread(pipeline.conversations.change, stream, decide)

    async def forget(self, customer: str, who: str) -> int:
        """Delete all conversations of a customer, in whatever channel; how many there were."""

        def delete() -> int:
            owners = [customer, self.tokens.pseudonym("kakao", customer)]
            for owner in owners:
                for head in self.streams.list_streams(SOLUTION, owner=owner, limit=1000):
                    for _, pipeline in list(self._pipelines.values()):
                        pipeline.conversations.forget(head.stream)
            return sum(self.streams.delete_by_owner(SOLUTION, owner, who) for owner in owners)

        return await self.in_thread(delete)

    # -- looking -----------------------------------------------------------------------------------------------------

    async def lines(self, bot: str, conversation: str, after: int = 0) -> list[Line]:
        """What was said after an event, in order."""
        pipeline = await self.pipeline(bot)
        stream = stream_of(bot, conversation)

        def read() -> list[Line]:
            events = pipeline.conversations.events(stream, after)
            if not events or events[0].kind == "user":
                return lines_of(events)
            turns = pipeline.conversations.load(stream).turns
            begun = next((name for name, (first, last) in reversed(turns.items()) if first <= after < last), "")
            return lines_of(events, begun)

        return await self.in_thread(read)

    async def standing(self, bot: str, conversation: str) -> Standing | None:
        """How a conversation stands; None where there is none."""
        pipeline = await self.pipeline(bot)
        stream = stream_of(bot, conversation)

        def look() -> Standing | None:
            if self.streams.head(SOLUTION, stream) is None:
                pipeline.conversations.forget(stream)
                return None
            loaded = pipeline.conversations.load(stream)
            state = loaded.state
            mode: Any = state.mode
            position = pipeline.handover.ahead(stream) + 1 if mode == "waiting" else 0
            return Standing(mode, state.agent, position, state.ended, loaded.seq)

        return await self.in_thread(look)

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run what blocks in one of the turns' threads."""
        return await anyio.to_thread.run_sync(functools.partial(function, *arguments), limiter=self._threads)


def new_conversation() -> str:
    """An id that nobody can guess."""
    return secrets.token_urlsafe(18)


def stream_of(bot: str, conversation: str) -> str:
    """The stream of a conversation.

    Raises:
        NotFound: no conversation can have such an id.
    """
    if not _CONVERSATION.fullmatch(conversation):
        raise NotFound("a conversation's id has 1 to 128 letters, digits and signs of . _ : -")
    return f"{bot}/{conversation}"


def bot_of(stream: str) -> tuple[str, str]:
    """The bot and the conversation of a stream."""
    bot, _, conversation = stream.partition("/")
    return bot, conversation


def lines_of(events: list[StreamEvent], message: str = "") -> list[Line]:
    """What was said in these events; `message` is the id of the one whose turn they begin in."""
    lines: list[Line] = []
    for event in events:
        data, time_ = event.data, iso(event.time)
        if event.kind == "user":
            message = str(data["id"])
            if data["text"]:
                lines.append(Line(event.seq, time_, "user", data["text"], message=message))
        elif event.kind == "turn_ended":
            message = ""
        elif event.kind == "said" and data["text"]:
            buttons = tuple(data.get("buttons", ()))
            lines.append(Line(event.seq, time_, "bot", data["text"], message=message, buttons=buttons))
        elif event.kind == "agent_said":
            lines.append(Line(event.seq, time_, "agent", data["text"], name=data["agent"]))
    return lines


def allowed_origins(pipeline: BotPipeline) -> frozenset[str]:
    """Sites that may embed the bot: those of its `bot.yaml`, and those of this machine's `HAECHI_CHAT_ORIGINS`."""
    channel = pipeline.bot.settings.channels.get("web")
    here = os.environ.get("HAECHI_CHAT_ORIGINS", "").split()
    return frozenset([*(channel.origins if channel is not None else ()), *(each.rstrip("/") for each in here)])
