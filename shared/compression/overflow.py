"""Weights that cannot overflow on x86 without VNNI, with as much of their eighth bit as that allows.

There the kernel multiplies unsigned bytes a with signed bytes w and adds each two neighbouring products in 16 signed
bits: 255·(w₁ + w₂) must not exceed 32767, so that w₁ + w₂ may be at most 128 (and at least -128). The usual remedy,
`reduce_range`, gives every weight 7 bits and so doubles the rounding error of all of them. But it is rare that the two
largest weights of a channel are neighbours: the scale that keeps every *pair* within bounds is nearly that of 8 bits.
Depthwise convolutions have kernels of their own, which add in 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from shared.compression import graph

_LEVELS = 127
"""For a weight, and for a pair: rounding may add half a level to each, which makes 128."""
_TRAINED = 63


def bounds(
    node: onnx.NodeProto, constants: Mapping[str, TensorProto], in_pairs: bool = True
) -> tuple[int, NDArray[np.float32]] | None:
    """(axis of the output channels, the value [channels] that becomes level 127), or None where 7 bits must do.

    None for operators of which it is not known in what order they add (transposed convolutions).

    Args:
        in_pairs: keep the sums of neighbours within bounds; else the largest weight of a channel decides.
    """
    weight = graph.layer_weight(node, constants)
    if weight is None:
        return None
    values = numpy_helper.to_array(constants[weight])
    match node.op_type:
        case "Conv":
            axis, rows = 0, values.reshape(len(values), -1)
        case "Gemm" if graph.attribute(node, "transB", 0):
            axis, rows = 0, values
        case "Gemm" | "MatMul" if values.ndim == 2:
            axis, rows = 1, values.T
        case _:
            return None
    sums = orders(node, values.shape) if in_pairs else []
    return axis, np.max([pairs(rows[:, order]) for order in sums], axis=0) if sums else _largest(rows)


def orders(node: onnx.NodeProto, shape: Sequence[int]) -> list[NDArray[np.int64]]:
    """The orders in which a channel's weights, flattened, may be added two by two; none where they are added singly.

    Args:
        shape: of the weight of a convolution (depthwise ones add singly) or matrix product.
    """
    if node.op_type != "Conv":
        return [np.arange(shape[1 if graph.attribute(node, "transB", 0) else 0])]
    if shape[1] == 1 and graph.attribute(node, "group", 1) > 1:
        return []
    places = np.arange(int(np.prod(shape[1:]))).reshape(shape[1:])
    found = [places.ravel()]
    if len(shape) == 4:  # the kernels for channels last; the other order is that for channels first
        found.append(places.transpose(1, 2, 0).ravel())
    return found


def _largest(rows: NDArray[Any]) -> NDArray[np.float32]:
    return _positive(np.abs(rows).max(axis=-1))


def pairs(rows: NDArray[Any]) -> NDArray[np.float32]:
    """For weights [..., K] in the order in which they are added: the value [...] that becomes level 127."""
    even = rows if rows.shape[-1] % 2 == 0 else np.concatenate([rows, np.zeros_like(rows[..., :1])], axis=-1)
    couples = even.reshape(*even.shape[:-1], -1, 2)
    above = np.maximum(couples, 0).sum(axis=-1).max(axis=-1)
    below = np.maximum(-couples, 0).sum(axis=-1).max(axis=-1)
    return _positive(np.maximum(above, below))


def _positive(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.where(values > 0, values, 1).astype(np.float32)


def overrides(
    nodes: list[onnx.NodeProto], constants: Mapping[str, TensorProto], trained: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """For the option `TensorQuantOverrides` of ONNX Runtime's quantiser: ranges of the weights of these nodes.

    Args:
        trained: the weights lie on a grid of 63 levels to each side already, which are few enough for any pair.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        limit = bounds(node, constants)
        if limit is None:
            continue
        axis, values = limit
        name = node.input[1]
        if trained:
            rows = np.moveaxis(numpy_helper.to_array(constants[name]), axis, 0)
            values = _largest(rows.reshape(len(rows), -1)) * np.float32(_LEVELS / _TRAINED)
        if name in found:  # shared by two layers: the wider range serves both
            values = np.maximum(values, [each["rmax"] for each in found[name]])
        found[name] = [
            {"axis": axis, "rmin": np.float32(-value), "rmax": np.float32(value), "reduce_range": False}
            for value in values
        ]
    return found
