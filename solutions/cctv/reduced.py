"""The reduced picture that the motion gate and most rules look at, made once for each frame, and arithmetic on it.

By OpenCV and not NumPy where channels are put together: along a short last axis NumPy is thirty times slower.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr

WIDTH = 256
"""Pixels that the reduced picture is wide, about."""
_MEAN = np.full((1, 3), 1 / 3, dtype=np.float32)

Colours = NDArray[np.float32]
"""[h, w, 3]"""
Plane = NDArray[np.float32]
"""[h, w]"""
Mask = NDArray[np.uint8]
"""[h, w] 0, or 255 where it holds."""


def reduce(image: Bgr) -> tuple[Bgr, float]:
    """A picture in small, each pixel the mean of whole pixels, and by what to multiply for pixels of the frame."""
    height, width = image.shape[:2]
    scale = factor = max(math.ceil(width / WIDTH - 0.5), 1)
    size = (max(width // scale, 1), max(height // scale, 1))
    small = image[: size[1] * scale, : size[0] * scale]
    while factor % 2 == 0:  # halves have a quick way of their own, ten times quicker than any other share
        small, factor = _sized(small, (small.shape[1] // 2, small.shape[0] // 2)), factor // 2
    return (small if factor == 1 else _sized(small, size)), float(scale)


def softened(small: Bgr) -> Colours:
    """For comparisons: without the noise of single pixels."""
    return cv2.GaussianBlur(small, (3, 3), 0).astype(np.float32)


def grey(picture: Colours) -> Plane:
    """The mean of the channels."""
    return np.asarray(cv2.transform(picture, _MEAN), dtype=np.float32)


def largest(picture: Colours) -> Plane:
    """The largest of the channels."""
    blue, green, red = (cv2.extractChannel(picture, channel) for channel in range(3))
    return np.asarray(cv2.max(cv2.max(blue, green), red), dtype=np.float32)


def apart(one: Colours, other: Colours) -> Plane:
    """By how much two pictures differ in the channel that differs most."""
    return largest(np.asarray(cv2.absdiff(one, other), dtype=np.float32))


def edges(picture: Colours) -> Plane:
    """Strength of the brightness's gradient."""
    level = grey(picture)
    across, down = cv2.Sobel(level, cv2.CV_32F, 1, 0), cv2.Sobel(level, cv2.CV_32F, 0, 1)
    return np.asarray(cv2.magnitude(across, down), dtype=np.float32)


def _sized(image: Bgr, size: tuple[int, int]) -> Bgr:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
