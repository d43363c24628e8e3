"""Progress with an estimate: a live bar on a terminal, a plain line every few seconds in a log, nothing when quiet.

    for image in track(images, "features"):
        ...
    with stage("core-set", total=2000) as bar:
        bar.advance(10)

It writes to stderr only. `HAECHI_QUIET=1` or `haechi --quiet` silences it. Bars may nest and may come from several
threads. In plain lines a stage that ends within `PLAIN_INTERVAL` seconds says nothing, so that logs stay short.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

PLAIN_INTERVAL = 5.0
"""Seconds between two lines where stderr is not a terminal."""


class Stage(Protocol):
    """A piece of work under way."""

    def advance(self, count: float = 1) -> None:
        """`count` more of `total` are done."""

    def describe(self, text: str) -> None:
        """Show `text` as the description from now on."""


def quiet() -> bool:
    """Whether the user asked for silence (`HAECHI_QUIET` set to anything but empty or 0)."""
    return os.environ.get("HAECHI_QUIET", "") not in ("", "0")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items of `iterable`, one by one, while a bar shows how many are done and how long the rest will take.

    Args:
        total: how many there are; default `len(iterable)` where it has one, else the bar shows only a count.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with stage(description, total) as bar:
        for item in iterable:
            yield item
            bar.advance()


@contextlib.contextmanager
def stage(description: str, total: float | None = None) -> Iterator[Stage]:
    """A piece of work that lasts as long as the `with` block. `total` None: its length is not known."""
    if quiet():
        yield _Silent()
    elif sys.stderr.isatty():
        with _live(description, total) as bar:
            yield bar
    else:
        plain = _Plain(description, total)
        yield plain
        plain.end()


@contextlib.contextmanager
def counted(description: str) -> Iterator[Callable[[int, int], None]]:
    """A stage as a callback (done, total), for functions that learn the total themselves."""
    with contextlib.ExitStack() as stack:
        begun: list[Stage] = []

        def tick(_done: int, total: int) -> None:
            if not begun:
                begun.append(stack.enter_context(stage(description, total)))
            begun[0].advance()

        yield tick


class _Silent:
    def advance(self, count: float = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class _Plain:
    """Lines such as `features: 120/300, 40 %, about 12 s left`."""

    def __init__(self, description: str, total: float | None) -> None:
        self._description = description
        self._total = total
        self._done = 0.0
        self._start = self._said = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: float = 1) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._said >= PLAIN_INTERVAL:
                self._said = now
                self._say(self._state(now))

    def describe(self, text: str) -> None:
        self._description = text

    def end(self) -> None:
        spent = time.monotonic() - self._start
        if spent >= PLAIN_INTERVAL:
            self._say(f"done in {duration(spent)}")

    def _state(self, now: float) -> str:
        if not self._total:
            return f"{self._done:g} done"
        share = min(self._done / self._total, 1.0)
        left = (now - self._start) * (1 - share) / share if share > 0 else 0.0
        return f"{self._done:g}/{self._total:g}, {100 * share:.0f} %, about {duration(left)} left"

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed stderr must not end the work
            print(f"{self._description}: {text}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: float = 1) -> None:
        self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)


_lock = threading.Lock()
_shown: Progress | None = None
_open_bars = 0


@contextlib.contextmanager
def _live(description: str, total: float | None) -> Iterator[_Bar]:
    """A bar in the one live display of the process: a terminal has room for one, so all open bars share it."""
    global _shown, _open_bars
    with _lock:
        if _shown is None:
            _shown = _new_display()
            _shown.start()
        display = _shown
        _open_bars += 1
        task = display.add_task(description, total=total)
    try:
        yield _Bar(display, task)
    finally:
        with _lock:
            _open_bars -= 1
            display.update(task, visible=False)
            if _open_bars == 0:
                display.stop()
                _shown = None


def _new_display() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def duration(seconds: float) -> str:
    """`12 s`, `3 min 5 s`, `1 h 2 min`."""
    whole = round(max(seconds, 0.0))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
