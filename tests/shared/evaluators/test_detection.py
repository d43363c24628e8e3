"""The evaluator of detectors, asked through its contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import BadInput
from shared.evaluation import EvaluationData, Run, paired_drop
from shared.evaluators.detection import DetectionEvaluator
from shared.manifest import Lineage, Manifest, TensorSpec

K = 5


def manifest(labels: list[str], metric: str = "map50_95") -> Manifest:
    return Manifest(
        name="finder",
        version="1",
        task="detection",
        inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
        outputs=[
            TensorSpec(name="boxes", datatype="FP32", shape=[-1, K, 4]),
            TensorSpec(name="scores", datatype="FP32", shape=[-1, K]),
            TensorSpec(name="classes", datatype="INT64", shape=[-1, K]),
        ],
        labels=labels,
        metrics={metric: 0.5},
        metric=metric,
        lineage=Lineage(data_fingerprint="x", code_revision="x", seed=0, created="2026-01-01T00:00:00+00:00"),
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures with one white rectangle each, 20 to train and 12 to measure; its class is that of its shape."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 12)):
        for number in range(count):
            height, width = (int(side) for side in rng.integers(40, 80, 2))
            image = np.zeros((height, width, 3), dtype=np.uint8)
            w, h = (20, 8) if number % 2 else (8, 20)
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            image[y : y + h, x : x + w] = 255
            if split == "train":
                image[0, 0] = (7, 7, 7)  # to be told from the others
            for folder in ("images", "labels"):
                (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "images" / split / f"{number:02}.png"), image)
            row = f"{number % 2} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
            (tmp_path / "labels" / split / f"{number:02}.txt").write_text(row)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [tall, wide]\n")
    return tmp_path / "data.yaml"


def finder(*, tall: int, wide: int, shift: int = 0) -> Run:
    """Finds the rectangle by its pixels; `shift` pixels off."""

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (image,) = inputs["image"]
        rows, columns = np.nonzero(image.max(axis=2) == 255)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float32) + shift
        boxes, scores = np.zeros((1, K, 4), dtype=np.float32), np.zeros((1, K), dtype=np.float32)
        classes = np.zeros((1, K), dtype=np.int64)
        boxes[0, 0], scores[0, 0] = box, 0.9
        classes[0, 0] = wide if box[2] - box[0] > box[3] - box[1] else tall
        return {"boxes": boxes, "scores": scores, "classes": classes}

    return run


def opened(data: Path, labels: list[str], metric: str = "map50_95") -> EvaluationData:
    return DetectionEvaluator().open(manifest(labels, metric), data)


def test_a_perfect_detector_has_1_whatever_order_its_labels_have(data: Path) -> None:
    right = opened(data, ["other", "wide", "tall"]).evaluate(finder(tall=2, wide=1))
    assert (right.value, right.samples, right.metric) == (pytest.approx(1.0), 12, "map50_95")
    wrong = opened(data, ["other", "wide", "tall"]).evaluate(finder(tall=1, wide=2))
    assert wrong.value == 0


def test_a_shift_costs_at_the_strict_thresholds_only(data: Path) -> None:
    shifted = finder(tall=0, wide=1, shift=1)  # IoU (19·7) / (2·160 - 19·7) = 0.71
    assert opened(data, ["tall", "wide"], "map50").evaluate(shifted).value == pytest.approx(1.0)
    evaluation = opened(data, ["tall", "wide"]).evaluate(shifted)
    assert evaluation.value == pytest.approx(0.5)
    assert evaluation.extra["map50"] == pytest.approx(1.0)


def test_the_drop_is_paired(data: Path) -> None:
    held = opened(data, ["tall", "wide"])
    drop = paired_drop(held.evaluate(finder(tall=0, wide=1)), held.evaluate(finder(tall=0, wide=1, shift=1)), rounds=50)
    assert drop.point == drop.low == drop.high == pytest.approx(0.5)


def test_calibration_is_from_train_only_and_of_the_seed(data: Path) -> None:
    held = opened(data, ["tall", "wide"])
    inputs = list(held.calibration(8, 3))
    assert len(inputs) == 8
    assert all((each["image"][0, 0, 0] == 7).all() for each in inputs)
    assert all(each["image"].dtype == np.uint8 and each["image"].shape[0] == 1 for each in inputs)
    again, other = list(held.calibration(8, 3)), list(held.calibration(8, 4))
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(inputs, again, strict=True))
    assert not all(np.array_equal(a["image"], b["image"]) for a, b in zip(inputs, other, strict=True))
    assert len(list(held.calibration(1000, 0))) == 20


def test_data_with_a_class_that_the_package_does_not_know(data: Path) -> None:
    with pytest.raises(BadInput, match="'tall'"):
        opened(data, ["wide", "round"])


def test_a_package_that_is_no_detector(data: Path) -> None:
    other = manifest(["tall", "wide"])
    other.outputs.pop(0)
    with pytest.raises(BadInput, match="no output boxes"):
        DetectionEvaluator().open(other, data)
