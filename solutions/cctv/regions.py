"""Where to look: which parts of a picture the detector is shown at a moment.

A detector sees its input size and no more: a distant person in a large picture shrinks below what it can tell. So it is
shown square regions around what moves and what is being followed, as Frigate does. Each such interest says how large a
region may be at most for it to be still well seen; interests that fit into one region together share it, since every
region costs a run, and when all fit into the whole picture, that is the one region. Now and then the whole picture is
looked at in any case, for what does not move.

Everything here is pure but for `Looker`, which remembers when it looked last. Times are seconds, places pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from solutions.cctv.scene import MOVING, Box, Motion, Track

WHOLE_EVERY_S = 3.0
"""The whole picture is looked at so often at least."""
STILL_EVERY_S = 1.0
"""Tracks that do not move are looked at so often."""
NAMED_EVERY_S = 0.2
"""Tracks that move and have a name: motion carries them in between. One that is out of its own box by then is looked
at each time."""
NAMELESS_EVERY_S = 0.4
"""What moves and has got no name in its first `YOUNG_S`: leaves, flames, a curtain."""
YOUNG_S = 1.5
EXPLAINED = 0.7
"""Share of a motion's box, from which on the track that it lies in explains it."""
MOST = 4
"""Regions at a moment: more are looked at together, smaller than they should be."""
MARGIN = 1.5
"""A region is so much larger than what it is around: detectors want to see the surroundings, and things move on."""
ZOOM = 2.0
"""A small thing is enlarged so much at most: beyond it there is nothing more to see."""
LEAST_HEIGHT = 0.06
"""Of the picture: what is smaller is looked at as if it were of this size. `tiles` are for smaller things."""
TILE_OVERLAP = 0.2


@dataclass(frozen=True, slots=True)
class Interest:
    """Something to look at."""

    box: Box
    edge: float
    """Of a region around it alone."""
    largest: float
    """Edge of the largest region in which it is still well seen; not below `edge`."""


def interest(box: Box, size: tuple[int, int], side: int, smallest: float) -> Interest:
    """What a box demands of a region.

    Args:
        size: width and height of the picture.
        side: of the detector's input, in pixels.
        smallest: height in pixels of its input from which on it is sure of a thing.
    """
    extent = max(box[2] - box[0], box[3] - box[1], LEAST_HEIGHT * size[1])
    largest = extent * side / smallest
    # At its own scale a detector is shown as many pixels as it takes; enlarged only where that is not enough.
    edge = max(extent * MARGIN, side if largest >= side else max(largest, side / ZOOM))
    return Interest(box, edge, max(edge, largest))


def square(box: Box, edge: float, size: tuple[int, int]) -> Box:
    """The square of this edge around a box, whole pixels, moved and, where it must be, cut to lie in the picture."""
    edge = max(edge, box[2] - box[0], box[3] - box[1], 1.0)
    spans = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        extent = min(float(math.ceil(edge)), float(length))
        start = min(max(math.floor((low + high - extent) / 2), 0), length - extent)
        spans.append((start, start + extent))
    (left, right), (top, bottom) = spans
    return (left, top, right, bottom)


def gathered(interests: Sequence[Interest], size: tuple[int, int], most: int = MOST) -> list[Box]:
    """Few regions that show every interest, each well if `most` allows it."""
    groups = list(interests)
    while len(groups) > 1:
        pairs = [
            (_union(one, other), i, j) for i, one in enumerate(groups) for j, other in enumerate(groups[:i])
        ]  # interests are few: motion boxes and tracks of one picture
        fitting = [each for each in pairs if each[0].edge <= each[0].largest]
        if not fitting and len(groups) <= most:
            break
        together, i, j = min(fitting or pairs, key=lambda each: each[0].edge)
        groups = [each for index, each in enumerate(groups) if index not in (i, j)] + [together]
    return _without_inner([square(each.box, each.edge, size) for each in groups])


def tiles(size: tuple[int, int], side: int, overlap: float = TILE_OVERLAP) -> list[Box]:
    """The picture in squares of `side` that overlap by a share of it at least, so that nothing is cut in all of them.

    A picture that is smaller than a tile is one.
    """
    columns, rows = (_starts(length, side, overlap) for length in size)
    return [
        (float(x), float(y), float(min(x + side, size[0])), float(min(y + side, size[1])))
        for y in rows
        for x in columns
    ]


class Looker:
    """One camera's plan of where to look. Not thread-safe."""

    def __init__(
        self,
        size: tuple[int, int],
        *,
        tiles: bool = False,
        side: int = 416,
        smallest: float = 40.0,
        whole_every_s: float = WHOLE_EVERY_S,
    ) -> None:
        """
        Args:
            size: width and height of the pictures.
            tiles: at each whole look, look at tiles as well.
            side: of the detector's input; `Detector.side`.
            smallest: as in `interest`; `Detector.smallest`.
        """
        self._size, self._side, self._smallest = size, side, smallest
        self._tiled, self._whole_every_s = tiles, whole_every_s
        self._whole_s = -math.inf
        self._looked_s: dict[int, float] = {}
        """When each track was last in a region."""

    def plan(self, motion: Motion | None, tracks: Iterable[Track], time_s: float) -> tuple[Box, ...] | None:
        """The regions to look at now, or None where there is nothing to see.

        Args:
            motion: None: not known, so everything may have moved.
            tracks: what is being followed.
        """
        whole: Box = (0.0, 0.0, float(self._size[0]), float(self._size[1]))
        due = time_s - self._whole_s >= self._whole_every_s - 1e-6
        unsure = motion is None or not motion.settled
        tracks = tuple(tracks)
        boxes = [track.box for track in tracks if due or unsure or self._due(track, time_s)]
        if motion is not None and not unsure:
            boxes += [box for box in motion.boxes if not any(_explains(track.box, box) for track in tracks)]
        found = self._around(boxes, [track.box for track in tracks])
        if due or unsure:
            extra = tiles(self._size, self._side) if self._tiled else []
            found = list(dict.fromkeys([whole, *(found if not extra else []), *extra]))
        if whole in found:
            self._whole_s = time_s
        self._looked_s = {
            track.id: time_s
            if any(_holds(region, track.box) for region in found)
            else self._looked_s.get(track.id, -math.inf)
            for track in tracks
        }
        return tuple(found) or None

    def _around(self, boxes: Iterable[Box], others: Iterable[Box]) -> list[Box]:
        """Regions around boxes that cut through no others: of a person cut in two a detector makes two."""
        wanted, rest = (
            [each for each in (_inside(box, self._size) for box in some) if each is not None]
            for some in (boxes, others)
        )
        while True:
            found = gathered([interest(box, self._size, self._side, self._smallest) for box in wanted], self._size)
            cut = [box for box in rest if any(_cuts(region, box) for region in found)]
            if not cut:
                return found
            wanted += cut
            rest = [box for box in rest if box not in cut]

    def _due(self, track: Track, time_s: float) -> bool:
        """Whether the detector should say again what a track is, and where."""
        ago = time_s - self._looked_s.get(track.id, -math.inf) + 1e-6
        if track.still_since_s is not None:
            return ago >= STILL_EVERY_S
        if track.label == MOVING:
            return ago >= NAMELESS_EVERY_S or time_s - track.first_s < YOUNG_S
        return ago >= NAMED_EVERY_S or _quick(track)


def _quick(track: Track) -> bool:
    """Whether a track moves by more than its own width, or height, within `NAMED_EVERY_S`."""
    last = track.path[-1]
    before = next((step for step in reversed(track.path) if last.time_s - step.time_s >= NAMED_EVERY_S), track.path[0])
    seconds = last.time_s - before.time_s
    if seconds <= 0:
        return True
    return any(
        abs(last.box[low] + last.box[low + 2] - before.box[low] - before.box[low + 2])
        > 2 * (last.box[low + 2] - last.box[low]) * seconds / NAMED_EVERY_S
        for low in (0, 1)
    )


def _explains(outer: Box, inner: Box) -> bool:
    width = min(outer[2], inner[2]) - max(outer[0], inner[0])
    height = min(outer[3], inner[3]) - max(outer[1], inner[1])
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return width > 0 and height > 0 and width * height >= EXPLAINED * area


def _union(one: Interest, other: Interest) -> Interest:
    box = (
        min(one.box[0], other.box[0]),
        min(one.box[1], other.box[1]),
        max(one.box[2], other.box[2]),
        max(one.box[3], other.box[3]),
    )
    # The margin is there once already: the larger of the two has it.
    spare = max(each.edge - max(each.box[2] - each.box[0], each.box[3] - each.box[1]) for each in (one, other))
    extent = max(box[2] - box[0], box[3] - box[1])
    edge = max(one.edge, other.edge, extent + min(spare, extent * (MARGIN - 1)))
    return Interest(box, edge, min(one.largest, other.largest))


def _without_inner(regions: list[Box]) -> list[Box]:
    """Regions that lie in another show nothing more."""
    kept: list[Box] = []
    for region in sorted(regions, key=lambda each: (each[0] - each[2]) * (each[3] - each[1])):
        if not any(_holds(each, region) for each in kept):
            kept.append(region)
    return kept


def _holds(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _cuts(region: Box, box: Box) -> bool:
    """Whether a part of a box lies in a region, and a part does not."""
    meets = region[0] < box[2] and box[0] < region[2] and region[1] < box[3] and box[1] < region[3]
    return meets and not _holds(region, box)


def _inside(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box that lies in the picture; None where it is less than a pixel."""
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(size[0])), min(box[3], float(size[1]))
    return (left, top, right, bottom) if right - left >= 1 and bottom - top >= 1 else None


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1 - overlap))) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]
