"""What does the picture show? One of a fixed set of classes, with a probability for each.

The network is a body (`shared.training.networks`), dropout and one linear layer. A linear probe on the frozen body is
the fast first answer, and where the fine-tuning starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shared.evaluators.classification import METRIC
from shared.labelled import Picture, labels_of
from shared.progress import track
from shared.training.config import TrainConfig, parse
from shared.training.networks import Body
from shared.training.picture_task import Network, PictureTask
from shared.training.pictures import as_tensor, mix
from shared.training.probe import Features, classifier_figures, probe_head
from shared.training.task import Batch, Exported


class Model(Network):
    """The section `model`."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Classifier(nn.Module):
    """forward: image float32 [N, 3, S, S], 0 to 255 → `logits` [N, C] and `features` [N, D]."""

    def __init__(self, body: Body, classes: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(body.width, classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.body(image)
        return {"logits": self.head(self.dropout(features)), "features": features}


class _Answer(nn.Module):
    """What the package answers."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.classifier(image)["logits"]
        return logits, torch.softmax(logits, dim=1)


class ImageClassification(PictureTask):
    """`task: image-classification`."""

    metric = METRIC

    def __init__(self, config: TrainConfig) -> None:
        self.model = parse(Model, config.model, "model")
        super().__init__(config, self.model)

    def build(self) -> nn.Module:
        return Classifier(self.body(), len(self.labels), self.model.dropout)

    def collate(self, samples: Sequence[Mapping[str, Any]], generator: np.random.Generator) -> Batch:
        images = as_tensor([view for sample in samples for view in sample["image"]])
        classes = torch.tensor([int(sample["target"]) for sample in samples])
        targets = functional.one_hot(classes, len(self.labels)).to(torch.float32)
        images, targets = mix(images, targets, self.augment, generator)
        return {"image": images, "target": targets}

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return functional.cross_entropy(outputs["logits"], batch["target"], label_smoothing=self.model.label_smoothing)

    def validate(self, module: nn.Module, device: Any) -> dict[str, float]:
        logits = []
        with torch.inference_mode():
            for images in self.batches(self.found.held_out, device):
                logits.append(module(images)["logits"].float().cpu())
        return classifier_figures(torch.cat(logits), torch.from_numpy(labels_of(self.found.held_out)))

    def probe(self, module: nn.Module) -> dict[str, float] | None:
        """Logistic regression on the frozen features of the plain pictures, by L-BFGS; none for random weights."""
        if not self.model.pretrained:
            return None
        assert isinstance(module, Classifier)
        device = next(module.parameters()).device
        train, held_out = (self._features(module, split, device) for split in (self.found.train, self.found.held_out))
        return probe_head(module.head, train, held_out, self.model.label_smoothing)

    def _features(self, module: Classifier, pictures: Sequence[Picture], device: Any) -> Features:
        with torch.inference_mode():
            batches = track(self.batches(pictures, device), "features", -(-len(pictures) // 32))
            found = torch.cat([module.body(images).float().cpu() for images in batches])
        # A clone is no inference tensor: L-BFGS differentiates through it.
        return Features(found.clone(), torch.from_numpy(labels_of(pictures)))

    def teacher_inputs(self, batch: Batch) -> dict[str, np.ndarray]:
        images = batch["image"].detach().cpu().round().clamp(0, 255).to(torch.uint8)
        return {"image": np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())}

    def export(self, module: nn.Module) -> Exported:
        classes = len(self.labels)
        found = self.exported(
            _Answer(module),
            {"logits": classes, "probabilities": classes},
            "probabilities",
            "image-classification",
            "image-classification",
        )
        found.description = f"{self.model.backbone} that tells {classes} classes apart"
        return found
