"""Judges packages that turn a picture into a vector: is the nearest known picture one of the same class?

The gallery are pictures to train on, at most `GALLERY_PER_CLASS` of each class; the queries are the held-out ones. The
classes need not be those that the package was trained on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.evaluation import Evaluation, EvaluationData, Evaluator, Run, mean_evaluation
from shared.evaluators.classification import calibration_inputs, open_labelled
from shared.images import read_image
from shared.labelled import LabelledSet, Picture, labels_of
from shared.manifest import Manifest
from shared.progress import track

METRIC = "recall_at_1"
GALLERY_PER_CLASS = 10
"""Pictures of a class in the gallery: what a shop would enrol. More cost a run of the network each."""


def gallery_of(pictures: Sequence[Picture], per_class: int = GALLERY_PER_CLASS) -> list[Picture]:
    """At most `per_class` pictures of each class, evenly spaced in order of name."""
    members: dict[int, list[Picture]] = defaultdict(list)
    for picture in sorted(pictures, key=lambda each: each.name):
        members[picture.label].append(picture)
    chosen = []
    for label in sorted(members):
        size = len(members[label])
        places = np.unique(np.linspace(0, size - 1, min(per_class, size)).round().astype(np.int64))
        chosen += [members[label][place] for place in places]
    return chosen


def retrieval(
    queries: NDArray[Any], query_labels: NDArray[np.int64], gallery: NDArray[Any], gallery_labels: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """How well each query finds its class, by cosine similarity.

    Args:
        queries: [Q, D], L2-normalised.
        gallery: [G, D], L2-normalised.

    Returns:
        for each query [Q]: `recall_at_1` and `recall_at_5` (whether any of the nearest is of its class), and
        `average_precision`, whose mean is the mAP; 0 where its class is not in the gallery.
    """
    similar = np.asarray(queries, dtype=np.float64) @ np.asarray(gallery, dtype=np.float64).T
    hits = gallery_labels[np.argsort(-similar, axis=1, kind="stable")] == query_labels[:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    relevant = np.maximum(hits.sum(axis=1), 1)
    return {
        "recall_at_1": hits[:, 0].astype(np.float64),
        "recall_at_5": hits[:, :5].any(axis=1).astype(np.float64),
        "average_precision": (precision * hits).sum(axis=1) / relevant,
    }


def summary(found: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """`recall_at_1`, `recall_at_5` and `map` over all queries."""
    return {
        "recall_at_1": float(found["recall_at_1"].mean()),
        "recall_at_5": float(found["recall_at_5"].mean()),
        "map": float(found["average_precision"].mean()),
    }


class EmbeddingEvaluator(Evaluator):
    """For packages with an input `image` and an output `embedding`, L2-normalised."""

    def open(self, manifest: Manifest, data: Path) -> EvaluationData:
        found = open_labelled(manifest, data, closed=False)
        if not found.train:
            raise BadInput(f"{data} has no pictures in train/ for the gallery; add some of each class.")
        return _Data(found)


class _Data(EvaluationData):
    def __init__(self, found: LabelledSet) -> None:
        self._found = found
        self._gallery = gallery_of(found.train)

    def calibration(self, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        # The gallery is part of what `evaluate` uses; small sets have nothing besides it.
        used = {picture.name for picture in self._gallery}
        others = [picture for picture in self._found.train if picture.name not in used]
        return calibration_inputs(others or self._found.train, count, seed)

    def evaluate(self, run: Run) -> Evaluation:
        def embedded(pictures: Sequence[Picture], what: str) -> NDArray[Any]:
            return np.concatenate(
                [run({"image": read_image(picture.path)[None]})["embedding"] for picture in track(pictures, what)]
            )

        gallery = embedded(self._gallery, "gallery")
        queries = embedded(self._found.held_out, "queries")
        found = retrieval(queries, labels_of(self._found.held_out), gallery, labels_of(self._gallery))
        extra = summary(found)
        del extra[METRIC]
        return mean_evaluation(METRIC, found["recall_at_1"], extra)
