"""What a kind of model must say for itself so that the one engine can train, distil, search and package it.

A task is short: its data, its network, its loss, its metric and its export. Everything else (device, precision,
schedule, averaging, checkpoints, resuming, several processes, teachers, tracking) is the engine's. `TASKS` lists those
that are at home here, the entry points of the group `haechi.tasks` (see pyproject.toml) those of solutions; `haechi
train` and `haechi search` know nothing else.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from shared.errors import BadInput
from shared.manifest import Manifest, TensorSpec, Threshold, WeightsLicence
from shared.training.config import TrainConfig

Batch = dict[str, Tensor]
"""One batch by name, first dimension N. `target` is what the loss wants; the rest goes to the network."""

TASKS = {
    "image-classification": "shared.training.tasks.classification:ImageClassification",
    "embedding": "shared.training.tasks.embedding:Embedding",
    "text-classification": "shared.training.tasks.text:TextClassification",
    "linear-text": "shared.training.tasks.linear_text:LinearText",
    "sentence-embedding": "shared.training.tasks.sentence:SentenceEmbedding",
    "detection": "shared.training.tasks.yolo:Yolo",
    "segmentation": "shared.training.tasks.yolo:Yolo",
    "pose": "shared.training.tasks.yolo:Yolo",
    "yolo-classification": "shared.training.tasks.yolo:Yolo",
}
"""Name in the YAML → `module:class`, imported when used: a text task must not wait for torchvision."""

GROUP = "haechi.tasks"
"""Entry points of tasks that live in solutions, which nothing here may import by name."""


class Samples(Protocol):
    """A data set: read and augmented one sample at a time, by several threads."""

    def __len__(self) -> int: ...

    def sample(self, index: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """Sample `index` as numpy arrays, numbers or tensors by name. All randomness comes from `generator`, which the
        engine seeds by (seed, epoch, index), so that a run can be resumed and split over processes exactly."""


@dataclass
class Group:
    """Parameters that learn at one rate, from the input's side (0) to the head's (`is_head`)."""

    parameters: list[nn.Parameter]
    is_head: bool = False


@dataclass
class Exported:
    """What a task makes of a trained network; the engine adds metrics and lineage and writes the package."""

    model: bytes
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    golden_inputs: dict[str, np.ndarray]
    parity: float
    """Largest relative difference between network and export on real samples; see `shared.training.export`."""
    task: str
    """For the manifest: what understands the package."""
    evaluator: str
    """Name in the entry points of `haechi.evaluators`."""
    labels: list[str] = field(default_factory=list)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)
    description: str = ""
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    """Where the task decides by itself, with how they were chosen."""
    settings: dict[str, Any] | None = None
    """For the lineage, where the task says more than its configuration (what `auto` came to); None: that."""
    report: Callable[[Manifest], Mapping[str, bytes]] | None = None
    """Makes further assets once the manifest is complete: pages that show it."""
    notes: list[str] = field(default_factory=list)
    """Sentences about data and result that whoever trains should read."""


class Objective(abc.ABC):
    """What a network is to learn: samples, a loss and a metric. With it the engine trains any network that answers
    what `loss` asks for."""

    metric: str
    """Name of the validation metric that chooses the best epoch; higher is better."""
    samples: Samples
    """To train on."""
    labels: Sequence[str] = ()
    """Names of the classes in the order of the logits, where there are any: a teacher must know the same."""

    @abc.abstractmethod
    def groups(self, module: nn.Module) -> list[Group]:
        """Every parameter that may learn, in groups from input to head."""

    @abc.abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Mean loss of the batch. `target` may be soft (mixup)."""

    @abc.abstractmethod
    def validate(self, module: nn.Module, device: Any) -> dict[str, float]:
        """Metrics on the validation split, never the test split; `metric` is among them. The module is in evaluation
        mode; no gradients are kept."""

    # -- what an objective may say ----------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027 (nothing to do is a fine answer)
        """Epoch `epoch` (from 0) begins, or goes on after a resume; no sample of another one is being read."""

    def collate(self, samples: Sequence[Mapping[str, Any]], generator: np.random.Generator) -> Batch:  # noqa: ARG002
        """Samples → batch; overridden for padding, or for mixing samples (mixup, CutMix)."""
        return stack(samples)

    def probe(self, module: nn.Module) -> dict[str, float] | None:  # noqa: ARG002
        """Set the head from a linear probe on frozen features, and return its validation metrics; None: no probe."""
        return None

    def teacher_inputs(self, batch: Batch) -> dict[str, np.ndarray]:  # noqa: ARG002
        """The batch as the inputs of a teacher package (after augmentation, so that both see the same).

        Raises:
            BadInput: a package cannot teach this.
        """
        raise BadInput("this task cannot be distilled from a package; remove `distill`.")

    def teacher_logits(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[N, classes] logits (or log-probabilities) among a teacher package's outputs."""
        return outputs["logits"]


class Task(Objective):
    """A kind of model, from configuration to package: an objective that also makes its network and exports it. Made
    anew for each run."""

    licences: list[WeightsLicence]
    """Of the pretrained weights in use; set by `build`."""
    data_fingerprint: str
    """SHA-256 over the names and contents (or sizes) of everything trained on."""

    @abc.abstractmethod
    def __init__(self, config: TrainConfig) -> None:
        """Check `config.data`, `config.model` and `config.augment` and look at the data; BadInput if they are wrong."""

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The network with its first weights. Randomness from torch's generator, which the engine has seeded.
        `module(**batch without target)` gives a dict: `logits` or whatever `loss` and `validate` want, and `features`
        [N, D] where the task can be distilled by features."""

    @abc.abstractmethod
    def export(self, module: nn.Module) -> Exported:
        """The network as a package's content. The module is on the CPU in evaluation mode."""


class OwnLoop(abc.ABC):
    """A task whose training loop is a library's (Ultralytics) or has no epochs (linear models)."""

    metric: str

    @abc.abstractmethod
    def __init__(self, config: TrainConfig) -> None:
        """As in `Task`."""

    @abc.abstractmethod
    def train(self, folder: Path, *, resume: bool) -> tuple[Exported, dict[str, float]]:
        """Train with everything kept in `folder`, and give the package's content and the validation metrics."""

    licences: list[WeightsLicence]
    data_fingerprint: str


def make_task(config: TrainConfig) -> Task | OwnLoop:
    """The task that a configuration names, of `TASKS` or of an installed solution. BadInput if there is none."""
    if config.task in TASKS:
        module, _, name = TASKS[config.task].partition(":")
        kind = getattr(importlib.import_module(module), name)
    else:
        installed = {point.name: point for point in entry_points(group=GROUP)}
        if config.task not in installed:
            raise BadInput(f"there is no task {config.task!r}; use one of {', '.join([*TASKS, *sorted(installed)])}.")
        kind = installed[config.task].load()
    task: Task | OwnLoop = kind(config)
    return task


def stack(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """The samples' values side by side, name by name."""
    import torch

    return {name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]) for name in samples[0]}
