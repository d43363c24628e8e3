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
from solutions.cctv.scene import Box, Motion

WIDTH = 320
"""Pixels that the reduced picture is wide, at most."""
_LEARN_S = 1.0
"""At the start, and after the light has jumped."""
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

Small = NDArray[np.float32]


class MotionGate:
    """The background of one camera."""

    def __init__(self) -> None:
        self._mean: Small | None = None
        self._noise: Small | None = None
        self._before: Small | None = None
        self._began_s = self._last_s = self._checked_s = 0.0
        self._open = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        self._close = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))

    def update(self, frame: Frame) -> Motion:
        """See a frame; times must rise."""
        small, scale = _reduced(frame.image)
        if self._mean is None or self._mean.shape != small.shape:
            return self._restart(small, scale, frame.time_s)
        assert self._noise is not None
        step = min(max(frame.time_s - self._last_s, 1e-3), 2.0)
        self._last_s = frame.time_s
        even = small * _gain(small, self._mean)
        apart = cv2.absdiff(even, self._mean)
        largest = apart.max(axis=2)
        moving = largest > np.maximum(_LEAST, _SIGMAS * self._noise)
        if moving.mean() > _JUMP and frame.time_s - self._began_s > _LEARN_S:
            return self._restart(small, scale, frame.time_s)
        mask = self._cleaned(moving & ~_shadow(even, self._mean))
        learning = frame.time_s - self._began_s < _LEARN_S
        if frame.time_s - self._checked_s >= _CHECK_S:
            self._checked_s = frame.time_s
            mask = self._without_ghosts(mask, small)
        self._learn(small, mask > 0, largest, step, learning=learning)
        boxes = () if learning else _boxes(mask, scale)
        return Motion(mask, scale, boxes, float(np.count_nonzero(mask)) / mask.size, settled=not learning)

    def _restart(self, small: Small, scale: float, time_s: float) -> Motion:
        self._mean, self._noise = small.copy(), np.full(small.shape[:2], 4.0, dtype=np.float32)
        self._began_s = self._last_s = time_s
        return Motion(np.zeros(small.shape[:2], dtype=np.uint8), scale, (), 0.0, settled=False)

    def _learn(self, small: Small, mask: NDArray[np.bool_], apart: Small, step: float, *, learning: bool) -> None:
        assert self._mean is not None
        assert self._noise is not None
        quick = 1 - float(np.exp(-step / (_FAST_S if learning else _SLOW_S)))
        slow = 1 - float(np.exp(-step / _MELT_S))
        rate = np.full(mask.shape, quick, dtype=np.float32)
        if not learning:
            rate[mask] = slow
        self._mean += rate[..., None] * (small - self._mean)
        quiet = ~mask if not learning else np.ones_like(mask)
        self._noise[quiet] += quick * (1.25 * apart[quiet] - self._noise[quiet])
        np.clip(self._noise, 1.0, 12.0, out=self._noise)

    def _without_ghosts(self, mask: NDArray[np.uint8], small: Small) -> NDArray[np.uint8]:
        """Where something stood while the background was learned and then left, the background is wrong: it has the
        edges along the outline, and the picture has not. It is mended at once."""
        assert self._mean is not None
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        large = [row for row in range(1, count) if stats[row, cv2.CC_STAT_AREA] >= _MIN_AREA * mask.size]
        if not large:
            return mask
        now, before = _edges(small), _edges(self._mean)
        outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, self._open) > 0
        for row in large:
            region = labels == row
            rim = outline & (cv2.dilate(region.astype(np.uint8), self._open) > 0)
            if float(before[rim].mean()) > _GHOST * float(now[rim].mean()):
                self._mean[region] = small[region]
                mask = np.where(region, 0, mask).astype(np.uint8)
        return mask

    def _cleaned(self, moving: NDArray[np.bool_]) -> NDArray[np.uint8]:
        opened = cv2.morphologyEx(moving.astype(np.uint8) * 255, cv2.MORPH_OPEN, self._open)
        return np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, self._close), dtype=np.uint8)


def _reduced(image: Bgr) -> tuple[Small, float]:
    height, width = image.shape[:2]
    scale = max(width / WIDTH, 1.0)
    size = (max(round(width / scale), 1), max(round(height / scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (3, 3), 0).astype(np.float32), width / size[0]


def _gain(small: Small, mean: Small) -> float:
    """By what to multiply the picture to make it as bright as its background: a median, which objects do not move."""
    now, before = small[::4, ::4].mean(axis=2), mean[::4, ::4].mean(axis=2)
    usable = (now > 20) & (now < 235) & (before > 20)
    if np.count_nonzero(usable) < 50:
        return 1.0
    return float(np.clip(np.median(before[usable] / now[usable]), 0.6, 1.7))


def _edges(picture: Small) -> Small:
    grey = picture.mean(axis=2)
    return np.asarray(np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)), dtype=np.float32)


def _shadow(even: Small, mean: Small) -> NDArray[np.bool_]:
    """[h, w] darker, and of the same colour."""
    ratio = even.sum(axis=2) / np.maximum(mean.sum(axis=2), 1.0)
    dark = (ratio > _SHADOW[0]) & (ratio < _SHADOW[1])
    colour = cv2.absdiff(even, mean * ratio[..., None]).max(axis=2)
    return dark & (colour < _SHADOW_COLOUR) & (mean.max(axis=2) > 40)


def _boxes(mask: NDArray[np.uint8], scale: float) -> tuple[Box, ...]:
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
