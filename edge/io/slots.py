"""Between a source's thread and whoever reads its frames: a place for the newest one, or a short queue."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Holds at most `size` values. A live one drops the oldest for a new one, another makes the writer wait."""

    def __init__(self, size: int, *, newest: bool) -> None:
        self.dropped = 0
        self._size, self._newest = size, newest
        self._held: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, value: T) -> bool:
        """False: closed, nobody will read any more."""
        with self._changed:
            if self._newest:
                while len(self._held) >= self._size:
                    self._held.popleft()
                    self.dropped += 1
            else:
                self._changed.wait_for(lambda: self._closed or len(self._held) < self._size)
            if self._closed:
                return False
            self._held.append(value)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None = None) -> T | None:
        """The next value; None: closed and empty, or none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._held), timeout_s)
            if not self._held:
                return None
            value = self._held.popleft()
            self._changed.notify_all()
            return value

    def close(self, *, discard: bool = False) -> None:
        """No more values; what is held can still be read unless `discard`."""
        with self._changed:
            self._closed = True
            if discard:
                self._held.clear()
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Closed and read to the end."""
        with self._changed:
            return self._closed and not self._held
