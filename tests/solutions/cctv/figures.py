"""Persons drawn as ellipses, with what a detector and a background model would say of them: noise and gaps included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edge.io.frames import Frame
from solutions.cctv.scene import Motion, Scene, Step, Track

CLIPS = Path(__file__).resolve().parents[4] / "shared" / "data" / "cctv"
SIZE = (640, 480)
Story = Callable[[float], tuple[float, float, float, float]]
"""From seconds to centre x, lower end y, height and width of a person's outline."""


def ramp(time_s: float, begin: float, end: float) -> float:
    """0 before, 1 after, smooth between."""
    x = min(max((time_s - begin) / (end - begin), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def scenes(story: Story, seconds: float, fps: float, seed: int = 0, lost: float = 0.0) -> list[Scene]:
    """A person's story at a rate. `lost`: share of looks at a wide outline in which the detector finds nothing."""
    rng = np.random.default_rng(seed)
    track = Track(1, "person", (0, 0, 1, 1), 0.8, 0.0, 0.0)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    out = []
    for index in range(int(seconds * fps)):
        now = index / fps
        x, bottom, height, width = story(now)
        mask = np.zeros((SIZE[1] // 2, SIZE[0] // 2), np.uint8)
        axes = (max(int(width / 4), 1), max(int(height / 4), 1))
        cv2.ellipse(mask, (int(x / 2), int((bottom - height / 2) / 2)), axes, 0, 0, 360, (255,), -1)
        mask[rng.random(mask.shape) < 0.002] = 255
        wobble = rng.normal(0, 0.015 * height, 4)
        edges = np.array([x - width / 2, bottom - height, x + width / 2, bottom]) + wobble
        edges = np.clip(edges, 0, [SIZE[0], SIZE[1]] * 2)
        box = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))
        measured = not (width > 0.8 * height and rng.random() < lost)
        if measured:
            track.box, track.seen_s = box, now
        track.path.append(Step(now, track.box, measured, detected=measured))
        gone = now - track.seen_s > 0.5
        motion = Motion(mask, 2.0, (), float((mask > 0).mean()), True)
        seen = Track(1, "person", track.box, 0.8, 0.0, track.seen_s, track.path.copy())
        out.append(Scene(Frame("c", index, now, image), SIZE, () if gone else (seen,), motion))
    return out
