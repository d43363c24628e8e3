"""The connection: a fast lane for inference, and uvicorn's protocol for everything else.

An `infer` request with a plain Content-Length never becomes an ASGI scope. Its head is read here, it is identified,
and admitted or refused; only then its body is received, by the operating system straight into the array that ONNX
Runtime will read: the tensors after the JSON part start at an aligned address, so that nothing is copied again. Every
other request is handed over byte by byte to uvicorn's `HttpToolsProtocol` on the same connection: its extent is known
from its head, so the next request finds this code awake again. What cannot be measured so (chunked bodies, upgrades,
a head that is not plainly well-formed) takes the whole connection with it.

A refusal before the body is answered at once, and the body is thrown away as it arrives. One sweep a second over all
connections ends those that are idle or silent, instead of a timer for each request.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import orjson
from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState as UvicornState

from shared.errors import BadInput, HaechiError
from shared.log import get_logger
from shared.serving import inference, oip, tracing
from shared.serving.access import AccessLog, choose_id, security_headers
from shared.serving.auth import Headers
from shared.serving.errors import Busy, ClientGone, Refusal, TooLarge, Unauthorized
from shared.serving.inference import Entry
from shared.serving.keys import Principal
from shared.serving.state import ServerState

_HEAD_BYTES = 32 * 1024
_DISCARD_BYTES = 8 * 1024 * 1024
"""A refused body up to this size is read and thrown away; a larger one ends the connection."""
_LINGER_SECONDS = 2.0
"""How long a body is still read after its refusal, so that the answer is not lost to a reset of the connection."""
_ALIGNMENT = 64
_IDLE_SECONDS = 75.0
_PATH = re.compile(rb"/v2/models/([A-Za-z0-9_.-]{1,128})(?:/versions/([A-Za-z0-9_.+-]{1,128}))?/infer")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_METHOD = re.compile(rb"[A-Z]{3,10}")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_PHRASES = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found"}
_PHRASES |= {
    408: b"Request Timeout",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
}
_PHRASES |= {501: b"Not Implemented", 503: b"Service Unavailable", 504: b"Gateway Timeout"}
_HELD_BACK = frozenset({b"transfer-encoding", b"upgrade", b"expect"})
_scratch = bytearray(256 * 1024)
"""Where bytes land that are passed on or thrown away at once; the event loop is one thread."""

_log = get_logger(__name__)


class _Head:
    """A request line and headers that are plainly well-formed."""

    __slots__ = ("headers", "keep_alive", "length", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: Headers, length: int, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.length = length
        self.keep_alive = keep_alive


def _read_head(text: bytes) -> _Head | None:
    """The head in `text`, without its last empty line; None where it is not plain and uvicorn must look at it."""
    first, *lines = text.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] != b"HTTP/1.1" or not _METHOD.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        return None
    headers: Headers = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        if name in headers and name in (b"content-length", b"host"):
            return None
        headers[name] = match[2].rstrip(b" \t")
    if not _HELD_BACK.isdisjoint(headers):
        return None
    length = headers.get(b"content-length", b"0")
    connection = headers.get(b"connection", b"keep-alive").lower()
    if not length.isdigit() or len(length) > 15 or connection not in (b"keep-alive", b"close"):
        return None
    return _Head(parts[0], parts[1], headers, int(length), connection == b"keep-alive")


class _Slow(HttpToolsProtocol):
    """uvicorn's protocol behind ours: the connection's life is decided in front."""

    def timeout_keep_alive_handler(self) -> None:
        """The sweep does it."""

    @property
    def idle(self) -> bool:
        """True while it owes no answer."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline


class _Exchange:
    """One inference on a connection."""

    __slots__ = (
        "body",
        "entry",
        "head",
        "held",
        "id",
        "left",
        "offset",
        "principal",
        "started",
        "task",
        "trace",
        "view",
    )

    def __init__(self, head: _Head) -> None:
        self.head = head
        self.id = choose_id(head.headers)
        self.started = time.perf_counter()
        self.principal: Principal | None = None
        self.entry: Entry | None = None
        self.task: asyncio.Task[None] | None = None
        self.trace: tracing.Trace | None = None
        self.held = 0
        self.left = head.length

    def make_room(self) -> None:
        """An array for the body, so placed that what follows the JSON part is aligned."""
        entry = self.entry
        length = entry.header_length if entry is not None else None
        json_size = int(length) if length is not None and length.isascii() and length.isdigit() else 0
        self.offset = -json_size % _ALIGNMENT
        self.body = np.empty(self.offset + self.head.length, np.uint8)
        self.view = memoryview(self.body)  # type: ignore[arg-type]  # numpy's arrays are buffers


class Connection(asyncio.BufferedProtocol):
    """One client's connection; uvicorn makes one for each.

    Modes: `head` (reading or waiting for a head), `body` (receiving an inference's body), `discard` (throwing a refused
    body away), `busy` (an inference is computed), `slow` (passing on the rest of a request that is not ours) and
    `theirs` (everything is uvicorn's from here on).
    """

    def __init__(
        self,
        config: Config,
        server_state: UvicornState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        app = config.app
        assert isinstance(app, FastAPI)
        self._state: ServerState = app.state.haechi
        self._access: AccessLog = app.state.access
        self._loop = _loop or asyncio.get_running_loop()
        self._all = server_state.connections
        self._make_slow = partial(_Slow, config, server_state, app_state, self._loop)
        self._slow: _Slow | None = None
        self._mode: Literal["head", "body", "discard", "busy", "slow", "theirs"] = "head"
        self._head = bytearray(_HEAD_BYTES)
        self._filled = 0
        self._left = 0
        self._exchange: _Exchange | None = None
        self._closing = False
        self._unread = False
        """True while answers pile up that the client does not read; it gets no more until then."""
        self.active = self._loop.time()

    # -- what uvicorn and the event loop ask for ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._all.add(self)  # type: ignore[arg-type]  # it has what uvicorn calls: shutdown()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (the protocol's signature)
        if self._mode == "body":
            assert self._exchange is not None
            return self._exchange.view[len(self._exchange.view) - self._exchange.left :]
        if self._mode in ("discard", "slow"):
            return memoryview(_scratch)[: min(len(_scratch), self._left)]
        if self._mode == "theirs":
            return memoryview(_scratch)
        return memoryview(self._head)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.active = self._loop.time()
        if self._mode == "body":
            assert self._exchange is not None
            self._exchange.left -= nbytes
            if not self._exchange.left:
                self._compute()
        elif self._mode in ("discard", "slow"):
            self._pass_on(memoryview(_scratch)[:nbytes])
        elif self._mode == "theirs":
            self._to_slow(bytes(memoryview(_scratch)[:nbytes]))
        else:
            self._filled += nbytes
            if self._mode == "head" and not self._unread:
                self._look()
            elif self._filled == len(self._head):
                self._transport.pause_reading()  # a client that sends on and on before it reads its answer

    def eof_received(self) -> bool | None:
        if self._slow is not None:
            self._slow.eof_received()
        return None  # the transport closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        if self._slow is not None:
            self._slow.connection_lost(exc)
        exchange = self._exchange
        if exchange is not None:
            if exchange.task is not None:
                exchange.task.cancel()  # it may not even have begun, and would then give nothing back
            self._end(exchange, ClientGone.status, 0)

    def pause_writing(self) -> None:
        self._unread = True
        if self._slow is not None:
            self._slow.pause_writing()

    def resume_writing(self) -> None:
        self._unread = False
        if self._slow is not None:
            self._slow.resume_writing()
        if self._mode == "head":
            self._next()

    def shutdown(self) -> None:
        """The server stops: finish what has begun, and close."""
        self._closing = True
        if self._exchange is None and (self._slow is None or self._slow.idle):
            self._transport.close()
        elif self._slow is not None and self._exchange is None:
            self._slow.shutdown()

    def sweep(self, now: float) -> None:
        """Called every second: end the connection if its client is silent for too long."""
        silent = now - self.active
        if self._mode == "busy" or (self._slow is not None and not self._slow.idle):
            return  # it waits for us
        receiving = self._mode in ("body", "discard", "slow") or self._filled
        if silent <= (self._state.limits.body_pause_seconds if receiving else _IDLE_SECONDS):
            return
        if self._mode == "body" and self._exchange is not None:
            self._refuse(self._exchange, 408, "the client fell silent in the middle of its body.", close=True)
        else:
            self._transport.close()

    # -- heads -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take the next request from what has come, if its head is complete."""
        end = self._head.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled == len(self._head):  # nobody needs so many headers
                self._transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self._transport.close()
            return
        head = _read_head(bytes(memoryview(self._head)[:end]))
        if head is None:
            self._hand_over()
            return
        match = _PATH.fullmatch(head.target) if head.method == b"POST" else None
        idle = self._slow is None or self._slow.idle
        if match is None or not idle or not self._is_quick(head):
            self._left = end + 4 + head.length
            self._mode = "slow"
            self._replay()
            return
        exchange = _Exchange(head)
        self._exchange = exchange
        self._cut(end + 4)
        self._admit(exchange, match)

    @staticmethod
    def _is_quick(head: _Head) -> bool:
        """Whether parsing the body takes microseconds; long JSON and compressed bodies go through a thread."""
        if b"content-encoding" in head.headers:
            return False
        return oip.HEADER_LENGTH.encode() in head.headers or head.length <= inference.QUICK_BYTES

    def _cut(self, size: int) -> bytes:
        """Take the first bytes out of the head's buffer."""
        taken = bytes(memoryview(self._head)[:size])
        rest = self._filled - size
        self._head[:rest] = self._head[size : self._filled]
        self._filled = rest
        return taken

    def _hand_over(self) -> None:
        """The whole connection is uvicorn's from here on."""
        self._mode = "theirs"
        self._to_slow(self._cut(self._filled))

    def _replay(self) -> None:
        """Pass on what lies in the head's buffer of a request that is not ours."""
        self._pass_on(memoryview(self._cut(min(self._left, self._filled))))

    def _pass_on(self, part: memoryview) -> None:
        """A part of a request that is thrown away or is uvicorn's; at its end, look for the next one."""
        self._left -= len(part)
        if self._mode == "slow":
            self._to_slow(bytes(part))
        if not self._left and not self._transport.is_closing():
            self._mode = "head"
            self._next()

    def _to_slow(self, data: bytes) -> None:
        if self._slow is None:
            self._slow = self._make_slow()
            self._slow.connections = set()  # uvicorn's server shall shut down us, not what is behind us
            self._slow.connection_made(self._transport)
        self._slow.data_received(data)
        if self._transport.get_protocol() is not self:  # a WebSocket, which uvicorn's server now knows by itself
            self._all.discard(self)

    def _next(self) -> None:
        if self._closing and self._exchange is None:
            self.shutdown()
        elif not self._unread:
            self._transport.resume_reading()
            if self._filled:
                self._look()

    # -- an inference ------------------------------------------------------------------------------------------------

    def _admit(self, exchange: _Exchange, match: re.Match[bytes]) -> None:
        head, state = exchange.head, self._state
        model, version = (part.decode("ascii") if part else None for part in match.groups())
        if state.tracer is not None:
            exchange.trace = state.tracer.begin(head.headers, exchange.started)
        try:
            exchange.principal = principal = state.auth.identify(head.headers)
            state.auth.check_origin("POST", head.headers, principal)
            if principal is None:
                raise Unauthorized("a valid key is needed: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.")
            if head.length > state.limits.max_upload_bytes:
                raise TooLarge(f"the body is larger than this server's limit of {state.limits.max_upload_bytes} bytes.")
            exchange.entry = inference.admit(state, principal, str(model), version, _getter(head.headers))
            if not state.budget.hold(head.length):
                raise Busy("this server holds too many large bodies now.")
        except HaechiError as error:
            self._refuse_error(exchange, error)
            return
        exchange.held = head.length
        exchange.make_room()
        self._mode = "body"
        early = self._cut(min(exchange.left, self._filled))
        exchange.view[exchange.offset : exchange.offset + len(early)] = early
        exchange.left -= len(early)
        if not exchange.left:
            self._compute()

    def _compute(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._mode = "busy"
        exchange.task = self._loop.create_task(self._answer(exchange))

    async def _answer(self, exchange: _Exchange) -> None:
        assert exchange.entry is not None
        if exchange.trace is not None:
            exchange.trace.enter()
        try:
            found = await inference.answer(exchange.entry, exchange.view[exchange.offset :], self._state.limits)
        except asyncio.CancelledError:
            self._end(exchange, ClientGone.status, 0)
        except HaechiError as error:
            self._refuse_error(exchange, error)
        except Exception as error:
            _log.error("internal_error", request_id=exchange.id.decode(), exc_info=error)
            words = f"internal error; its details are in the server's log under request {exchange.id.decode()}."
            self._refuse(exchange, 500, words)
        else:
            self._write(exchange, 200, found.head, found.content)

    def _refuse_error(self, exchange: _Exchange, error: HaechiError) -> None:
        if isinstance(error, Refusal):
            named = b"".join(b"%s: %s\r\n" % (k.encode(), v.encode()) for k, v in error.headers.items())
            self._refuse(exchange, error.status, str(error), named)
        else:
            self._refuse(exchange, 400 if isinstance(error, BadInput) else 500, str(error))

    def _refuse(
        self, exchange: _Exchange, status: int, words: str, headers: bytes = b"", *, close: bool = False
    ) -> None:
        content = orjson.dumps({"error": words})
        close = close or exchange.left > _DISCARD_BYTES
        self._write(exchange, status, b"content-type: application/json\r\n" + headers, content, close=close)

    def _write(self, exchange: _Exchange, status: int, named: bytes, content: bytes, *, close: bool = False) -> None:
        """Send an answer, and turn to the next request."""
        close = close or self._closing or not exchange.head.keep_alive
        head = b"HTTP/1.1 %d %s\r\n%s%scontent-length: %d\r\nx-request-id: %s\r\n%s\r\n" % (
            status,
            _PHRASES.get(status, b"Error"),
            named,
            security_headers(),
            len(content),
            exchange.id,
            b"connection: close\r\n" if close else b"",
        )
        gone = self._transport.is_closing()
        if not gone:
            self._transport.write(head + content)
        self._end(exchange, status, len(content))
        if gone:
            return
        self._left = exchange.left
        self._mode = "discard" if self._left else "head"
        if close and not (self._left and self._transport.can_write_eof()):
            self._transport.close()
            return
        if close:
            self._closing = True
            self._transport.write_eof()
            self._loop.call_later(_LINGER_SECONDS, self._transport.close)
        if self._left:
            self._replay()
        else:
            self._next()

    def _end(self, exchange: _Exchange, status: int, sent: int) -> None:
        """Give back what the request held, and log it."""
        if self._exchange is not exchange:
            return  # the client has gone meanwhile
        self._exchange = None
        self._state.budget.release(exchange.held)
        path = exchange.head.target.decode("ascii")
        who = exchange.principal.name if exchange.principal else ""
        if exchange.trace is not None:
            exchange.trace.end("POST", tracing.infer_route(path), path, status, exchange.id.decode())
        received = exchange.head.length - exchange.left
        self._access.write(
            exchange.id,
            "POST",
            path,
            status,
            exchange.started,
            bytes_in=received,
            bytes_out=sent,
            client=self._client,
            who=who,
        )


def _getter(headers: Headers) -> Callable[[str], str | None]:
    def get(name: str) -> str | None:
        value = headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    return get


def sweep(connections: Iterable[Any], now: float) -> None:
    """End silent connections. To be called every second, with the event loop's time."""
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.sweep(now)
