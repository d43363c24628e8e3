"""A decision as a picture: the heat map and the regions' boxes over the photograph, the same from every caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from shared.images import Rgb, draw_boxes, heatmap_overlay

Box = tuple[int, int, int, int]


def overlay_range(thresholds: Mapping[str, float], heatmap: NDArray[np.float32]) -> tuple[float, float]:
    """Heat map values that are drawn as nothing and at full strength, with the pixel threshold half-way.

    They lie as far from the threshold as half the way down to the picture's own median, which is what good surface
    gives: so it stays clear of colour whatever the model's units are.
    """
    pixel = thresholds["pixel"]
    reach = max((pixel - float(np.median(heatmap))) / 2, abs(pixel) / 10, 1e-12)
    return pixel - reach, pixel + reach


def overlay(picture: Rgb, heatmap: NDArray[np.float32], boxes: Iterable[Box], thresholds: Mapping[str, float]) -> Rgb:
    """The heat map and the boxes over the picture.

    Args:
        picture: uint8 [H, W, 3] RGB.
        heatmap: float32 [S, S] in raw units, stretched over the whole picture.
        boxes: x0, y0, x1, y1 in pixels of this picture; x1 and y1 are exclusive.
        thresholds: at least `pixel`.
    """
    return draw_boxes(heatmap_overlay(picture, heatmap, *overlay_range(thresholds, heatmap)), boxes)
