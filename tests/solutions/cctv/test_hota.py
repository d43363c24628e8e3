"""HOTA, IDF1 and MOTA: cases whose values follow from the definitions by hand, and another implementation's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from solutions.cctv.hota import Boxes, Counts, read_mot, score

LENGTH = 100
Row = tuple[int, int, float]
"""Frame, identity, left edge of a box 10 wide and 20 high."""


def boxes(rows: list[Row], kind: int = -1) -> Boxes:
    table = np.array([(frame, one, left, 0.0, left + 10, 20.0) for frame, one, left in rows]).reshape(-1, 6)
    return Boxes(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2:],
        np.ones(len(table)),
        np.full(len(table), kind, dtype=np.int64),
    )


def track(one: int, frames: range, left: float = 0.0) -> list[Row]:
    return [(frame, one, left) for frame in frames]


ALL, FIRST, SECOND = range(LENGTH), range(LENGTH // 2), range(LENGTH // 2, LENGTH)


@pytest.mark.parametrize(
    ("truth", "tracked", "det_a", "ass_a", "idf1", "mota", "switches"),
    [
        pytest.param(track(1, ALL), track(7, ALL), 1, 1, 1, 1, 0, id="perfect"),
        pytest.param(track(1, ALL), track(1, FIRST), 0.5, 0.5, 2 / 3, 0.5, 0, id="half found"),
        pytest.param(
            track(1, ALL), track(1, FIRST) + track(2, SECOND), 1, 0.5, 0.5, 0.99, 1, id="one object, two identities"
        ),
        pytest.param(
            track(1, FIRST) + track(2, SECOND), track(1, ALL), 1, 0.5, 0.5, 1, 0, id="two objects, one identity"
        ),
        pytest.param(
            track(1, ALL) + track(2, ALL, 50),
            track(1, FIRST) + track(1, SECOND, 50) + track(2, FIRST, 50) + track(2, SECOND),
            1,
            1 / 3,
            0.5,
            0.99,
            2,
            id="two swap identities half-way",
        ),
        pytest.param(track(1, ALL), track(1, ALL) + track(2, ALL, 50), 0.5, 1, 2 / 3, 0, 0, id="as many invented"),
        pytest.param(track(1, ALL), [], 0, 0, 0, 0, 0, id="nothing found"),
    ],
)
def test_figures_of_simple_cases(
    truth: list[Row], tracked: list[Row], det_a: float, ass_a: float, idf1: float, mota: float, switches: int
) -> None:
    counts = score(boxes(truth), boxes(tracked))
    assert counts.det_a == pytest.approx(det_a)
    assert counts.ass_a == pytest.approx(ass_a)
    assert counts.hota == pytest.approx(np.sqrt(det_a * ass_a))
    assert counts.idf1 == pytest.approx(idf1)
    assert counts.mota == pytest.approx(mota)
    assert counts.switches == switches


def test_overlap_decides_at_how_many_of_the_thresholds_a_box_counts() -> None:
    counts = score(boxes(track(1, ALL)), boxes(track(1, ALL, left=2.0)))  # 8 of 12 shared: 2/3
    assert counts.hota == pytest.approx(13 / 19)  # 0.05, 0.10 … 0.65
    assert (counts.idf1, counts.mota) == (1.0, 1.0)


def test_a_box_that_overlaps_too_little_is_a_miss_and_an_invention() -> None:
    counts = score(boxes(track(1, ALL)), boxes(track(1, ALL, left=5.0)))  # 1/3
    assert counts.mota == pytest.approx(-1.0)
    assert counts.idf1 == 0.0
    assert counts.hota == pytest.approx(6 / 19)


def test_a_pair_that_held_goes_on_though_another_box_overlaps_more() -> None:
    truth = track(1, range(2))
    counts = score(boxes(truth), boxes([(0, 1, 0.0), (1, 1, 2.0), (1, 2, 0.0)]))
    assert counts.switches == 0


def test_identity_that_comes_back_after_a_gap_is_no_switch() -> None:
    counts = score(boxes(track(1, ALL)), boxes(track(1, range(40)) + track(1, range(60, LENGTH))))
    assert counts.switches == 0
    assert counts.mota == pytest.approx(0.8)


def test_counts_of_sequences_add_up_and_long_ones_weigh_more() -> None:
    good = score(boxes(track(1, ALL)), boxes(track(1, ALL)))
    bad = score(boxes(track(1, range(300))), boxes([]))
    both = good + bad
    assert both.mota == pytest.approx(0.25)
    assert both.det_a == pytest.approx(0.25)
    assert both.ass_a == pytest.approx(1.0)
    assert (both + Counts()).hota == both.hota


def test_in_mot17_only_pedestrians_count_and_distractors_excuse(tmp_path: Path) -> None:
    rows = []
    for frame in range(1, 11):
        rows += [f"{frame},1,0,0,10,20,1,1,1.0", f"{frame},2,50,0,10,20,0,1,0.1", f"{frame},3,100,0,10,20,0,8,1.0"]
    (tmp_path / "gt.txt").write_text("\n".join(rows) + "\n")
    found = [f"{frame},9,{left},0,10,20,1,-1,-1,-1" for frame in range(1, 11) for left in (0,)]
    on_distractor = [f"{frame},8,100,0,10,20,1,-1,-1,-1" for frame in range(1, 11)]
    (tmp_path / "ours.txt").write_text("\n".join(found + on_distractor) + "\n")
    counts = score(read_mot(tmp_path / "gt.txt"), read_mot(tmp_path / "ours.txt"))
    assert (counts.hota, counts.idf1, counts.mota) == pytest.approx((1, 1, 1))
    assert counts.true_boxes == 10


def test_files_without_class_or_score_are_read(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("1,5,10,20,30,40\n\n2,5,11,20,30,40,0.5\n")
    read = read_mot(tmp_path / "short.txt")
    np.testing.assert_array_equal(read.box, [[10, 20, 40, 60], [11, 20, 41, 60]])
    np.testing.assert_array_equal(read.score, [1.0, 0.5])
    np.testing.assert_array_equal(read.kind, [-1, -1])


@pytest.mark.parametrize("line", ["1,2,3", "1,2,3,4,5,x", "1,2,nan,4,5,6"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "gt.txt").write_text(f"1,1,0,0,10,20,1,1,1\n{line}\n")
    with pytest.raises(BadInput, match=r"gt\.txt, line 2"):
        read_mot(tmp_path / "gt.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.txt"):
        read_mot(tmp_path / "none.txt")


def noisy(seed: int) -> tuple[Boxes, Boxes]:
    """Five objects that cross, and tracks that miss, wander and change identity."""
    rng = np.random.default_rng(seed)
    truth: list[Row] = []
    tracked: list[Row] = []
    for frame in range(20):
        for one in range(5):
            left = 12.0 * one + frame * (one - 2) * 1.5
            if rng.random() < 0.9:
                truth.append((frame, one, left))
            if rng.random() < 0.8:
                tracked.append((frame, 10 * one + int(rng.random() < 0.2), left + rng.normal(0, 2.5)))
    return boxes(truth), boxes(tracked)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_names_of_identities_and_order_of_rows_do_not_matter(seed: int) -> None:
    truth, tracked = noisy(seed)
    order = np.random.default_rng(seed).permutation(len(tracked.id))
    other = Boxes(
        tracked.frame[order], 1000 - tracked.id[order], tracked.box[order], tracked.score[order], tracked.kind[order]
    )
    one, two = score(truth, tracked), score(truth, other)
    assert 0 < one.hota < 1
    assert (one.hota, one.idf1, one.mota) == pytest.approx((two.hota, two.idf1, two.mota))


@pytest.mark.parametrize("seed", range(10))
def test_figures_are_those_of_another_implementation(seed: int) -> None:
    evaluation = pytest.importorskip("trackers.eval")
    truth, tracked = noisy(seed)
    lists: tuple[list[np.ndarray], ...] = ([], [], [])
    for frame in range(20):
        here, there = truth.frame == frame, tracked.frame == frame
        lists[0].append(np.unique(truth.id, return_inverse=True)[1][here])
        lists[1].append(np.unique(tracked.id, return_inverse=True)[1][there])
        lists[2].append(_overlaps(truth.box[here], tracked.box[there]))
    hota = evaluation.compute_hota_metrics(*lists)
    clear, identity = evaluation.compute_clear_metrics(*lists), evaluation.compute_identity_metrics(*lists)
    counts = score(truth, tracked)
    ours = (counts.hota, counts.det_a, counts.ass_a, counts.loc_a, counts.idf1, counts.mota, counts.switches)
    theirs = (*(hota[name] for name in ("HOTA", "DetA", "AssA", "LocA")), identity["IDF1"], clear["MOTA"])
    assert ours == pytest.approx((*theirs, clear["IDSW"]))


def _overlaps(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """All boxes are as high and as wide as one another and stand on one line."""
    shared = np.maximum(10 - np.abs(one[:, None, 0] - two[None, :, 0]), 0)
    return shared / (20 - shared)
