"""COCO's average precision: by hand, against a slow reading of its definition, and under resampling."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.detections import IOUS, Detections, MeanPrecision, Truth, iou, letterbox, paste_mask


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def truth(*rows: tuple[float, float, float, float, int], crowd: tuple[bool, ...] = ()) -> Truth:
    table = np.array(rows, dtype=np.float32).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(np.int64), np.array(crowd or [False] * len(table), dtype=bool))


def made(pictures: int, seed: int) -> tuple[list[Detections], list[Truth]]:
    """Boxes, and detections that miss some, move some and invent some."""
    rng = np.random.default_rng(seed)
    answers, truths = [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 5))
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)
        classes = rng.integers(0, 3, count)
        truths.append(Truth(boxes, classes, rng.random(count) < 0.15))
        copies = np.repeat(np.arange(count), 3)
        moved = boxes[copies] + rng.normal(0, 3, (len(copies), 4)).astype(np.float32)
        guessed = np.where(rng.random(len(copies)) < 0.8, classes[copies], rng.integers(0, 3, len(copies)))
        answers.append(Detections(moved, rng.random(len(copies)).astype(np.float32), guessed))
    return answers, truths


def slow(answers: list[Detections], truths: list[Truth], threshold: float) -> float:
    """pycocotools' evaluateImg and accumulate, written out for one threshold."""
    values = []
    for number in range(3):
        rows: list[tuple[float, int]] = []
        total = 0
        for each, there in zip(answers, truths, strict=True):
            mine = np.flatnonzero(each.classes == number)
            mine = mine[np.argsort(-each.scores[mine], kind="stable")]
            boxes, crowd = there.boxes[there.classes == number], there.crowd[there.classes == number]
            total += int((~crowd).sum())
            taken: set[int] = set()
            for index in mine:
                best, at = threshold, -1
                for other in np.flatnonzero(~crowd):
                    overlap = float(iou(each.boxes[index : index + 1], boxes[other : other + 1])[0, 0])
                    if other not in taken and overlap >= best:
                        best, at = overlap, int(other)
                if at >= 0:
                    taken.add(at)
                    rows.append((float(each.scores[index]), 1))
                elif not any(_excused(each.boxes[index], boxes[other]) >= threshold for other in np.flatnonzero(crowd)):
                    rows.append((float(each.scores[index]), 0))
        if not total:
            continue
        rows.sort(key=lambda row: -row[0])
        hits = np.cumsum([hit for _, hit in rows])
        precision = hits / np.arange(1, len(rows) + 1)
        recall = hits / total
        values.append(
            float(np.mean([max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)]))
        )
    return float(np.mean(values))


def _excused(box: NDArray[np.float32], crowd: NDArray[np.float32]) -> float:
    sides = np.minimum(box[2:], crowd[2:]) - np.maximum(box[:2], crowd[:2])
    return float(np.prod(sides.clip(0)) / np.prod((box[2:] - box[:2]).clip(1e-9)))


def test_by_hand() -> None:
    answers = [found((0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.8, 0), (20, 20, 30, 30, 0.7, 0))]
    precision = MeanPrecision(answers, [truth((0, 0, 10, 10, 0), (20, 20, 30, 30, 0))], [0])
    # Recall to 0.5 at precision 1 (51 of the 101 levels), the rest at 2/3.
    assert precision.map50() == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert precision.map50_95() == pytest.approx(precision.map50())  # the boxes fit exactly


def test_a_box_found_twice_counts_once_against_and_the_nearer_overlap_decides() -> None:
    answers = [found((0, 0, 10, 10, 0.5, 0), (0, 0, 10, 8, 0.9, 0))]
    precision = MeanPrecision(answers, [truth((0, 0, 10, 10, 0))], [0])
    assert precision.map50() == pytest.approx(1.0)  # the first is right, and what follows full recall is not read
    strict = precision.mean(thresholds=slice(9, 10))  # at 0.95 only the second fits: precision 1/2
    assert strict == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(4))
def test_like_the_definition(seed: int) -> None:
    answers, truths = made(12, seed)
    precision = MeanPrecision(answers, truths, [0, 1, 2])
    by_threshold = [slow(answers, truths, float(level)) for level in IOUS]
    assert precision.map50() == pytest.approx(by_threshold[0])
    assert precision.map50_95() == pytest.approx(np.mean(by_threshold))
    assert 0.2 < precision.map50() < 0.999


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_the_data_set_with_pictures_repeated(seed: int) -> None:
    answers, truths = made(10, seed)
    precision = MeanPrecision(answers, truths, [0, 1, 2])
    drawn = np.random.default_rng(seed).integers(0, 10, 10)
    again = MeanPrecision([answers[index] for index in drawn], [truths[index] for index in drawn], [0, 1, 2])
    assert precision.map50_95(drawn) == pytest.approx(again.map50_95())
    assert precision.map50_95() == pytest.approx(precision.map50_95(np.arange(10)))


def test_nothing_found_and_nothing_there() -> None:
    assert MeanPrecision([found()], [truth((0, 0, 10, 10, 0))], [0]).map50() == 0
    assert MeanPrecision([found((0, 0, 10, 10, 0.9, 0))], [truth()], [0]).map50() == 0
    assert MeanPrecision([found()], [truth((0, 0, 10, 10, 1))], [0, 1]).by_class() == [None, 0.0]


@pytest.mark.parametrize(("height", "width"), [(50, 100), (100, 50), (64, 64), (33, 97)])
def test_a_mask_lands_on_its_thing(height: int, width: int) -> None:
    """What is drawn in the square, where the letterbox puts it, comes back where it was in the picture."""
    side = 160
    scale, new_height, new_width, top, left = letterbox(height, width, side)
    assert max(new_height, new_width) == side
    box = np.array([0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height])
    mask = np.zeros((side, side), dtype=np.float32)
    x1, y1, x2, y2 = np.round(box * scale + [left, top, left, top]).astype(int)
    mask[y1:y2, x1:x2] = 1
    inside = paste_mask(mask, height, width)
    assert inside.shape == (height, width)
    rows, columns = np.nonzero(inside)
    got = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(got, box, atol=1.0)
