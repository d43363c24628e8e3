"""Distillation of detectors: what teacher packages are sure of becomes labels for the student.

A detector's logits belong to anchors, and two networks rarely have the same ones, so a teacher's answers cannot be
matched number by number as a classifier's can. Its boxes can: those above a score that lie on no labelled box are added
to the training pictures' labels, and label pictures that nobody has labelled (pseudo-labels; Lee, 2013). Of several
teachers a box must be found by more than half. What the teacher is wrong about, the student learns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.detections import Detections, iou
from shared.errors import BadInput, HaechiError
from shared.evaluators.detection import first
from shared.images import Rgb, read_image
from shared.labelled_boxes import Labelled
from shared.progress import track
from shared.runtime import Model, load

_SAME = 0.5
"""IoU from which two boxes of a class speak of one thing."""


class BoxTeachers:
    """Packages that find boxes.

    Args:
        paths: of the packages.
        names: the student's classes; what a teacher finds of others is not used.
        score: below which a teacher is not believed.

    Raises:
        BadInput: a package cannot be used, is no detector, or knows none of the classes.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str], score: float) -> None:
        self._score = score
        self._models: list[tuple[Model, NDArray[np.int64]]] = []
        for path in paths:
            try:
                model = load(path)
            except HaechiError as error:
                raise BadInput(f"distill.teachers: {error}") from error
            labels = model.manifest.labels
            if not {"boxes", "scores", "classes"} <= {spec.name for spec in model.manifest.outputs}:
                raise BadInput(f"distill.teachers: {path} finds no boxes; a detector's teachers must be detectors.")
            if not set(labels) & set(names):
                raise BadInput(
                    f"distill.teachers: {path} knows none of the classes {', '.join(names)}; it knows "
                    f"{', '.join(labels[:20]) or 'no names'}."
                )
            numbers = np.array([names.index(each) if each in names else -1 for each in labels], dtype=np.int64)
            self._models.append((model, numbers))

    def label(self, pictures: Sequence[Labelled]) -> list[Labelled]:
        """The pictures, with the boxes added that the teachers are sure of."""
        return [self._label(each) for each in track(pictures, "asking the teachers")]

    def _label(self, each: Labelled) -> Labelled:
        image = read_image(each.path)
        height, width = image.shape[:2]
        size = np.array([width, height, width, height], dtype=np.float32)
        found = self._agreed([self._ask(model, numbers, image) for model, numbers in self._models])
        boxes = (found.boxes / size).clip(0, 1).astype(np.float32)
        if len(each.boxes):
            # On any labelled thing, of whatever class: a person has looked there.
            new = iou(boxes, each.boxes).max(axis=1, initial=0.0) < _SAME
            boxes, found = boxes[new], dataclasses.replace(found, classes=found.classes[new])
        return dataclasses.replace(
            each,
            classes=np.concatenate([each.classes, found.classes]),
            boxes=np.concatenate([each.boxes, boxes]).reshape(-1, 4),
            polygons=(),
            crowd=np.concatenate([~each.single, np.zeros(len(boxes), dtype=bool)]),
        )

    def _ask(self, model: Model, numbers: NDArray[np.int64], image: Rgb) -> Detections:
        found = first(model.run({model.manifest.inputs[0].name: image[None]}))
        classes = numbers[found.classes]
        sure = (found.scores >= self._score) & (classes >= 0)
        return Detections(found.boxes[sure], found.scores[sure], classes[sure])

    def _agreed(self, answers: Sequence[Detections]) -> Detections:
        """What more than half of the teachers found, with the box of the surest of them."""
        boxes = np.concatenate([each.boxes for each in answers])
        scores = np.concatenate([each.scores for each in answers])
        classes = np.concatenate([each.classes for each in answers])
        teachers = np.concatenate([np.full(len(each.scores), index) for index, each in enumerate(answers)])
        order = np.argsort(-scores, kind="stable")
        same = (iou(boxes, boxes) >= _SAME) & (classes[:, None] == classes[None])
        kept: list[int] = []
        for index in order:
            if not same[index, kept].any() and 2 * len(set(teachers[same[index]])) > len(answers):
                kept.append(int(index))
        return Detections(boxes[kept], scores[kept], classes[kept])


def unlabelled(folder: Path, extensions: frozenset[str]) -> list[Labelled]:
    """The pictures below a folder, with nothing marked on them.

    Raises:
        BadInput: there are none.
    """
    paths = sorted(each for each in folder.rglob("*") if each.suffix.lower() in extensions) if folder.is_dir() else []
    if not paths:
        raise BadInput(f"data.unlabelled: {folder} has no pictures; name a folder with some, or leave it out.")
    nothing = np.zeros((0, 4), dtype=np.float32)
    return [Labelled(path, np.zeros(0, dtype=np.int64), nothing) for path in paths]
