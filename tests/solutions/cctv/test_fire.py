"""Flames and smoke without a model: a burning house, drawn flames and veils; lamps, vests, everyday clips are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from edge.io.frames import Bgr, Frame
from solutions.cctv import config
from solutions.cctv.rules.fire import FireRunner, SmokeRunner
from solutions.cctv.scene import Scene, Signal, Track, View
from tests.solutions.cctv.figures import CLIPS

SIZE = (320, 180)
Draw = Callable[[float, np.random.Generator, Bgr], None]
NEGATIVE = [
    "bottle-detection.mp4",
    "car-detection.mp4",
    "people-detection.gif",
    "person-bicycle-car-detection.gif",
    "store-aisle-detection.gif",
    "worker-zone-detection.gif",
]


def signals(scenes: Iterator[Scene]) -> list[Signal]:
    first = next(scenes)
    view = View.of(config.Camera(source="x"), first.size)
    fire, smoke = FireRunner(config.Fire(type="fire"), view), SmokeRunner(config.Smoke(type="smoke"), view)
    found = fire.update(first) + smoke.update(first)
    for scene in scenes:
        found += fire.update(scene) + smoke.update(scene)
    return found


def clip(name: str, step: int, until_s: float = 1e9) -> Iterator[Scene]:
    path = CLIPS / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    capture = cv2.VideoCapture(str(path))
    fps, index = capture.get(cv2.CAP_PROP_FPS), -1
    while (index + 1) / fps < until_s:
        there, image = capture.read()
        index += 1
        if not there:
            return
        if index % step == 0:
            yield Scene(
                Frame("c", index, index / fps, image.astype(np.uint8, copy=False)), (image.shape[1], image.shape[0]), ()
            )


def drawn(draw: Draw, fps: float, seconds: float = 8.0, tracks: tuple[Track, ...] = ()) -> Iterator[Scene]:
    rng = np.random.default_rng(3)
    ground = rng.integers(70, 150, (SIZE[1] // 4, SIZE[0] // 4, 1), dtype=np.uint8).repeat(3, axis=2)
    ground = cv2.resize(ground, SIZE, interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    for index in range(int(seconds * fps)):
        image = ground.copy()
        draw(index / fps, rng, image)
        noisy = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        yield Scene(Frame("c", index, index / fps, noisy), SIZE, tracks)


def flame(_: float, rng: np.random.Generator, image: Bgr) -> None:
    for _tongue in range(8):
        x, height = int(rng.integers(140, 175)), int(rng.integers(12, 40))
        cv2.ellipse(
            image, (x, 140 - height // 2), (6, height // 2), 0, 0, 360, (30, int(rng.integers(80, 230)), 255), -1
        )


def lamp(t: float, _: np.random.Generator, image: Bgr) -> None:
    if t % 0.8 < 0.4:
        cv2.circle(image, (160, 90), 9, (40, 150, 255), -1)


def vest(t: float, _: np.random.Generator, image: Bgr) -> None:
    x = int(20 + 30 * t)
    cv2.rectangle(image, (x, 80), (x + 25, 120), (40, 110, 250), -1)
    cv2.line(image, (x + 8, 80), (x + 8, 120), (200, 200, 200), 3)


def sunset(_: float, __: np.random.Generator, image: Bgr) -> None:
    image[:60] = (60, 140, 250)


@pytest.mark.parametrize("fps", [25, 10, 5])
def test_flames_are_found_where_they_are(fps: float) -> None:
    found = signals(drawn(flame, fps))
    assert {signal.type for signal in found} == {"fire"}
    assert {signal.since_s for signal in found} == {found[0].since_s}
    assert found[0].since_s <= 2.0
    box = found[-1].box
    assert box is not None
    assert box[0] < 160 < box[2]
    assert 80 < (box[1] + box[3]) / 2 < 145
    assert found[0].why["method"] == "colour and flicker (fallback)"


@pytest.mark.parametrize("fps", [25, 10, 5])
@pytest.mark.parametrize("draw", [lamp, vest, sunset])
def test_what_is_only_coloured_is_no_fire(draw: Draw, fps: float) -> None:
    assert signals(drawn(draw, fps)) == []


def test_what_flickers_on_a_person_is_no_fire() -> None:
    person = Track(1, "person", (120, 60, 200, 175), 0.9, 0.0, 0.0)
    assert signals(drawn(flame, 10, tracks=(person,))) == []


@pytest.mark.parametrize("fps", [10, 5])
def test_a_spreading_veil_is_smoke_and_a_shadow_is_not(fps: float) -> None:
    def veil(t: float, rng: np.random.Generator, image: Bgr) -> None:
        if t > 6:
            reach = min(int(12 * (t - 6)), 110)
            part = image[150 - reach : 150, 100:220]
            cloud = cv2.resize(rng.normal(200, 12, (4, 5)).astype(np.float32), (part.shape[1], part.shape[0]))
            part[:] = np.clip(0.2 * part + 0.8 * cloud[:, :, None], 0, 255).astype(np.uint8)

    def shadow(t: float, _: np.random.Generator, image: Bgr) -> None:
        if t > 6:
            part = image[40:150, 100 : 100 + min(int(20 * (t - 6)), 120)]
            part[:] = (0.6 * part).astype(np.uint8)

    found = signals(drawn(veil, fps, 20.0))
    assert {signal.type for signal in found} == {"smoke"}
    assert 5.0 <= found[0].since_s <= 11.0
    assert signals(drawn(shadow, fps, 20.0)) == []


@pytest.mark.parametrize("step", [1, 3, 6])
def test_the_burning_house(step: int) -> None:
    found = [signal for signal in signals(clip("furg_fire/house6.mp4", step, 12.0)) if signal.type == "fire"]
    assert found
    assert found[0].since_s <= 1.0
    assert len({signal.since_s for signal in found}) == 1


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("name", NEGATIVE)
def test_everyday_clips_have_neither(name: str, step: int) -> None:
    assert signals(clip(f"intel_sample_videos/{name}", step)) == []
