"""How many requests each key may send: a token bucket a key.

The bucket holds one second's worth of requests, or as many as `burst` says, so that a burst of that size passes at
once; after it, requests pass as fast as the rate fills it.
"""

from __future__ import annotations

import math
import time

from shared.serving.errors import Busy
from shared.serving.keys import Principal

_MOST_KEYS = 10_000


class Rates:
    """Counts requests by key.

    Args:
        per_second: for each key; None: as many as the server can answer.
        burst: so many at once; None: one second's worth.
    """

    def __init__(self, per_second: float | None, burst: float | None = None) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and when they were counted, by the id of the key."""

    def check(self, principal: Principal | None) -> None:
        """Take a token of a key's bucket; see `take`."""
        self.take("" if principal is None else principal.id or principal.name, "this key")

    def take(self, key: str, who: str) -> None:
        """Take a token of the bucket called `key`.

        Raises:
            Busy: there is none left; the sentence names `who`.
        """
        if self._per_second is None:
            return
        now, room = time.monotonic(), max(1.0, self._burst or self._per_second)
        tokens, since = self._buckets.pop(key, (room, now))
        tokens = min(room, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)  # the last in order is the last that was used
        while len(self._buckets) > _MOST_KEYS:
            del self._buckets[next(iter(self._buckets))]
        if not allowed:
            wait = math.ceil((1 - tokens) / self._per_second)
            raise Busy(f"{who} may send {self._per_second:g} requests a second.", retry_after=wait)
