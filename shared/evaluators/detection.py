"""Measures detection packages on pictures with boxes: COCO's mAP50 and mAP50-95. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from shared.detections import Detections, MeanPrecision, Truth
from shared.errors import BadInput
from shared.evaluation import Evaluation, EvaluationData, Evaluator, Run
from shared.images import Rgb, read_image
from shared.labelled_boxes import BoxData, Labelled, read_boxes
from shared.manifest import Manifest
from shared.progress import track

METRICS = ("map50_95", "map50")
"""What a manifest may name as its metric; the first where it names neither."""


class DetectionEvaluator(Evaluator):
    """For packages with the input `image` and the outputs `boxes`, `scores` and `classes`."""

    def open(self, manifest: Manifest, data: Path) -> DetectionData:
        """A data.yaml, a COCO file or a folder; see `shared.labelled_boxes`.

        Raises:
            BadInput: none of these, classes that the package does not know, or another kind of package.
        """
        missing = {"boxes", "scores", "classes"} - {spec.name for spec in manifest.outputs}
        if missing:
            raise BadInput(f"package {manifest.name} has no output {min(missing)}, so it is no detector.")
        found = read_boxes(data)
        return DetectionData(found, _numbers(found, manifest.labels, data), manifest.inputs[0].name, manifest.metric)


class DetectionData(EvaluationData):
    """Pictures with boxes.

    Args:
        data: what was read.
        numbers: for each of its classes, the number that the model gives it.
        input_name: of the model's picture, UINT8 [-1, -1, -1, 3].
        metric: one of `METRICS`, or anything else for the first.
    """

    def __init__(self, data: BoxData, numbers: Sequence[int], input_name: str, metric: str) -> None:
        self._data = data
        self._numbers = np.array(numbers, dtype=np.int64)
        self._input = input_name
        self._metric = metric if metric in METRICS else METRICS[0]

    def calibration(self, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """Pictures of the training split, `count` at most, in an order that the seed decides."""
        pictures = self._data.splits.get("train", [])
        if not pictures:
            raise BadInput(f"{self._data.path} has no training split to calibrate with; add `train`.")
        for index in np.random.default_rng(seed).permutation(len(pictures))[:count]:
            yield {self._input: read_image(pictures[index].path)[None]}

    def evaluate(self, run: Run) -> Evaluation:
        """The detections on `val`, else `test`."""
        pictures = self._data.held_out
        if not pictures:
            raise BadInput(f"{self._data.path} has no held-out split; add `val` or `test`.")
        found, truths = [], []
        for each in track(pictures, "detecting"):
            image = read_image(each.path)
            found.append(first(run({self._input: image[None]})))
            truths.append(self._truth(each, image))
        precision = MeanPrecision(found, truths, sorted(set(self._numbers.tolist())))
        return Evaluation(
            self._metric,
            np.zeros(len(pictures), dtype=np.int64),
            getattr(precision, self._metric),
            {"map50": precision.map50(), "map50_95": precision.map50_95()},
        )

    def _truth(self, each: Labelled, image: Rgb) -> Truth:
        height, width = image.shape[:2]
        boxes = (each.boxes * np.array([width, height, width, height], dtype=np.float32)).astype(np.float32)
        return Truth(boxes, self._numbers[each.classes], ~each.single)


def first(outputs: Mapping[str, np.ndarray]) -> Detections:
    """The detections of the first picture of a batch, without the padding."""
    kept = outputs["scores"][0] > 0
    return Detections(outputs["boxes"][0][kept], outputs["scores"][0][kept], outputs["classes"][0][kept])


def _numbers(found: BoxData, labels: Sequence[str], data: Path) -> list[int]:
    """The model's number of each class of the data."""
    if not labels:
        return list(range(len(found.names)))
    unknown = [name for name in found.names if name not in labels]
    if unknown:
        raise BadInput(
            f"{data} has the class {unknown[0]!r}, which the package does not know; it knows {', '.join(labels[:20])}."
        )
    return [labels.index(name) for name in found.names]
