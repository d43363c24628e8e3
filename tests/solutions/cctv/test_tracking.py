"""The tracker through its public surface: who is who, for how long, at any frame rate, and with whatever scores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st

from solutions.cctv.scene import MOVING, PATH_S, Box, Motion, Track
from solutions.cctv.tracking import Tracker

SIZE = (1280, 720)
RATES = pytest.mark.parametrize("fps", [25, 10, 5])
ROOT = Path(__file__).resolve().parents[3]
Seen = tuple[Box, str, float]
"""A box, its label and score."""


def detections(seen: Iterable[Seen] = ()) -> sv.Detections:
    listed = list(seen)
    return sv.Detections(
        xyxy=np.array([box for box, _, _ in listed], dtype=np.float32).reshape(-1, 4),
        confidence=np.array([score for _, _, score in listed], dtype=np.float32),
        class_id=np.zeros(len(listed), dtype=int),
        data={"class_name": np.array([label for _, label, _ in listed], dtype=object)},
    )


def motion(*boxes: Box, settled: bool = True) -> Motion:
    return Motion(np.zeros((72, 128), dtype=np.uint8), 10.0, boxes, 0.01, settled)


def standing(x: float, foot: float = 600.0, height: float = 200.0) -> Box:
    """Of a person whose feet are there."""
    return (x - 0.2 * height, foot - height, x + 0.2 * height, foot)


def person(x: float, foot: float = 600.0, score: float = 0.8, height: float = 200.0) -> Seen:
    return (standing(x, foot, height), "person", score)


def car(x: float, score: float = 0.8, label: str = "car") -> Seen:
    return ((x - 90, 300.0, x + 90, 400.0), label, score)


def play(
    tracker: Tracker, fps: float, seconds: float, see: Callable[[float], list[Seen]], start_s: float = 0.0
) -> list[tuple[float, dict[int, Box]]]:
    """Time and boxes of all tracks at every frame."""
    shown = []
    for frame in range(round(seconds * fps)):
        time_s = start_s + frame / fps
        tracks = tracker.update(detections(see(time_s)), time_s)
        shown.append((time_s, {track.id: track.box for track in tracks}))
    return shown


def nearest(tracks: tuple[Track, ...], x: float) -> Track:
    return min(tracks, key=lambda track: abs(track.centre[0] - x))


# -- identity ----------------------------------------------------------------------------------------------------------


@RATES
def test_two_who_cross_keep_their_identities(fps: int) -> None:
    tracker = Tracker(SIZE)
    rng = np.random.default_rng(1)

    def see(time_s: float) -> list[Seen]:
        left, right = 200 + 150 * time_s, 1000 - 150 * time_s
        shake = rng.normal(0, 3, 2)
        behind = [] if abs(left - right) < 70 else [person(right + shake[1], foot=570)]  # hidden by the nearer one
        return [person(left + shake[0]), *behind]

    shown = play(tracker, fps, 5.0, see)
    began = next(boxes for _, boxes in shown if len(boxes) == 2)
    ended = shown[-1][1]
    assert set().union(*(boxes for _, boxes in shown)) == set(began) == set(ended)
    for one, box in began.items():
        assert (box[0] < 600) == (ended[one][0] > 600)


@RATES
def test_the_same_walk_crosses_a_place_at_the_same_time_at_any_rate(fps: int) -> None:
    tracker = Tracker(SIZE)
    rng = np.random.default_rng(2)
    shown = play(tracker, fps, 6.0, lambda time_s: [person(100 + 170 * time_s + rng.normal(0, 4))])
    assert {one for _, boxes in shown for one in boxes} == {1}
    (track,) = tracker.tracks
    after = next(step.time_s for step in track.path if (step.box[0] + step.box[2]) / 2 > 600)
    assert after == pytest.approx(500 / 170, abs=0.2)


@RATES
def test_who_is_hidden_for_a_second_is_the_same_and_after_long_another(fps: int) -> None:
    tracker = Tracker(SIZE)

    def see(time_s: float) -> list[Seen]:
        hidden = 2.0 < time_s < 3.0 or 5.0 < time_s < 8.0
        return [] if hidden else [person(100 + 100 * time_s)]

    ids = [set(boxes) for time_s, boxes in play(tracker, fps, 10.0, see) if time_s in {1.0, 4.0, 9.0}]
    assert ids == [{1}, {1}, {2}]


def test_doubtful_detections_continue_a_track_but_begin_none() -> None:
    tracker = Tracker(SIZE)
    shown = play(
        tracker, 10, 3.0, lambda time_s: [person(300, score=0.8 if time_s < 1 else 0.2), person(900, score=0.2)]
    )
    assert {one for _, boxes in shown for one in boxes} == {1}
    assert tracker.tracks[0].seen_s == pytest.approx(2.9)


def test_one_faint_detection_is_no_track() -> None:
    tracker = Tracker(SIZE)
    shown = play(tracker, 10, 3.0, lambda time_s: [person(300, score=0.45)] if time_s == 1.0 else [])
    assert not any(boxes for _, boxes in shown)


def test_identities_are_never_used_again() -> None:
    tracker = Tracker(SIZE, patience_s=0.5)
    seen: list[int] = []
    for visit in range(30):
        for frame in range(5):
            time_s = visit * 5.0 + frame / 10
            seen += [track.id for track in tracker.update(detections([person(300)]), time_s)]
        tracker.update(detections(), visit * 5.0 + 1)
        tracker.update(detections(), visit * 5.0 + 2)
    assert len(set(seen)) == 30
    assert seen == sorted(seen)


@pytest.mark.parametrize("extra", [car(500, 0.5, "truck"), ((420.0, 305.0, 560.0, 395.0), "car", 0.6)])
def test_one_object_boxed_twice_is_one_track(extra: Seen) -> None:
    tracker = Tracker(SIZE)
    for frame in range(30):
        tracker.update(detections([car(500, 0.9), extra]), frame / 10)
    assert [track.label for track in tracker.tracks] == ["car"]


def test_two_side_by_side_are_two_and_their_bag_is_a_third() -> None:
    tracker = Tracker(SIZE)
    for frame in range(30):
        x = 300 + 10 * frame / 3
        bag = ((x + 60, 500.0, x + 95, 570.0), "backpack", 0.7)
        tracker.update(detections([person(x), person(x + 60), bag]), frame / 10)
    assert sorted(track.label for track in tracker.tracks) == ["backpack", "person", "person"]


def test_tracks_end_soon_outside_the_picture() -> None:
    tracker = Tracker(SIZE)
    play(tracker, 10, 2.0, lambda time_s: [person(1000 + 150 * time_s)])
    shown = play(tracker, 10, 2.0, lambda _: [], start_s=2.0)
    assert shown[0][1]
    assert not shown[-1][1]
    assert next(time_s for time_s, boxes in shown if not boxes) < 3.2


def test_a_push_to_the_camera_moves_the_hidden_one_along() -> None:
    """All jump by more than half a width while one of them is hidden; it is found again where it now is."""
    tracker = Tracker(SIZE)

    def see(time_s: float) -> list[Seen]:
        jump = 70.0 if time_s >= 2.0 else 0.0
        hidden = 1.5 < time_s < 2.5
        others = [person(x + jump) for x in (150, 350, 800, 1000, 1150)]
        return others if hidden else [*others, person(550 + jump)]

    shown = play(tracker, 10, 4.0, see)
    before = next(boxes for time_s, boxes in shown if time_s == 1.0)
    assert set(shown[-1][1]) == set(before)


# -- labels and scores -------------------------------------------------------------------------------------------------


def test_labels_are_voted_for() -> None:
    tracker = Tracker(SIZE)
    rng = np.random.default_rng(3)
    for frame in range(100):
        label, score = ("truck", 0.45) if rng.random() < 0.3 else ("car", 0.7)
        tracker.update(detections([car(300 + 3 * frame, score, label)]), frame / 25)
    (track,) = tracker.tracks
    assert track.label == "car"
    assert set(track.votes) == {"car", "truck"}


def test_what_is_only_called_by_names_that_mean_nothing_here_begins_no_track() -> None:
    tracker = Tracker(SIZE)
    shown = play(tracker, 10, 2.0, lambda time_s: [car(300 + 50 * time_s, 0.9, "cell phone")])
    assert not any(boxes for _, boxes in shown)


@RATES
def test_scores_that_are_margins_serve_as_well(fps: int) -> None:
    """Public detections of deformable parts models score from below zero to far above one."""
    tracker = Tracker(SIZE)
    rng = np.random.default_rng(4)
    shown = play(
        tracker,
        fps,
        4.0,
        lambda time_s: [
            person(200 + 100 * time_s, score=float(rng.normal(0.6, 0.5))),
            person(900, foot=500, score=float(rng.normal(-2.5, 0.2))),
        ],
    )
    assert {one for time_s, boxes in shown for one in boxes if time_s > 1} == {1}


def test_detections_without_scores_are_sure() -> None:
    tracker = Tracker(SIZE)
    for frame in range(10):
        bare = detections([person(300 + 5 * frame)])
        bare.confidence = None
        tracker.update(bare, frame / 10)
    assert [track.label for track in tracker.tracks] == ["person"]


# -- motion ------------------------------------------------------------------------------------------------------------


def test_what_moves_without_a_name_takes_the_first_that_it_gets_with_its_path() -> None:
    tracker = Tracker(SIZE)
    for frame in range(40):
        x = 100 + 12.0 * frame
        box = (x - 90, 300.0, x + 90, 400.0)
        named = [(box, "car", 0.6)] if frame == 30 else []
        tracks = tracker.update(detections(named), frame / 10, motion(box))
        if frame == 29:
            assert [track.label for track in tracks] == [MOVING]
    (track,) = tracker.tracks
    assert (track.id, track.label) == (1, "car")
    assert track.path[0].time_s < 0.5


def test_a_name_that_means_nothing_follows_what_moves() -> None:
    tracker = Tracker(SIZE)
    for frame in range(20):
        x = 100 + 12.0 * frame
        box = (x - 90, 300.0, x + 90, 400.0)
        tracker.update(detections([(box, "cell phone", 0.9)]), frame / 10, motion(box))
    assert [track.label for track in tracker.tracks] == [MOVING]


def test_motion_keeps_a_track_where_the_detector_is_asked_only_now_and_then() -> None:
    tracker = Tracker(SIZE)
    for frame in range(100):
        x = 100 + 5.0 * frame + 30 * np.sin(frame / 8)
        found = detections([person(x)]) if frame % 10 == 0 else None
        tracker.update(found, frame / 25, motion(standing(x)))
    (track,) = tracker.tracks
    assert track.id == 1
    assert track.centre[0] == pytest.approx(x, abs=15)


def test_parked_in_a_quiet_picture_it_stays_while_nobody_looks() -> None:
    tracker = Tracker(SIZE)
    for frame in range(10):
        tracker.update(detections([car(500)]), frame / 10, motion())
    for second in range(1, 120):
        tracks = tracker.update(None, float(second), motion())
        assert [track.id for track in tracks] == [1]
    assert tracks[0].centre[0] == pytest.approx(500, abs=5)
    assert tracks[0].still_since_s is not None


def test_still_says_since_when() -> None:
    tracker = Tracker(SIZE)
    play(tracker, 10, 8.0, lambda time_s: [person(100 + 150 * min(time_s, 3.0))])
    (track,) = tracker.tracks
    assert track.still_since_s == pytest.approx(3.0, abs=0.6)
    play(tracker, 10, 1.0, lambda time_s: [person(550 + 150 * (time_s - 8))], start_s=8.0)
    assert track.still_since_s is None


def test_a_blob_of_two_does_not_swap_them() -> None:
    tracker = Tracker(SIZE)
    for frame in range(60):
        left, right = 300 + 5.0 * frame, 700.0
        both = (
            motion((left - 40, 400.0, right + 40, 600.0))
            if 30 <= frame < 50
            else motion(standing(left), standing(right))
        )
        seen = None if 30 <= frame < 50 else detections([person(left), person(right)])
        tracks = tracker.update(seen, frame / 25, both)
        if frame == 29:
            before = (nearest(tracks, left).id, nearest(tracks, right).id)
    assert (nearest(tracks, left).id, nearest(tracks, right).id) == before
    assert len([track for track in tracks if track.label == "person"]) == 2


def test_a_shadow_of_the_same_size_does_not_take_a_persons_identity() -> None:
    tracker = Tracker(SIZE)
    for frame in range(50):
        x = 300 + 8.0 * frame
        tracks = tracker.update(detections([person(x)]), frame / 10, motion(standing(x), standing(x - 100, foot=640)))
    (walker,) = [track for track in tracks if track.label == "person"]
    assert walker.id == 1
    assert walker.centre[0] == pytest.approx(x, abs=20)


def test_motion_that_is_not_to_be_trusted_begins_nothing() -> None:
    tracker = Tracker(SIZE)
    for frame in range(20):
        x = 100 + 12.0 * frame
        tracker.update(detections(), frame / 10, motion(standing(x), settled=False))
    assert tracker.tracks == ()


# -- for ever ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1_000_000))
@settings(max_examples=20, deadline=None)
def test_whatever_comes_tracks_are_sound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracker = Tracker(SIZE)
    time_s = 0.0
    for _ in range(40):
        time_s += float(rng.choice([0.01, 0.04, 0.2, 1.0, 30.0]))
        seen = [
            ((x, y, x + w, y + h), str(rng.choice(["person", "car", "kite"])), float(rng.random()))
            for x, y, w, h in rng.uniform(1, 900, (rng.integers(0, 12), 4))
        ]
        blobs = [box for box, _, _ in seen[:3]]
        tracks = tracker.update(detections(seen) if rng.random() < 0.8 else None, time_s, motion(*blobs))
        ids = [track.id for track in tracks]
        assert len(ids) == len(set(ids))
        for track in tracks:
            assert np.isfinite(track.box).all()
            assert track.box[0] < track.box[2]
            assert track.box[1] < track.box[3]
            assert track.first_s <= track.seen_s <= time_s
            times = [step.time_s for step in track.path]
            assert times == sorted(times)
            assert times[-1] - times[0] <= PATH_S


def test_what_is_kept_does_not_grow() -> None:
    """Forty minutes at five pictures a second: one who stays, others who come and go, clutter."""
    tracker = Tracker(SIZE)
    rng = np.random.default_rng(5)
    kept: list[tuple[int, int]] = []
    for frame in range(12_000):
        time_s = frame / 5
        seen = [person(200)]
        if frame % 100 < 40:
            seen.append(person(400 + 15 * (frame % 100)))
        if rng.random() < 0.05:
            seen.append(person(float(rng.uniform(0, 1280)), foot=400, height=80))
        tracks = tracker.update(detections(seen), time_s)
        if frame % 2000 == 1999:
            kept.append((len(tracks), max(len(track.path) for track in tracks)))
    assert all(count <= 6 and steps <= PATH_S * 5 + 2 for count, steps in kept)
    assert tracks[0].id == 1
    assert tracks[0].first_s == 0.0


# -- beside others -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_identities_are_held_no_worse_than_by_the_best_of_the_library(tmp_path: Path) -> None:
    together = _benchmark(tmp_path, "--sequences", "6", "--seed", "3")
    ours = together.pop("Haechi")
    assert set(together) >= {"ByteTrack", "OCSORT", "SORT", "BoTSORT", "CBIoU"}
    for name in ("hota", "idf1"):
        assert ours[name] >= max(other[name] for other in together.values()) - 0.005


def test_the_benchmark_reads_sequences_in_the_form_of_the_motchallenge(tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    for part in ("det", "gt"):
        (tmp_path / "walk" / part).mkdir(parents=True)
    lines = [
        (frame, one, 100 + 4 * frame * (1 if one == 1 else -1) + 600 * (one - 1), 100, 60, 150)
        for frame in range(1, 41)
        for one in (1, 2)
    ]
    (tmp_path / "walk/gt/gt.txt").write_text("".join(f"{f},{i},{x},{y},{w},{h},1,1,1\n" for f, i, x, y, w, h in lines))
    (tmp_path / "walk/det/det.txt").write_text(
        "".join(f"{f},-1,{x},{y},{w},{h},0.9,-1,-1,-1\n" for f, _, x, y, w, h in lines)
    )
    (tmp_path / "walk/seqinfo.ini").write_text(
        "[Sequence]\nname=walk\nframeRate=25\nseqLength=40\nimWidth=1280\nimHeight=720\n"
    )
    ours = _benchmark(tmp_path, "--mot", str(tmp_path), "--tracks", str(tmp_path / "out"))["Haechi"]
    assert ours["idf1"] == pytest.approx(1.0)
    assert ours["hota"] > 0.95
    written = (tmp_path / "out/Haechi/walk.txt").read_text().splitlines()
    assert {line.split(",")[1] for line in written} == {"1", "2"}
    assert len(written) == 80


def _benchmark(folder: Path, *options: str) -> dict[str, dict[str, float]]:
    """Figures of all sequences together, by tracker."""
    import json

    pytest.importorskip("trackers")
    out = folder / "figures.json"
    command = [sys.executable, "benchmarks/tracking.py", *options, "--json", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {row["tracker"]: row for row in json.loads(out.read_text())["together"]}


def test_who_has_left_the_picture_is_forgotten_though_nobody_can_look_there() -> None:
    tracker = Tracker(SIZE)
    for frame in range(11):
        tracker.update(detections([person(SIZE[0] - 200 + 20 * frame)]), frame / 10)
    assert tracker.tracks
    region = (0.0, 0.0, 400.0, 400.0)
    for frame in range(11, 60):
        tracker.update(detections(), frame / 10, motion(), [region])
    assert tracker.tracks == ()


def test_what_is_quick_is_followed_by_its_motion_from_the_first_frames() -> None:
    tracker, seen = Tracker(SIZE), set()
    for frame in range(12):
        top = 60.0 * frame
        tracks = tracker.update(None, frame / 12, motion((300.0, top, 400.0, top + 70)))
        seen |= {track.id for track in tracks}
    assert len(seen) == 1
    (track,) = tracks
    assert [step.box[1] for step in track.path][:2] == pytest.approx([0.0, 60.0], abs=25)


def test_what_was_known_by_its_motion_alone_ends_with_it() -> None:
    tracker = Tracker(SIZE)
    for frame in range(20):
        tracker.update(None, frame / 10, motion((300.0 + 5 * frame, 100.0, 400.0 + 5 * frame, 200.0)))
    assert tracker.tracks
    for frame in range(20, 26):
        tracker.update(None, frame / 10, motion())
    assert not tracker.tracks


def test_who_stands_still_keeps_the_number_though_few_looks_see_anything() -> None:
    tracker, numbers = Tracker(SIZE), set()
    for frame in range(400):
        looked = frame < 40 or frame % 10 == 0
        sees = frame < 40 or frame % 40 == 0
        found = detections([person(300)] if sees else []) if looked else None
        numbers.add(tuple(track.id for track in tracker.update(found, frame / 10, motion())))
    assert numbers - {()} == {(1,)}
    for frame in range(400, 500):
        tracker.update(detections() if frame % 10 == 0 else None, frame / 10, motion())
    assert not tracker.tracks
