"""The same conversation over a WebSocket: lines are pushed as they are said, by whomever, on whichever server.

The client speaks JSON objects:

    {"type": "hello", "token": "ct_…", "after": 0}          first, from a browser without a key; within 10 seconds
    {"type": "message", "id": "m-1", "text": "…", "language": "ko"}
    {"type": "feedback", "message": "m-1", "value": "up", "note": ""}

and the server:

    {"type": "line", "seq": 7, "time": "…", "who": "user" | "bot" | "agent", "name": "", "text": "…", "message": "m-1",
     "buttons": [{"title": "…", "say": "…"}]}
    {"type": "typing", "message": "m-1"}                      the bot answers this message now
    {"type": "answered", "message": "m-1", "rung": "answer"}  its lines have been sent
    {"type": "status", "mode": "bot" | "waiting" | "agent", "agent": "", "position": 0, "ended": false}
    {"type": "error", "error": "one sentence", "message": "m-1"}

After a lost connection the client comes again with the last `seq` it has seen and gets what it missed, and sends
messages that were not `answered` again under their ids.

What other servers write is found by asking the database twice a second for the streams that have changed, one query for
all sockets of this process together.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from prometheus_client import Gauge
from pydantic import Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from shared.errors import HaechiError
from shared.log import get_logger
from shared.serving.errors import Busy, Refusal
from solutions.contact_center.dialogue.events import Message
from solutions.contact_center.dialogue.store import SOLUTION
from solutions.contact_center.models import FeedbackBody, MessageBody, StrictBody
from solutions.contact_center.service import BotService, Line, Standing, stream_of

MAX_SOCKETS = 2000
HELLO_SECONDS = 10.0
POLL_SECONDS = 0.5
MAX_FRAME = 128 * 1024
"""Characters of one frame: a long message, escaped."""
_SKEW = dt.timedelta(seconds=15)
"""By how much the clocks of two servers may differ."""
_MAX_CHANGED = 2000
_MAX_MISTAKES = 20
_POLICY, _GONE, _LATER = 1008, 1000, 1013
_log = get_logger(__name__)


class Hello(StrictBody):
    """Who comes, and what it has seen."""

    type: Literal["hello"]
    token: str = Field(default="", max_length=200)
    after: int = Field(default=0, ge=0)


class SaidFrame(MessageBody):
    """A message."""

    type: Literal["message"]


class ThumbFrame(FeedbackBody):
    """A thumb for an answer."""

    type: Literal["feedback"]


_FRAME: TypeAdapter[SaidFrame | ThumbFrame] = TypeAdapter(
    Annotated[SaidFrame | ThumbFrame, Field(discriminator="type")]
)
_HELLO = TypeAdapter(Hello)


class Hub:
    """Wakes the sockets whose conversation has changed."""

    def __init__(self, service: BotService) -> None:
        self._service = service
        self._sockets: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._seen: dict[str, int] = {}
        self.count = 0
        gauge = Gauge("haechi_bot_sockets", "Open chat sockets", registry=service.state.metrics.registry)
        gauge.set_function(lambda: self.count)
        service.changed = self.changed

    @contextlib.contextmanager
    def listening(self, stream: str) -> Any:
        """An event that is set whenever something is said in this stream.

        Raises:
            Busy: there are too many sockets.
        """
        if self.count >= MAX_SOCKETS:
            raise Busy(f"this server holds {MAX_SOCKETS} chats; try again.", retry_after=5)
        wake = asyncio.Event()
        self._sockets[stream].add(wake)
        self.count += 1
        try:
            yield wake
        finally:
            self.count -= 1
            self._sockets[stream].discard(wake)
            if not self._sockets[stream]:
                del self._sockets[stream]
                self._seen.pop(stream, None)

    def changed(self, stream: str) -> None:
        """Something was said here."""
        for wake in self._sockets.get(stream, ()):
            wake.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at the database meanwhile."""
        task = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _poll(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._sockets:
                continue
            try:
                await self._look()
                failing = False
            except HaechiError as error:
                if not failing:
                    _log.error("chats_not_looked_at", error=str(error))
                failing = True

    async def _look(self) -> None:
        since = dt.datetime.now(dt.UTC) - _SKEW
        service = self._service
        heads = await service.in_thread(
            lambda: service.streams.list_streams(SOLUTION, updated_since=since, limit=_MAX_CHANGED)
        )
        for head in heads:
            if head.stream in self._sockets and self._seen.get(head.stream) != head.seq:
                self._seen[head.stream] = head.seq
                self.changed(head.stream)


class Talk:
    """One socket of one conversation.

    Args:
        check: called before each message; raises when the sender may not (any more).
        channel: of the messages.
    """

    def __init__(
        self,
        service: BotService,
        hub: Hub,
        socket: WebSocket,
        bot: str,
        conversation: str,
        *,
        channel: str,
        check: Callable[[], None],
        customer: str = "",
    ) -> None:
        self._service = service
        self._hub = hub
        self._socket = socket
        self._bot = bot
        self._conversation = conversation
        self._channel = channel
        self._check = check
        self._customer = customer
        self._stream = stream_of(bot, conversation)
        self._sent = 0
        self._status: Standing | None = None
        self._sending = asyncio.Lock()

    async def run(self, after: int) -> None:
        """Serve the socket, which is accepted, until either side closes it."""
        self._sent = after
        try:
            with self._hub.listening(self._stream) as wake:
                await self._push()
                pushing = asyncio.create_task(self._push_when(wake))
                try:
                    await self._receive()
                finally:
                    pushing.cancel()
                    await asyncio.gather(pushing, return_exceptions=True)
        except (WebSocketDisconnect, RuntimeError):
            return  # the client has gone; RuntimeError is what sending to it raises then
        except Busy as error:
            await _close(self._socket, _LATER, str(error))
        except HaechiError as error:
            await _close(self._socket, _POLICY, str(error))

    async def _push_when(self, wake: asyncio.Event) -> None:
        while True:
            await wake.wait()
            wake.clear()
            try:
                await self._push()
            except HaechiError as error:
                await self._send("error", error=str(error))

    async def _push(self) -> None:
        """Send what was said since the last line sent, and the status where it has changed."""
        async with self._sending:
            for line in await self._service.lines(self._bot, self._conversation, self._sent):
                self._sent = line.seq
                await self._send("line", **line_dict(line))
            status = await self._service.standing(self._bot, self._conversation)
            if status is not None and (self._status is None or _shown(status) != _shown(self._status)):
                self._status = status
                await self._send("status", **_shown(status))

    async def _receive(self) -> None:
        mistakes = 0
        while mistakes < _MAX_MISTAKES:
            text = await self._socket.receive_text()
            try:
                frame = _FRAME.validate_json(text[: MAX_FRAME + 1])
            except ValidationError as error:
                mistakes += 1
                await self._send("error", error=sentence(error))
                continue
            name = frame.id if isinstance(frame, SaidFrame) else frame.message
            try:
                self._check()
                await self._take(frame)
            except Refusal as error:
                if error.status in (401, 403):
                    raise
                await self._send("error", error=str(error), message=name)
            except HaechiError as error:
                await self._send("error", error=str(error), message=name)
        await _close(self._socket, _POLICY, "too many frames that are no messages")

    async def _take(self, frame: SaidFrame | ThumbFrame) -> None:
        if isinstance(frame, ThumbFrame):
            await self._service.feedback(
                self._bot, self._conversation, frame.message, frame.value, frame.note, self._channel
            )
            return
        await self._send("typing", message=frame.id)
        message = Message(frame.text, frame.id, self._channel, frame.language)
        reply = await self._service.reply(self._bot, self._conversation, message, self._customer)
        await self._push()
        await self._send("answered", message=frame.id, rung=reply.rung)

    async def _send(self, kind: str, **values: Any) -> None:
        await self._socket.send_json({"type": kind, **values})


async def hello(socket: WebSocket) -> Hello:
    """The first frame of an accepted socket.

    Raises:
        WebSocketDisconnect: it never came, or was none; the socket is closed.
    """
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            return _HELLO.validate_json((await socket.receive_text())[: MAX_FRAME + 1])
    except TimeoutError:
        await _close(socket, _POLICY, "no hello came")
    except ValidationError as error:
        await _close(socket, _POLICY, sentence(error))
    raise WebSocketDisconnect(_POLICY)


def line_dict(line: Line) -> dict[str, Any]:
    """A line as JSON."""
    return {**asdict(line), "buttons": [dict(button) for button in line.buttons]}


def _shown(status: Standing) -> Mapping[str, Any]:
    return {"mode": status.mode, "agent": status.agent, "position": status.position, "ended": status.ended}


def sentence(error: ValidationError) -> str:
    """The first thing that is wrong with a frame."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}." if where else f"{first['msg']}."


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError):  # it is closed already
        await socket.close(code, reason.encode()[:120].decode("utf-8", "ignore"))
