"""Time of a stream: presentation stamps made sane.

A camera's stamps are the best clock there is of what happened when (arrival jitters with the network), but they wrap,
jump, go missing and run at the camera's own speed. `LiveClock` ties them to this machine's time: the offset between
the two follows the quickest arrivals, since a picture cannot arrive before it was taken, and creeps up slowly, so that
a drift of the camera's quartz (some 50 ppm) is followed and a delayed burst is not. What no stamp can explain starts a
new offset. Two connections to one camera that use one such clock each agree within the jitter of the network.
"""

from __future__ import annotations

import math
import time

CREEP = 0.0005
"""Seconds by which the offset may rise per second: ten times what quartzes drift."""
AHEAD_S = 3.0
"""A stamp that has run ahead of arrivals by more than this, from one packet to the next, has jumped."""
BEHIND_S = 30.0
"""A packet may be late by so much (a network that stood still and delivers what it held) before a jump is assumed."""
STEP_S = 1e-3
"""The least between two times."""
ABSURD_S = 1e9
"""No stream's stamp is so far from 0 (32 years); also what a float holds to the microsecond."""
GAP_S = 3600.0
"""Longest pause within a file that is believed."""
_STARTED = time.time() - time.monotonic()


def now() -> float:
    """Unix seconds that never jump: the wall clock as it was when the process began, carried on by the steady one."""
    return _STARTED + time.monotonic()


class LiveClock:
    """Unix seconds of a live stream's stamps."""

    def __init__(self) -> None:
        self.offset_s: float | None = None
        """Unix time minus stamp; None while no stamp is believed."""
        self.late_s = 0.0
        """By how much the last packet came later than the quickest."""
        self._last: tuple[float, float] | None = None
        self._time_s = -math.inf

    def reopen(self) -> None:
        """A new connection: its stamps have nothing to do with the old ones. Times go on rising."""
        self.offset_s, self._last, self.late_s = None, None, 0.0

    def anchor(self, arrivals: list[tuple[float, float]]) -> None:
        """Set the offset by (stamp, arrival) of a connection's first packets: by the one that came quickest."""
        if arrivals:
            self.offset_s = min(arrived_s - stamp_s for stamp_s, arrived_s in arrivals)
            self._last = (-math.inf, arrivals[0][1])  # the first may be one that the list lacks

    def at(self, stamp_s: float | None, arrived_s: float) -> float:
        """The time of a packet, strictly rising.

        Args:
            stamp_s: its decoding stamp in seconds; None, or an absurd one, where it has none.
            arrived_s: by `now()`.
        """
        moment = arrived_s - self.late_s
        if stamp_s is not None and abs(stamp_s) < ABSURD_S:
            if self.offset_s is None or self._jumped(stamp_s, arrived_s):
                self.offset_s = arrived_s - stamp_s
            else:
                assert self._last is not None
                late = arrived_s - stamp_s - self.offset_s
                self.offset_s += late if late < 0 else min(late, CREEP * max(0.0, arrived_s - self._last[1]))
            self._last = (stamp_s, arrived_s)
            moment = stamp_s + self.offset_s
            self.late_s = arrived_s - moment
        self._time_s = max(moment, self._time_s + STEP_S)
        return self._time_s

    def _jumped(self, stamp_s: float, arrived_s: float) -> bool:
        if self._last is None or self.offset_s is None:
            return True
        step = stamp_s - self._last[0]
        waited = arrived_s - self._last[1]
        late = arrived_s - stamp_s - self.offset_s
        return step < 0 or AHEAD_S + waited < step < math.inf or late > BEHIND_S


class FileClock:
    """Seconds since a file's first frame, from its presentation stamps."""

    def __init__(self, frame_s: float) -> None:
        """
        Args:
            frame_s: what a frame lasts, for frames whose stamps cannot be believed.
        """
        self._frame_s = frame_s
        self._offset_s: float | None = None
        self._time_s = -math.inf

    def at(self, stamp_s: float | None) -> float:
        """The time of the next frame, strictly rising; missing, backward and absurd stamps count as one frame on."""
        guess = 0.0 if self._time_s == -math.inf else self._time_s + self._frame_s
        moment = guess
        if stamp_s is not None and abs(stamp_s) < ABSURD_S:
            if self._offset_s is not None:
                moment = stamp_s + self._offset_s
            if self._offset_s is None or not self._time_s < moment <= self._time_s + GAP_S:
                self._offset_s, moment = guess - stamp_s, guess
        self._time_s = moment
        return moment
