"""Over a line: crossings with direction and both-way counts, and tailgating.

A track crosses where the way of its foot (bottom centre of the box) meets the line, at the moment interpolated between
the two steps around it, so that the rate of frames does not matter. It is announced when the track is clearly on the
other side, and once until it comes back: jitter on the line says nothing. Directions are named by the axis that lies
across the line: over a line that runs sideways `up` or `down`, over others `left` or `right`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solutions.cctv.config import LineCrossing, Tailgating
from solutions.cctv.rules.geometry import Point, crossing, foot, height, meant, side
from solutions.cctv.scene import MOVING, Scene, Signal, Step, Track, View

_CLEAR = 0.08
"""Heights of the object that it must be beyond the line to have crossed."""
_AGAIN_S = 0.35
"""Two tracks that cross at one place within so long are one object (rider and bicycle, a track that was lost)."""
_AGAIN_NEAR = 0.6
"""One place: within so many heights of it."""
_SIDEWAYS = 1.1
"""A line that is wider than so many times its height runs sideways; of others one says left and right."""
_SOLID = 1.0
"""Sum of scores of looks that saw something without a name that counts, from which on it is a thing and no shadow."""
_END_MARGIN = 0.03
"""Of the line's length, by which it is longer at either end: feet are not known to the pixel."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A track over a line."""

    track: int
    label: str
    time_s: float
    place: Point
    direction: str
    height: float


class Line:
    """Watches one line."""

    def __init__(self, name: str, points: NDArray[np.float32]) -> None:
        self.name = name
        start, end = (np.asarray(point, dtype=float) for point in points)
        by = (end - start) * _END_MARGIN
        self.start: Point = (float(start[0] - by[0]), float(start[1] - by[1]))
        self.end: Point = (float(end[0] + by[0]), float(end[1] + by[1]))
        self._seen: dict[int, float] = {}
        self._pending: dict[int, tuple[Crossed, bool]] = {}
        self._recent: deque[Crossed] = deque()

    def update(self, scene: Scene, tracks: list[Track]) -> list[Crossed]:
        """Who has crossed, said once each."""
        found = []
        for track in tracks:
            found += self._of(track)
            self._seen[track.id] = scene.time_s
        here = {track.id for track in scene.tracks}
        for known in [known for known in self._seen if known not in here]:
            del self._seen[known]
            left = self._pending.pop(known, None)  # last seen over the line, though not far: it went on out of sight
            if left is not None and not self._double(left[0]):
                self._recent.append(left[0])
                found.append(left[0])
        while self._recent and self._recent[0].time_s < scene.time_s - 10:
            self._recent.popleft()
        return found

    def _of(self, track: Track) -> list[Crossed]:
        since = self._seen.get(track.id)
        before: Step | None = None
        for step in track.path:
            if before is not None and (since is None or step.time_s > since):
                self._step(track, before, step)
            before = step
        pending = self._pending.get(track.id)
        if pending is None:
            return []
        crossed, positive = pending
        beyond = side(foot(track.box), self.start, self.end) * (1 if positive else -1)
        if beyond < _CLEAR * crossed.height:
            return []
        del self._pending[track.id]
        if self._double(crossed):
            return []
        self._recent.append(crossed)
        return [crossed]

    def _step(self, track: Track, before: Step, step: Step) -> None:
        one, two = foot(before.box), foot(step.box)
        share = crossing(one, two, self.start, self.end)
        if share is None:
            return
        positive = side(two, self.start, self.end) > side(one, self.start, self.end)
        pending = self._pending.pop(track.id, None)
        if pending is not None and pending[1] != positive:
            return  # back before it was clearly over: nothing happened
        place = (one[0] + share * (two[0] - one[0]), one[1] + share * (two[1] - one[1]))
        time_s = before.time_s + share * (step.time_s - before.time_s)
        direction = self._direction(one, two)
        label, tall = track.label, height(step.box)
        self._pending[track.id] = (Crossed(track.id, label, time_s, place, direction, tall), positive)

    def _direction(self, one: Point, two: Point) -> str:
        """Name of the way over the line: the side that is entered, along the axis that lies across the line."""
        x, y = self.start[1] - self.end[1], self.end[0] - self.start[0]  # towards the positive side
        if side(two, self.start, self.end) < side(one, self.start, self.end):
            x, y = -x, -y
        if abs(y) > _SIDEWAYS * abs(x):
            return "down" if y > 0 else "up"
        return "right" if x > 0 else "left"

    def _double(self, crossed: Crossed) -> bool:
        return any(
            other.direction == crossed.direction
            and other.track != crossed.track
            and abs(other.time_s - crossed.time_s) < _AGAIN_S
            and np.hypot(other.place[0] - crossed.place[0], other.place[1] - crossed.place[1])
            < _AGAIN_NEAR * max(other.height, crossed.height)
            and (other.label != crossed.label)
            for other in self._recent
        )


class LineCrossingRunner:
    """One rule of one camera."""

    def __init__(self, rule: LineCrossing, view: View) -> None:
        self.rule, self.view = rule, view
        self._lines = [Line(name, view.lines[name]) for name in rule.lines]
        self.counts: dict[str, dict[str, int]] = {name: {} for name in rule.lines}

    def update(self, scene: Scene) -> list[Signal]:
        """Crossings since the last frame."""
        least = self.rule.min_height
        tracks = [
            each
            for each in scene.tracks
            if meant(each, self.rule.labels, self.view, least)
            or (self.rule.unnamed and each.unnamed >= _SOLID and meant(each, (MOVING,), self.view, least))
        ]
        signals = []
        for line in self._lines:
            for crossed in line.update(scene, tracks):
                counts = self.counts[line.name]
                counts[crossed.direction] = counts.get(crossed.direction, 0) + 1
                if not self.rule.directions or crossed.direction in self.rule.directions:
                    signals.append(_signal("line_crossing", line.name, crossed, {"counts": dict(counts)}))
        return signals


class TailgatingRunner:
    """Two over a line in the same direction within less time than allowed."""

    def __init__(self, rule: Tailgating, view: View) -> None:
        self.rule, self.view = rule, view
        self._lines = [Line(name, view.lines[name]) for name in rule.lines]
        self._last: dict[tuple[str, str], Crossed] = {}

    def update(self, scene: Scene) -> list[Signal]:
        """Followers since the last frame."""
        tracks = [each for each in scene.tracks if meant(each, self.rule.labels, self.view)]
        signals = []
        for line in self._lines:
            for crossed in line.update(scene, tracks):
                before = self._last.get((line.name, crossed.direction))
                self._last[line.name, crossed.direction] = crossed
                gap = None if before is None else crossed.time_s - before.time_s
                if before is not None and gap is not None and 0 <= gap <= self.rule.within_s:
                    why = {"gap_s": round(gap, 2), "after": before.track}
                    signals.append(_signal("tailgating", line.name, crossed, why))
        return signals


def _signal(type_: str, line: str, crossed: Crossed, why: Mapping[str, object]) -> Signal:
    label = crossed.label if crossed.label != MOVING else "unknown"
    x, y = crossed.place
    half = crossed.height / 2
    return Signal(
        type=type_,
        subject=(crossed.track, crossed.time_s),
        since_s=crossed.time_s,
        line=line,
        direction=crossed.direction,
        track_ids=(crossed.track,),
        box=(x - half / 2, y - 2 * half, x + half / 2, y),
        why={"label": label, "place": [round(x, 1), round(y, 1)], **why},
        instant=True,
    )
