"""Fighting-like motion of drawn persons: limbs every way at once, against walking together and standing apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.io.frames import Bgr, Frame
from solutions.cctv import config
from solutions.cctv.rules.fighting import FightingRunner
from solutions.cctv.scene import Scene, Signal, Track, View

SIZE = (640, 360)


def person(image: Bgr, left: float, texture: Bgr, wild: float, now: float) -> None:
    """A textured body; `wild`: how far four limbs swing, each its own way, in pixels."""
    x = int(left)
    image[120:300, x + 25 : x + 65] = texture[:180, :40]
    for limb in range(4):
        angle = 2 * np.pi * (1.1 + 0.35 * limb) * now + 1.7 * limb
        dx, dy = wild * np.cos(angle), wild * np.sin(angle * (1 if limb % 2 else -1))
        cx, cy = int(x + 45 + dx), int(145 + 40 * limb + dy)
        image[cy - 18 : cy + 18, cx - 18 : cx + 18] = texture[40 * limb : 40 * limb + 36, :36]


def signals(fps: float, wild: float, gap: float = 95.0, speed: float = 0.0, seconds: float = 5.0) -> list[Signal]:
    runner = FightingRunner(config.Fighting(type="fighting"), View.of(config.Camera(source="x"), SIZE))
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (2, 45, 20, 3), dtype=np.uint8)
    textures = [cv2.resize(each, (80, 180), interpolation=cv2.INTER_CUBIC).astype(np.uint8) for each in small]
    ground = cv2.resize(rng.integers(80, 120, (36, 64, 3), dtype=np.uint8), SIZE).astype(np.uint8)
    found = []
    for index in range(int(seconds * fps)):
        now = index / fps
        image, tracks = ground.copy(), []
        for number, texture in enumerate(textures):
            left = 100 + number * gap + speed * now
            person(image, left, texture, wild, now + number)
            tracks.append(Track(number + 1, "person", (left, 105, left + 90, 305), 0.9, 0.0, now))
        found += runner.update(Scene(Frame("c", index, now, image), SIZE, tuple(tracks)))
    return found


@pytest.mark.parametrize("fps", [25, 10])
def test_wild_limbs_within_reach(fps: float) -> None:
    found = signals(fps, wild=22)
    assert found
    assert found[0].subject == (1, 2)
    assert found[0].since_s < 1.5


@pytest.mark.parametrize("fps", [25, 10, 5])
@pytest.mark.parametrize(("wild", "gap", "speed"), [(0, 95, 60), (0, 95, 0), (3, 95, 0), (22, 300, 0)])
def test_walking_together_standing_and_far_apart_are_none(fps: float, wild: float, gap: float, speed: float) -> None:
    assert signals(fps, wild, gap, speed) == []
