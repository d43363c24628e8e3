"""The linear probe: the best answer that one linear layer gives on frozen features, within seconds. And the figures of
a classifier, by which the probe and the whole network are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.evaluators.classification import scores, softmax

_PROBE_DECAY = 1e-3
_PROBE_STEPS = 150


@dataclass(frozen=True)
class Features:
    """What a frozen network sees in the samples of a split."""

    values: Tensor
    """float32 [N, D], on the CPU."""
    targets: Tensor
    """int64 [N]: the right classes."""


def probe_head(head: nn.Linear, train: Features, held_out: Features, smoothing: float) -> dict[str, float]:
    """Set a classifier's head by a linear probe.

    Args:
        smoothing: of the labels, from 0 (none) to 1.

    Returns:
        `classifier_figures` of the probe on what was held out.
    """
    weight, bias = linear_probe(train.values, train.targets, head.out_features, smoothing)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return classifier_figures(held_out.values @ weight.T + bias, held_out.targets)


def classifier_figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """`shared.evaluators.classification.scores` and `loss`, the mean cross-entropy.

    Args:
        logits: float32 [N, C], on the CPU.
        targets: int64 [N].
    """
    loss = functional.cross_entropy(logits, targets)
    return {**scores(softmax(logits.numpy()), targets.numpy()), "loss": float(loss)}


def linear_probe(features: Tensor, targets: Tensor, classes: int, smoothing: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression.

    Args:
        features: float32 [N, D].
        targets: int64 [N].

    Returns:
        weight [C, D] and bias [C] for the features as they are; inside they are standardised, so that one weight decay
        fits any network.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0) + 1e-3
    x = (features - mean) / deviation
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_PROBE_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(functional.linear(x, weight, bias), targets, label_smoothing=smoothing)
        loss = loss + _PROBE_DECAY / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scaled = (weight / deviation).detach()
    return scaled, (bias - scaled @ mean).detach()
