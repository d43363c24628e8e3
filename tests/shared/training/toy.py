"""A task small enough to train in a second: is the bright shape in a 12×12 picture a bar, a square or a cross?

    python -P tests/shared/training/toy.py train CONFIG -o PACKAGE ...

runs `haechi` with it, as the task `toy`; so does torchrun.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import BadInput
from shared.manifest import TensorSpec, WeightsLicence
from shared.training import task as tasks
from shared.training.config import TrainConfig
from shared.training.export import Session, export, relative_difference
from shared.training.task import Batch, Exported, Group, Task

LABELS = ["bar", "square", "cross"]
SIZE = 12
EVALUATOR = "image-classification"


def picture(label: int, generator: np.random.Generator) -> np.ndarray:
    """float32 [3, 12, 12]: a shape in noise."""
    image = generator.normal(0, 0.1, (3, SIZE, SIZE)).astype(np.float32)
    y, x = (int(value) for value in generator.integers(3, SIZE - 3, 2))
    if label == 0:
        image[:, y, x - 3 : x + 3] += 1
    elif label == 1:
        image[:, y - 1 : y + 2, x - 1 : x + 2] += 0.8
    else:
        image[:, y - 2 : y + 3, x] += 0.9
        image[:, y, x - 2 : x + 3] += 0.9
    return image


class ToySamples:
    def __init__(self, count: int, noise: float) -> None:
        generator = np.random.default_rng(7)
        self.items = [(picture(index % 3, generator), index % 3) for index in range(count)]
        self.noise = noise
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int, generator: np.random.Generator) -> Mapping[str, Any]:
        self.read.append(index)
        image, label = self.items[index]
        return {"image": image + generator.normal(0, self.noise, image.shape).astype(np.float32), "target": label}


class ToyNet(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, len(LABELS))
        self.unasked = nn.Linear(2, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.deep(self.stem(image)).mean((2, 3))
        return {"logits": self.head(self.dropout(features)), "features": features}


class _Exportable(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(image)
        return found["logits"], found["features"]


class Toy(Task):
    """`data`: count, noise, labels; `model`: width, dropout."""

    metric = "accuracy"

    def __init__(self, config: TrainConfig) -> None:
        if "path" in config.data:
            raise BadInput("data.path: the toy task has no files.")
        self.config = config
        self.samples = ToySamples(config.data.get("count", 90), config.data.get("noise", 0.1))
        self.labels = config.data.get("labels", LABELS)
        self.licences: list[WeightsLicence] = []
        self.data_fingerprint = "0" * 64
        self.at_loss: Callable[[int], None] = lambda number: None
        """Called with the number of each loss, from 1: a test's hand in the middle of a step."""
        self.losses = 0
        generator = np.random.default_rng(8)
        self.held = [(picture(index % 3, generator), index % 3) for index in range(60)]

    def build(self) -> nn.Module:
        return ToyNet(self.config.model.get("width", 8), self.config.model.get("dropout", 0.2))

    def groups(self, module: nn.Module) -> list[Group]:
        assert isinstance(module, ToyNet)
        return [
            Group(list(module.stem.parameters())),
            Group(list(module.deep.parameters())),
            Group([*module.head.parameters(), *module.unasked.parameters()], is_head=True),
        ]

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        self.losses += 1
        self.at_loss(self.losses)
        return F.cross_entropy(outputs["logits"], batch["target"])

    def validate(self, module: nn.Module, device: Any) -> dict[str, float]:
        images = torch.from_numpy(np.stack([image for image, _ in self.held])).to(device)
        target = torch.tensor([label for _, label in self.held], device=device)
        logits = module(images)["logits"]
        return {
            "accuracy": float((logits.argmax(1) == target).float().mean()),
            "cross_entropy": float(F.cross_entropy(logits, target)),
        }

    def probe(self, module: nn.Module) -> dict[str, float] | None:
        assert isinstance(module, ToyNet)
        with torch.no_grad():
            module.head.bias += 0.01
            return self.validate(module, next(module.parameters()).device)

    def export(self, module: nn.Module) -> Exported:
        images = torch.from_numpy(np.stack([image for image, _ in self.held[:4]]))
        model = export(_Exportable(module).eval(), {"image": images}, ["logits", "features"], {"image": {0: "n"}})
        with torch.no_grad():
            logits = module(images)["logits"].numpy()
        parity = relative_difference(logits, Session(model, 1).run({"image": images.numpy()})["logits"])
        width = module.get_submodule("head").in_features
        return Exported(
            model=model,
            inputs=[TensorSpec(name="image", datatype="FP32", shape=[-1, 3, SIZE, SIZE])],
            outputs=[
                TensorSpec(name="logits", datatype="FP32", shape=[-1, len(LABELS)]),
                TensorSpec(name="features", datatype="FP32", shape=[-1, width]),
            ],
            golden_inputs={"image": images.numpy()},
            parity=parity,
            task="toy",
            evaluator=EVALUATOR,
            labels=list(self.labels),
        )

    def teacher_inputs(self, batch: Batch) -> dict[str, np.ndarray]:
        return {"image": batch["image"].numpy()}


def register() -> None:
    """Make `task: toy` known to this process."""
    tasks.TASKS["toy"] = f"{Toy.__module__}:Toy"


def config(**sections: Any) -> TrainConfig:
    """A configuration of the toy; `fit` and the like as keywords."""
    fit: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": 0.05, "workers": 2, "warmup": 0.5, "backbone_lr": 1.0}
    fit |= sections.pop("fit", {})
    raw = {"task": "toy", "data": {}, "fit": fit, "track": {"tensorboard": False}, **sections}
    return TrainConfig.model_validate(raw)


def main(arguments: Sequence[str]) -> int:
    from solutions.cli import main as haechi

    torch.set_num_threads(1)
    register()
    return haechi(arguments)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.modules["tests.shared.training.toy"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
