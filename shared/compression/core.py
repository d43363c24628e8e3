"""The core of a model as a torch module: its graph, node by node, with the graph's own weights.

Exported convolutions hold their batch norms; `normalise` takes them out again, measured on data and without changing
what is computed, since deep networks hardly train without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn

from shared.compression.operators import RIGID, Call, Node, Unsupported, build, pads_of

_LAYERS = ("Conv", "Gemm", "MatMul", "BatchNormalization")


class Norm(nn.BatchNorm2d):
    """Batch norm over dimension 1 of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [N, C, ...], got {input.dim()} dimensions")


class Layer(nn.Module):
    """A layer with weights, and the batch norm that was taken out of it or nothing."""

    def __init__(self, inner: nn.Module, pads: tuple[int, int, int, int] | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.norm: nn.Module = nn.Identity()
        self.pads = pads
        """Left, right, top, bottom, where they are not the same on both sides."""

    def forward(self, x: Tensor) -> Tensor:
        if self.pads is not None:
            x = nn.functional.pad(x, self.pads)
        return cast(Tensor, self.norm(self.inner(x)))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the norm in them."""
        inner: Any = self.inner
        weight, bias = inner.weight.detach(), inner.bias
        if not isinstance(self.norm, nn.BatchNorm2d):
            return weight, None if bias is None else bias.detach()
        norm = self.norm
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - scale * norm.running_mean.double()
        if bias is not None:
            shift = shift + scale * bias.double()
        shaped = scale.view(-1, *([1] * (weight.dim() - 1)))
        return (weight.double() * shaped).float(), shift.float()


@dataclass(frozen=True)
class Step:
    """One node of the core."""

    node: Node
    name: str
    layer: str
    """Key in `Core.layers`; empty: the step has no weights, and `call` computes it."""
    call: Call | None
    takes: tuple[str, ...]
    """Tensors that the computation gets."""


class Core(nn.Module):
    """The network between pre- and post-processing, node by node.

    forward: x float32 [N, ...] → the exits by their names in the graph, and the tensors in `watched`.
    """

    def __init__(self, entry: str, exits: Sequence[str]) -> None:
        super().__init__()
        self.entry = entry
        self.exits = list(exits)
        self.watched: list[str] = []
        """Inner tensors that `forward` gives besides the exits."""
        self.layers = nn.ModuleDict()
        self.steps: list[Step] = []
        self.constants: dict[str, str] = {}
        """Constant tensors of the graph → name of their buffer."""
        self.rounders = nn.ModuleDict()
        """What tensors go through that are stored in few bits; see `shared.compression.qat`."""
        self.rounded: dict[str, str] = {}
        """Tensors of the graph → key of their rounder."""
        self.flattens: set[str] = set()
        """Names of Reshape steps that do no more than flatten."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        values = self.run(x)
        return {name: values[name] for name in (*self.exits, *self.watched)}

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Every tensor of the core by name."""
        values = {name: self.get_buffer(key) for name, key in self.constants.items()}
        values[self.entry] = self._round(self.entry, x)
        for step in self.steps:
            taken = [values[name] for name in step.takes]
            if step.layer:
                found = self.layers[step.layer](taken[0])
            elif step.name in self.flattens:
                found = taken[0].flatten(1)
            else:
                assert step.call is not None
                found = step.call(taken)
            for name, value in zip(step.node.outputs, found if isinstance(found, tuple) else (found,), strict=False):
                values[name] = self._round(name, value)
        return values

    def _round(self, name: str, value: Tensor) -> Tensor:
        return self.rounders[self.rounded[name]](value) if name in self.rounded else value

    def rigid(self) -> list[Layer]:
        """Layers whose number of outputs is fixed: they feed an exit, a constant of that size, or an operator that
        counts channels."""
        makers = {name: step for step in self.steps for name in step.node.outputs}
        waiting = list(self.exits)
        for step in self.steps:
            fixed = step.node.op in RIGID and step.name not in self.flattens and not step.layer
            shaped = any(
                name in self.constants and self.get_buffer(self.constants[name]).numel() > 1 for name in step.takes
            )
            if fixed or shaped:
                waiting += [name for name in step.takes if name not in self.constants]
        found: dict[str, Layer] = {}
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in makers:
                continue
            seen.add(name)
            step = makers[name]
            if step.layer:
                layer = cast(Layer, self.layers[step.layer])
                found[step.layer] = layer
                if isinstance(layer.inner, nn.BatchNorm2d):  # it gives as many channels as it gets
                    waiting += step.takes
            else:
                waiting += step.takes
        return list(found.values())


# -- building -----------------------------------------------------------------------------------------------------


def view_of(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> Node:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return Node(
        node.op_type, attributes, [constants.get(name) for name in node.input], list(node.input), list(node.output)
    )


def make_step(
    node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]
) -> tuple[Layer | None, Call | None, list[str]]:
    """Layer or function of a node, and the tensors it takes.

    Raises:
        Unsupported: torch cannot compute it here.
    """
    view = view_of(node, constants)
    if node.op_type in _LAYERS and (node.op_type != "MatMul" or view.constants[1] is not None):
        return _layer(view), None, [view.inputs[0]]
    call = build(view)
    takes = [view.inputs[index] for index in view.tensors]
    for name in takes:
        if name in constants and constants[name].dtype != np.float32:
            raise Unsupported(f"constant {name} is {constants[name].dtype}, not float32")
    return None, call, takes


def _layer(view: Node) -> Layer:
    weight = view.constant(1)
    if weight is None or weight.dtype != np.float32:
        raise Unsupported("its weights are not float32")
    if view.op == "Conv":
        return _convolution(view, weight)
    if view.op == "BatchNormalization":
        return _batch_norm(view)
    if view.op == "MatMul":
        if weight.ndim != 2:
            raise Unsupported("its weights are not a matrix")
        return _linear(weight.T, None)
    plain_product = view.attribute("alpha", 1.0) == 1.0 and view.attribute("beta", 1.0) == 1.0
    if not plain_product or view.attribute("transA", 0):
        raise Unsupported("it scales or transposes")
    bias = view.constant(2)
    return _linear(weight if view.attribute("transB", 0) else weight.T, bias)


def _linear(weight: NDArray[Any], bias: NDArray[Any] | None) -> Layer:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(linear, weight=weight, bias=None if bias is None else np.broadcast_to(bias, weight.shape[:1]))
    return Layer(linear)


def _convolution(view: Node, weight: NDArray[Any]) -> Layer:
    if weight.ndim != 4:
        raise Unsupported("it is not two-dimensional")
    left, right, top, bottom = pads_of(view)
    even = left == right and top == bottom
    groups = int(view.attribute("group", 1))
    bias = view.constant(2)
    inner = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        tuple(view.attribute("strides", [1, 1])),
        (top, left) if even else 0,
        tuple(view.attribute("dilations", [1, 1])),
        groups,
        bias is not None,
    )
    _fill(inner, weight=weight, bias=bias)
    return Layer(inner, None if even else (left, right, top, bottom))


def _batch_norm(view: Node) -> Layer:
    scale, bias, mean, variance = (view.constant(index) for index in range(1, 5))
    if scale is None:
        raise Unsupported("it has no scale")
    norm = Norm(len(scale), eps=float(view.attribute("epsilon", 1e-5)))
    _fill(norm, weight=scale, bias=bias, running_mean=mean, running_var=variance)
    return Layer(norm)


@torch.no_grad()
def _fill(module: nn.Module, **values: NDArray[Any] | None) -> None:
    for name, value in values.items():
        if value is not None:
            getattr(module, name).copy_(torch.from_numpy(np.array(value, dtype=np.float32)))


# -- batch norms --------------------------------------------------------------------------------------------------


@torch.no_grad()
def normalise(core: Core, batches: Iterable[Tensor]) -> None:
    """Give every convolution a batch norm that changes nothing: its statistics are those of `batches` [N, C, H, W], its
    scale and shift undo them. The weights are scaled to the length that He et al. (2015) start with, which a norm
    behind them makes free, so that one learning rate suits all layers."""
    layers = {
        key: layer
        for key, layer in core.layers.items()
        if isinstance(layer, Layer) and isinstance(layer.inner, nn.Conv2d) and isinstance(layer.norm, nn.Identity)
    }
    moments = _moments(layers, core, batches)
    for key, layer in layers.items():
        if key not in moments:
            continue
        mean, variance = moments[key]
        inner: Any = layer.inner
        norm = Norm(len(mean))
        lengths = inner.weight.flatten(1).norm(dim=1)
        scale = torch.where(lengths > 1e-6, 2**0.5 / lengths.clamp(min=1e-6), torch.ones_like(lengths)).double()
        shift = inner.bias.double() if inner.bias is not None else torch.zeros_like(mean)
        inner.weight.mul_(scale.float().view(-1, 1, 1, 1))
        inner.bias = None
        raw = (mean - shift) * scale  # of the convolution alone
        spread = variance * scale.square()
        norm.running_mean.copy_(raw)
        norm.running_var.copy_(spread)
        norm.weight.copy_((spread + norm.eps).sqrt() / scale)
        norm.bias.copy_(raw / scale + shift)
        layer.norm = norm


def _moments(layers: Mapping[str, Layer], core: Core, batches: Iterable[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance [C] of what each convolution gives; none for those that give one number for each picture (a
    gate's), where a batch has too few to be normalised by."""
    sums: dict[str, list[Tensor]] = {}
    handles = []

    def watch(key: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if output.shape[2] * output.shape[3] == 1:
                return
            wide = output.double()
            found = [
                torch.tensor(float(wide.numel() // wide.shape[1])),
                wide.sum((0, 2, 3)),
                wide.square().sum((0, 2, 3)),
            ]
            sums[key] = [a + b for a, b in zip(sums[key], found, strict=True)] if key in sums else found

        return hook

    for key, layer in layers.items():
        handles.append(layer.inner.register_forward_hook(watch(key)))
    try:
        for batch in batches:
            core(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {
        key: (total / count, (squares / count - (total / count).square()).clamp(min=0.0))
        for key, (count, total, squares) in sums.items()
    }


def parameters(core: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(each.numel() for each in core.parameters())
