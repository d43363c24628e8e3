"""Reading, cleaning and cutting up the graphs that compression works on.

A package's graph holds more than its network: in front of it the picture is resized and normalised, behind it boxes
are decoded or maps are blurred. `parts` tells the network from the rest by where the large weights are, so that only
the network is quantised.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.runtime import onnxruntime

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_NETWORK = 512
"""Constant weights from which a node counts as the network's: a blur or a box decoder's sum has fewer, a first layer of
3×3×3×32 more."""
FIXED = "_fixed"
"""Constants whose names end so are computed, not learned, and are no layer's weight."""
_ENDS = frozenset({"NonMaxSuppression", "TopK", "ArgMax", "NonZero", "RoiAlign"})
"""A detector's tail begins here at the latest."""


def read(model: bytes) -> onnx.ModelProto:
    """The graph of `model.onnx`."""
    return onnx.load_model_from_string(model)


def write(proto: onnx.ModelProto) -> bytes:
    """The bytes of `model.onnx`."""
    return bytes(proto.SerializeToString())


def weights(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initialisers by name."""
    return {each.name: each for each in proto.graph.initializer}


def elements(tensor: TensorProto) -> int:
    """How many numbers an initialiser holds."""
    return int(np.prod(list(tensor.dims), dtype=np.int64))


def consumers(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor → the nodes that read it."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in dict.fromkeys(node.input):
            found[name].append(node)
    return found


def producers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor → the node that makes it."""
    return {name: node for node in proto.graph.node for name in node.output if name}


def float_tensors(proto: onnx.ModelProto) -> set[str]:
    """Names of inner tensors known to be float32."""
    every = [*proto.graph.value_info, *proto.graph.output, *proto.graph.input]
    return {each.name for each in every if each.type.tensor_type.elem_type == TensorProto.FLOAT}


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


# -- cleaning -----------------------------------------------------------------------------------------------------


def clean(model: bytes) -> bytes:
    """The same function in fewer nodes, with shapes inferred and every node named: constants folded, doubles merged,
    batch norms in their convolutions, means over a whole map as pooling (for which there is an int8 kernel), and what
    `rewrites` knows."""
    import onnxslim

    from shared.compression import rewrites

    with _deep():
        proto = onnxslim.slim(read(model))
    _pool(proto)
    _name_nodes(proto)
    proto = rewrites.separable(rewrites.normalise(infer_shapes(proto)))
    drop_unused(proto)
    return write(proto)


def shortened(model: bytes) -> bytes:
    """The same graph with short names for the tensors inside it; inputs, outputs and nodes keep theirs.

    An exporter's names, repeated for scales and zero points, are 2 % of a small int8 model. Left alone where a node
    holds a graph of its own, which may read any name outside.
    """
    proto = read(model)
    if any(each.type == onnx.AttributeProto.GRAPH for node in proto.graph.node for each in node.attribute):
        return model
    kept = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    free = (each for each in (f"t{number:x}" for number in itertools.count()) if each not in kept)
    short: dict[str, str] = {name: name for name in (*kept, "")}

    def name(long: str) -> str:
        if long not in short:
            short[long] = next(free) + (FIXED if long.endswith(FIXED) else "")
        return short[long]

    for tensor in proto.graph.initializer:
        tensor.name = name(tensor.name)
    for node in proto.graph.node:
        node.input[:] = [name(each) for each in node.input]
        node.output[:] = [name(each) for each in node.output]
    del proto.graph.value_info[:]
    return write(proto)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Remove nodes whose outputs nobody reads, and constants that no node reads."""
    wanted = {each.name for each in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))
    constants = [each for each in proto.graph.initializer if each.name in wanted]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(constants)


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With types and (where they can be known) shapes of inner tensors."""
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """onnxslim sorts by recursion, several frames for each node of the longest path."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: the quantiser knows nodes by name alone."""
    seen: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def _pool(proto: onnx.ModelProto) -> None:
    """ReduceMean over the last two of four axes → GlobalAveragePool (and Flatten)."""
    inferred = infer_shapes(proto)
    ranks = {
        each.name: len(each.type.tensor_type.shape.dim)
        for each in inferred.graph.value_info
        if each.type.tensor_type.HasField("shape")
    }
    constants = weights(proto)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        axes = _axes(node, constants)
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4 or axes not in ({2, 3}, {-1, -2}):
            nodes.append(node)
        elif attribute(node, "keepdims", 1):
            nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), node.name))
        else:
            inner = f"{node.output[0]}_pooled"
            nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [inner], node.name))
            nodes.append(helper.make_node("Flatten", [inner], list(node.output), f"{node.name}_flat", axis=1))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _axes(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> set[int]:
    if len(node.input) > 1 and node.input[1] in constants:
        return {int(axis) for axis in numpy_helper.to_array(constants[node.input[1]]).ravel()}
    return {int(axis) for axis in attribute(node, "axes", [])}


# -- parts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Nodes by name; every node is in one of them."""

    before: frozenset[str]
    """Pre-processing: no layer of the network comes before."""
    network: frozenset[str]
    after: frozenset[str]
    """The tail: no layer of the network comes after, or something that decides (NMS, top-k) came before."""


def parts(proto: onnx.ModelProto) -> Parts:
    """Cut a graph into pre-processing, network and tail."""
    nodes = list(proto.graph.node)
    constants = weights(proto)
    layers = {node.name for node in nodes if layer_weight(node, constants) is not None and _size(node, constants)}
    ended = _reached(nodes, {node.name for node in nodes if node.op_type in _ENDS})
    layers -= ended
    downstream = _reached(nodes, layers)
    upstream = _reaching(nodes, layers)
    before = {node.name for node in nodes} - downstream
    after = downstream - upstream
    return Parts(frozenset(before), frozenset(downstream & upstream), frozenset(after))


def layer_weight(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> str | None:
    """The constant weight of a convolution or matrix product, or None."""
    if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants:
        return None if node.input[1].endswith(FIXED) else str(node.input[1])
    return None


def _size(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    return elements(constants[node.input[1]]) >= _NETWORK


def _reached(nodes: Sequence[onnx.NodeProto], start: set[str]) -> set[str]:
    """Names of `start` and of all that depends on it; nodes are in topological order."""
    tensors: set[str] = set()
    found = set()
    for node in nodes:
        if node.name in start or any(name in tensors for name in node.input):
            found.add(node.name)
            tensors.update(node.output)
    return found


def _reaching(nodes: Sequence[onnx.NodeProto], end: set[str]) -> set[str]:
    """Names of `end` and of all that it depends on."""
    tensors: set[str] = set()
    found = set()
    for node in reversed(nodes):
        if node.name in end or any(name in tensors for name in node.output):
            found.add(node.name)
            tensors.update(node.input)
    return found


def has_convolutions(proto: onnx.ModelProto) -> bool:
    """Whether convolutions with weights of the network's size are in it."""
    constants = weights(proto)
    return any(
        node.op_type in ("Conv", "ConvTranspose") and layer_weight(node, constants) and _size(node, constants)
        for node in proto.graph.node
    )


def is_transformer(proto: onnx.ModelProto) -> bool:
    """Attention and no convolutions: what dynamic int8 is for."""
    kinds = [node.op_type for node in proto.graph.node]
    attends = kinds.count("Softmax") + kinds.count("Attention") + kinds.count("MultiHeadAttention") > 0
    return attends and "MatMul" in kinds and not has_convolutions(proto)


# -- looking inside --------------------------------------------------------------------------------------------------


class Probe:
    """A graph run on the CPU with inner tensors as further outputs."""

    def __init__(self, model: bytes, tensors: Iterable[str], threads: int) -> None:
        proto = read(model)
        have = {each.name for each in proto.graph.output}
        self.names = list(dict.fromkeys(tensors))
        proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in self.names if name not in have)
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self._session = ort.InferenceSession(write(proto), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """(name, value) of the inner tensors for one input."""
        yield from zip(self.names, self._session.run(self.names, dict(inputs)), strict=True)
