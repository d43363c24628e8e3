"""Whom a rule about objects means: tracks by label, size, score and place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from solutions.cctv.config import ZoneRule
from solutions.cctv.scene import Box, Scene, Track, View


def meant(rule: ZoneRule, scene: Scene) -> Iterator[Track]:
    """The tracks that a rule is about, wherever they are: label, height and score fit."""
    for track in scene.tracks:
        height = track.box[3] - track.box[1]
        if track.label in rule.labels and height >= rule.min_height * scene.size[1] and track.score >= rule.min_score:
            yield track


def place_of(zones: Sequence[str], view: View, point: tuple[float, float]) -> tuple[bool, str | None]:
    """Whether a point (pixels) is meant, and the name of the first zone that holds it; without zones all points are."""
    if not zones:
        return True, None
    for name in zones:
        if cv2.pointPolygonTest(view.zones[name], point, False) >= 0:
            return True, name
    return False, None


def clip_box(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels of a box inside a picture: left, top, right, bottom; empty where it lies outside."""
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    return left, top, max(min(int(box[2] + 0.5), width), left), max(min(int(box[3] + 0.5), height), top)


def zone_mask(zones: Sequence[str], view: View, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """[h, w] 255 inside any of the zones, for a picture reduced to `size` (width, height); None: everywhere."""
    if not zones:
        return None
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    scale = np.array([size[0] / view.size[0], size[1] / view.size[1]], dtype=np.float32)
    for name in zones:
        cv2.fillPoly(mask, [np.rint(view.zones[name] * scale).astype(np.int32)], (255,))
    return mask
