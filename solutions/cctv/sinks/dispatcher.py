"""Sends what waits in the outbox, each sink in a thread of its own: one that is down delays no other."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Self

from edge.outbox import Item, Outbox
from shared.errors import HaechiError
from shared.log import get_logger
from solutions.cctv.sinks.post import Later, NotSent, Post, Refused, Sink

FIRST_S, LONGEST_S = 1.0, 300.0
"""Waits after a failure: doubled each time, from the first to the longest."""
_LOOK_S = 1.0
_log = get_logger(__name__)


def backoff_s(tries: int, dice: float) -> float:
    """How long to wait after so many failures before this one.

    Args:
        dice: 0 to 1; the wait is half to all of what the doubling gives, so that many do not come back at once.
    """
    return min(LONGEST_S, FIRST_S * 2.0 ** min(tries, 30)) * (0.5 + 0.5 * dice)


class Dispatcher:
    """Takes messages in and sends them. `tell` may be called from any thread.

    Args:
        sinks: by a name that stays the same over restarts: what waits belongs to it.
    """

    def __init__(self, outbox: Outbox, sinks: Mapping[str, Sink]) -> None:
        self._outbox, self._sinks = outbox, dict(sinks)
        self._stopped = threading.Event()
        self._failing: dict[str, str] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(name, sink), name=f"sink-{name}", daemon=True)
            for name, sink in self._sinks.items()
        ]

    def start(self) -> Self:
        """Begin to send, with what an earlier process left."""
        for thread in self._threads:
            thread.start()
        return self

    def close(self, timeout_s: float = 10.0) -> None:
        """End the threads and close the sinks; what has not been sent waits on disk. Safe to call again."""
        self._stopped.set()
        self._outbox.wake()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        for sink in self._sinks.values():
            sink.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, post: Post) -> None:
        """Take a message for every sink that wants it; it is on disk when the call returns.

        Raises:
            HaechiError: it could not be kept.
        """
        wanted = [name for name, sink in self._sinks.items() if sink.wants(post)]
        if wanted:
            self._outbox.accept(post.key, post.body, wanted)

    @property
    def failing(self) -> dict[str, str]:
        """Sinks that cannot send now, and why."""
        return dict(self._failing)

    def _run(self, name: str, sink: Sink) -> None:
        while not self._stopped.is_set():
            try:
                item = self._outbox.wait(name, _LOOK_S)
                if item is None:
                    continue
                early_s = min(item.due - time.time(), LONGEST_S)  # a clock set back must not hold it up for ever
                if early_s > 0:
                    self._stopped.wait(early_s)
                    continue
                self._send(name, sink, item)
            except HaechiError as error:  # the outbox's disk
                _log.error("outbox_failed", sink=name, error=str(error))
                self._stopped.wait(_LOOK_S)

    def _send(self, name: str, sink: Sink, item: Item) -> None:
        try:
            sink.send(Post.read(item.body))
        except Refused as error:
            _log.error("message_refused", sink=name, message_id=item.key, error=str(error))
            self._outbox.refuse(item, str(error))
        except Later as error:
            self._outbox.later(item, error.wait_s)
        except (NotSent, OSError, ValueError) as error:
            if name not in self._failing:
                _log.warning("sink_down", sink=name, message_id=item.key, error=str(error))
            self._failing[name] = str(error)
            self._outbox.later(item, backoff_s(item.tries, random.random()))  # noqa: S311 - no secret
        else:
            self._outbox.done(item)
            if self._failing.pop(name, None) is not None:
                _log.info("sink_up", sink=name)
