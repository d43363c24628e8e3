"""Where to look: properties that hold for any picture and any things in it."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solutions.cctv import regions
from solutions.cctv.regions import Looker, gathered, interest, square, tiles
from solutions.cctv.scene import MOVING, Box, Motion, Step, Track

SIZES = st.tuples(st.integers(64, 4000), st.integers(64, 3000))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[tuple[int, int], list[Box]]:
    size = draw(SIZES)
    boxes = []
    for _ in range(draw(st.integers(1, 12))):
        left = draw(st.floats(0, size[0] - 2))
        top = draw(st.floats(0, size[1] - 2))
        boxes.append((left, top, draw(st.floats(left + 1, size[0])), draw(st.floats(top + 1, size[1]))))
    return size, boxes


def motion(*boxes: Box, settled: bool = True) -> Motion:
    return Motion(np.zeros((10, 10), dtype=np.uint8), 1.0, boxes, 0.1, settled)


def track(box: Box, *, still: bool) -> Track:
    path = deque([Step(0.0, box, measured=True)])
    return Track(1, "person", box, 0.9, 0.0, 0.0, path, still_since_s=0.0 if still else None)


def holds(outer: Box, inner: Box) -> bool:
    return all(outer[i] <= inner[i] + 1e-6 for i in (0, 1)) and all(outer[i] >= inner[i] - 1e-6 for i in (2, 3))


@given(pictures())
@settings(max_examples=150, deadline=None)
def test_every_thing_lies_whole_in_a_region_and_regions_are_few(picture: tuple[tuple[int, int], list[Box]]) -> None:
    size, boxes = picture
    found = gathered([interest(box, size, 416, 40) for box in boxes], size)
    assert 1 <= len(found) <= regions.MOST
    for box in boxes:
        assert any(holds(region, box) for region in found)
    for region in found:
        assert holds((0.0, 0.0, float(size[0]), float(size[1])), region)
        assert all(value == int(value) for value in region)


@given(pictures())
@settings(max_examples=60, deadline=None)
def test_the_order_of_things_decides_nothing_about_what_is_seen(picture: tuple[tuple[int, int], list[Box]]) -> None:
    size, boxes = picture
    for order in (boxes, boxes[::-1]):
        found = gathered([interest(box, size, 416, 40) for box in order], size)
        assert all(any(holds(region, box) for region in found) for box in boxes)


@given(SIZES, st.integers(100, 700))
@settings(max_examples=80, deadline=None)
def test_tiles_cover_the_picture_and_cut_nothing_small_everywhere(size: tuple[int, int], side: int) -> None:
    found = tiles(size, side)
    small = side * regions.TILE_OVERLAP * 0.9
    for x in np.linspace(0, max(0.0, size[0] - small), 7):
        for y in np.linspace(0, max(0.0, size[1] - small), 7):
            thing = (float(x), float(y), min(float(x + small), size[0]), min(float(y + small), size[1]))
            assert any(holds(tile, thing) for tile in found)


@given(SIZES, st.floats(1, 5000))
@settings(max_examples=80, deadline=None)
def test_a_square_stays_in_the_picture(size: tuple[int, int], edge: float) -> None:
    found = square((0.0, 0.0, 10.0, 10.0), edge, size)
    assert holds((0.0, 0.0, float(size[0]), float(size[1])), found)
    assert found[2] - found[0] >= min(edge, size[0]) - 1e-6


def test_a_distant_person_is_enlarged_for_a_detector_that_is_blind_for_small_ones() -> None:
    person = (900.0, 500.0, 925.0, 570.0)
    (sharp,) = gathered([interest(person, (1920, 1080), 416, 40)], (1920, 1080))
    (blind,) = gathered([interest(person, (1920, 1080), 300, 90)], (1920, 1080))
    assert sharp[2] - sharp[0] == 416
    assert 150 <= blind[2] - blind[0] <= 300


def test_large_things_are_looked_at_in_one_picture() -> None:
    boxes = [(20.0, 50.0, 120.0, 350.0), (600.0, 60.0, 700.0, 360.0)]
    assert gathered([interest(box, (768, 432), 416, 40) for box in boxes], (768, 432)) == [(0, 0, 768, 432)]


def test_a_quiet_camera_is_looked_at_now_and_then() -> None:
    looker = Looker((768, 432))
    looks = [(i / 10, looker.plan(motion(), [], i / 10)) for i in range(100)]
    times = [time_s for time_s, found in looks if found is not None]
    assert times == pytest.approx([0.0, 3.0, 6.0, 9.0])


def test_the_plan_does_not_depend_on_the_rate_of_frames() -> None:
    counts = {}
    for fps in (5, 10, 25):
        looker = Looker((768, 432))
        plans = [looker.plan(motion(), [], index / fps) for index in range(30 * fps)]
        counts[fps] = sum(plan is not None for plan in plans)
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
    ("label", "still", "speed", "wanted"),
    [
        ("person", True, 0.0, 2),  # each second
        ("person", False, 100.0, 14),  # each fifth of a second
        ("person", False, 400.0, 29),  # out of its own box in that time: each time
        (MOVING, False, 100.0, 18),  # at first each time, for it may yet get a name; then seldom
    ],
)
def test_a_track_is_looked_at_as_often_as_the_look_can_tell(label: str, still: bool, speed: float, wanted: int) -> None:
    looker = Looker((1920, 1080))
    looker.plan(motion(), [], 0.0)
    path: deque[Step] = deque()
    seen = 0
    for index in range(1, 30):
        left = 400.0 + speed * index / 10
        box = (left, 500.0, left + 40, 620.0)
        path.append(Step(index / 10, box, measured=True))
        one = Track(1, label, box, 0.9, 0.1, 0.0, path, still_since_s=0.0 if still else None)
        plan = looker.plan(motion(box), [one], index / 10)
        seen += plan is not None
        assert plan is None or any(holds(region, box) for region in plan)
    assert seen == pytest.approx(wanted, abs=1)


def test_motion_that_no_track_explains_is_looked_at() -> None:
    looker = Looker((1920, 1080))
    box, other = (400.0, 500.0, 440.0, 620.0), (1400.0, 500.0, 1440.0, 620.0)
    one = track(box, still=True)
    looker.plan(motion(), [one], 0.0)
    assert looker.plan(motion(box), [one], 0.1) is None
    plan = looker.plan(motion(box, other), [one], 0.2)
    assert plan is not None
    assert any(holds(region, other) for region in plan)


def test_a_region_cuts_through_nobody_who_is_followed() -> None:
    looker = Looker((1920, 1080))
    still = track((420.0, 400.0, 520.0, 700.0), still=True)
    looker.plan(motion(), [still], 0.0)
    plan = looker.plan(motion((540.0, 600.0, 600.0, 680.0)), [still], 0.1)
    assert plan is not None
    assert all(holds(region, still.box) for region in plan)


def test_when_nothing_is_sure_the_whole_is_looked_at() -> None:
    looker = Looker((768, 432))
    for time_s in (0.0, 0.1, 0.2):
        assert looker.plan(motion(settled=False), [], time_s) == ((0, 0, 768, 432),)
        assert looker.plan(None, [], time_s) == ((0, 0, 768, 432),)


def test_tiles_are_added_to_whole_looks() -> None:
    found = Looker((1280, 720), tiles=True).plan(motion(), [], 0.0)
    assert found is not None
    assert found[0] == (0, 0, 1280, 720)
    assert len(found) == 1 + len(tiles((1280, 720), 416))


def test_what_lies_outside_the_picture_asks_for_nothing() -> None:
    looker = Looker((768, 432))
    looker.plan(motion(), [], 0.0)
    assert looker.plan(motion(), [track((-90.0, 10.0, -10.0, 200.0), still=False)], 0.1) is None
