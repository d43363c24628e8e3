"""Walks that are reckoned, not filmed: boxes go through tracker, rules and event machine, at three rates of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import supervision as sv

from edge.io.frames import Frame
from solutions.cctv.config import Camera
from solutions.cctv.machine import EventMachine, new_id
from solutions.cctv.rules import runner_for
from solutions.cctv.scene import MOVING, Event, Motion, Scene, View
from solutions.cctv.tracking import Tracker

SIZE = (640, 480)
RATES = (25, 10, 5)
IMAGE = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
CAMERA: dict[str, Any] = {
    "source": "x",
    "zones": {"right": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]},
    "lines": {"upright": [[0.5, 0.05], [0.5, 0.95]], "sideways": [[0.05, 0.5], [0.95, 0.5]]},
    "ground": {"image": [[0, 0], [1, 0], [1, 1], [0, 1]], "metres": [[0, 0], [32, 0], [32, 24], [0, 24]]},
}
Walk = Callable[[float], tuple[float, float] | None]
"""Foot in pixels at a moment; None: not there."""


def box(foot: tuple[float, float], height: float = 100.0, width: float = 40.0) -> list[float]:
    return [foot[0] - width / 2, foot[1] - height, foot[0] + width / 2, foot[1]]


def seen(walks: Iterable[tuple[str, Walk]], time_s: float, generator: np.random.Generator) -> sv.Detections:
    found = [(label, walk(time_s)) for label, walk in walks]
    here = [(label, foot) for label, foot in found if foot is not None]
    boxes = np.array([box(foot) for _, foot in here], dtype=np.float32).reshape(-1, 4)
    return sv.Detections(
        xyxy=boxes + generator.normal(0, 1.0, boxes.shape).astype(np.float32),
        confidence=np.full(len(here), 0.8, dtype=np.float32),
        class_id=np.zeros(len(here), dtype=int),
        data={"class_name": np.array([label for label, _ in here])},
    )


def events(rules: list[dict[str, Any]], walks: list[tuple[str, Walk]], seconds: float, fps: int) -> list[Event]:
    """What is announced, in order of starts, everything ended."""
    camera = Camera.model_validate(CAMERA | {"rules": rules})
    view, tracker, machine = View.of(camera, SIZE), Tracker(SIZE), EventMachine("yard", "clip")
    runners = [(rule, runner_for(rule, view)) for rule in camera.rules]
    generator, told = np.random.default_rng(0), {}
    for number in range(int(seconds * fps)):
        time_s = number / fps
        frame = Frame("yard", number, time_s, IMAGE)
        scene = Scene(frame, SIZE, tracker.update(seen(walks, time_s, generator), time_s))
        signals = [(rule, signal) for rule, runner in runners for signal in runner.update(scene)]
        told |= {message.event.id: message.event for message in machine.update(signals, frame)}
    told |= {message.event.id: message.event for message in machine.close()}
    return sorted(told.values(), key=lambda event: event.start_s)


def across(start_x: float, speed: float, y: float = 300.0, since_s: float = 0.0) -> Walk:
    return lambda time_s: (start_x + speed * (time_s - since_s), y) if time_s >= since_s else None


CROSSING = {"type": "line_crossing", "lines": ["upright"]}


@pytest.mark.parametrize("fps", RATES)
def test_a_crossing_is_told_once_with_time_and_direction(fps: int) -> None:
    walks = [("person", across(120, 80)), ("car", across(560, -100, y=420))]
    first, second = sorted(events([CROSSING], walks, 5, fps), key=lambda event: event.direction or "")
    assert (first.direction, second.direction) == ("left", "right")
    assert first.start_s == pytest.approx(2.4, abs=0.15)
    assert second.start_s == pytest.approx(2.5, abs=0.15)
    assert first.start_s == first.end_s


def test_up_and_down_over_a_line_that_runs_sideways() -> None:
    rule = {"type": "line_crossing", "lines": ["sideways"]}
    walks: list[tuple[str, Walk]] = [
        ("person", lambda t: (200, 160 + 60 * t)),
        ("person", lambda t: (440, 400 - 60 * t)),
    ]
    assert sorted(event.direction or "" for event in events([rule], walks, 4, 10)) == ["down", "up"]


def test_who_wavers_on_the_line_has_not_crossed_it() -> None:
    walks: list[tuple[str, Walk]] = [("person", lambda t: (320 + 5 * np.sin(6 * t), 300))]
    assert len(events([CROSSING], walks, 6, 10)) <= 1
    back: list[tuple[str, Walk]] = [("person", lambda t: (260 + 55 * np.sin(t), 300))]
    assert not events([CROSSING], back, 6, 10)


def test_there_and_back_is_told_twice_and_two_at_once_are_two() -> None:
    there: list[tuple[str, Walk]] = [("person", lambda t: (320 + 120 * np.sin(0.8 * t - 1.5), 300))]
    assert [event.direction for event in events([CROSSING], there, 6, 10)] == ["right", "left"]
    pair = [("person", across(120, 80, y=300)), ("person", across(120, 80, y=420))]
    assert len(events([CROSSING], pair, 5, 10)) == 2


@pytest.mark.parametrize("fps", RATES)
def test_a_zone_is_one_event_while_somebody_is_in_it(fps: int) -> None:
    rule = {"type": "intrusion", "zones": ["right"]}
    walks: list[tuple[str, Walk]] = [
        ("person", lambda t: (200 + 100 * t, 300) if t < 4 else None),
        ("person", lambda t: (200 + 100 * (t - 2), 440) if 2 <= t < 6 else None),
        ("person", lambda t: (200 + 100 * (t - 11), 300) if t >= 11 else None),
    ]
    first, second = events([rule], walks, 15, fps)
    assert first.start_s == pytest.approx(1.2, abs=0.3)
    assert first.end_s == pytest.approx(6, abs=2.5)
    assert len(first.track_ids) == 2
    assert second.start_s == pytest.approx(12.2, abs=0.3)


def test_who_stops_in_front_of_a_zone_is_not_in_it() -> None:
    walks: list[tuple[str, Walk]] = [("person", lambda t: (min(200 + 60 * t, 305), 300))]
    assert not events([{"type": "intrusion", "zones": ["right"]}], walks, 10, 10)


@pytest.mark.parametrize("fps", RATES)
def test_loitering_forgives_what_the_detector_misses(fps: int) -> None:
    def walk(time_s: float) -> tuple[float, float] | None:
        return None if 4 < time_s < 4.8 or time_s > 14 else (420 + 20 * np.sin(time_s), 300)

    (event,) = events([{"type": "loitering", "zones": ["right"], "min_s": 8}], [("person", walk)], 16, fps)
    assert event.start_s < 1
    assert not events([{"type": "loitering", "zones": ["right"], "min_s": 15}], [("person", walk)], 16, fps)


def test_crowding_and_working_alone() -> None:
    walks = [("person", across(x, 0, since_s=since)) for x, since in ((360, 0), (450, 6), (540, 6))]
    crowd, alone = {"type": "crowding", "zones": ["right"], "min_persons": 3}, {"type": "working_alone", "min_s": 4}
    found = {event.type: event for event in events([crowd, alone], walks, 10, 10)}
    assert found["crowding"].start_s == pytest.approx(6.1, abs=0.4)
    assert found["working_alone"].start_s < 0.5
    assert set(found) == {"crowding", "working_alone"}


def test_the_wrong_way_and_too_close_behind() -> None:
    wrong = {"type": "wrong_direction", "zones": ["right"], "allowed": [1, 0]}
    against, along = [("person", across(600, -60))], [("person", across(340, 60))]
    assert [event.type for event in events([wrong], against, 4, 10)] == ["wrong_direction"]
    assert not events([wrong], along, 4, 10)
    close = {"type": "tailgating", "lines": ["upright"], "within_s": 1.5}
    followed = [("person", across(200, 80)), ("person", across(120, 80))]
    assert len(events([close], followed, 6, 10)) == 1
    assert not events([close], [("person", across(200, 80)), ("person", across(0, 80))], 6, 10)


def test_metres_between_a_person_and_a_lorry_that_moves() -> None:
    rule = {"type": "vehicle_near_person", "min_distance_m": 3}
    (event,) = events([rule], [("person", across(400, 0)), ("truck", across(100, 60))], 6, 10)
    assert event.why["distance_m"] < 3
    assert event.start_s == pytest.approx((400 - 60 - 20 - 100) / 60, abs=0.5)
    assert not events([rule], [("person", across(400, 0)), ("truck", across(330, 0))], 6, 10)


def test_two_who_cross_keep_their_numbers() -> None:
    tracker, generator = Tracker(SIZE), np.random.default_rng(1)
    walks = [("person", across(100, 100, y=300)), ("person", across(540, -100, y=330))]
    last: dict[int, float] = {}
    for number in range(40):
        for track in tracker.update(seen(walks, number / 10, generator), number / 10):
            last[track.id] = track.foot[0]
    assert len(last) == 2
    assert last[1] > 400
    assert last[2] < 240


def test_a_car_that_is_called_a_suitcase_is_followed_and_named_when_it_is_known() -> None:
    tracker = Tracker(SIZE)
    for number in range(30):
        time_s = number / 10
        place = np.array([box((100 + 100 * time_s, 300), 90, 160)], dtype=np.float32)
        motion = Motion(np.zeros((1, 1), np.uint8), 1.0, (tuple(place[0].tolist()),), 0.1, settled=True)
        name = "car" if number == 20 else "kite"
        found = sv.Detections(
            xyxy=place, confidence=np.array([0.5]), class_id=np.array([0]), data={"class_name": np.array([name])}
        )
        (track,) = tracker.update(found, time_s, motion) or (None,)
        if 5 <= number < 20:
            assert track is not None
            assert track.label == MOVING
    assert track is not None
    assert (track.id, track.label) == (1, "car")
    assert track.path[0].time_s < 0.5


def test_what_rests_is_kept_while_nobody_looks_and_memory_stays_flat() -> None:
    tracker, generator = Tracker(SIZE), np.random.default_rng(2)
    for number in range(3000):
        looked = number < 10
        tracker.update(seen([("car", across(300, 0))], 0.1, generator) if looked else None, number / 10)
    (track,) = tracker.tracks
    assert track.id == 1
    assert track.still_since_s is not None
    assert len(track.path) <= 1202  # 120 s
    for number in range(30):
        tracker.update(seen([], 0.0, generator), 300 + number / 10)
    assert not tracker.tracks


def test_ids_sort_by_time_and_are_never_the_same() -> None:
    made = [new_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert [each[:10] for each in made] == sorted(each[:10] for each in made)


def test_cooldown_and_hold() -> None:
    def walk(time_s: float) -> tuple[float, float] | None:
        return (420, 300) if time_s % 10 < 3 else None

    rule: dict[str, Any] = {"type": "intrusion", "zones": ["right"]}
    assert len(events([rule], [("person", walk)], 40, 10)) == 4
    assert len(events([rule | {"cooldown_s": 12}], [("person", walk)], 40, 10)) == 2
    assert len(events([rule | {"hold_s": 20}], [("person", walk)], 40, 10)) == 1


def passing(names: list[str], score: float = 0.5) -> list[Event]:
    """What a line says of something that moves over it while a detector calls it these names, one after the other."""
    camera = Camera.model_validate(CAMERA | {"rules": [CROSSING]})
    view, tracker, machine = View.of(camera, SIZE), Tracker(SIZE), EventMachine("yard", "clip")
    runner, told = runner_for(camera.rules[0], view), {}
    for number in range(40):
        time_s = number / 10
        place = np.array([box((100 + 120 * time_s, 300), 90, 160)], dtype=np.float32)
        motion = Motion(np.zeros((1, 1), np.uint8), 1.0, (tuple(place[0].tolist()),), 0.1, settled=True)
        found = sv.Detections(
            xyxy=place,
            confidence=np.array([score]),
            class_id=np.array([0]),
            data={"class_name": np.array([names[number % len(names)]])},
        )
        looked = number % 2 == 0
        frame = Frame("yard", number, time_s, IMAGE)
        scene = Scene(frame, SIZE, tracker.update(found if looked else None, time_s, motion), motion)
        signals = [(camera.rules[0], signal) for signal in runner.update(scene)]
        told |= {message.event.id: message.event for message in machine.update(signals, frame)}
    return list(told.values())


def test_a_car_that_is_never_called_one_crosses_all_the_same() -> None:
    (event,) = passing(["cell phone", "cell phone", "kite", "kite"])
    assert event.start_s == pytest.approx((0.5 * SIZE[0] - 100) / 120, abs=0.15)
    assert event.why["label"] == "unknown"


def test_names_of_one_kind_add_up() -> None:
    (event,) = passing(["train", "train", "cell phone", "cell phone", "bus", "bus"], score=0.17)
    assert event.why["label"] in ("train", "bus")


@pytest.mark.parametrize("name", ["dog", "bird"])
def test_animals_do_not_cross(name: str) -> None:
    assert not passing([name])


def test_a_shadow_that_no_detector_sees_does_not_cross() -> None:
    assert not passing(["kite"], score=0.05)


def test_cars_close_behind_one_another_are_two() -> None:
    walks = [("car", across(100, 200, y=300)), ("car", across(100, 200, y=300, since_s=0.8))]
    assert len(events([CROSSING], walks, 4, 10)) == 2
