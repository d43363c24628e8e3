"""An ONNX file becomes a network that can be trained, and the trained network becomes an ONNX file again.

A package's graph is cut in three: what comes before the network (a picture is resized and normalised), the network's
core, and what comes after (softmax, boxes, thresholds). The core runs from the first layer with weights to the last one
and what belongs to it, as long as torch can compute every node. It is rebuilt node by node as a torch module with the
graph's own weights:

    revived = revive(model)
    x = revived.front({"image": picture})       # what the core gets
    revived.core(torch.from_numpy(x))           # {exit: tensor}
    ...                                         # train, prune
    smaller = revived.graft()                   # the same graph around the changed core

Because the graph itself is kept and only its weights are replaced, names, pre- and post-processing and the interface
are the same afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph
from shared.compression.core import Core, Layer, Step, make_step, view_of
from shared.compression.operators import Unsupported
from shared.compression.plain import made_up, plain, zero_copies
from shared.errors import HaechiError
from shared.training.export import Session

_ENDINGS = ("Relu", "Clip", "HardSwish", "LeakyRelu", "Add", "BatchNormalization", "Identity")
"""Taken into the core behind its last layers: what a layer's output goes through before it is a feature."""
_FEWEST = 64
"""Constant weights from which a node is a layer, and no blur or scale."""


class NotTrainable(HaechiError):
    """The graph has no core that torch could train; the sentence says which node stops it."""


def trainable(model: bytes) -> str | None:
    """Why an ONNX file cannot be revived, as one sentence; None if it can."""
    try:
        _split(plain(model))
    except NotTrainable as error:
        return str(error)
    return None


# -- cutting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    proto: onnx.ModelProto
    entry: str
    exits: list[str]
    names: set[str]
    """Of the core's nodes."""


def _numpy(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}


def _is_layer(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a node has weights that make it part of a network."""
    weighted = node.op_type in graph.WEIGHTED and len(node.input) > 1 and node.input[1] in constants
    return weighted and constants[node.input[1]].size >= _FEWEST


def _split(proto: onnx.ModelProto) -> _Split:
    """Find the core.

    Raises:
        NotTrainable: there is no layer, or what can be trained is less than half of the network.
    """
    constants = _numpy(proto)
    nodes = list(proto.graph.node)
    first = next((index for index, node in enumerate(nodes) if _is_layer(node, constants)), None)
    if first is None:
        raise NotTrainable("the model has no layer with constant float weights, so there is nothing to train.")
    entry = nodes[first].input[0]
    inside, reason = _reach(nodes[first:], entry, constants)
    core = _trim(inside, constants)
    _check_share(nodes, core, constants, reason)
    made = {name for node in core for name in node.output}
    names = {node.name for node in core}
    outside = {name for node in nodes if node.name not in names for name in node.input}
    outside |= {each.name for each in proto.graph.output}
    exits = [name for node in core for name in node.output if name in outside & made]
    return _Split(proto, entry, exits, names)


def _reach(
    nodes: Sequence[onnx.NodeProto], entry: str, constants: Mapping[str, NDArray[Any]]
) -> tuple[list[onnx.NodeProto], str]:
    """The nodes that depend on `entry` alone and can be computed, and why the first of the others cannot."""
    known = {entry}
    inside, reason = [], ""
    for node in nodes:
        computed = [name for name in node.input if name and name not in constants]
        if not known.intersection(computed):
            continue
        try:
            missing = [name for name in computed if name not in known]
            if missing:
                raise Unsupported(f"it also takes {missing[0]}, which does not come from the network")
            make_step(node, constants)
        except Unsupported as error:
            reason = reason or f"node {node.name} ({node.op_type}): {error}"
            continue
        inside.append(node)
        known.update(name for name in node.output if name)
    return inside, reason


def _trim(inside: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Without what follows the last layers, but for the activations and sums that finish their features."""
    needed: set[str] = set()
    kept: set[str] = set()
    for node in reversed(inside):
        if _is_layer(node, constants) or needed.intersection(node.output):
            kept.add(node.name)
            needed.update(node.input)
    made = {name for node in inside if node.name in kept for name in node.output}
    for node in inside:
        computed = [name for name in node.input if name and name not in constants]
        if node.name not in kept and node.op_type in _ENDINGS and all(name in made for name in computed):
            kept.add(node.name)
            made.update(node.output)
    return [node for node in inside if node.name in kept]


def _check_share(
    nodes: Sequence[onnx.NodeProto],
    core: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    reason: str,
) -> None:
    def count(some: Sequence[onnx.NodeProto], kinds: Iterable[str]) -> int:
        layers = [node for node in some if node.op_type in kinds and _is_layer(node, constants)]
        return sum(constants[node.input[1]].size for node in layers)

    # What a model compares features with (a bank of them, say) is no layer: where there are convolutions, they count.
    kinds = ("Conv", "ConvTranspose") if count(nodes, ("Conv", "ConvTranspose")) else tuple(graph.WEIGHTED)
    inside, all_of_them = count(core, kinds), count(nodes, kinds)
    if 2 * inside < all_of_them:
        why = reason or "its layers do not depend on one another"
        raise NotTrainable(f"only {100 * inside // all_of_them} % of the network can be trained; {why}.")


def _build(split: _Split) -> Core:
    constants = _numpy(split.proto)
    core = Core(split.entry, split.exits)
    for node in split.proto.graph.node:
        if node.name not in split.names:
            continue
        layer, call, takes = make_step(node, constants)
        key = ""
        if layer is not None:
            key = re.sub(r"\W", "_", node.name)
            while key in core.layers:
                key += "_"
            core.layers[key] = layer
        for name in takes:
            if name in constants and name not in core.constants:
                buffer = f"constant_{len(core.constants)}"
                core.register_buffer(buffer, torch.from_numpy(np.array(constants[name])))
                core.constants[name] = buffer
        core.steps.append(Step(view_of(node, constants), node.name, key, call, tuple(takes)))
    return core.eval()


# -- the whole ----------------------------------------------------------------------------------------------------


class Revived:
    """A model whose core is a torch module; see the module's docstring."""

    def __init__(self, split: _Split, threads: int) -> None:
        self._split = split
        self.core = _build(split)
        """May be changed in place or replaced before `graft`."""
        self._front: Session | None = None
        self._wanted = [each.name for each in split.proto.graph.input]
        if split.entry not in self._wanted:
            part = cut(split.proto, self._wanted, [split.entry])
            self._wanted = [each.name for each in part.graph.input]
            self._front = Session(graph.write(part), threads)
        self.shape = self.front(made_up(split.proto, (2, 64, 80))).shape
        """Of what the core gets for a made-up input with a batch of 2."""
        self._find_flattens()

    def front(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The core's input [N, ...] for inputs of the model: the pre-processing, in ONNX Runtime."""
        if self._front is None:
            return np.asarray(inputs[self.core.entry], dtype=np.float32)
        found = self._front.run({name: inputs[name] for name in self._wanted})
        return cast("NDArray[np.float32]", found[self.core.entry])

    def pictures(self) -> dict[str, list[int | None]]:
        """Inputs that the core depends on and that are uint8 with three channels last: name → shape, None: free."""
        found = {}
        for each in self._split.proto.graph.input:
            tensor = each.type.tensor_type
            shape = [int(size.dim_value) if size.HasField("dim_value") else None for size in tensor.shape.dim]
            if each.name in self._wanted and tensor.elem_type == TensorProto.UINT8 and shape[-1:] == [3]:
                found[each.name] = shape
        return found

    def parent(self, threads: int, watched: Sequence[str] = ()) -> Session:
        """The core as the model had it when it was revived, in ONNX Runtime: x → exits and `watched`. It runs beside
        training as the teacher, two to three times as fast as torch."""
        part = cut(self._split.proto, [self.core.entry], [*self.core.exits, *watched])
        return Session(graph.write(part), threads)

    def follows(self, exit_name: str) -> set[str]:
        """Kinds of the nodes that read an exit outside of the core: how it is used."""
        return {
            node.op_type
            for node in self._split.proto.graph.node
            if exit_name in node.input and node.name not in self._split.names
        }

    def graft(self, core: Core | None = None) -> bytes:
        """The model with the weights of `core` (default: `self.core`) in the place of its own; norms are folded into
        their layers, pruned channels are gone from it.

        Raises:
            HaechiError: the result is not a valid model.
        """
        core = core or self.core
        proto = onnx.ModelProto()
        proto.CopyFrom(self._split.proto)
        nodes = {node.name: node for node in proto.graph.node}
        tensors: dict[str, NDArray[Any]] = {}
        for step in core.steps:
            if step.layer:
                _write_layer(nodes[step.name], cast(Layer, core.layers[step.layer]), tensors)
            elif step.name in core.flattens:
                nodes[step.name].input[1] = f"{step.name}.shape"
                zero_copies(nodes[step.name])
                tensors[f"{step.name}.shape"] = np.array([0, -1], np.int64)
        needed = {name for node in proto.graph.node for name in node.input}
        kept = [each for each in proto.graph.initializer if each.name in needed and each.name not in tensors]
        del proto.graph.initializer[:]
        del proto.graph.value_info[:]
        proto.graph.initializer.extend(kept)
        proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as error:
            raise HaechiError(f"the trained model is not valid ONNX: {' '.join(str(error).split())}.") from error
        return graph.write(proto)

    @torch.no_grad()
    def _find_flattens(self) -> None:
        """A Reshape to [N, everything else] must not count channels that may be pruned."""
        values = self.core.run(torch.zeros(self.shape))
        for step in self.core.steps:
            if step.node.op in ("Reshape", "Squeeze") and not step.layer:
                before, after = values[step.takes[0]].shape, values[step.node.outputs[0]].shape
                if step.node.op == "Reshape" and len(after) == 2 and after[0] == before[0]:
                    self.core.flattens.add(step.name)


def revive(model: bytes, threads: int = 1) -> Revived:
    """Cut a model and rebuild its core in torch.

    Args:
        model: an ONNX file in fp32.
        threads: of the pre-processing.

    Raises:
        NotTrainable: see `trainable`.
    """
    return Revived(_split(plain(model)), threads)


def cut(proto: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a graph that computes `outputs` from `inputs` (those of them that it needs)."""
    needed = set(outputs)
    nodes = []
    for node in reversed(proto.graph.node):
        made = needed.intersection(node.output).difference(inputs)
        if made:
            nodes.append(node)
            needed.update(name for name in node.input if name)
    infos = {each.name: each for each in proto.graph.input}
    taken = [
        infos.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in inputs
        if name in needed
    ]
    part = helper.make_graph(
        nodes[::-1],
        "part",
        taken,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [each for each in proto.graph.initializer if each.name in needed],
    )
    return helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)


def _write_layer(node: onnx.NodeProto, layer: Layer, tensors: dict[str, NDArray[Any]]) -> None:
    """Put a layer's weights into `tensors` under names of their own (a weight may have served two nodes)."""
    inner: Any = layer.inner
    if node.op_type == "BatchNormalization":
        parts = (inner.weight, inner.bias, inner.running_mean, inner.running_var)
        for index, value in enumerate(parts, start=1):
            node.input[index] = f"{node.name}.{index}"
            tensors[node.input[index]] = value.detach().numpy().copy()
        return
    weight, bias = layer.folded()
    transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not graph.attribute(node, "transB", 0))
    array = weight.numpy().T if transposed else weight.numpy()
    node.input[1] = f"{node.name}.weight"
    tensors[node.input[1]] = np.ascontiguousarray(array)
    if bias is not None:
        assert node.op_type != "MatMul", "a MatMul has no bias and no norm"
        del node.input[2:]
        node.input.append(f"{node.name}.bias")
        tensors[node.input[2]] = bias.numpy().copy()
    if node.op_type == "Conv":
        for each in node.attribute:
            if each.name == "group":
                each.i = inner.groups
