"""What a sink gets to send, and what it may say about it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from shared.errors import BadInput, HaechiError
from solutions.cctv.scene import EventKind, Message
from solutions.cctv.store import plain

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class NotSent(HaechiError):
    """It could not be sent now; it will be tried again."""


class Refused(HaechiError):
    """The receiver will never take it: trying again would only hold up what stands behind it."""


class Later(HaechiError):
    """It may be sent again in so many seconds."""

    def __init__(self, wait_s: float, why: str) -> None:
        super().__init__(why)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Post:
    """A message on its way: JSON all through, so that it can wait on disk."""

    key: str
    """The same whenever it is sent: receivers tell doubles by it."""
    kind: EventKind
    line: Mapping[str, Any]
    """What receivers get: `message`, `time` (RFC 3339, UTC, when the event began), and the event's line."""
    snapshot: str | None = None
    """Path of its picture on this machine; receivers are not told."""

    @classmethod
    def of(cls, message: Message, start: dt.datetime | None = None, snapshot: Path | None = None) -> Self:
        """Of a message.

        Args:
            start: when the event began.
            snapshot: already hidden as the site's privacy has it; it may be missing when the time comes.
        """
        event = message.event
        time = None if start is None else start.astimezone(dt.UTC).isoformat(timespec="milliseconds")
        line = {"message": message.kind, "time": time, "rule": event.rule, **plain(event.as_line())}
        key = f"{event.id}.{message.kind}"
        if message.kind == "update":  # there may be many
            key += "." + hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]
        return cls(key, message.kind, line, None if snapshot is None else str(snapshot))

    @property
    def body(self) -> bytes:
        """As it waits on disk."""
        kept = {"key": self.key, "kind": self.kind, "line": self.line, "snapshot": self.snapshot}
        return json.dumps(kept, ensure_ascii=False).encode()

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From what waited on disk.

        Raises:
            Refused: it is not what `body` gave.
        """
        try:
            return cls(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise Refused(f"what waited in the outbox cannot be read: {error}") from error

    @property
    def json(self) -> bytes:
        """What receivers get, on one line."""
        return json.dumps(self.line, ensure_ascii=False, separators=(",", ":")).encode()


class Sink(Protocol):
    """Sends messages, one at a time, from one thread."""

    def wants(self, post: Post) -> bool:
        """Whether it is to be sent here at all."""
        ...

    def send(self, post: Post) -> None:
        """Send it; it has arrived when the call returns.

        Raises:
            NotSent: try again.
            Refused: do not.
            Later: not yet.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Safe to call again."""
        ...


def from_environment(value: str | None, field: str) -> str | None:
    """A setting with each `${NAME}` replaced by that variable, so that secrets stay out of the file.

    Raises:
        BadInput: there is no such variable.
    """
    if value is None:
        return None

    def found(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise BadInput(f"{field}: the environment has no {match[1]}; set it, or take ${{{match[1]}}} out.")
        return os.environ[match[1]]

    return _VARIABLE.sub(found, value)
