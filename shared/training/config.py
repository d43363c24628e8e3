"""What a user writes to train a model: one YAML file, read by `haechi train` and `haechi search`.

    task: image-classification
    data: {path: photos, labels: folder}
    model: {backbone: efficientnet-lite0, image_size: 224}
    fit: {epochs: 20, batch_size: 32, lr: 0.001}
    augment: {crop: 0.4, flip: true}
    distill: {teachers: [packages/teacher], logits: 0.7}
    seed: 0

`task`, `fit`, `distill`, `track` and `seed` are the engine's and the same for every task; `data`, `model` and `augment`
are the task's own, and checked by it. Unknown keys are errors that name the nearest known key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import BadInput

_M = TypeVar("_M", bound=BaseModel)


class Strict(BaseModel):
    """A section of the file. Unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Fit(Strict):
    """How the weights are found. Lengths are in epochs; a share of an epoch is allowed for `warmup`."""

    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples in one step of the optimiser on all processes together, before `accumulate`."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are added up for one step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Of the head; `backbone_lr` times as much for pretrained layers."""
    backbone_lr: Annotated[float, Field(ge=0)] = 0.1
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each group of pretrained layers learns this much slower than the one above it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    warmup: Annotated[float, Field(ge=0)] = 1.0
    frozen: Annotated[int, Field(ge=0)] = 0
    """Epochs at the start in which only the head learns."""
    probe: bool = True
    """Start the head from a linear probe on the frozen features: the fast first answer, reported as such."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the moving average of the weights, which is then what is validated and exported; 0: none."""
    batch_norm: Literal["train", "frozen"] = "train"
    """`frozen` keeps the pretrained statistics: for small batches, and where two processes must equal one."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many epochs without a better validation metric; 0: never."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 or fp16 on a GPU that has it, fp32 on the CPU."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads that read and augment samples."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 5.0
    """A checkpoint is written this often, and after every epoch; 0: after every step."""


class Distill(Strict):
    """Learning from one or more teachers besides the labels."""

    teachers: list[Path] = []
    """Model packages (their answers are averaged); they run in ONNX Runtime."""
    logits: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the loss that is the teachers' softened answer; the labels get the rest."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    features: Annotated[float, Field(ge=0)] = 0.0
    """Weight of matching the teachers' features (their output `features` or `embedding`) through a linear layer."""
    compare: bool = False
    """Train the student alone as well, and report it beside the distilled one."""


class Track(Strict):
    """Where the course of training is shown, besides `metrics.jsonl` in the run's folder."""

    tensorboard: bool = True
    mlflow: str = ""
    """Tracking URI of MLflow, such as `file:runs` or a server's address; empty: none."""
    experiment: str = "haechi"


class TrainConfig(Strict):
    """The whole file."""

    task: str
    data: dict[str, Any]
    model: dict[str, Any] = {}
    augment: dict[str, Any] = {}
    fit: Fit = Fit()
    distill: Distill = Distill()
    track: Track = Track()
    search: dict[str, Any] = {}
    """For `haechi search`; see `shared.training.search`."""
    seed: Annotated[int, Field(ge=0)] = 0
    name: str = ""
    """Of the package; default: made from where it is written."""
    version: str = "1"


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file.

    Args:
        overrides: `key.key=value` each, the value in YAML, as given with `--set`.

    Raises:
        BadInput: missing, not YAML, or a field is wrong; the sentence names file and field. Relative paths in it are
            taken from the working directory, as on any command line.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give the YAML file of a training.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict):
        raise BadInput(f"{path} must hold keys and values, such as `task: image-classification`.")
    for override in overrides:
        _override(raw, override)
    return parse(TrainConfig, raw, str(path))


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {override}: write key=value, such as fit.epochs=5.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"--set {override}: the value is not YAML.") from error
    set_value(raw, key, value)


def set_value(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Put `value` at `a.b.c`, making the sections on the way."""
    *sections, last = dotted.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise BadInput(f"{dotted}: {section} is not a section.")
    raw[last] = value


def parse(model: type[_M], raw: Mapping[str, Any], where: str) -> _M:
    """Check a section; BadInput names the place, the field and, for an unknown key, the nearest known one."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problem = _problem(model, error)
        raise BadInput(f"{where}: {problem}{'' if problem.endswith('?') else '.'}") from error


def _problem(model: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors()
    # A misspelt key is also a missing one; what was written says more than what was not.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = list(_section(model, path[:-1]).model_fields)
        nearest = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
        return f"unknown key {'.'.join(path)}; {hint}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{'.'.join(path)}: {message}" if path else message


def _section(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for part in path:
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model
