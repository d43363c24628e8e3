"""Graphs whose shapes are computed while they run, made plain: what always comes out the same becomes a constant.

Exporters write `flatten` as a Reshape to a shape that is put together from the batch size, or as a Gather of computed
positions that picks every element in its place. Such nodes tie the network to the graph's input and keep it from being
cut out and trained. What they compute is observed on made-up inputs of several batch and picture sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph

_PROBES = ((2, 64, 80), (3, 64, 80), (2, 96, 128))
"""Batch, height and width of the made-up inputs. One dimension is varied at a time."""
Observed = Mapping[str, Sequence[NDArray[Any]]]
"""Tensor → its value for each of the probes."""


def plain(model: bytes) -> onnx.ModelProto:
    """The same function with fewer computed shapes; constants as initialisers, every node named."""
    proto = graph.read(model)
    _constants(proto)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    wanted = _wanted(proto)
    observed = _observe(proto, wanted) if wanted else None
    if observed:
        _resolve(proto, observed)
        _drop_unused(proto)
    return proto


def _constants(proto: onnx.ModelProto) -> None:
    kept = []
    for node in proto.graph.node:
        value = graph.attribute(node, "value") if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            tensor = TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            proto.graph.initializer.append(tensor)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def _wanted(proto: onnx.ModelProto) -> list[str]:
    """Tensors to look at: computed shapes and positions, and what they are applied to."""
    constants = graph.weights(proto)
    names: list[str] = []
    for node in proto.graph.node:
        index = _computed(node, constants)
        if index is not None:
            names += [node.input[0], node.input[index], node.output[0]]
    producers = graph.producers(proto)
    names += [producers[name].input[0] for name in names if name in producers and producers[name].op_type == "Reshape"]
    inputs = {each.name for each in proto.graph.input}
    return [name for name in dict.fromkeys(names) if name not in inputs and name not in constants]


def _computed(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> int | None:
    """Which input of a node is a shape, a size or a position that is not constant."""
    for index in {"Reshape": (1,), "Gather": (1,), "Resize": (2, 3)}.get(node.op_type, ()):
        if index < len(node.input) and node.input[index] and node.input[index] not in constants:
            return index
    return None


def _observe(proto: onnx.ModelProto, wanted: Sequence[str]) -> dict[str, list[NDArray[Any]]] | None:
    """What the tensors are for each probe; None where the model does not take made-up inputs."""
    observed: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    try:
        probe = graph.Probe(graph.write(proto), wanted, 1)
        for sizes in _PROBES:
            for name, value in probe.run(made_up(proto, sizes)):
                observed[name].append(np.asarray(value))
    except Exception:  # ONNX Runtime's have no common base; then the graph stays as it is
        return None
    return observed


def made_up(proto: onnx.ModelProto, sizes: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Zeros for every input, free dimensions filled with `sizes` in their order. Values do not matter to shapes."""
    made = {}
    for each in proto.graph.input:
        tensor = each.type.tensor_type
        shape = []
        free = iter(sizes)
        for dimension in tensor.shape.dim:
            shape.append(int(dimension.dim_value) if dimension.HasField("dim_value") else int(next(free)))
        made[each.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return made


def _resolve(proto: onnx.ModelProto, observed: Observed) -> None:
    constants = graph.weights(proto)
    producers = graph.producers(proto)
    renamed: dict[str, str] = {}
    for node in proto.graph.node:
        index = _computed(node, constants)
        if index is None or node.input[0] not in observed:
            continue
        if node.op_type == "Reshape":
            shape = _shape(observed[node.input[1]], observed[node.input[0]])
            if shape is not None:
                node.input[1] = _add(proto, f"{node.name}_shape", np.array(shape, np.int64))
                zero_copies(node)
        elif node.op_type == "Resize":
            scales = _scales(observed[node.input[0]], observed[node.output[0]])
            if scales is not None:
                name = _add(proto, f"{node.name}_scales", np.array(scales, np.float32))
                kept = [node.input[0], "", name]
                del node.input[:]
                node.input.extend(kept)
        else:
            source = _copied(node, producers, observed)
            if source is not None:
                renamed[node.output[0]] = source
    outputs = {each.name for each in proto.graph.output}
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name in renamed and name not in outputs:
                node.input[index] = renamed[name]


def _shape(shapes: Sequence[NDArray[Any]], data: Sequence[NDArray[Any]]) -> list[int] | None:
    """A constant shape that gives what these gave, with 0 (as in the data) for the batch."""
    if all(np.array_equal(shape, shapes[0]) for shape in shapes):
        return [int(size) for size in shapes[0]]
    rest_equal = all(np.array_equal(shape[1:], shapes[0][1:]) for shape in shapes)
    batched = all(len(shape) and shape[0] == each.shape[0] for shape, each in zip(shapes, data, strict=True))
    return [0, *(int(size) for size in shapes[0][1:])] if rest_equal and batched else None


def _scales(data: Sequence[NDArray[Any]], results: Sequence[NDArray[Any]]) -> list[float] | None:
    ratios = [
        [int(b) / int(a) for a, b in zip(x.shape, y.shape, strict=True)] for x, y in zip(data, results, strict=True)
    ]
    return ratios[0] if all(ratio == ratios[0] for ratio in ratios) else None


def _copied(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], observed: Observed) -> str | None:
    """The tensor that a Gather copies element by element into the same shape, or None."""
    flat = producers.get(node.input[0])
    if flat is None or flat.op_type != "Reshape" or graph.attribute(node, "axis", 0) != 0:
        return None
    source = flat.input[0]
    if source not in observed:
        return None
    for positions, before, after in zip(
        observed[node.input[1]], observed[source], observed[node.output[0]], strict=True
    ):
        if before.shape != after.shape or not np.array_equal(positions.ravel(), np.arange(before.size)):
            return None
    return str(source)


def zero_copies(node: onnx.NodeProto) -> None:
    """Let 0 in a Reshape's shape mean "as in the data", which exporters switch off."""
    for each in node.attribute:
        if each.name == "allowzero":
            each.i = 0


def _add(proto: onnx.ModelProto, name: str, value: NDArray[Any]) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Remove nodes and initialisers that no output needs any more."""
    needed = {each.name for each in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    initializers = [each for each in proto.graph.initializer if each.name in needed]
    for field, values in ((proto.graph.node, kept[::-1]), (proto.graph.initializer, initializers)):
        del field[:]
        field.extend(values)
    del proto.graph.value_info[:]
