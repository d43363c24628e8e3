"""Things left and things taken in a drawn hall: when they begin, what does not end them, and what is neither."""

from __future__ import annotations

import dataclasses

import pytest

from solutions.cctv import config
from solutions.cctv.rules import runner_for
from solutions.cctv.scene import Signal, View
from tests.solutions.cctv.staged import SIZE, Place, Stage, Thing, lies, walk

BAG = (200.0, 170.0, 222.0, 188.0)
OWNER = (0.0, 0.0, 24.0, 80.0)
PUT_S, LEFT_S = 4.0, 8.0


def owner(now: float) -> tuple[float, float, float, float] | None:
    """Comes, stands by the bag from `PUT_S` to `LEFT_S`, and goes on."""
    x = 180 - 60 * (PUT_S - now) if now < PUT_S else 180 - 60 * max(now - LEFT_S, 0.0)
    return (x, 110.0, x + OWNER[2], 190.0) if x > -30 else None


def told(
    things: tuple[Thing, ...], fps: float = 10, seconds: float = 26.0, kind: str = "abandoned_object"
) -> list[list[Signal]]:
    """Signals at each frame."""
    view = View.of(config.Camera(source="x"), SIZE)
    rules = {"abandoned_object": config.AbandonedObject, "removed_object": config.RemovedObject}
    runner = runner_for(rules[kind](type=kind), view)
    return [runner.update(scene) for scene in Stage(things, seconds).scenes(fps)]


def bag(place: Place) -> Thing:
    return Thing(place, (40, 40, 170), seed=4)


def person(place: Place) -> Thing:
    return Thing(place, (60, 110, 60), "person", seed=5)


@pytest.mark.parametrize("fps", [5, 10, 25])
def test_a_bag_is_left_when_its_owner_leaves(fps: float) -> None:
    signals = [each for frame in told((bag(lies(BAG, PUT_S)), person(owner)), fps) for each in frame]
    assert {each.subject for each in signals} == {signals[0].subject}, "once"
    assert LEFT_S - 0.5 <= signals[0].since_s <= LEFT_S + 2.5
    assert signals[0].box == pytest.approx(BAG, abs=6)


def test_it_is_not_announced_while_the_owner_stays() -> None:
    stays = dataclasses.replace(person(owner), place=lambda now: owner(min(now, LEFT_S)))
    assert not any(told((bag(lies(BAG, PUT_S)), stays)))


def test_who_walks_past_neither_minds_nor_ends_it() -> None:
    passer = person(walk((330, 112), (-40, 112), 20.0, 5.0, OWNER))
    frames = told((bag(lies(BAG, PUT_S)), person(owner), passer), seconds=30.0)
    from_s = next(index for index, frame in enumerate(frames) if frame)
    assert from_s / 10 < 16.0
    assert all(frames[from_s:])
    assert len({each.subject for frame in frames for each in frame}) == 1


def test_it_ends_when_the_bag_is_taken() -> None:
    frames = told((bag(lies(BAG, PUT_S, 20.0)), person(owner)), seconds=26.0)
    assert frames[19 * 10]
    assert not any(frames[23 * 10 :])


def test_left_and_taken_are_told_apart_by_rules_of_one_camera() -> None:
    view = View.of(config.Camera(source="x"), SIZE)
    left = runner_for(config.AbandonedObject(type="abandoned_object"), view)
    taken = runner_for(config.RemovedObject(type="removed_object"), view)
    assert len(view.shared) == 1, "both look at one background"
    things = (bag(lies(BAG, PUT_S)), Thing(lies((300, 200, 330, 225), 0.0, 9.0), (190, 190, 30), seed=9))
    found: dict[str, set[object]] = {"left": set(), "taken": set()}
    for scene in Stage(things, 24.0).scenes(10):
        found["left"] |= {(each.type, round(each.since_s)) for each in left.update(scene)}
        found["taken"] |= {(each.type, round(each.since_s)) for each in taken.update(scene)}
    assert found == {"left": {("abandoned_object", 4)}, "taken": {("removed_object", 9)}}
