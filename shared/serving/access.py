"""The access log: one line a request, cheap enough to be written for every inference.

Lines are gathered and written together, at most a tenth of a second later: one system call for many requests. On a
terminal, and where another log level or handler wants them one by one, they go through the usual logger.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson

from shared.log import get_logger, writes_json
from shared.serving.auth import PROBE_PATHS, Headers
from shared.serving.metrics import Metrics

_NAME = "haechi.access"
_GATHER_SECONDS = 0.1
_QUIET_PATHS = PROBE_PATHS | {"/metrics"}
"""Asked every few seconds by machines: logged at DEBUG."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        b"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-store"),
)
"""Of every answer whose route has set none of its own."""
_AS_BYTES = b"".join(b"%s: %s\r\n" % pair for pair in SECURITY_HEADERS)
_process = b""
"""Makes ids unlike those of any other process; a number tells them apart in this one."""
_numbers = itertools.count()
_log = get_logger(_NAME)


def _new_process() -> None:
    global _process
    _process = os.urandom(10).hex().encode()


_new_process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_process)


def security_headers() -> bytes:
    """`SECURITY_HEADERS` as they stand in an answer."""
    return _AS_BYTES


def choose_id(headers: Headers) -> bytes:
    """The client's `X-Request-Id` where it is harmless, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given if given and _REQUEST_ID.fullmatch(given) else b"%s%012x" % (_process, next(_numbers))


class AccessLog:
    """Writes and counts answers. For the event loop's thread alone."""

    def __init__(self, metrics: Metrics) -> None:
        self._responses = metrics.responses
        self._counters: dict[int, Any] = {}
        self._lines: list[bytes] = []
        self._logger = logging.getLogger(_NAME)

    def write(
        self,
        request_id: bytes,
        method: str,
        path: str,
        status: int,
        started: float,
        *,
        bytes_in: int,
        bytes_out: int,
        client: str,
        who: str,
    ) -> None:
        """Log and count one answered request; `started` is by `time.perf_counter()`."""
        counter = self._counters.get(status)
        if counter is None:
            counter = self._counters[status] = self._responses.labels(str(status))
        counter.inc()
        level = logging.DEBUG if path in _QUIET_PATHS else logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        line: dict[str, Any] = {
            "request_id": request_id.decode(),
            "method": method,
            "path": path[:200],
            "status": status,
            "milliseconds": round((time.perf_counter() - started) * 1e3, 2),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "client": client,
            "who": who,
        }
        if not writes_json():
            _log.log(level, "request", **line)
            return
        line["event"] = "request"
        line["logger"] = _NAME
        line["level"] = "info" if level == logging.INFO else "debug"
        line["timestamp"] = datetime.now(UTC)
        self._lines.append(orjson.dumps(line, option=orjson.OPT_UTC_Z))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(_GATHER_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what was gathered. A full disk or a closed stderr must not end the work."""
        text = b"\n".join(self._lines).decode() + "\n" if self._lines else ""
        self._lines.clear()
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass
