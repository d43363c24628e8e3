"""Ctrl-C and SIGTERM end a run where it can be resumed: between two steps, never within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """The run was told to stop. `whole`: its state is that between two steps."""

    def __init__(self, number: int, *, whole: bool) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.whole = whole


class Stopper:
    """In a `with` block, turns the two signals into `Stopped`; `hold` puts that off to the end of its block.

    A second signal within a held block is obeyed at once. In a thread other than the main one nothing is changed.
    """

    def __init__(self) -> None:
        self._held = False
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """What must not be cut in two. After an error in it signals go on waiting: the run is ending anyway."""
        self._held = True
        yield
        self._held = False
        if self._asked:
            raise Stopped(self._asked, whole=True)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self._held or self._asked:
            raise Stopped(number, whole=not self._held)
        self._asked = number
