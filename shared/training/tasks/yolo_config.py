"""The sections `data`, `model` and `augment` of a YOLO training, and what becomes of `fit` in Ultralytics' loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from shared.errors import BadInput
from shared.evaluators.detection import METRICS
from shared.labelled import Labels
from shared.training.config import Distill, Fit, Strict

DEFAULTS: Mapping[str, Any] = {"weight_decay": 0.0005, "clip": 10.0, "ema": 0.9999}
"""Of `fit` where the user sets nothing: those that Ultralytics' networks were made with, and not the engine's."""
ALWAYS: Mapping[str, Any] = {
    "backbone_lr": 1.0,
    "layer_decay": 1.0,
    "frozen": 0,
    "probe": False,
    "batch_norm": "train",
}
"""What Ultralytics' loop does whatever `fit` says."""
_IDLE_FOR_BOXES = {"data": ("labels",), "augment": ("erasing",), "distill": ("temperature",)}
_IDLE_FOR_CLASSES = {
    "data": ("teacher_score",),
    "model": ("metric", "detections", "least_score", "overlap"),
    "augment": ("mosaic", "close_mosaic", "mixup", "degrees", "translate"),
    "distill": ("temperature",),
}
"""Section → settings that the one kind of task has and the other does not use."""


class Data(Strict):
    path: Path
    unlabelled: Path | None = None
    """Pictures for the teachers of `distill` to label."""
    teacher_score: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Boxes that a teacher gives at least this score become labels."""
    labels: Labels = "auto"
    """For yolo-classification; see `shared.labelled`."""


class Model(Strict):
    architecture: str = "yolo11n"
    """One of Ultralytics' (yolo11n … yolo11x, yolo26n, yolov8n, …), or the path of a YAML file of that kind."""
    weights: str = ""
    weights_sha256: str = ""
    image_size: Annotated[int, Field(ge=32, multiple_of=32)] = 640
    depth: Annotated[float, Field(gt=0)] | None = None
    width: Annotated[float, Field(gt=0)] | None = None
    """In place of the architecture's own factors for the number of layers and channels."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """First layers that keep the weights they have."""
    metric: str = METRICS[0]
    """What the package is judged by: map50_95 or map50. The best epoch is chosen by Ultralytics' fitness, which is
    mAP50-95 (of boxes and masks or poses together)."""
    detections: Annotated[int, Field(ge=1)] = 100
    """Most that the package finds in a picture."""
    least_score: Annotated[float, Field(ge=0, lt=1)] = 0.01
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """IoU above which the less sure of two boxes of a class is dropped."""


class Augment(Strict):
    """Shares, probabilities and ranges as in Ultralytics' documentation, under plainer names."""

    mosaic: Annotated[float, Field(ge=0, le=1)] = 1.0
    close_mosaic: Annotated[int, Field(ge=0)] = 10
    """Last epochs without mosaics."""
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    flip_vertical: Annotated[float, Field(ge=0, le=1)] = 0.0
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Annotated[float, Field(ge=0, le=1)] = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5
    hue: Annotated[float, Field(ge=0, le=1)] = 0.015
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.7
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.4
    erasing: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """For yolo-classification."""


def used_fit(fit: Fit, task: str) -> Fit:
    """`fit` as Ultralytics' loop uses it, for the loop and for the lineage alike.

    Raises:
        BadInput: the user set something that would have no effect.
    """
    if "checkpoint_minutes" in fit.model_fields_set:
        raise BadInput(
            f"fit.checkpoint_minutes has no effect on {task}, which is saved after every epoch; leave it out."
        )
    given = fit.model_dump(exclude_unset=True)
    for name, value in ALWAYS.items():
        if given.get(name, value) != value:
            raise BadInput(f"fit.{name} has no effect on {task}; leave it out.")
    return Fit.model_validate({**DEFAULTS, **ALWAYS, **given})


def refuse_idle(task: str, data: Data, model: Model, augment: Augment, distill: Distill) -> None:
    """
    Raises:
        BadInput: the user set something that has no effect on this task, or none without teachers.
    """
    sections: dict[str, BaseModel] = {"data": data, "model": model, "augment": augment, "distill": distill}
    idle = _IDLE_FOR_CLASSES if task == "yolo-classification" else _IDLE_FOR_BOXES
    for section, names in idle.items():
        for name in names:
            if name in sections[section].model_fields_set:
                raise BadInput(f"{section}.{name} has no effect on {task}; leave it out.")
    if distill.teachers:
        return
    if data.unlabelled:
        raise BadInput("data.unlabelled needs teachers that label it; name packages in distill.teachers.")
    asked = {"data.teacher_score": "teacher_score" in data.model_fields_set, "distill.compare": distill.compare}
    for name in (name for name, is_set in asked.items() if is_set):
        raise BadInput(f"{name} needs distill.teachers: name model packages, or leave it out.")
