"""How a camera's connection is, for operators and rules."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from edge.io import clock

State = Literal["connecting", "live", "offline", "ended"]
_WINDOW = 50


@dataclass(frozen=True, slots=True)
class Status:
    """A moment's answer; JSON values only."""

    state: State
    since: float
    """Unix seconds."""
    error: str | None
    """The last one, without secrets; kept after the camera has come back."""
    frames: int
    """Decoded; for a recording: packets written."""
    dropped: int
    """Decoded and replaced by a newer one before anybody read them."""
    reconnects: int
    bad_packets: int
    """Could not be decoded."""
    fps: float
    """Decoded frames per second, over the last fifty."""


class Health:
    """Written by a source's thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: State = "connecting"
        self._since = clock.now()
        self._error: str | None = None
        self._frames = self._reconnects = self._bad = 0
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def seen(self) -> None:
        """A frame came."""
        with self._lock:
            self._frames += 1
            self._recent.append(clock.now())
            if self._state in ("connecting", "offline"):
                self._reconnects += self._state == "offline" and self._frames > 1
                self._to("live")

    def lost(self, error: str) -> None:
        """The connection broke or could not be made."""
        with self._lock:
            self._error = error
            self._recent.clear()
            if self._state != "offline":
                self._to("offline")

    def bad(self) -> None:
        """A packet could not be decoded."""
        with self._lock:
            self._bad += 1

    def ended(self, error: str | None = None) -> None:
        """Nothing more will come."""
        with self._lock:
            self._error = error or self._error
            self._to("ended")

    def status(self, dropped: int = 0) -> Status:
        """Now."""
        with self._lock:
            span = clock.now() - self._recent[0] if len(self._recent) > 1 else 0.0
            fps = (len(self._recent) - 1) / span if span > 0 else 0.0
            return Status(
                self._state, self._since, self._error, self._frames, dropped, self._reconnects, self._bad, round(fps, 2)
            )

    def _to(self, state: State) -> None:
        self._state, self._since = state, clock.now()
