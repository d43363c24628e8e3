"""Which level each weight is rounded to, so that the layer's *output* is nearest to the float layer's.

Rounding every weight to its nearest level is best for each weight and not for their sum. What a layer reads goes
together: neighbouring pixels are alike, and after a ReLU every value is positive, so that errors of one sign add up.
Here the weights of a channel are rounded one after the other, and what one loses is made good by those still to come,
as far as the inputs go together (Hassibi & Stork, Optimal Brain Surgeon, 1993; Frantar et al., GPTQ, 2022). What
remains in the mean goes into the bias (Nagel et al., Data-Free Quantization, 2019). All it takes is how the inputs of
the layers vary over the calibration samples. The graph keeps its form: the result is as small and as fast as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from shared.compression import graph, overflow
from shared.compression.calibration import Sample
from shared.compression.targets import Target
from shared.progress import track

Floats = NDArray[np.float32]

LEVELS = 127
_PAIR = 128
"""What two levels that are added in 16 bits may come to; see `overflow`."""
_BLOCK = 512
"""Weights of a channel that make good each other's errors: bounds time and memory for wide kernels."""
_PLACES = 128
"""Places of one map and sample that are looked at."""
_DAMPING = 0.05
"""Share of the inputs' mean variance that is added to all of them, so that few samples are not believed too much."""


@dataclass(frozen=True)
class Rounded:
    """A layer's weight on the levels of its channels."""

    weight: Floats
    """In the shape of the constant."""
    axis: int
    """Of the output channels."""
    limits: Floats
    """[channels] what becomes level 127."""
    bias: Floats | None
    """[channels] instead of the float layer's; None for products, which have none."""


def fit(
    model: bytes, nodes: Sequence[onnx.NodeProto], samples: Sequence[Sample], target: Target, threads: int
) -> dict[str, Rounded]:
    """The weights of the layers among these nodes, rounded for the target, by the name of the node.

    Left out, for the quantiser to round as usual: weights that two layers share, stacks of matrices, transposed
    convolutions, products that scale or transpose what they read.

    Args:
        model: cleaned (`graph.clean`).
        nodes: of the model, those to be quantised.
        samples: for calibration.
    """
    proto = graph.read(model)
    constants, readers = graph.weights(proto), graph.consumers(proto)
    layers = [
        _Layer(node, constants, target.reduce_range)
        for node in nodes
        if _fits(node, constants) and len(readers[node.input[1]]) == 1
    ]
    generator = np.random.default_rng(0)
    probe = graph.Probe(model, [layer.node.input[0] for layer in layers], threads)
    for sample in track(samples if layers else [], "looking at the inputs of layers"):
        values = dict(probe.run(sample))
        for layer in layers:
            layer.look(values[layer.node.input[0]], generator)
    return {layer.node.name: layer.rounded() for layer in track(layers, "rounding weights") if layer.seen}


def put(proto: onnx.ModelProto, rounded: Mapping[str, Rounded]) -> dict[str, list[dict[str, Any]]]:
    """Put rounded weights into a graph, by the name of the node; the ranges that make ONNX Runtime's quantiser find the
    same levels, for its option `TensorQuantOverrides`."""
    constants = graph.weights(proto)
    ranges: dict[str, list[dict[str, Any]]] = {}
    for node in proto.graph.node:
        if node.name not in rounded:
            continue
        layer, weight = rounded[node.name], node.input[1]
        constants[weight].CopyFrom(numpy_helper.from_array(layer.weight, weight))
        if layer.bias is not None:  # a constant of its own: equal biases of two layers may be one
            name = f"{node.name}_bias"
            proto.graph.initializer.append(numpy_helper.from_array(layer.bias, name))
            node.input[:] = [*node.input[:2], name]
        ranges[weight] = [
            {"axis": layer.axis, "rmin": np.float32(-limit), "rmax": np.float32(limit), "reduce_range": False}
            for limit in layer.limits
        ]
    graph.drop_unused(proto)
    return ranges


def _fits(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether the layer is one of those that can be rounded here."""
    if overflow.bounds(node, constants) is None or constants[node.input[1]].data_type != TensorProto.FLOAT:
        return False
    biased = len(node.input) > 2 and bool(node.input[2])
    if biased and (node.input[2] not in constants or len(constants[node.input[2]].dims) != 1):
        return False
    if node.op_type == "Conv":
        plain = graph.attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        return plain and len(constants[node.input[1]].dims) == 4
    factors = graph.attribute(node, "alpha", 1.0), graph.attribute(node, "beta", 1.0)
    return factors == (1.0, 1.0) and not graph.attribute(node, "transA", 0)


@dataclass
class _Inputs:
    """How what a layer reads varies, in G groups of K values that are weighted and added up."""

    count: int = 0
    sums: NDArray[np.float64] | None = None
    """[G, K]"""
    products: list[NDArray[np.float32]] = field(default_factory=list)
    """For each block of `_BLOCK` of the K values: [G, k, k]."""

    def add(self, rows: Floats) -> None:
        """Rows [N, G, K]."""
        turned = rows.transpose(1, 2, 0)
        blocks = [turned[:, start : start + _BLOCK] for start in range(0, turned.shape[1], _BLOCK)]
        products = [block @ block.transpose(0, 2, 1) for block in blocks]
        sums = rows.sum(axis=0, dtype=np.float64)
        self.count += len(rows)
        self.sums = sums if self.sums is None else self.sums + sums
        if self.products:
            products = [old + new for old, new in zip(self.products, products, strict=True)]
        self.products = products


class _Layer:
    """A convolution or matrix product whose weights are rounded."""

    def __init__(self, node: onnx.NodeProto, constants: Mapping[str, TensorProto], in_pairs: bool) -> None:
        found = overflow.bounds(node, constants, in_pairs)
        assert found is not None  # the caller has asked
        self.node = node
        self.axis, self.limits = found
        self.weight = numpy_helper.to_array(constants[node.input[1]])
        self.groups = int(graph.attribute(node, "group", 1))
        self.bias: Floats | None = None
        if node.op_type != "MatMul":
            given = len(node.input) > 2 and bool(node.input[2])
            self.bias = numpy_helper.to_array(constants[node.input[2]]) if given else np.zeros_like(self.limits)
        self.orders = overflow.orders(node, self.weight.shape) if in_pairs else []
        self._inputs = _Inputs()

    @property
    def seen(self) -> bool:
        """Whether any input was looked at."""
        return self._inputs.count > 0

    def look(self, value: NDArray[Any], generator: np.random.Generator) -> None:
        """Take note of an input [N, C, H, W] of a convolution or [..., K] of a product."""
        rows = self._patches(value, generator) if self.node.op_type == "Conv" else value.reshape(-1, 1, value.shape[-1])
        if len(rows):
            self._inputs.add(rows.astype(np.float32, copy=False))

    def _patches(self, value: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """What the kernel lies over at some places of the maps: [places, groups, C / groups · height · width]."""
        size = self.weight.shape[2:]
        top, left, bottom, right = graph.attribute(self.node, "pads", [0, 0, 0, 0])
        strides, steps = (graph.attribute(self.node, name, [1, 1]) for name in ("strides", "dilations"))
        padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
        reach = [step * (length - 1) for step, length in zip(steps, size, strict=True)]
        counts = [
            (side - far - 1) // stride + 1 for side, far, stride in zip(padded.shape[2:], reach, strides, strict=True)
        ]
        total = len(value) * counts[0] * counts[1]
        places = generator.choice(total, min(_PLACES, total), replace=False)
        picture, row, column = np.unravel_index(places, (len(value), *counts))
        rows = (row * strides[0])[:, None, None] + (np.arange(size[0]) * steps[0])[:, None]
        columns = (column * strides[1])[:, None, None] + np.arange(size[1]) * steps[1]
        taken = padded[picture[:, None, None], :, rows, columns]  # [places, height, width, C]
        return taken.transpose(0, 3, 1, 2).reshape(len(places), self.groups, -1)

    def rounded(self) -> Rounded:
        """By all that was seen."""
        turned = self.weight if self.axis == 0 else self.weight.T
        weight = turned.reshape(self.groups, len(turned) // self.groups, -1).astype(np.float32)
        scale = (self.limits / LEVELS).astype(np.float32).reshape(self.groups, -1)
        inputs = self._inputs
        assert inputs.sums is not None  # the caller has asked whether anything was seen
        mean = inputs.sums / inputs.count
        # What a bias makes good in the mean need not be made good by weights.
        about = mean if self.bias is not None else np.zeros_like(mean)
        levels = _levels(weight, scale, self._spread(about), self._partners(weight.shape[2]))
        new = levels * scale[:, :, None]
        bias = None
        if self.bias is not None:
            lost = np.einsum("grk,gk->gr", new.astype(np.float64) - weight, mean)
            bias = (self.bias - lost.ravel()).astype(np.float32)
        shaped = new.reshape(turned.shape)
        return Rounded(np.ascontiguousarray(shaped if self.axis == 0 else shaped.T), self.axis, self.limits, bias)

    def _spread(self, about: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """For each block: the second moments of the inputs about [G, K], damped, [G, k, k]."""
        found = []
        for number, products in enumerate(self._inputs.products):
            part = about[:, number * _BLOCK : (number + 1) * _BLOCK]
            spread = products / self._inputs.count - part[:, :, None] * part[:, None, :]
            size = spread.shape[1]
            damping = _DAMPING * np.trace(spread, axis1=1, axis2=2) / size
            # Where nothing varies at all any positive number does: each weight is then rounded for itself.
            found.append(spread + np.maximum(damping, 1e-9)[:, None, None] * np.eye(size))
        return found

    def _partners(self, size: int) -> list[list[int]]:
        """For each of the K weights of a channel, those before it that may be added to it in 16 bits."""
        found: list[list[int]] = [[] for _ in range(size)]
        for order in self.orders:
            for one, other in zip(order[0::2].tolist(), order[1::2].tolist(), strict=False):
                found[max(one, other)].append(min(one, other))
        return found


def _levels(
    weight: Floats, scale: Floats, spread: Sequence[NDArray[np.float64]], partners: Sequence[Sequence[int]]
) -> Floats:
    """Round weights [G, R, K] with steps [G, R] to levels -127 … 127, one of the K after the other."""
    left = weight.copy()
    levels = np.zeros_like(left)
    start = 0
    for block in spread:
        # Row i of the upper factor: how the weights behind i make good an error of i.
        factor = np.linalg.cholesky(np.linalg.inv(block)).transpose(0, 2, 1).astype(np.float32)
        end = start + block.shape[1]
        for index in range(start, end):
            low, high = _room(levels, partners[index])
            levels[:, :, index] = np.clip(np.rint(left[:, :, index] / scale), low, high)
            row = factor[:, None, index - start, index - start :]
            error = (left[:, :, index] - levels[:, :, index] * scale)[:, :, None] / row[:, :, :1]
            left[:, :, index + 1 : end] -= error * row[:, :, 1:]
        start = end
    return levels


def _room(levels: Floats, partners: Sequence[int]) -> tuple[Floats, Floats]:
    """(lowest, highest) level [G, R] beside levels that were chosen before."""
    low, high = np.full(levels.shape[:2], -LEVELS, np.float32), np.full(levels.shape[:2], LEVELS, np.float32)
    for partner in partners:
        low = np.maximum(low, -_PAIR - np.minimum(levels[:, :, partner], 0))
        high = np.minimum(high, _PAIR - np.maximum(levels[:, :, partner], 0))
    return low, high
