"""Falls of drawn persons: found at any frame rate, with a detector that loses the lying; everyday motions are not."""

from __future__ import annotations

import pytest

from solutions.cctv import config
from solutions.cctv.rules.falls import FallRunner
from solutions.cctv.scene import Signal, View
from tests.solutions.cctv.figures import SIZE, Story, ramp, scenes

VIEW = View.of(config.Camera(source="x"), SIZE)


def signals(story: Story, fps: float, seconds: float = 6.0, lost: float = 0.0, seed: int = 0) -> list[Signal]:
    runner = FallRunner(config.Fall(type="fall"), VIEW)
    return [signal for scene in scenes(story, seconds, fps, seed, lost) for signal in runner.update(scene)]


def walk(t: float) -> float:
    return 150 + 60 * min(t, 2.5)


def sideways(t: float) -> tuple[float, float, float, float]:
    down = ramp(t, 2.5, 3.3)
    return walk(t) + 60 * down, 400 + 10 * down, 220 - 155 * down, 80 + 130 * down


def towards_camera(t: float) -> tuple[float, float, float, float]:
    down = ramp(t, 2.5, 3.2)
    return walk(t), 380 + 40 * down, 220 - 125 * down, 80 + 20 * down


def far_away(t: float) -> tuple[float, float, float, float]:
    down = ramp(t, 2.5, 3.4)
    return 300 + 20 * down, 200 + 3 * down, 90 - 60 * down, 32 + 48 * down


def sits(t: float) -> tuple[float, float, float, float]:
    down = ramp(t, 2.5, 3.5)
    return walk(t), 400, 220 - 70 * down, 80 + 15 * down


def bends(t: float) -> tuple[float, float, float, float]:
    down = ramp(t, 2.5, 3.2) - ramp(t, 3.6, 4.3)
    return walk(t), 400, 220 - 90 * down, 80 + 40 * down


def crouches(t: float) -> tuple[float, float, float, float]:
    down = ramp(t, 2.5, 3.5)
    return walk(t), 400, 220 - 100 * down, 80 + 20 * down


def lies_down_slowly(t: float) -> tuple[float, float, float, float]:
    down = 0.3 * ramp(t, 1.5, 3.0) + 0.7 * ramp(t, 3.2, 5.5)
    return 300, 400, 220 - 150 * down, 80 + 130 * down


def leaves_below(t: float) -> tuple[float, float, float, float]:
    top = 150 + 320 * ramp(t, 2.0, 3.5)
    return 300, 480, max(480 - top, 12), 90


def behind_a_table(t: float) -> tuple[float, float, float, float]:
    hidden = 110 * (t > 2.5)
    return walk(t), 400 - hidden, 220 - hidden, 85


def walks_away(t: float) -> tuple[float, float, float, float]:
    scale = 1 - 0.11 * t
    return 300, 450 - 40 * t, 240 * scale, 85 * scale


@pytest.mark.parametrize("fps", [25, 10, 5])
@pytest.mark.parametrize("lost", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("story", [sideways, towards_camera, far_away])
def test_a_fall_is_found_as_it_begins(story: Story, lost: float, fps: float) -> None:
    found = signals(story, fps, lost=lost)
    assert {signal.subject for signal in found} == {1}
    assert len({signal.since_s for signal in found}) == 1
    assert 2.0 <= found[0].since_s <= 3.5
    assert found[0].type == "fall"
    assert found[0].why["drop"] > 0.4


@pytest.mark.parametrize("fps", [25, 10, 5])
@pytest.mark.parametrize("lost", [0.0, 0.6])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("story", [sits, bends, crouches, lies_down_slowly, leaves_below, behind_a_table, walks_away])
def test_everyday_motion_is_no_fall(story: Story, seed: int, lost: float, fps: float) -> None:
    assert signals(story, fps, lost=lost, seed=seed) == []


def test_who_gets_up_is_no_longer_down() -> None:
    def story(t: float) -> tuple[float, float, float, float]:
        x, bottom, height, width = sideways(t)
        up = ramp(t, 5.0, 6.0)
        return x, bottom, height + 155 * up, width - 130 * up

    runner = FallRunner(config.Fall(type="fall"), VIEW)
    last = [runner.update(scene) for scene in scenes(story, 9.0, 10)]
    assert last[45]
    assert not last[-1]


def test_a_fall_outside_the_zone_is_not_meant() -> None:
    camera = config.Camera(source="x", zones={"bed": [(0.8, 0.0), (1.0, 0.0), (1.0, 1.0), (0.8, 1.0)]})
    runner = FallRunner(config.Fall(type="fall", zones=("bed",)), View.of(camera, SIZE))
    assert not [signal for scene in scenes(sideways, 6.0, 10) for signal in runner.update(scene)]
