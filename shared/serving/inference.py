"""From the body of an `infer` request to the body of its answer. `http.py` and the ASGI route both come here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from shared.errors import BadInput, HaechiError
from shared.serving import oip
from shared.serving.auth import allow
from shared.serving.errors import Unavailable
from shared.serving.keys import Principal, Role
from shared.serving.limits import Limits, decompress
from shared.serving.models import ServedModel
from shared.serving.queue import PRIORITIES, USUAL, Priority
from shared.serving.state import ServerState

ROLE: Role = "operator"
"""Needed to infer."""
TIMEOUT = "x-timeout-ms"
"""Header: milliseconds in which the answer is wanted; known before the body has been received."""
QUICK_BYTES = 32 * 1024
"""Shorter JSON than this is read and written in the event loop; longer, in a thread."""
_LONGEST_MS = 3_600_000
_T = TypeVar("_T")


@dataclass(slots=True)  # not frozen: that would take four times as long to make, for each request
class Entry:
    """A request that may send its body."""

    served: ServedModel
    deadline: float | None
    """By `time.perf_counter()`."""
    header_length: str | None
    encoding: str


@dataclass(slots=True)
class Answer:
    content: bytes
    json_size: int | None
    """Of the JSON part, when binary tensors follow it."""

    @property
    def head(self) -> bytes:
        """Its headers as they stand in an answer."""
        if self.json_size is None:
            return b"content-type: application/json\r\n"
        return b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n" % self.json_size

    @property
    def headers(self) -> dict[str, str]:
        if self.json_size is None:
            return {"content-type": "application/json"}
        return {"content-type": "application/octet-stream", oip.HEADER_LENGTH: str(self.json_size)}


def admit(
    state: ServerState,
    principal: Principal | None,
    model: str,
    version: str | None,
    header: Callable[[str], str | None],
) -> Entry:
    """Refuse before the body is received what would be refused after it: that should cost neither side anything.

    Args:
        header: gives the value of a header by its name in lower case.

    Raises:
        Unauthorized, Forbidden, NotFound, Unavailable, Busy: refused.
        BadInput: the timeout is no number of milliseconds.
    """
    allow(principal, ROLE)
    if state.draining:
        raise Unavailable("this server is stopping; send the request to another.")
    state.rates.check(principal)
    served = state.find(model, version)
    served.check_ready()
    deadline = _deadline(header(TIMEOUT), state.options.timeout_ms)
    served.queue.check_admission(0, deadline)
    return Entry(served, deadline, header(oip.HEADER_LENGTH), header("content-encoding") or "")


async def answer(
    entry: Entry, body: bytes | bytearray | memoryview, limits: Limits, request: Request | None = None
) -> Answer:
    """Parse, compute, and write the answer.

    Raises:
        HaechiError: see `oip.parse_request` and `ServedModel.infer`.
    """
    served = entry.served.current
    try:
        # Binary tensors are parsed in microseconds; long JSON and compressed bodies must not hold up the event loop.
        quick = not entry.encoding and _json_size(entry.header_length, len(body)) <= QUICK_BYTES
        parsed = await _call(quick, _parse, limits, served, body, entry)
        deadline, priority = urgency(entry, parsed)
    except HaechiError:
        served.metrics.failed("OTHER")
        raise
    outputs = await served.infer(parsed.inputs, request=request, size=parsed.size, deadline=deadline, priority=priority)
    quick = all(wanted.binary or outputs[wanted.name].nbytes <= QUICK_BYTES for wanted in parsed.outputs)
    return Answer(*await _call(quick, oip.build_response, served.name, served.version, parsed, outputs))


def urgency(entry: Entry, parsed: oip.InferRequest) -> tuple[float | None, Priority]:
    """Until when the answer is wanted, by `time.perf_counter()`, and how urgently.

    Raises:
        BadInput: there is no such priority.
    """
    return _earlier(entry.deadline, parsed.timeout_us), _priority(parsed.priority)


def _parse(limits: Limits, served: ServedModel, body: bytes | bytearray | memoryview, entry: Entry) -> oip.InferRequest:
    plain = decompress(body, entry.encoding, limits)
    return oip.parse_request(plain, entry.header_length, served.manifest, limits)


def _json_size(header_length: str | None, size: int) -> int:
    """Bytes of the JSON part of a body of `size` bytes; what is no number is refused soon enough."""
    return int(header_length[:12]) if header_length and header_length.isascii() and header_length.isdigit() else size


async def _call(here: bool, function: Callable[..., _T], *arguments: Any) -> _T:
    """Call `function` here and now, or in a thread."""
    return function(*arguments) if here else await asyncio.to_thread(function, *arguments)


def _deadline(given: str | None, default_ms: float | None) -> float | None:
    if given is None:
        return None if default_ms is None else time.perf_counter() + default_ms / 1e3
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= _LONGEST_MS:
        raise BadInput(f"{TIMEOUT}: {given[:20]!r} is not a number of milliseconds from 1 to {_LONGEST_MS}.")
    return time.perf_counter() + int(given) / 1e3


def _earlier(deadline: float | None, timeout_us: int) -> float | None:
    """The deadline of the header and the one of the request's parameter `timeout` (0: none), whichever comes first."""
    if not timeout_us:
        return deadline
    wanted = time.perf_counter() + timeout_us / 1e6
    return wanted if deadline is None else min(deadline, wanted)


def _priority(number: int) -> Priority:
    """0 is the usual one, as in Triton; the lower the number, the sooner."""
    if number == 0:
        return USUAL
    for known in PRIORITIES:
        if number == known:
            return known
    raise BadInput(f"parameter priority must be 1 (first), 2 (usual) or 3 (last), not {number}.")
