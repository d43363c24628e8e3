"""The motion gate: what moves is seen, at any size of picture; light, shadows, noise and old traces are not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edge.io.frames import Bgr, Frame
from solutions.cctv.motion import MotionGate
from solutions.cctv.reduced import WIDTH, reduce
from solutions.cctv.scene import Motion
from tests.solutions.cctv.staged import hall

SIZE = (768, 432)
FPS = 10
Shown = Callable[[Bgr, float], Bgr]


def seen(shown: Shown, seconds: float, size: tuple[int, int] = SIZE) -> list[Motion]:
    """What the gate says of each frame of a hall into which `shown` puts things."""
    gate, ground, rng = MotionGate(), hall(3, size), np.random.default_rng(0)
    found = []
    for index in range(int(seconds * FPS)):
        noisy = ground + rng.normal(0, 2, ground.shape)
        image = shown(np.clip(noisy, 0, 255).astype(np.uint8), index / FPS)
        found.append(gate.update(Frame("c", index, index / FPS, image)))
    return found


def figure(image: Bgr, left: float, size: tuple[int, int] = SIZE) -> Bgr:
    """Somebody dark, two fifths of the picture high."""
    top, tall = int(0.4 * size[1]), int(0.4 * size[1])
    cv2.rectangle(image, (int(left), top), (int(left) + tall // 3, top + tall), (25, 20, 30), -1)
    return image


@pytest.mark.parametrize("size", [(320, 240), (426, 240), (640, 360), (768, 432), (1280, 720), (1921, 1081)])
def test_who_walks_is_boxed_at_any_size_of_picture(size: tuple[int, int]) -> None:
    found = seen(lambda image, t: figure(image, size[0] * (t - 2) / 6, size) if t >= 2 else image, 5, size)
    left = size[0] * (4.5 - 2) / 6
    tall = int(0.4 * size[1])
    (box,) = found[45].boxes
    assert box == pytest.approx((left, 0.4 * size[1], left + tall / 3, 0.8 * size[1]), abs=0.04 * size[0])


@pytest.mark.parametrize("size", [(64, 48), (320, 240), (768, 432), (1920, 1080), (3840, 2160), (257, 100)])
def test_the_reduced_picture_is_the_picture(size: tuple[int, int]) -> None:
    image = hall(1, size).astype(np.uint8)
    small, scale = reduce(image)
    assert small.shape[1] <= 1.51 * WIDTH
    assert abs(small.shape[1] * scale - size[0]) < scale
    assert float(small.mean()) == pytest.approx(float(image.mean()), abs=2)


def test_a_quiet_picture_shows_nothing() -> None:
    assert not any(motion.boxes for motion in seen(lambda image, t: image, 8))


def test_who_walks_past_in_the_first_second_leaves_no_trace() -> None:
    found = seen(lambda image, t: figure(image, 50 + 300 * t) if t < 2.3 else image, 5)
    assert found[12].settled
    assert [len(motion.boxes) for motion in found[12:20]] == [1] * 8
    assert not any(motion.boxes for motion in found[25:])


def test_what_stood_there_at_the_start_and_leaves_is_forgotten_at_once() -> None:
    found = seen(lambda image, t: figure(image, 300 + (300 * (t - 3) if t > 3 else 0)), 8)
    assert not any(motion.boxes for motion in found[12:29])
    assert not any(box[0] < 320 for motion in found[55:] for box in motion.boxes)


def test_a_shadow_and_the_exposure_are_no_motion() -> None:
    def darker(image: Bgr, t: float) -> Bgr:
        if t > 2:
            image[200:400, int(80 * t) : int(80 * t) + 150] = (
                image[200:400, int(80 * t) : int(80 * t) + 150] * 0.7
            ).astype(np.uint8)
        return np.asarray(cv2.convertScaleAbs(image, alpha=1 - 0.05 * max(t - 2, 0)), dtype=np.uint8)

    found = seen(darker, 6)
    assert sum(bool(motion.boxes) for motion in found[20:]) <= 2


def test_after_the_light_is_switched_it_learns_anew() -> None:
    found = seen(lambda image, t: image if t < 3 else (255 - image), 6)
    assert not found[30].settled
    assert not any(motion.boxes for motion in found[30:])
    assert found[-1].settled
