"""A transformer's graph as ONNX Runtime's kernels for processors want it.

* Attention, written out by exporters as a dozen nodes a layer, becomes one `com.microsoft.Attention`, which also does
  without the graph of the mask, and of which dynamic quantisation makes one integer kernel.
* The five nodes of GELU become one.
* The addition in front of a layer norm becomes `Sum`: ONNX Runtime would merge `Add` with the norm into a kernel that
  on processors is several times slower than the two.

A layer whose nodes are arranged in another way is left as it is. Who uses this compares outputs before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph

_DOMAIN = "com.microsoft"
_MASK = "attention_mask"
"""Name of the input that says which tokens count: int64 [batch, tokens], as all tokenisers for transformers have it."""


def fuse(model: bytes) -> bytes:
    """The same function with the rewrites above where they fit."""
    proto = graph.read(model)
    for rewrite in (_attention, _gelu, _sum):
        rewrite(_View(proto))
        graph.drop_unused(proto)
    if not any(each.domain == _DOMAIN for each in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    # Stale shapes; the quantiser cannot infer through the new operators anyway.
    del proto.graph.value_info[:]
    return graph.write(proto)


class _Other(Exception):
    """The nodes are arranged in another way."""


class _View:
    """The graph, asked for neighbours."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.makers = graph.producers(proto)
        self.readers = graph.consumers(proto)
        self.constants = graph.weights(proto)
        self.inputs = {each.name for each in proto.graph.input}

    def maker(self, tensor: str, kind: str) -> onnx.NodeProto:
        """The node of this kind that makes a tensor which nobody else reads."""
        node = self.makers.get(tensor)
        if node is None or node.op_type != kind or len(self.readers[tensor]) != 1:
            raise _Other
        return node

    def reader(self, tensor: str, kind: str) -> onnx.NodeProto:
        """The only reader of a tensor."""
        users = self.readers.get(tensor, [])
        if len(users) != 1 or users[0].op_type != kind:
            raise _Other
        return users[0]

    def constant(self, node: onnx.NodeProto) -> tuple[np.ndarray, str]:
        """Of a node with two inputs: the constant one's value, and the other one's name."""
        known = [name for name in node.input if name in self.constants]
        other = [name for name in node.input if name not in self.constants]
        if len(known) != 1 or len(other) != 1:
            raise _Other
        return numpy_helper.to_array(self.constants[known[0]]), other[0]

    def replace(self, found: dict[str, onnx.NodeProto]) -> None:
        """By the name of the old node."""
        nodes = [found.get(node.name, node) for node in self.proto.graph.node]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.proto.graph.node[:]
        self.proto.graph.node.extend(copies)


def _each(
    view: _View, kind: str, match: Callable[[onnx.NodeProto], tuple[str, onnx.NodeProto]]
) -> dict[str, onnx.NodeProto]:
    """What `match` finds around each node of a kind: the name of the node to replace, and the new one."""
    found = {}
    for node in view.proto.graph.node:
        if node.op_type == kind:
            try:
                name, new = match(node)
            except _Other:
                continue
            found[name] = new
    return found


# -- attention ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Projection:
    """Reshape(Add(MatMul(x, weight), bias)) behind a transposition."""

    source: str
    weight: np.ndarray
    bias: np.ndarray
    heads: int


def _attention(view: _View) -> None:
    if _MASK not in view.inputs:
        return
    mask = f"{_MASK}_int32"

    def match(softmax: onnx.NodeProto) -> tuple[str, onnx.NodeProto]:
        masked = view.maker(softmax.input[0], "Add")
        scaled = view.maker(_first_made(view, masked, "Mul"), "Mul")
        scale, product = view.constant(scaled)
        scores = view.maker(product, "MatMul")
        mixed = view.reader(softmax.output[0], "MatMul")
        if mixed.input[0] != softmax.output[0] or scale.size != 1:
            raise _Other
        parts = [_projection(view, name) for name in (scores.input[0], scores.input[1], mixed.input[1])]
        turned = view.reader(mixed.output[0], "Transpose")
        joined = view.reader(turned.output[0], "Reshape")
        if len({part.source for part in parts}) != 1 or len({part.heads for part in parts}) != 1:
            raise _Other
        weight = np.concatenate([part.weight for part in parts], axis=1)
        bias = np.concatenate([part.bias for part in parts])
        names = [f"{softmax.name}_qkv_weight", f"{softmax.name}_qkv_bias"]
        view.proto.graph.initializer.extend(
            numpy_helper.from_array(values, name) for name, values in zip(names, (weight, bias), strict=True)
        )
        node = helper.make_node(
            "Attention",
            [parts[0].source, *names, mask],
            list(joined.output),
            f"{softmax.name}_attention",
            domain=_DOMAIN,
            num_heads=parts[0].heads,
            scale=float(scale.ravel()[0]),
        )
        return joined.name, node

    found = _each(view, "Softmax", match)
    if found:
        view.replace(found)
        view.proto.graph.node.insert(0, helper.make_node("Cast", [_MASK], [mask], mask, to=TensorProto.INT32))


def _first_made(view: _View, node: onnx.NodeProto, kind: str) -> str:
    """The input of a node that comes from a node of this kind."""
    for name in node.input:
        maker = view.makers.get(name)
        if maker is not None and maker.op_type == kind:
            return str(name)
    raise _Other


def _projection(view: _View, tensor: str) -> _Projection:
    turned = view.maker(tensor, "Transpose")
    split = view.maker(turned.input[0], "Reshape")
    biased = view.maker(split.input[0], "Add")
    bias, product = view.constant(biased)
    weight, source = view.constant(view.maker(product, "MatMul"))
    if weight.ndim != 2 or bias.ndim != 1:
        raise _Other
    heads = _heads(view, split, weight.shape[1])
    return _Projection(source, weight, bias, heads)


def _heads(view: _View, split: onnx.NodeProto, channels: int) -> int:
    """How many heads a Reshape to [batch, tokens, heads, width] makes; its shape is a constant or a Concat, in which
    one of the last two may be left open."""
    if split.input[1] in view.constants:
        shape = [int(each) for each in numpy_helper.to_array(view.constants[split.input[1]])]
    else:
        joined = view.makers.get(split.input[1])
        if joined is None or joined.op_type != "Concat":
            raise _Other
        shape = []
        for name in joined.input:
            known = view.constants.get(name)
            shape += [-1] if known is None else [int(each) for each in numpy_helper.to_array(known).ravel()]
    if len(shape) != 4 or max(shape[2:]) < 1:
        raise _Other
    heads = shape[2] if shape[2] > 0 else channels // shape[3]
    if channels % heads:
        raise _Other
    return heads


# -- the rest -------------------------------------------------------------------------------------------------------


def _gelu(view: _View) -> None:
    """x / √2 → Erf → + 1 → · 0.5 → · x, in this order or with the half elsewhere."""

    def match(erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto]:
        divided = view.maker(erf.input[0], "Div")
        root, x = view.constant(divided)
        plus = view.reader(erf.output[0], "Add")
        one, _ = view.constant(plus)
        halved = view.reader(plus.output[0], "Mul")
        half, _ = view.constant(halved)
        last = view.reader(halved.output[0], "Mul")
        if x not in last.input or not np.allclose([root, one, half], [2**0.5, 1, 0.5], atol=1e-4):
            raise _Other
        return last.name, helper.make_node("Gelu", [x], list(last.output), f"{erf.name}_gelu", domain=_DOMAIN)

    view.replace(_each(view, "Erf", match))


def _sum(view: _View) -> None:
    for node in view.proto.graph.node:
        if node.op_type == "LayerNormalization":
            maker = view.makers.get(node.input[0])
            if maker is not None and maker.op_type == "Add":
                maker.op_type = "Sum"
