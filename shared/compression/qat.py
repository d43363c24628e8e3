"""Quantisation-aware training: a model learns to answer as before although its numbers are rounded to eight bits.

Weights and activations are rounded in the forward pass as the int8 model will round them, and the gradient passes as if
they were not (straight-through; Jacob et al. 2018). Weights: symmetric for each output channel, to 8 bits or, for
processors whose 8-bit products overflow, 7. Activations: one asymmetric range of 256 steps for each tensor, first the
extremes of the calibration samples, then a moving average of those met in training. The norms stay folded, or they
would change the very weights that are being rounded. The model's own float answers are the target.

What comes back is a float model whose weights lie on the grid: quantised by their extremes they stay what they are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from shared.compression import graph
from shared.compression.core import Core, Layer
from shared.compression.imitate import Course, Imitation, Inputs, Material, teach
from shared.compression.revive import revive
from shared.progress import track

_STEPS = 255
_MOMENTUM = 0.02
"""Of the moving average of ranges."""
_LR = 5e-5
"""Low: nothing is re-learned, and without norms high rates break a network."""
_KEEPS = (
    "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Identity", "Dropout",
)  # fmt: skip
"""Operators that only move values, so that what was rounded before them is so after them."""
_FUSED = ("Relu", "Clip")
"""Activations that become part of the integer kernel before them: nothing is rounded in between."""
_METADATA = "haechi.activation_ranges"


def quantisation_aware(
    model: bytes,
    data: Inputs,
    *,
    epochs: int,
    seed: int = 0,
    folder: Path,
    threads: int = 1,
    reduce_range: bool = False,
) -> bytes:
    """Train a model for int8.

    Args:
        data: inputs of the training split, or a data set that has them.
        folder: for the run while it lasts.
        reduce_range: weights get 7 bits, for x86 without VNNI.

    Returns:
        an ONNX file in fp32 with the same nodes and tensors; `ranges` reads the ranges it was trained with.

    Raises:
        NotTrainable: see `shared.compression.revive.trainable`.
        BadInput: too few samples.
    """
    torch.set_num_threads(threads)
    revived = revive(model, threads)
    material = Material(revived, data, seed)
    task = Imitation(material, threads)
    install(revived.core, material, reduce_range=reduce_range)
    course = Course(epochs, lr=_LR, batch_size=32)
    revived.core = teach(task, revived.core, course, folder=folder / "qat", seed=seed, threads=threads)
    return _with_ranges(revived.graft(), revived.core)


def ranges(model: bytes) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor as trained for int8; empty for a model that was not."""
    found = {each.key: each.value for each in graph.read(model).metadata_props}
    return {name: (float(low), float(high)) for name, (low, high) in json.loads(found.get(_METADATA, "{}")).items()}


def _with_ranges(model: bytes, core: Core) -> bytes:
    proto = graph.read(model)
    found = {name: core.rounders[key].range() for name, key in core.rounded.items()}
    entry = proto.metadata_props.add()
    entry.key, entry.value = _METADATA, json.dumps(found)
    return graph.write(proto)


# -- rounding -----------------------------------------------------------------------------------------------------


class RoundedWeight(nn.Module):
    """Weights [O, ...] on the grid of their channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._most = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / self._most
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self._most, self._most)


class RoundedTensor(nn.Module):
    """Activations on a grid of 256 steps that holds zero. Its range grows while `watching`, follows the training after
    that, and rests in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.watching = False

    def range(self) -> tuple[float, float]:
        return float(self.get_buffer("low")), float(self.get_buffer("high"))

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.get_buffer("low"), self.get_buffer("high")
        if self.watching or self.training:
            least, most = x.detach().amin().float(), x.detach().amax().float()
            if self.watching:
                low.copy_(torch.minimum(low, least))
                high.copy_(torch.maximum(high, most))
                return x
            low.lerp_(least.clamp(max=0.0), _MOMENTUM)
            high.lerp_(most.clamp(min=0.0), _MOMENTUM)
        scale = ((high - low) / _STEPS).clamp(min=1e-12)
        zero = (-low / scale).round().clamp(0, _STEPS).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, _STEPS)


def install(core: Core, material: Material, *, reduce_range: bool) -> None:
    """Round the weights of every layer and the tensors between them, with ranges from the samples."""
    for layer in core.layers.values():
        inner = cast(Layer, layer).inner
        if isinstance(inner, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(inner, "weight", RoundedWeight(7 if reduce_range else 8))
    for name in _tensors(core):
        key = re.sub(r"\W", "_", name) + f"_{len(core.rounded)}"
        core.rounders[key] = RoundedTensor()
        core.rounded[name] = key
    _watch(core, True)
    with torch.no_grad():
        for x in track(material.batches(32, 256), "Measuring ranges"):
            core.eval()(x)
    _watch(core, False)


def _watch(core: Core, watching: bool) -> None:
    for rounder in core.rounders.values():
        cast(Any, rounder).watching = watching


def _tensors(core: Core) -> list[str]:
    """What is stored between integer kernels: the core's input and what its nodes give, but for what is handed on at
    once or leaves the core."""
    readers: dict[str, list[str]] = {}
    for step in core.steps:
        for name in step.takes:
            readers.setdefault(name, []).append(step.node.op)
    found = [core.entry]
    for step in core.steps:
        for name in step.node.outputs:
            read = readers.get(name, [])
            fused = len(read) == 1 and read[0] in _FUSED
            if name not in core.exits and not fused and step.node.op not in _KEEPS and read:
                found.append(name)
    return found
