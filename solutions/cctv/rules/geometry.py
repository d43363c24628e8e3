"""Points, segments and zones of a picture, in pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from solutions.cctv.scene import Box, Step, Track, View

Point = tuple[float, float]


def inside(polygon: NDArray[np.float32], point: Point, margin: float = 0.0) -> bool:
    """Whether a point is in a zone, or no further from it than `margin` pixels (negative: that deep in it)."""
    return cv2.pointPolygonTest(polygon, (float(point[0]), float(point[1])), True) >= -margin


def foot(box: Box) -> Point:
    """Bottom centre: where somebody stands."""
    return ((box[0] + box[2]) / 2, box[3])


def height(box: Box) -> float:
    """In pixels."""
    return box[3] - box[1]


def zones_of(names: Iterable[str], view: View) -> dict[str | None, NDArray[np.float32]]:
    """The zones of a rule; none named: the whole picture, as `None`."""
    named: dict[str | None, NDArray[np.float32]] = {name: view.zones[name] for name in names}
    if named:
        return named
    width, tall = view.size
    return {None: np.array([[-1, -1], [width, -1], [width, tall + 1], [-1, tall + 1]], dtype=np.float32)}


def meant(track: Track, labels: Iterable[str], view: View, min_height: float = 0.0, min_score: float = 0.0) -> bool:
    """Whether a rule is about a track."""
    tall = height(track.box) >= min_height * view.size[1]
    return track.label in labels and tall and track.score >= min_score


def steps_since(track: Track, time_s: float | None) -> Iterator[tuple[Step, Step]]:
    """Pairs of successive steps of a path of which the second is newer than a moment."""
    before: Step | None = None
    for step in track.path:
        if before is not None and (time_s is None or step.time_s > time_s):
            yield before, step
        before = step


def crossing(one: Point, two: Point, start: Point, end: Point) -> float | None:
    """Where the way from `one` to `two` meets the segment from `start` to `end`: share of the way, None if nowhere."""
    way = (two[0] - one[0], two[1] - one[1])
    line = (end[0] - start[0], end[1] - start[1])
    cross = way[0] * line[1] - way[1] * line[0]
    if abs(cross) < 1e-9:
        return None
    apart = (start[0] - one[0], start[1] - one[1])
    share = (apart[0] * line[1] - apart[1] * line[0]) / cross
    along = (apart[0] * way[1] - apart[1] * way[0]) / cross
    return share if 0 <= share <= 1 and 0 <= along <= 1 else None


def side(point: Point, start: Point, end: Point) -> float:
    """Signed distance in pixels from the line through two points; positive on its left hand in the picture's axes."""
    line = (end[0] - start[0], end[1] - start[1])
    length = max(float(np.hypot(*line)), 1e-9)
    return (line[0] * (point[1] - start[1]) - line[1] * (point[0] - start[0])) / length
