"""Large constants in fewer bits, unfolded when the model is loaded: a smaller file that is as quick as before.

For what integer kernels do not reach: tables, means, memory banks, heads that stay in float. Unfolding is a Cast and a
product, not a DequantizeLinear: ONNX Runtime folds the former when it loads a model, and would repeat the latter in
every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph

_STORED = 4096
"""Constants of fewer elements stay as they are."""
_ROUGH = 0.03
"""A relative error beyond which 8 bits are too few for a constant, so that it gets 16."""


@dataclass(frozen=True)
class Stored:
    """A constant that was stored in fewer bits."""

    name: str
    bits: str
    """`int8` or `fp16`."""
    elements: int
    error: float
    """Relative: ‖stored - float‖ / ‖float‖."""


def store_weights(model: bytes, bits: str, leave: frozenset[str] = frozenset()) -> tuple[bytes, list[Stored]]:
    """Keep the large float constants in `int8` (a scale for each column, row or output channel) or `fp16`.

    Args:
        leave: constants that stay, by name.

    Returns:
        The graph, and what was stored how. A constant that 8 bits describe badly gets 16, one beyond float16 stays.
    """
    proto = graph.read(model)
    readers = graph.consumers(proto)
    stored: list[Stored] = []
    nodes: list[onnx.NodeProto] = []
    kept: list[TensorProto] = []
    for tensor in proto.graph.initializer:
        users = {user.op_type for user in readers.get(tensor.name, [])}
        if (
            tensor.data_type != TensorProto.FLOAT
            or graph.elements(tensor) < _STORED
            or tensor.name in leave
            or tensor.name.endswith(graph.FIXED)
            or users & {"QuantizeLinear", "DequantizeLinear"}
        ):
            kept.append(tensor)
            continue
        values = numpy_helper.to_array(tensor)
        how, folded = bits, _as_int8(tensor.name, values, "Gather" in users)
        if bits == "fp16" or _error(folded, values) > _ROUGH:
            how, folded = "fp16", _as_half(tensor.name, values)
        if not np.isfinite(folded[2]).all():
            kept.append(tensor)
            continue
        kept += folded[0]
        nodes += folded[1]
        stored.append(Stored(tensor.name, how, values.size, _error(folded, values)))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    every = [*nodes, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(every)
    return graph.write(proto), stored


_Unfolded = tuple[list[TensorProto], list[onnx.NodeProto], NDArray[np.float32]]


def _error(folded: _Unfolded, values: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(folded[2] - values) / max(float(np.linalg.norm(values)), 1e-12))


def _as_half(name: str, values: NDArray[np.float32]) -> _Unfolded:
    with np.errstate(over="ignore"):
        small = values.astype(np.float16)
    cast = helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_unfold", to=TensorProto.FLOAT)
    return [numpy_helper.from_array(small, f"{name}_fp16")], [cast], small.astype(np.float32)


def _as_int8(name: str, values: NDArray[np.float32], rows: bool) -> _Unfolded:
    """Scales where nothing is summed over: for rows of a table, output channels of a convolution, else columns."""
    if values.ndim < 2:
        axes: tuple[int, ...] = tuple(range(values.ndim))
    elif rows:
        axes = (values.ndim - 1,)
    elif values.ndim == 4:
        axes = (1, 2, 3)
    else:
        axes = (values.ndim - 2,)
    scale = (np.abs(values).max(axis=axes, keepdims=True) / 127).astype(np.float32)
    scale[scale == 0] = 1
    small = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    whole = f"{name}_whole"
    nodes = [
        helper.make_node("Cast", [f"{name}_int8"], [whole], f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [whole, f"{name}_scale"], [name], f"{name}_unfold"),
    ]
    new = [numpy_helper.from_array(small, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
    return new, nodes, small.astype(np.float32) * scale
