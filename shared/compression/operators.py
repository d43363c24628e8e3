"""The ONNX operators that a revived network computes with torch, one builder each.

A builder gets a node and gives a function of the node's tensors in torch, or raises `Unsupported` with the reason.
Layers with weights (Conv, Gemm, MatMul, BatchNormalization) are modules and made in `shared.compression.revive`; these
here hold none. Semantics: https://onnx.ai/onnx/operators/, opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Call = Callable[[Sequence[Tensor]], Any]
"""Tensors in the order of the node's inputs (constants that are numbers for the operator left out) → output(s)."""


class Unsupported(Exception):
    """Why a node cannot be computed with torch here, as the end of a sentence that began with the node."""


@dataclass(frozen=True)
class Node:
    """One node of the graph as the builders see it."""

    op: str
    attributes: Mapping[str, Any]
    constants: Sequence[NDArray[Any] | None]
    """For each input its value where it is a constant of the graph."""
    inputs: Sequence[str]
    """Names; an empty one stands for an input that is left out."""
    outputs: Sequence[str]

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def constant(self, index: int) -> NDArray[Any] | None:
        """The value of input `index`, None where it is left out.

        Raises:
            Unsupported: it is computed while the model runs.
        """
        if index >= len(self.inputs) or not self.inputs[index]:
            return None
        value = self.constants[index]
        if value is None:
            raise Unsupported(f"input {index} of {self.op} is computed, not constant")
        return value

    def integers(self, index: int, attribute: str) -> list[int] | None:
        """Integers that older opsets keep in an attribute and newer ones in an input."""
        if attribute in self.attributes:
            return [int(value) for value in np.atleast_1d(self.attributes[attribute])]
        value = self.constant(index)
        return None if value is None else [int(each) for each in np.atleast_1d(value)]

    @property
    def tensors(self) -> list[int]:
        """Indices of the inputs that the function gets: all that are computed, and constants where any may be."""
        if self.op in MANY:
            return [index for index, name in enumerate(self.inputs) if name]
        return [0]


MANY = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Concat", "MatMul", "Sum")
"""Operators whose inputs are all tensors of equal standing."""

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": F.relu,
    "HardSwish": F.hardswish,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Sqrt": torch.sqrt,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Softplus": F.softplus,
    "Mish": F.mish,
    "Identity": lambda x: x,
    "Dropout": lambda x: x,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax((2, 3), keepdim=True),
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Pow": torch.pow,
    "MatMul": torch.matmul,
}
RIGID = ("Reshape", "Transpose", "Split", "Slice", "Unsqueeze", "Softmax", "LogSoftmax", "MatMul", "Pad", "Squeeze")
"""Operators that may mix or count channels: the layers that feed them keep theirs. A Reshape that only flattens is not
one of them."""


def build(node: Node) -> Call:
    """The function of a node without weights.

    Raises:
        Unsupported: there is no such operator here, or not with these attributes.
    """
    if node.op in _UNARY:
        unary = _UNARY[node.op]
        return lambda xs: unary(xs[0])
    if node.op in _BINARY:
        binary = _BINARY[node.op]
        return lambda xs: binary(xs[0], xs[1])
    if node.op not in _BUILDERS:
        raise Unsupported(f"operator {node.op} is not among those that can be trained")
    return _BUILDERS[node.op](node)


def _sum(_: Node) -> Call:
    def call(xs: Sequence[Tensor]) -> Tensor:
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total

    return call


def _extreme(node: Node) -> Call:
    choose = torch.minimum if node.op == "Min" else torch.maximum

    def call(xs: Sequence[Tensor]) -> Tensor:
        found = xs[0]
        for x in xs[1:]:
            found = choose(found, x)
        return found

    return call


def _leaky(node: Node) -> Call:
    slope = float(node.attribute("alpha", 0.01))
    return lambda xs: F.leaky_relu(xs[0], slope)


def _elu(node: Node) -> Call:
    alpha = float(node.attribute("alpha", 1.0))
    return lambda xs: F.elu(xs[0], alpha)


def _gelu(node: Node) -> Call:
    raw = node.attribute("approximate", b"none")
    how = raw.decode() if isinstance(raw, bytes) else str(raw)
    return lambda xs: F.gelu(xs[0], approximate=how)


def _hard_sigmoid(node: Node) -> Call:
    alpha, beta = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    return lambda xs: (xs[0] * alpha + beta).clamp(0.0, 1.0)


def _clip(node: Node) -> Call:
    low, high = (
        node.attributes[name] if name in node.attributes else node.constant(index)
        for index, name in ((1, "min"), (2, "max"))
    )
    least, most = (None if value is None else float(np.asarray(value).item()) for value in (low, high))
    return lambda xs: xs[0].clamp(least, most)


def _softmax(node: Node) -> Call:
    axis = int(node.attribute("axis", -1))
    return (lambda xs: xs[0].softmax(axis)) if node.op == "Softmax" else (lambda xs: xs[0].log_softmax(axis))


def pads_of(node: Node) -> tuple[int, int, int, int]:
    """Left, right, top, bottom, as `torch.nn.functional.pad` wants them.

    Raises:
        Unsupported: the padding depends on the input's size.
    """
    automatic = node.attribute("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID", "NOTSET", "VALID", ""):
        raise Unsupported(f"auto_pad of {node.op} is {automatic!r}")
    pads = list(node.attribute("pads", [0, 0, 0, 0]))
    if len(pads) != 4:
        raise Unsupported(f"{node.op} is not two-dimensional")
    top, left, bottom, right = (int(value) for value in pads)
    return left, right, top, bottom


def _pool(node: Node) -> Call:
    kernel = [int(value) for value in node.attribute("kernel_shape", [])]
    stride = [int(value) for value in node.attribute("strides", [1, 1])]
    left, right, top, bottom = pads_of(node)
    ceil = bool(node.attribute("ceil_mode", 0))
    dilations = [int(value) for value in node.attribute("dilations", [1, 1])]
    if len(node.outputs) > 1 and node.outputs[1]:
        raise Unsupported(f"{node.op} gives indices")
    if node.op == "MaxPool":
        fill = float("-inf")
        even = left == right and top == bottom
        inner = (top, left) if even else (0, 0)

        def biggest(xs: Sequence[Tensor]) -> Tensor:
            x = xs[0] if even else F.pad(xs[0], (left, right, top, bottom), value=fill)
            return F.max_pool2d(x, kernel, stride, inner, dilations, ceil_mode=ceil)

        return biggest
    if left != right or top != bottom or dilations != [1, 1]:
        raise Unsupported("AveragePool pads unevenly")
    include = bool(node.attribute("count_include_pad", 0))
    return lambda xs: F.avg_pool2d(xs[0], kernel, stride, (top, left), ceil, include)


def _reduce(node: Node) -> Call:
    axes = node.integers(1, "axes")
    keep = bool(node.attribute("keepdims", 1))
    if axes is None:
        raise Unsupported(f"{node.op} runs over all axes")
    names = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}
    name = names[node.op]
    return lambda xs: getattr(xs[0], name)(dim=tuple(axes), keepdim=keep)


def _flatten(node: Node) -> Call:
    if int(node.attribute("axis", 1)) != 1:
        raise Unsupported("Flatten has another axis than 1")
    return lambda xs: xs[0].flatten(1)


def _reshape(node: Node) -> Call:
    shape = node.integers(1, "shape")
    if shape is None:
        raise Unsupported("Reshape has no shape")
    zero = bool(node.attribute("allowzero", 0))
    wanted = list(shape)

    def call(xs: Sequence[Tensor]) -> Tensor:
        return xs[0].reshape(
            [int(xs[0].shape[axis]) if size == 0 and not zero else size for axis, size in enumerate(wanted)]
        )

    return call


def _squeeze(node: Node) -> Call:
    axes = node.integers(1, "axes")
    if axes is None:
        raise Unsupported(f"{node.op} names no axes")
    if node.op == "Squeeze":
        return lambda xs: xs[0].squeeze(tuple(axes))

    def call(xs: Sequence[Tensor]) -> Tensor:
        x = xs[0]
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return call


def _transpose(node: Node) -> Call:
    order = node.attributes.get("perm")
    if order is None:
        raise Unsupported("Transpose has no order")
    return lambda xs: xs[0].permute(tuple(order))


def _concat(node: Node) -> Call:
    axis = int(node.attributes["axis"])
    return lambda xs: torch.cat(list(xs), axis)


def _split(node: Node) -> Call:
    axis = int(node.attribute("axis", 0))
    sizes = node.integers(1, "split")
    count = len(node.outputs)

    def call(xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if sizes is not None:
            return xs[0].split(sizes, axis)
        return xs[0].split(-(-xs[0].shape[axis] // count), axis)

    return call


def _slice(node: Node) -> Call:
    starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
    if starts is None or ends is None:
        raise Unsupported("Slice has no range")
    axes = node.integers(3, "axes") or list(range(len(starts)))
    steps = node.integers(4, "steps") or [1] * len(starts)
    if min(steps) < 1:
        raise Unsupported("Slice runs backwards")

    def call(xs: Sequence[Tensor]) -> Tensor:
        x = xs[0]
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index: list[slice] = [slice(None)] * x.dim()
            index[axis % x.dim()] = slice(start, min(end, 2**62), step)
            x = x[tuple(index)]
        return x

    return call


def _pad(node: Node) -> Call:
    amounts = node.integers(1, "pads")
    mode = node.attribute("mode", b"constant")
    value = node.constant(2)
    if amounts is None or mode not in (b"constant", "constant") or len(amounts) != 8 or any(amounts[:2] + amounts[4:6]):
        raise Unsupported("Pad is not a border of one value around a picture")
    fill = 0.0 if value is None else float(np.asarray(value).item())
    left, right, top, bottom = amounts[3], amounts[7], amounts[2], amounts[6]
    return lambda xs: F.pad(xs[0], (left, right, top, bottom), value=fill)


def _resize(node: Node) -> Call:
    """Enlarging by whole numbers with `nearest`, or `linear`: what feature pyramids use."""
    mode = node.attribute("mode", b"nearest")
    where = node.attribute("coordinate_transformation_mode", b"half_pixel")
    scales = node.constant(2)
    if scales is None or np.asarray(scales).size != 4:
        raise Unsupported("Resize has no constant scales")
    vertical, horizontal = (float(value) for value in np.asarray(scales)[2:])
    if mode == b"nearest":
        if vertical != int(vertical) or horizontal != int(horizontal) or where == b"align_corners":
            raise Unsupported("Resize does not enlarge by a whole number")
        return lambda xs: F.interpolate(xs[0], scale_factor=(vertical, horizontal), mode="nearest")
    if mode != b"linear" or where not in (b"half_pixel", b"pytorch_half_pixel", b"align_corners"):
        raise Unsupported(f"Resize is {mode!r} with {where!r}")
    corners, smooth = where == b"align_corners", bool(node.attribute("antialias", 0))
    return lambda xs: F.interpolate(
        xs[0],
        size=(int(xs[0].shape[2] * vertical), int(xs[0].shape[3] * horizontal)),
        mode="bilinear",
        align_corners=corners,
        antialias=smooth,
    )


_BUILDERS: dict[str, Callable[[Node], Call]] = {
    "Sum": _sum,
    "Min": _extreme,
    "Max": _extreme,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
    "ReduceMin": _reduce,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
}
