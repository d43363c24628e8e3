"""Judges packages that say what a picture shows, on labelled folders or list files (see `shared.labelled`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.evaluation import Evaluation, EvaluationData, Evaluator, Run, mean_evaluation
from shared.images import read_image
from shared.labelled import LabelledSet, Picture, labels_of, scan
from shared.manifest import Manifest
from shared.progress import track

METRIC = "accuracy"
BINS = 15
"""Of the calibration error, as in Guo et al., 2017."""
HOLD_OUT = 0.15
"""Share held out where a data set has no split of its own, unless its training said otherwise."""


def scores(probabilities: NDArray[Any], targets: NDArray[np.int64]) -> dict[str, float]:
    """Figures of a classifier.

    Args:
        probabilities: [N, C], rows that sum to 1.
        targets: [N] the right classes.

    Returns:
        `accuracy`; `macro_f1`, the mean over the classes that occur; `top5` (where C > 5); `ece`, the expected
        calibration error: how far the highest probability is from the share of right answers, in `BINS` bins.
    """
    wide = np.asarray(probabilities, dtype=np.float64)
    answers, confidence = wide.argmax(axis=1), wide.max(axis=1)
    right = answers == targets
    found = {"accuracy": float(right.mean()), "macro_f1": macro_f1(answers, targets)}
    if wide.shape[1] > 5:
        top = np.argpartition(-wide, 4, axis=1)[:, :5]
        found["top5"] = float((top == targets[:, None]).any(axis=1).mean())
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    found["ece"] = float(np.abs(gaps).sum() / len(targets))
    return found


def macro_f1(answers: NDArray[np.int64], targets: NDArray[np.int64]) -> float:
    """The mean F1 over the classes among the targets, each counting alike."""
    values = []
    for label in np.unique(targets):
        hits = float(np.sum((answers == label) & (targets == label)))
        values.append(2 * hits / float(np.sum(answers == label) + np.sum(targets == label)))
    return float(np.mean(values))


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities [N, C] of logits [N, C]."""
    wide = np.asarray(logits, dtype=np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


class ClassificationEvaluator(Evaluator):
    """For packages with an input `image` and an output `probabilities` or `logits`."""

    def open(self, manifest: Manifest, data: Path) -> EvaluationData:
        return _Data(open_labelled(manifest, data))


def open_labelled(manifest: Manifest, data: Path, *, closed: bool = True) -> LabelledSet:
    """The data set with the labels, and split as in the training, that a manifest tells of.

    Args:
        closed: the labels must be the package's. An embedding takes any.

    Raises:
        BadInput: no known layout, other labels, or nothing held out.
    """
    settings = manifest.lineage.settings.get("data")
    told: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}
    kind = told.get("labels", "auto")
    kind = kind if kind in ("folder", "fine", "coarse") else "auto"
    share = told.get("hold_out", HOLD_OUT)
    if kind in ("fine", "coarse") and not (data / "train.txt").is_file():
        kind = "auto"
    found = scan(
        data,
        labels=kind,
        hold_out=share if isinstance(share, float) and 0 < share < 1 else HOLD_OUT,
        seed=manifest.lineage.seed,
        known=manifest.labels if closed else None,
        test=True,
    )
    if not found.held_out:
        raise BadInput(f"{data} has no pictures to evaluate on; put some of each class in val/<class>/.")
    return found


def calibration_inputs(pictures: Sequence[Picture], count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Some of the pictures, drawn without repetition, as model inputs."""
    order = np.random.default_rng(seed).permutation(len(pictures))[:count]
    return ({"image": read_image(pictures[index].path)[None]} for index in order)


class _Data(EvaluationData):
    def __init__(self, found: LabelledSet) -> None:
        self._found = found

    def calibration(self, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        if not self._found.train:
            raise BadInput(f"{self._found.root} has no pictures in train/ to calibrate with; add some.")
        return calibration_inputs(self._found.train, count, seed)

    def evaluate(self, run: Run) -> Evaluation:
        rows = []
        for picture in track(self._found.held_out, "classifying"):
            outputs = run({"image": read_image(picture.path)[None]})
            rows.append(outputs["probabilities"] if "probabilities" in outputs else softmax(outputs["logits"]))
        probabilities = np.concatenate(rows)
        targets = labels_of(self._found.held_out)
        extra = scores(probabilities, targets)
        value = extra.pop(METRIC)
        answers = probabilities.argmax(axis=1)
        evaluation = mean_evaluation(METRIC, (answers == targets).astype(np.float64), extra)
        assert evaluation.value == value
        return dataclasses.replace(evaluation, answers=answers)
