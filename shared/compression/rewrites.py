"""Other ways to compute the same: rewrites that integer kernels, or any kernels, are quicker with.

* `normalise`: subtraction and division by channel as a depthwise 1×1 convolution. Integer convolutions want channels
  last; ONNX Runtime moves the transposition in front of the first one up through element-wise operators, and these are
  slow over three channels.
* `separable`: a chain of bilinear resizing, edge padding and one-dimensional blurs of a map is linear along rows and
  along columns, so it is two small matrix products.
* `stacks`: a product with a stack of matrices gets its columns' scales behind it, so that one scale serves the stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph, overflow

Matrix = NDArray[np.float64]

_LARGEST = 4096
"""Longer sides than this are not made into matrices."""


class _Surgery:
    """Nodes to take out and to put in, and constants to add; all at once at the end."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.constants = graph.weights(proto)
        self.readers = graph.consumers(proto)
        self.shapes = _shapes(proto)
        self.outputs = {each.name for each in proto.graph.output}
        self._instead: dict[str, list[onnx.NodeProto]] = {}
        self._gone: set[str] = set()

    def constant(self, name: str) -> NDArray[Any] | None:
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def add(self, name: str, values: NDArray[Any]) -> str:
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        self.proto.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name

    def next(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The only reader of the node's only output, if the output is read nowhere else."""
        users = self.readers.get(node.output[0], [])
        return users[0] if len(users) == 1 and node.output[0] not in self.outputs else None

    def replace(self, chain: Sequence[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> None:
        """`new` in the place of the last of `chain`; the others vanish."""
        self._gone |= {node.name for node in chain}
        self._instead[chain[-1].name] = list(new)

    def taken(self, node: onnx.NodeProto) -> bool:
        return node.name in self._gone

    def done(self) -> onnx.ModelProto:
        nodes: list[onnx.NodeProto] = []
        for node in self.proto.graph.node:
            nodes += self._instead.get(node.name, [] if node.name in self._gone else [node])
        del self.proto.graph.node[:]
        self.proto.graph.node.extend(nodes)
        made = graph.producers(self.proto)
        known = [each for each in self.proto.graph.value_info if each.name in made]
        del self.proto.graph.value_info[:]
        self.proto.graph.value_info.extend(known)
        return graph.infer_shapes(self.proto)


def _shapes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Shapes by tensor; -1 where a length is not known."""
    found = {}
    for each in [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]:
        if each.type.tensor_type.HasField("shape"):
            dims = each.type.tensor_type.shape.dim
            found[each.name] = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
    return found


# -- normalisation ------------------------------------------------------------------------------------------------


def normalise(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Sub, Add, Mul and Div by channel in front of the first layers → one depthwise convolution each chain."""
    cut = _Surgery(proto)
    before = graph.parts(proto).before
    for node in list(proto.graph.node):
        if node.name not in before or cut.taken(node):
            continue
        chain: list[onnx.NodeProto] = []
        at: onnx.NodeProto | None = node
        while at is not None and at.name in before and _by_channel(cut, at) is not None:
            chain.append(at)
            at = cut.next(at)
        if chain and at is not None and at.op_type == "Conv":
            cut.replace(chain, [_depthwise(cut, chain)])
    return cut.done()


def _by_channel(cut: _Surgery, node: onnx.NodeProto) -> tuple[Matrix, Matrix] | None:
    """(factor [C], addend [C]) of an element-wise node with a constant on a map [N, C, H, W], or None."""
    if node.op_type not in ("Sub", "Add", "Mul", "Div") or len(node.input) != 2:
        return None
    shape = cut.shapes.get(node.output[0], [])
    if len(shape) != 4 or shape[1] < 1:
        return None
    swapped = node.input[0] in cut.constants
    if swapped and node.op_type in ("Sub", "Div"):
        return None
    values = cut.constant(node.input[0 if swapped else 1])
    if values is None or values.dtype != np.float32:
        return None
    padded = values.reshape((1,) * max(0, 4 - values.ndim) + values.shape)
    if padded.ndim != 4 or padded.shape[0] != 1 or padded.shape[2:] != (1, 1) or padded.shape[1] not in (1, shape[1]):
        return None
    by = np.broadcast_to(padded.astype(np.float64).ravel(), (shape[1],))
    one, nothing = np.ones(shape[1]), np.zeros(shape[1])
    return {"Sub": (one, -by), "Add": (one, by), "Mul": (by, nothing), "Div": (1 / by, nothing)}[node.op_type]


def _depthwise(cut: _Surgery, chain: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    factor: Matrix = np.ones(1)
    addend: Matrix = np.zeros(1)
    for node in chain:
        found = _by_channel(cut, node)
        assert found is not None  # the caller has asked
        factor, addend = factor * found[0], addend * found[0] + found[1]
    first, last = chain[0], chain[-1]
    name = f"{last.name}_normalise"
    weight = cut.add(f"{name}_factor", np.asarray(factor, dtype=np.float32).reshape(-1, 1, 1, 1))
    bias = cut.add(f"{name}_addend", np.asarray(addend, dtype=np.float32))
    source = first.input[1] if first.input[0] in cut.constants else first.input[0]
    return helper.make_node("Conv", [source, weight, bias], [last.output[0]], name, group=int(np.size(addend)))


# -- maps ------------------------------------------------------------------------------------------------------------


def separable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Chains of linear steps on maps [N, 1, h, w] → rows · map · columnsᵀ, where at least one step is a blur."""
    cut = _Surgery(proto)
    for node in list(proto.graph.node):
        if cut.taken(node) or node.op_type not in ("Resize", "Pad", "Conv"):
            continue
        size = cut.shapes.get(node.input[0], [])
        if len(size) != 4 or size[1] != 1 or min(size[2:]) < 1:
            continue
        rows, columns = np.eye(size[2]), np.eye(size[3])
        chain: list[onnx.NodeProto] = []
        at: onnx.NodeProto | None = node
        used, shape = 0, (rows, columns)
        while at is not None:
            step = _linear(cut, at, rows.shape[0], columns.shape[0])
            if step is None or max(step[0].shape[0], step[1].shape[0]) > _LARGEST:
                break
            rows, columns = step[0] @ rows, step[1] @ columns
            chain.append(at)
            if len(cut.shapes.get(at.output[0], [])) == 4:  # a map again, not in the middle of Gather and Unsqueeze
                used, shape = len(chain), (rows, columns)
            at = cut.next(at)
        chain = chain[:used]
        if any(each.op_type == "Conv" for each in chain):
            cut.replace(chain, _products(cut, chain, *shape))
    return cut.done()


def _linear(cut: _Surgery, node: onnx.NodeProto, height: int, width: int) -> tuple[Matrix, Matrix] | None:
    """What a node does along rows and along columns of a map with one channel, or None if it is nothing of the kind."""
    same = np.eye(height), np.eye(width)
    match node.op_type:
        case "Gather":  # map[:, 0]
            index = cut.constant(node.input[1])
            first = index is not None and index.ndim == 0 and int(index) == 0
            return same if first and graph.attribute(node, "axis", 0) == 1 else None
        case "Unsqueeze" | "Squeeze":
            axes = cut.constant(node.input[1]) if len(node.input) > 1 else None
            return same if axes is not None and axes.ravel().tolist() == [1] else None
        case "Resize":
            return _resize(cut, node, height, width)
        case "Pad":
            return _pad(cut, node, height, width)
        case "Conv":
            return _blur(cut, node, height, width)
    return None


def _resize(cut: _Surgery, node: onnx.NodeProto, height: int, width: int) -> tuple[Matrix, Matrix] | None:
    size = cut.shapes.get(node.output[0], [])
    plain = (
        graph.attribute(node, "mode") == b"linear"
        and not graph.attribute(node, "antialias", 0)
        and graph.attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        and not graph.attribute(node, "exclude_outside", 0)
    )
    if not plain or len(size) != 4 or min(size[2:]) < 1:
        return None
    return _bilinear(height, size[2]), _bilinear(width, size[3])


def _bilinear(source: int, target: int) -> Matrix:
    """[target, source] with pixel centres at half."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1 - (place - low))
    np.add.at(matrix, (np.arange(target), high), place - low)
    return matrix


def _pad(cut: _Surgery, node: onnx.NodeProto, height: int, width: int) -> tuple[Matrix, Matrix] | None:
    pads = cut.constant(node.input[1])
    if graph.attribute(node, "mode") != b"edge" or pads is None or len(pads) != 8 or len(node.input) > 3:
        return None
    _, none, top, left, _, no, bottom, right = (int(each) for each in pads)
    if pads[0] or none or pads[4] or no or min(top, left, bottom, right) < 0:
        return None
    rows = np.clip(np.arange(-top, height + bottom), 0, height - 1)
    columns = np.clip(np.arange(-left, width + right), 0, width - 1)
    return np.eye(height)[rows], np.eye(width)[columns]


def _blur(cut: _Surgery, node: onnx.NodeProto, height: int, width: int) -> tuple[Matrix, Matrix] | None:
    kernel = cut.constant(node.input[1])
    if kernel is None or kernel.shape[:2] != (1, 1) or kernel.ndim != 4 or len(node.input) > 2:
        return None
    ones = [1, 1]
    plain = (
        not any(graph.attribute(node, "pads", []))
        and graph.attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and list(graph.attribute(node, "strides", ones)) == ones
        and list(graph.attribute(node, "dilations", ones)) == ones
    )
    if not plain or min(kernel.shape[2:]) != 1:
        return None
    taps = kernel.ravel().astype(np.float64)
    down = kernel.shape[2] > 1
    side = height if down else width
    if side < len(taps):
        return None
    band = sum(tap * np.eye(side)[offset : side - len(taps) + 1 + offset] for offset, tap in enumerate(taps))
    matrix: Matrix = np.asarray(band)
    return (matrix, np.eye(width)) if down else (np.eye(height), matrix)


def _products(cut: _Surgery, chain: Sequence[onnx.NodeProto], rows: Matrix, columns: Matrix) -> list[onnx.NodeProto]:
    name, half = f"{chain[-1].name}_separable", f"{chain[-1].output[0]}_rows"
    down = cut.add(f"{name}_rows{graph.FIXED}", rows.astype(np.float32))
    across = cut.add(f"{name}_columns{graph.FIXED}", columns.T.astype(np.float32))
    return [
        helper.make_node("MatMul", [down, chain[0].input[0]], [half], f"{name}_down"),
        helper.make_node("MatMul", [half, across], [chain[-1].output[0]], f"{name}_across"),
    ]


# -- stacks of matrices ----------------------------------------------------------------------------------------------


def stacks(proto: onnx.ModelProto, inside: frozenset[str], in_pairs: bool) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Products with a constant stack of matrices [..., K, N], more than two axes, among the nodes `inside`: the scales
    of the columns follow the product.

    Args:
        in_pairs: keep sums of neighbours within bounds; see `overflow`.

    Returns:
        The graph and the names of the stacks, of which 1 is now to become level 127.
    """
    cut = _Surgery(proto)
    found = set()
    for node in list(proto.graph.node):
        weight = graph.layer_weight(node, cut.constants)
        if node.op_type != "MatMul" or node.name not in inside or weight is None:
            continue
        tensor = cut.constants[weight]
        if len(tensor.dims) < 3 or tensor.data_type != TensorProto.FLOAT or len(cut.readers[weight]) > 1:
            continue
        values = numpy_helper.to_array(tensor)
        turned = values.swapaxes(-1, -2)
        scale = overflow.pairs(turned) if in_pairs else np.abs(turned).max(axis=-1)
        scale = np.where(scale > 0, scale, 1)[..., None, :]
        tensor.CopyFrom(numpy_helper.from_array((values / scale).astype(np.float32), weight))
        inner = f"{node.output[0]}_unscaled"
        product = helper.make_node("MatMul", list(node.input), [inner], node.name)
        by = cut.add(f"{weight}_columns", scale.astype(np.float32))
        cut.replace([node], [product, helper.make_node("Mul", [inner, by], list(node.output), f"{node.name}_columns")])
        found.add(weight)
    return cut.done(), frozenset(found)


def same(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]], tolerance: float = 1e-4) -> bool:
    """Whether two runs agree: floats to `tolerance` of their largest value, everything else in 99.9 % of places."""
    for name, wanted in before.items():
        got = after[name]
        if got.shape != wanted.shape:
            return False
        if wanted.dtype.kind == "f":
            scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-6)
            if not np.allclose(got, wanted, rtol=0, atol=tolerance * scale):
                return False
        elif float(np.mean(got != wanted)) > 1e-3:
            return False
    return True
