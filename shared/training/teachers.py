"""Distillation: one or more model packages teach the network besides the labels.

The packages run in ONNX Runtime on the very batch that the student sees, after augmentation. From their answers the
student learns either or both of

- logits: the teachers' classes, softened by a temperature T and averaged; the loss is KL divergence × T² (Hinton,
  Vinyals and Dean, 2015), mixed with the labels' loss by `distill.logits`;
- features: what the teachers see; a linear layer learned for each teacher turns the student's features into the
  teacher's (as in FitNets, Romero et al., 2015); the loss is 1 - cosine, weighted by `distill.features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import BadInput, HaechiError
from shared.package import open_package
from shared.runtime import Model, load
from shared.training.config import Distill
from shared.training.task import Batch, Objective

_FEATURES = ("features", "embedding")
"""Names of outputs that are features, in the order of preference."""
_SOFT = "soft"
"""In what is taught: the teachers' averaged probabilities at the temperature, [N, classes]."""


class Teachers:
    """Packages that answer batches. `answer` may be called from several threads."""

    def __init__(
        self,
        models: Sequence[Model],
        orders: Sequence[NDArray[np.int64] | None],
        distill: Distill,
        objective: Objective,
    ) -> None:
        self._models, self._orders, self._distill, self._objective = models, orders, distill, objective

    @classmethod
    def open(cls, distill: Distill, objective: Objective) -> Teachers | None:
        """Load the packages; None where there are none.

        Raises:
            BadInput: one is missing, damaged, knows other labels or does not give what is to be learned from it.
        """
        if not distill.teachers:
            idle = next((name for name in ("logits", "features", "compare") if getattr(distill, name)), "")
            if idle:
                raise BadInput(f"distill.{idle} needs distill.teachers: name model packages, or leave it out.")
            return None
        if not (distill.logits or distill.features):
            raise BadInput("distill.teachers would teach nothing; set distill.logits or distill.features above 0.")
        models: list[Model] = []
        orders: list[NDArray[np.int64] | None] = []
        for path in distill.teachers:
            try:
                model = load(open_package(path))
            except HaechiError as error:
                raise BadInput(f"distill.teachers: {error}") from error
            models.append(model)
            orders.append(_order(model, objective, str(path)) if distill.logits else None)
            if distill.features and not _feature_name(model):
                have = ", ".join(spec.name for spec in model.manifest.outputs)
                raise BadInput(
                    f"distill.teachers: {path} has no output {' or '.join(_FEATURES)} (it has {have}); "
                    f"set distill.features to 0."
                )
        return cls(models, orders, distill, objective)

    def answer(self, batch: Batch) -> Batch:
        """What the teachers say to a batch: `soft` [N, classes], and for each teacher `features<number>` [N, D].

        Raises:
            BadInput: a teacher does not take this task's inputs.
        """
        inputs = self._objective.teacher_inputs(batch)
        taught: Batch = {}
        soft: list[NDArray[np.float32]] = []
        for number, (model, order) in enumerate(zip(self._models, self._orders, strict=True)):
            outputs = model.run(_for(model, inputs))
            if self._distill.logits:
                soft.append(self._softened(model, outputs, order))
            if self._distill.features:
                features = np.asarray(outputs[_feature_name(model)], dtype=np.float32)
                taught[f"features{number}"] = torch.from_numpy(features.reshape(len(features), -1))
        if soft:
            taught[_SOFT] = torch.from_numpy(np.mean(soft, axis=0))
        return taught

    def lessons(self, network: nn.Module, batch: Batch) -> Lessons:
        """The losses that teach `network`; widths are found by trying one batch.

        Raises:
            BadInput: the network gives no logits or features, or another number of classes than the teachers.
        """
        taught = self.answer(batch)
        was_training = network.training
        device = next(network.parameters()).device
        network.eval()
        with torch.no_grad():
            outputs = network(**{name: tensor.to(device) for name, tensor in batch.items() if name != "target"})
        network.train(was_training)
        if _SOFT in taught:
            if "logits" not in outputs:
                raise BadInput("distill.logits: this task's network gives no logits; use distill.features.")
            ours, theirs = outputs["logits"].shape[-1], taught[_SOFT].shape[-1]
            if ours != theirs:
                raise BadInput(f"distill.teachers: they know {theirs} classes and the data {ours}; use other teachers.")
        widths = {name: tensor.shape[-1] for name, tensor in taught.items() if name != _SOFT}
        if widths and "features" not in outputs:
            raise BadInput("distill.features: this task's network gives no features; set it to 0.")
        own = outputs["features"].shape[-1] if widths else 0
        return Lessons(self._distill, own, widths)

    def _softened(
        self, model: Model, outputs: Mapping[str, NDArray[np.float32]], order: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        try:
            logits = np.asarray(self._objective.teacher_logits(outputs), dtype=np.float32)
        except KeyError as error:
            have = ", ".join(outputs)
            raise BadInput(
                f"distill.teachers: {model.package.path} has no output {error.args[0]} (it has {have}); "
                f"set distill.logits to 0."
            ) from error
        logits = logits if order is None else logits[:, order]
        powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / self._distill.temperature)
        softened: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return softened


class Lessons(nn.Module):
    """Mixes the labels' loss with the teachers'. Its linear layers learn with the network and are thrown away after."""

    def __init__(self, distill: Distill, own: int, widths: Mapping[str, int]) -> None:
        """
        Args:
            own: width of the student's features.
            widths: of each teacher's features, by the name in what is taught.
        """
        super().__init__()
        self._logits, self._temperature, self._features = distill.logits, distill.temperature, distill.features
        self.projections = nn.ModuleDict({name: nn.Linear(own, width) for name, width in widths.items()})

    def forward(self, loss: Tensor, outputs: Mapping[str, Tensor], taught: Batch) -> Tensor:
        """The labels' mean loss, the network's outputs, what the teachers say → the loss to learn from."""
        if _SOFT in taught:
            temperature = self._temperature
            ours = F.log_softmax(outputs["logits"].float() / temperature, dim=1)
            distance = F.kl_div(ours, taught[_SOFT], reduction="batchmean") * temperature**2
            loss = (1 - self._logits) * loss + self._logits * distance
        for name, projection in self.projections.items():
            ours = projection(outputs["features"])
            distance = 1 - F.cosine_similarity(ours.float(), taught[name], dim=1).mean()
            loss = loss + self._features / len(self.projections) * distance
        return loss


def _feature_name(model: Model) -> str:
    """The output that holds features; empty if there is none."""
    names = [spec.name for spec in model.manifest.outputs]
    return next((name for name in _FEATURES if name in names), "")


def _order(model: Model, objective: Objective, path: str) -> NDArray[np.int64] | None:
    """Where the objective's labels are among the teacher's, or None where both are in the same order.

    Raises:
        BadInput: they are not the same labels.
    """
    theirs, ours = list(model.manifest.labels), list(objective.labels)
    if not ours or not theirs or theirs == ours:
        return None
    if sorted(theirs) == sorted(ours):
        return np.array([theirs.index(label) for label in ours])
    strange = next((label for label in ours if label not in theirs), None)
    what = f"does not know {strange!r}" if strange else f"knows {len(theirs)} labels and the data have {len(ours)}"
    raise BadInput(f"distill.teachers: {path} {what}; use a teacher that was trained on the same labels.")


def _for(model: Model, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, np.ndarray]:
    """Of the task's inputs those that this teacher takes; the runtime says what is missing."""
    wanted = {spec.name for spec in model.manifest.inputs}
    return {name: array for name, array in inputs.items() if name in wanted}
