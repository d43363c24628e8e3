"""The evaluators of picture packages: their figures by hand, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import BadInput
from shared.evaluation import evaluator_for
from shared.evaluators.classification import macro_f1, scores, softmax
from shared.evaluators.embedding import gallery_of, retrieval, summary
from shared.labelled import Picture, scan
from shared.manifest import Lineage, Manifest, TensorSpec
from tests.shared.labelled_pictures import CLASSES, make_folders


def manifest(evaluator: str, labels: list[str], output: str, data: dict[str, Any] | None = None) -> Manifest:
    return Manifest(
        name="judged",
        version="1",
        task=evaluator,
        inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
        outputs=[TensorSpec(name=output, datatype="FP32", shape=[-1, len(labels)])],
        labels=labels,
        evaluator=evaluator,
        lineage=Lineage(
            data_fingerprint="", code_revision="", seed=7, settings={"data": data or {}}, created="2026-01-01"
        ),
    )


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    found = scores(probabilities, np.array([0, 1, 1, 1]))
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    assert "top5" not in found
    assert macro_f1(np.array([0, 0]), np.array([1, 1])) == 0.0


def test_top5_counts_the_fifth_and_not_the_sixth() -> None:
    probabilities = softmax(np.tile(np.arange(6.0, 0, -1), (2, 1)))
    assert scores(probabilities, np.array([4, 5]))["top5"] == 0.5


def test_retrieval_by_hand() -> None:
    gallery = np.eye(3)[[0, 1, 2]]
    queries = np.array([[0.9, 0.3, 0.1], [0.9, 0.3, 0.1]])
    found = retrieval(queries, np.array([0, 1]), gallery, np.array([0, 1, 1]))
    assert found["recall_at_1"].tolist() == [1, 0]
    assert found["average_precision"].tolist() == pytest.approx([1, (1 / 2 + 2 / 3) / 2])
    assert summary(found)["recall_at_5"] == 1.0


def test_gallery_is_spread_over_each_class() -> None:
    pictures = [Picture(Path(), f"{n:02}", n % 2, "train", "") for n in range(50)]
    chosen = gallery_of(pictures, per_class=3)
    assert [each.name for each in chosen] == ["00", "24", "48", "01", "25", "49"]


def colour_model(inputs: Any) -> dict[str, np.ndarray]:
    """Answers by the mean colour: better than chance on the made pictures, and worse than perfect."""
    mean = inputs["image"].astype(np.float64).mean(axis=(1, 2))
    return {"logits": mean / 10, "embedding": mean / np.linalg.norm(mean, axis=1, keepdims=True)}


def test_classification_evaluator(tmp_path: Path) -> None:
    make_folders(tmp_path)
    told = manifest("image-classification", list(CLASSES), "logits")
    data = evaluator_for(told).open(told, tmp_path)
    found = data.evaluate(colour_model)
    rows = [colour_model(each)["logits"].argmax() for each in _held_out(tmp_path)]
    targets = [picture.label for picture in scan(tmp_path).held_out]
    assert found.metric == "accuracy"
    assert found.value == pytest.approx(np.mean(np.array(rows) == targets))
    assert found.samples == 15
    assert found.answers is not None
    assert found.answers.tolist() == rows
    assert {"macro_f1", "ece"} <= set(found.extra)


def _held_out(root: Path) -> list[dict[str, np.ndarray]]:
    from shared.images import read_image

    return [{"image": read_image(picture.path)[None]} for picture in scan(root).held_out]


def test_calibration_is_of_training_pictures_and_of_the_seed(tmp_path: Path) -> None:
    make_folders(tmp_path, val=0)
    told = manifest("image-classification", list(CLASSES), "logits", {"hold_out": 0.25})
    data = evaluator_for(told).open(told, tmp_path)
    assert data.evaluate(colour_model).samples == 9
    held_out = scan(tmp_path, hold_out=0.25, seed=7).held_out
    from shared.images import read_image

    judged = {read_image(picture.path).tobytes() for picture in held_out}
    drawn = [each["image"].tobytes() for each in data.calibration(100, 1)]
    assert len(drawn) == 27
    assert not judged & set(drawn)
    assert [each["image"].tobytes() for each in data.calibration(5, 1)] == drawn[:5]
    assert [each["image"].tobytes() for each in data.calibration(5, 2)] != drawn[:5]


def test_embedding_evaluator_takes_other_classes_than_the_packages(tmp_path: Path) -> None:
    make_folders(tmp_path)
    told = manifest("embedding", ["cat", "dog"], "embedding")
    found = evaluator_for(told).open(told, tmp_path).evaluate(colour_model)
    assert found.metric == "recall_at_1"
    assert 0 <= found.extra["map"] <= 1
    assert found.value <= found.extra["recall_at_5"]


def test_classification_refuses_other_classes(tmp_path: Path) -> None:
    make_folders(tmp_path)
    told = manifest("image-classification", ["cat", "dog"], "logits")
    with pytest.raises(BadInput, match="does not know"):
        evaluator_for(told).open(told, tmp_path)
