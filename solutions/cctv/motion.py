"""What moves, by a background model that counts in seconds: the gate before the detector.

The picture is reduced and compared with a running background. A pixel is foreground where it differs by more than the
camera's own noise there, after the whole picture's gain has been evened out (auto-exposure drops when a white lorry
enters), and where it is not merely darker by a shadow. What stays foreground without moving melts into the background
after a while; a change of nearly everything (the light is switched) starts the background anew.

Sources: Stauffer and Grimson 1999 for the idea of a model per pixel; Horprasert, Harwood and Davis 1999 for shadows as
darker pixels of the same colour.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr, Frame
from solutions.cctv.reduced import Colours, Mask, Plane, apart, edges, grey, largest, reduce, softened
from solutions.cctv.scene import Box, Motion

_LEARN_S = 1.0
"""At the start, and after the light has jumped."""
_FIRST = 10
"""Pictures in that time, at most."""
_FAST_S, _SLOW_S, _MELT_S = 0.4, 12.0, 90.0
"""Time constants: while learning, of what is background, of what is foreground."""
_LEAST = 14.0
"""Grey levels of 255 that a pixel must differ by, however quiet the camera."""
_SIGMAS = 4.5
_JUMP = 0.6
"""Share of the picture that changes at once where it is the light and not an object."""
_MIN_AREA = 0.0006
"""Of the picture: less is noise."""
_SHADOW = (0.5, 0.94)
_SHADOW_COLOUR = 9.0
_MAX_BOXES = 64
_CHECK_S, _GHOST = 0.25, 1.5


class MotionGate:
    """The background of one camera."""

    def __init__(self) -> None:
        self._mean: Colours = np.zeros((0, 0, 3), dtype=np.float32)
        self._noise: Plane = np.zeros((0, 0), dtype=np.float32)
        self._first: list[Colours] = []
        """Pictures of the first second."""
        self._began_s = self._last_s = self._checked_s = 0.0
        self._open = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        self._close = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))

    def update(self, frame: Frame) -> Motion:
        """See a frame; times must rise."""
        picture, scale = reduce(frame.image)
        small = softened(picture)
        if self._mean.shape != small.shape:
            return self._restart(picture, small, scale, frame.time_s)
        step = min(max(frame.time_s - self._last_s, 1e-3), 2.0)
        self._last_s = frame.time_s
        even = small * _gain(small, self._mean)
        differs = apart(even, self._mean)
        moving = differs > np.maximum(_SIGMAS * self._noise, _LEAST)
        share = np.count_nonzero(moving) / moving.size
        if share > _JUMP and frame.time_s - self._began_s > _LEARN_S:
            return self._restart(picture, small, scale, frame.time_s)
        mask = self._cleaned(_without_shadows(moving, even, self._mean))
        learning = self._learns(small, frame.time_s)
        if frame.time_s - self._checked_s >= _CHECK_S:
            self._checked_s = frame.time_s
            mask = self._without_ghosts(mask, small)
        self._learn(small, mask, differs, step, learning=learning)
        boxes = () if learning else _boxes(mask, scale)
        return Motion(
            mask, scale, boxes, float(np.count_nonzero(mask)) / mask.size, settled=not learning, small=picture
        )

    def _restart(self, picture: Bgr, small: Colours, scale: float, time_s: float) -> Motion:
        self._mean, self._noise = small.copy(), np.full(small.shape[:2], 4.0, dtype=np.float32)
        self._first = [small]
        self._began_s = self._last_s = time_s
        return Motion(np.zeros(small.shape[:2], dtype=np.uint8), scale, (), 0.0, settled=False, small=picture)

    def _learns(self, small: Colours, time_s: float) -> bool:
        """Whether it is still the first second. At its end the background is the median of what was seen: who walked
        through leaves no trace in it."""
        if not self._first:
            return False
        if time_s - self._began_s >= len(self._first) * _LEARN_S / _FIRST:
            self._first.append(small)
        if time_s - self._began_s < _LEARN_S:
            return True
        self._mean = np.median(self._first, axis=0).astype(np.float32)
        self._first = []
        return False

    def _learn(self, small: Colours, mask: Mask, differs: Plane, step: float, *, learning: bool) -> None:
        quick = 1 - float(np.exp(-step / (_FAST_S if learning else _SLOW_S)))
        quiet = cv2.bitwise_not(np.zeros_like(mask) if learning else mask)
        cv2.accumulateWeighted(small, self._mean, quick, quiet)
        if not learning:
            cv2.accumulateWeighted(small, self._mean, 1 - float(np.exp(-step / _MELT_S)), mask)
        cv2.accumulateWeighted(1.25 * differs, self._noise, quick, quiet)
        np.clip(self._noise, 1.0, 12.0, out=self._noise)

    def _without_ghosts(self, mask: Mask, small: Colours) -> Mask:
        """Where something stood while the background was learned and then left, the background is wrong: it has the
        edges along the outline, and the picture has not. It is mended at once."""
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        large = [row for row in range(1, count) if stats[row, cv2.CC_STAT_AREA] >= _MIN_AREA * mask.size]
        if not large:
            return mask
        now, before = edges(small), edges(self._mean)
        outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, self._open) > 0
        for row in large:
            region = labels == row
            rim = outline & (cv2.dilate(region.astype(np.uint8), self._open) > 0)
            if float(before[rim].mean()) > _GHOST * float(now[rim].mean()):
                self._mean[region] = small[region]
                mask = np.where(region, 0, mask).astype(np.uint8)
        return mask

    def _cleaned(self, moving: NDArray[np.bool_]) -> Mask:
        opened = cv2.morphologyEx(moving.astype(np.uint8) * 255, cv2.MORPH_OPEN, self._open)
        return np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, self._close), dtype=np.uint8)


def _gain(small: Colours, mean: Colours) -> float:
    """By what to multiply the picture to make it as bright as its background: a median, which objects do not move."""
    now, before = grey(small[::4, ::4]), grey(mean[::4, ::4])
    usable = (now > 20) & (now < 235) & (before > 20)
    if np.count_nonzero(usable) < 50:
        return 1.0
    return float(np.clip(np.median(before[usable] / now[usable]), 0.6, 1.7))


def _shadow(even: Colours, mean: Colours) -> NDArray[np.bool_]:
    """[h, w] darker, and of the same colour."""
    ratio = grey(even) / np.maximum(grey(mean), 1 / 3)
    dark = (ratio > _SHADOW[0]) & (ratio < _SHADOW[1])
    colour = apart(even, mean * cv2.merge((ratio, ratio, ratio)))
    shadow: NDArray[np.bool_] = dark & (colour < _SHADOW_COLOUR) & (largest(mean) > 40)
    return shadow


def _without_shadows(moving: NDArray[np.bool_], even: Colours, mean: Colours) -> NDArray[np.bool_]:
    """[h, w] what moves and is no shadow; only the part of the picture where something moves is worked on."""
    left, top, width, height = cv2.boundingRect(moving.view(np.uint8))
    if width:
        part = np.s_[top : top + height, left : left + width]
        moving[part] &= ~_shadow(even[part], mean[part])
    return moving


def _boxes(mask: Mask, scale: float) -> tuple[Box, ...]:
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    large = [row for row in range(1, count) if stats[row, cv2.CC_STAT_AREA] >= _MIN_AREA * mask.size]
    large.sort(key=lambda row: -stats[row, cv2.CC_STAT_AREA])
    found = []
    for row in large[:_MAX_BOXES]:
        left, top, width, height = (float(each) * scale for each in stats[row, :4])
        found.append((left, top, left + width, top + height))
    return tuple(_joined(found))


def _joined(boxes: list[Box]) -> list[Box]:
    """Pieces of one object: boxes that overlap, or nearly touch for their size, become one."""
    boxes = list(boxes)
    row = 0
    while row < len(boxes):
        for other in range(row + 1, len(boxes)):
            if _near(boxes[row], boxes[other]):
                one, two = boxes[row], boxes.pop(other)
                boxes[row] = (min(one[0], two[0]), min(one[1], two[1]), max(one[2], two[2]), max(one[3], two[3]))
                row = -1
                break
        row += 1
    return boxes


def _near(one: Box, two: Box) -> bool:
    gap = 0.15 * min(max(one[2] - one[0], one[3] - one[1]), max(two[2] - two[0], two[3] - two[1]))
    return one[0] - gap < two[2] and two[0] - gap < one[2] and one[1] - gap < two[3] and two[1] - gap < one[3]
