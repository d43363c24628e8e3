"""What learns when and how fast: groups of parameters, freezing, warm-up and cosine, the average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared.training.config import Fit
from shared.training.task import Group

_MOMENTUM = 0.9


def make_optimizer(groups: Sequence[Group], fit: Fit) -> torch.optim.Optimizer:
    """One optimiser over all groups, each at its own rate; biases and norms are not decayed.

    Every parameter group carries `peak`, its highest learning rate, and `head`. A backbone's topmost group learns at
    `lr × backbone_lr`, each one below it `layer_decay` times as fast as the one above.
    """
    backbones = sum(not group.is_head for group in groups)
    below = backbones
    settings = []
    for group in groups:
        peak = fit.lr
        if not group.is_head:
            below -= 1
            peak = fit.lr * fit.backbone_lr * fit.layer_decay**below
        for decayed in (True, False):
            parameters = [each for each in group.parameters if (each.ndim > 1) == decayed]
            if parameters:
                decay = fit.weight_decay if decayed else 0.0
                settings.append(
                    {"params": parameters, "lr": peak, "peak": peak, "head": group.is_head, "weight_decay": decay}
                )
    if fit.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=fit.lr, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(settings, lr=fit.lr)


class Schedule:
    """Linear warm-up, then a cosine down to nothing (Loshchilov and Hutter, 2017), counted in steps.

    Layers that were frozen at the start warm up once more when they join, under the same cosine.
    """

    def __init__(self, fit: Fit, steps: int) -> None:
        """`steps`: of the optimiser in one epoch."""
        self._total = fit.epochs * steps
        self._warm = fit.warmup * steps
        self._joins = fit.frozen * steps

    def factor(self, step: int, *, head: bool) -> float:
        """What the highest rate is multiplied by at this step (from 0), 0 to 1."""
        begins = 0 if head else self._joins
        rising = min(1.0, (step - begins + 1) / self._warm) if self._warm >= 1 else 1.0
        progress = max(0.0, step - self._warm) / max(1.0, self._total - self._warm)
        return max(0.0, rising) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set every group's rate for this step; returns the head's."""
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * self.factor(step, head=group["head"])
        return max(group["lr"] for group in optimizer.param_groups)


def freeze(module: nn.Module, groups: Sequence[Group], *, backbone: bool) -> None:
    """Say which parameters learn: all that are in groups, or (`backbone`) only those of the head."""
    module.requires_grad_(False)
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(group.is_head or not backbone)


def training_mode(module: nn.Module, *, batch_norm: str) -> None:
    """Training mode, but for batch norms that keep their statistics: all if `frozen`, else those that do not learn.

    A frozen layer whose statistics went on drifting would not be the layer that was pretrained.
    """
    module.train()
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            learns = any(parameter.requires_grad for parameter in each.parameters(recurse=False))
            if batch_norm == "frozen" or not (learns or not each.affine):
                each.eval()


class Average:
    """The exponential moving average of a network's weights and buffers (Polyak averaging), in `module`.

    Early steps count less: the decay is min(decay, (1 + step) / (10 + step)), so that the first weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        ours, theirs = _tensors(self.module), _tensors(module)
        floats = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b.to(a.dtype) for a, b in floats], 1 - decay)
        for a, b in zip(ours, theirs, strict=True):
            if not a.is_floating_point():
                a.copy_(b)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*(each.detach() for each in module.parameters()), *module.buffers()]
