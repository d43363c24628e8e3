"""A load generator that costs little: one thread, non-blocking sockets, request bytes made once.

Its work competes with the server's where both run on one machine, so an answer is read no further than its status,
its length and its id, and `Load.client_cpu_seconds` says what was spent. The loop is closed: each client sends its next
request when it has its answer, refusal or not; with `rate`, requests leave at that pace instead, whichever client is
free, and those that find none free are counted as `unsent`.

    load = run(Address("127.0.0.1", 8000), request, concurrency=8, seconds=10)
    load.statuses[200] / load.seconds

An answer to a request whose body is still being sent is taken at once (servers refuse without reading on); the rest of
the body still follows, unless the server closes the connection.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import selectors
import socket
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import HaechiError

ID_LENGTH = 16
"""Digits of a request's id."""
REFUSALS = frozenset({429, 503, 504})
"""Statuses that say: not now."""
_CONNECT_SECONDS = 10.0
_RECONNECT_PAUSE = 0.05  # a server that is down must not be hammered
_BUFFER = 64 * 1024
_IN, _BOTH = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})\r", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close\r", re.IGNORECASE)
_ids = itertools.count(1)


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int
    tls: bool = False

    @property
    def netloc(self) -> str:
        """As it stands in a URL and in the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Request:
    """One HTTP request in bytes; only its id changes from one to the next."""

    head: bytes
    """The HTTP head, and the beginning of the body where that holds the id."""
    body: bytes
    """The rest."""
    id_at: int | None = None
    """Where the id's `ID_LENGTH` digits begin in `head`; None: there is no id, and answers are not checked for it."""


def post(
    address: Address,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    id_at: int | None = None,
    json_size: int = 0,
) -> Request:
    """A POST request.

    Args:
        headers: beside Host and Content-Length.
        id_at: where the id's `ID_LENGTH` bytes are in `body`; within the first `json_size`.
        json_size: bytes of the body that are copied for each client, so that they can be changed.
    """
    lines = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    head = "\r\n".join(lines).encode("latin-1")
    return Request(head + body[:json_size], body[json_size:], None if id_at is None else len(head) + id_at)


@dataclass
class Load:
    """What came of one run."""

    seconds: float = 0.0
    """Length of the window in which requests were begun; answers that came after it count, except in `in_window`."""
    sent: int = 0
    in_window: int = 0
    """Answers with status 200 that came within the window."""
    accepted: array[float] = field(default_factory=lambda: array("d"))
    """Seconds from the first byte sent to the last received, of each answer with status 200."""
    refused: array[float] = field(default_factory=lambda: array("d"))
    """The same for the statuses in `REFUSALS`."""
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Requests whose connection ended before their answer."""
    unanswered: int = 0
    """Requests still without an answer when the run was given up."""
    wrong_ids: int = 0
    """Answers with status 200 that did not hold their request's id."""
    unsent: int = 0
    """With `rate`: requests that were due while every client was waiting."""
    client_cpu_seconds: float = 0.0
    words: dict[int, str] = field(default_factory=dict)
    """The body of the first answer of each other status, shortened."""

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())


def run(
    address: Address,
    request: Request,
    concurrency: int,
    seconds: float,
    *,
    rate: float | None = None,
    requests: int | None = None,
    drain: float = 30.0,
) -> Load:
    """Send `request` again and again.

    Args:
        concurrency: clients, each with a connection of its own that is kept alive.
        seconds: how long requests are begun.
        rate: requests a second, all clients together; None: each as soon as its client has the answer before.
        requests: begin no more than so many.
        drain: seconds after which answers that are still missing are given up.

    Raises:
        HaechiError: the server cannot be reached.
    """
    return _Loop(address, request, concurrency, rate, requests).run(seconds, drain)


class _Loop:
    """The clients, and the clock that drives them."""

    def __init__(
        self, address: Address, request: Request, concurrency: int, rate: float | None, requests: int | None
    ) -> None:
        self.address = address
        self.load = Load()
        self.selector = selectors.DefaultSelector()
        self.tls = ssl.create_default_context() if address.tls else None
        self.family, self.peer = reachable(address)
        self.end = 0.0
        self.busy = 0
        self._running = False
        self._left = requests
        self._rate = rate
        self._due = 0.0
        self._closed: deque[tuple[float, _Client]] = deque()
        self._idle: deque[_Client] = deque()
        self._clients = [_Client(self, request) for _ in range(concurrency)]

    def run(self, seconds: float, drain: float) -> Load:
        try:
            self._connect()
            cpu, start = time.process_time(), time.perf_counter()
            self.end, self._due = start + seconds, start
            self._running = True
            for client in self._clients:
                self.free(client)
            self._until_done(drain)
            self.load.client_cpu_seconds = time.process_time() - cpu
            # A run that was bounded by its number of requests ended earlier than its time.
            self.load.seconds = seconds if self._left is None else min(seconds, time.perf_counter() - start)
        finally:
            for client in self._clients:
                client.close()
            self.selector.close()
        return self.load

    def free(self, client: _Client) -> None:
        """A client may send: now, or when the pace says so."""
        if not self._running:
            return
        if self._rate is not None:
            self._idle.append(client)
        elif self._may_begin():
            client.begin()

    def lost(self, client: _Client) -> None:
        """A client's connection ended; it gets a new one after a pause."""
        with contextlib.suppress(ValueError):
            self._idle.remove(client)
        self._closed.append((time.perf_counter() + _RECONNECT_PAUSE, client))

    def _may_begin(self) -> bool:
        if time.perf_counter() >= self.end or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _connect(self) -> None:
        """Open all connections, so that none is opened while time is taken."""
        deadline = time.perf_counter() + _CONNECT_SECONDS
        for client in self._clients:
            client.open()
        while any(not client.connected for client in self._clients):
            for key, events in self.selector.select(0.1):
                key.data.ready(events)
            trouble = next((client.trouble for client in self._clients if client.trouble), "")
            if trouble or time.perf_counter() > deadline:
                raise HaechiError(_unreachable(self.address, trouble or "it does not answer"))

    def _until_done(self, drain: float) -> None:
        while True:
            now = time.perf_counter()
            ended = now >= self.end or self._left == 0
            if ended and (self.busy == 0 or now > self.end + drain):
                break
            if not ended and self._rate is not None:
                self._keep_pace(now, self._rate)
            for key, events in self.selector.select(self._pause(now)):
                key.data.ready(events)
            while self._closed and self._closed[0][0] <= time.perf_counter():
                self._closed.popleft()[1].open()
        self.load.unanswered = self.busy

    def _keep_pace(self, now: float, rate: float) -> None:
        while self._due <= now:
            self._due += 1 / rate
            if not self._idle:
                self.load.unsent += 1
            elif self._may_begin():
                self._idle.popleft().begin()

    def _pause(self, now: float) -> float:
        """Seconds to wait for an event at most."""
        pause = max(self.end - now, 0.0) if now < self.end else 0.1
        if self._rate is not None and now < self.end:
            pause = min(pause, self._due - now)
        if self._closed:
            pause = min(pause, self._closed[0][0] - now)
        return max(pause, 0.0)


class _Client:
    """One connection and the request under way on it."""

    def __init__(self, loop: _Loop, request: Request) -> None:
        self.connected = False
        self.trouble = ""
        self._loop = loop
        self._load = loop.load
        self._head = bytearray(request.head)
        self._id_at = request.id_at
        self._id = b""
        self._parts = (memoryview(self._head), memoryview(request.body))
        self._size = len(request.head) + len(request.body)
        self._sent = self._size
        self._waiting = False
        self._started = 0.0
        self._answer = bytearray(_BUFFER)
        self._got = 0
        self._head_end = self._whole = 0  # of the answer
        self._closing = False
        self._events = 0
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Begin to connect."""
        loop = self._loop
        sock = socket.socket(loop.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(loop.peer)
        self._socket = sock
        self._sent, self._got, self._whole = self._size, 0, 0
        self._closing = False
        if code not in _IN_PROGRESS:
            self._break(OSError(code, os.strerror(code)))
            return
        self._events = _BOTH
        loop.selector.register(sock, _BOTH, self)

    def close(self) -> None:
        """Give the connection up."""
        if self._socket is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self._loop.selector.unregister(self._socket)
        self._socket.close()
        self._socket, self.connected = None, False

    def begin(self) -> None:
        """Send the next request."""
        if self._id_at is not None:
            self._id = b"%0*d" % (ID_LENGTH, next(_ids))
            self._head[self._id_at : self._id_at + ID_LENGTH] = self._id
        self._sent = self._got = self._whole = 0
        self._waiting = True
        self._loop.busy += 1
        self._load.sent += 1
        self._started = time.perf_counter()
        try:
            self._send()
        except OSError as error:
            self._break(error)

    def ready(self, events: int) -> None:
        """The socket has something to read, or room to write."""
        try:
            if not self.connected:
                self._finish_connecting()
                return
            if events & selectors.EVENT_WRITE and self._sent < self._size:
                self._send()
            if events & selectors.EVENT_READ and self.connected:
                self._receive()
        except _AGAIN:
            pass
        except OSError as error:
            self._break(error)

    def _finish_connecting(self) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if self._loop.tls is not None:
            self._shake_hands(self._loop.tls)
        self.connected = True
        self._watch(_IN)
        self._loop.free(self)

    def _shake_hands(self, tls: ssl.SSLContext) -> None:
        if not isinstance(self._socket, ssl.SSLSocket):
            assert self._socket is not None
            name = self._loop.address.host
            self._socket = tls.wrap_socket(self._socket, server_hostname=name, do_handshake_on_connect=False)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(_IN)
            raise

    def _send(self) -> None:
        """As much of the request as the socket takes; it is watched for room until all is sent."""
        assert self._socket is not None
        head, body = self._parts
        try:
            while self._sent < self._size:
                if self._sent >= len(head):
                    self._sent += self._socket.send(body[self._sent - len(head) :])
                elif self._loop.tls is None:
                    self._sent += self._socket.sendmsg((head[self._sent :], body))
                else:
                    self._sent += self._socket.send(head[self._sent :])
        except _AGAIN:
            self._watch(_BOTH)
            return
        except (BrokenPipeError, ConnectionResetError):
            if not self._waiting:
                raise
            # A server that refused and closed: its answer may lie in the socket's buffer still.
            self._sent, self._closing = self._size, True
            self._watch(_IN)
            return
        self._watch(_IN)
        if not self._waiting:
            self._loop.free(self)  # it was answered before it was sent

    def _watch(self, events: int) -> None:
        if self._events != events:
            assert self._socket is not None
            self._loop.selector.modify(self._socket, events, self)
            self._events = events

    def _receive(self) -> None:
        assert self._socket is not None
        while True:
            if self._got == len(self._answer):
                self._answer += bytes(max(len(self._answer), self._whole - self._got))
            with memoryview(self._answer) as view:
                count = self._socket.recv_into(view[self._got :])
            if count == 0:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
            self._got += count
            if not self._whole:
                self._read_head()
            if self._whole and self._got >= self._whole:
                self._take()
                return

    def _read_head(self) -> None:
        """Find out how long the answer is, once its head is here."""
        end = self._answer.find(b"\r\n\r\n", 0, self._got)
        if end < 0:
            return
        length = _LENGTH.search(self._answer, 0, end + 2)
        if length is None or not (self._answer.startswith(b"HTTP/1.") and self._answer[9:12].isdigit()):
            raise OSError(errno.EPROTO, "its answers have no Content-Length, which this load generator needs")
        self._head_end, self._whole = end + 4, end + 4 + int(length[1])

    def _take(self) -> None:
        """The answer is complete."""
        now, load, loop, answer = time.perf_counter(), self._load, self._loop, self._answer
        if not self._waiting:
            raise OSError(errno.EPROTO, "it answers what was not asked")
        status = int(answer[9:12])
        load.statuses[status] += 1
        if status == 200:
            load.accepted.append(now - self._started)
            load.in_window += now <= loop.end
            if self._id and answer.find(self._id, 0, self._whole) < 0:
                load.wrong_ids += 1
        else:
            if status in REFUSALS:
                load.refused.append(now - self._started)
            if status not in load.words:
                load.words[status] = plain_words(bytes(answer[self._head_end : self._whole]))
        self._waiting = False
        loop.busy -= 1
        self._closing = self._closing or _CLOSE.search(answer, 0, self._head_end) is not None
        self._got = self._whole = 0
        if self._closing:
            self.close()
            self.open()
        elif self._sent == self._size:
            loop.free(self)

    def _break(self, error: OSError) -> None:
        """The connection is of no use any more."""
        self.trouble = error.strerror or str(error)
        if self._waiting:
            self._waiting = False
            self._load.broken += 1
            self._load.words.setdefault(0, self.trouble)
            self._loop.busy -= 1
        self.close()
        self._loop.lost(self)


def plain_words(body: bytes) -> str:
    """What an answer says, in one line."""
    try:
        said = json.loads(body)
        text = str(said["error"] if isinstance(said, dict) and "error" in said else said)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:300]


def reachable(address: Address) -> tuple[int, Any]:
    """The family and the socket address that answer to this name; `localhost` may have two, one of them deaf.

    Raises:
        HaechiError: none does.
    """
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS) as probe:
            return probe.family, probe.getpeername()
    except (OSError, UnicodeError) as error:
        raise HaechiError(_unreachable(address, getattr(error, "strerror", None) or str(error))) from error


def _unreachable(address: Address, reason: str) -> str:
    return f"no server can be reached at {address.netloc}: {reason.rstrip('.')}; check the address, and that it runs."
