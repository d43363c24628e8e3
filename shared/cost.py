"""What a model costs to compute: parameters and multiply-adds of every layer, for one sample. No torch.

Shapes are those that the layers really give on the package's golden sample: pictures of any size are resized inside the
graph, so that no shape is known before the model has run. Convolutions, matrix products and recurrences are counted;
what lies between them (activations, sums, resizing) costs little beside them, and its constants go into one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import HaechiError
from shared.runtime import onnxruntime

if TYPE_CHECKING:
    from shared.package import Package

_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
_TRANSPOSED = ("ConvTranspose",)
_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "QGemm", "FusedMatMul", "MatMulNBits")
_WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
"""Which input holds the weights, where it is not the second."""
_BIAS = {"QLinearConv": 8, "QGemm": 6, "Conv": 2, "ConvTranspose": 2, "Gemm": 2}
_THROUGH = ("DequantizeLinear", "QuantizeLinear", "Transpose", "Cast", "Reshape", "Identity")
"""A weight may have passed these on its way to the layer."""
REST = "(other constants)"


@dataclass(frozen=True)
class Layer:
    """One row of the table."""

    name: str
    operator: str
    """Such as `Conv 3×3 /2 depthwise`."""
    output: tuple[int, ...]
    """Shape of what it gives, with the batch of 1."""
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Costs:
    """A model's layers in the order they run; the last row holds constants that belong to none."""

    layers: list[Layer]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "layers": [
                {
                    "name": layer.name,
                    "operator": layer.operator,
                    "output": list(layer.output),
                    "parameters": layer.parameters,
                    "multiply_adds": layer.multiply_adds,
                }
                for layer in self.layers
            ],
        }


def cost_of(package: Package) -> Costs:
    """The costs of a package's model for the first of its golden samples.

    Raises:
        HaechiError: the `onnx` library is missing, or the model does not run.
    """
    inputs = {}
    for spec in package.manifest.inputs:
        array = package.golden.inputs[spec.name]
        batched = bool(spec.shape) and spec.shape[0] == -1
        inputs[spec.name] = array[:1] if batched else array
    return costs(package.model, inputs)


def costs(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> Costs:
    """The costs of an ONNX file for these inputs; errors as in `cost_of`."""
    try:
        import onnx
    except ImportError as error:
        raise HaechiError(
            "costs are read with the onnx library; install it with: pip install haechi[training]."
        ) from error
    proto = onnx.load_model_from_string(model)
    reader = _Reader(proto)
    nodes = [node for node in reader.nodes if node.op_type in (*_CONVOLUTIONS, *_TRANSPOSED, *_PRODUCTS)]
    shapes = _shapes(proto, nodes, inputs)
    layers = [reader.layer(node, shapes) for node in nodes]
    rest = reader.rest()
    return Costs([*layers, Layer(REST, "", (), rest, 0)] if rest else layers)


class _Reader:
    """Looks things up in a graph."""

    def __init__(self, proto: Any) -> None:
        self.nodes = list(proto.graph.node)
        self._arrays = {each.name: tuple(each.dims) for each in proto.graph.initializer}
        self._floats = {each.name for each in proto.graph.initializer if each.data_type in _float_types()}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self._arrays[node.output[0]] = tuple(node.attribute[0].t.dims)
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._counted: set[str] = set()

    def layer(self, node: Any, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
        weight = self._constant(node, _WEIGHT.get(node.op_type, 1))
        bias = self._constant(node, _BIAS[node.op_type]) if node.op_type in _BIAS else None
        output = shapes[node.output[0]]
        shape = self._arrays[weight] if weight else ()
        # A weight that several layers share is counted with the first.
        parameters = sum(
            int(np.prod(self._arrays[name])) for name in (weight, bias) if name and name not in self._counted
        )
        self._counted.update(name for name in (weight, bias) if name)
        return Layer(
            node.name or node.output[0],
            _described(node, shape),
            output,
            parameters,
            _multiply_adds(node, shape, output, shapes),
        )

    def _constant(self, node: Any, index: int) -> str | None:
        """Name of the initialiser behind an input of a node, through what only changes its form."""
        if index >= len(node.input):
            return None
        name = node.input[index]
        while name not in self._arrays:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in _THROUGH:
                return None
            name = maker.input[0]
        return str(name)

    def rest(self) -> int:
        """How many float numbers the graph holds that are of no layer: norms, scales, banks of features."""
        scales = {
            name
            for node in self.nodes
            if node.op_type in ("DequantizeLinear", "QuantizeLinear")
            for name in node.input[1:]
        }
        left = self._floats - self._counted - scales
        return sum(int(np.prod(self._arrays[name])) for name in left)


def _float_types() -> tuple[int, ...]:
    from onnx import TensorProto

    return TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16


def _shapes(proto: Any, nodes: Sequence[Any], inputs: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """What the nodes give, and what matrix products are given, when the model runs."""
    from onnx import helper

    wanted = [node.output[0] for node in nodes]
    wanted += [node.input[0] for node in nodes if node.op_type in _PRODUCTS]
    initial = {each.name for each in proto.graph.initializer}
    given = {name: tuple(array.shape) for name, array in inputs.items()}
    given |= {each.name: tuple(each.dims) for each in proto.graph.initializer}
    names = [name for name in dict.fromkeys(wanted) if name not in given and name not in initial]
    present = {each.name for each in proto.graph.output}
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in present)
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing may be fused away
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(names, dict(inputs)) if names else []
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise HaechiError(f"the model could not be run to learn its shapes: {' '.join(str(error).split())}") from error
    return given | {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _multiply_adds(
    node: Any, weight: tuple[int, ...], output: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """For a convolution: every output is a sum over the kernel and the channels of its group."""
    if node.op_type in _CONVOLUTIONS:
        return int(np.prod(output)) * int(np.prod(weight[1:])) if weight else 0
    if node.op_type in _TRANSPOSED:  # the other way round: every input is spread over the kernel
        stride = int(np.prod(_attributes(node).get("strides", [1])))
        return int(np.prod(output)) * int(np.prod(weight[2:])) * weight[0] // stride if weight else 0
    attributes = _attributes(node)
    given = shapes[node.input[0]]
    inner = int(given[0] if attributes.get("transA") else given[-1])
    return int(np.prod(output)) * inner


def _described(node: Any, weight: tuple[int, ...]) -> str:
    kind = node.op_type.removeprefix("QLinear")
    if node.op_type not in _CONVOLUTIONS or len(weight) < 3:
        return kind if weight else f"{kind} of two computed tensors"
    attributes = _attributes(node)
    strides = [each for each in attributes.get("strides", []) if each != 1]
    group = int(attributes.get("group", 1))
    words = [kind, "×".join(str(size) for size in weight[2:])]
    if strides:
        words.append(f"/{strides[0]}")
    if group > 1:
        words.append("depthwise" if weight[1] == 1 else f"in {group} groups")
    return " ".join(words)


# -- side by side -------------------------------------------------------------------------------------------------


def paired(before: Costs, after: Costs) -> Iterator[tuple[Layer | None, Layer | None]]:
    """Layers of the same name side by side; those that only one model has stand alone, in their order."""
    names = {layer.name for layer in after.layers}
    waiting = list(after.layers)
    for layer in before.layers:
        if layer.name not in names:
            yield layer, None
            continue
        while (
            waiting and waiting[0].name != layer.name and waiting[0].name not in {each.name for each in before.layers}
        ):
            yield None, waiting.pop(0)
        match = next((each for each in waiting if each.name == layer.name), None)
        if match is not None:
            waiting.remove(match)
        yield layer, match
    for layer in waiting:
        yield None, layer


def human(count: float) -> str:
    """Counts as people read them: 312, 4.71 k, 11.2 M, 1.82 G."""
    for unit in ("", " k", " M"):
        if abs(count) < 1000:
            return f"{count:.0f}" if not unit else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} G"


def table(costs_: Costs, against: Costs | None = None) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headings and rows of the cost table, the total last; with `against`, that model's figures come first."""
    if against is None:
        rows: list[tuple[str, ...]] = [
            (each.name, each.operator, _shape(each), human(each.parameters), human(each.multiply_adds))
            for each in costs_.layers
        ]
        total = ("total", "", "", human(costs_.parameters), human(costs_.multiply_adds))
        return ["layer", "operator", "output", "parameters", "multiply-adds"], [*rows, total]
    rows = []
    for old, new in paired(against, costs_):
        known = new or old
        assert known is not None
        changed = old is not None and new is not None and old.operator != new.operator
        operator = f"{old.operator} → {new.operator}" if changed and old and new else known.operator
        figures = [
            "-" if each is None else human(getattr(each, kind))
            for kind in ("parameters", "multiply_adds")
            for each in (old, new)
        ]
        rows.append((known.name, operator, _shape(known), *figures))
    totals = [
        (human(getattr(against, kind)), f"{human(getattr(costs_, kind))} ({_share(costs_, against, kind)})")
        for kind in ("parameters", "multiply_adds")
    ]
    headings = ["layer", "operator", "output", "parameters before", "after", "multiply-adds before", "after"]
    return headings, [*rows, ("total", "", "", *totals[0], *totals[1])]


def _shape(layer: Layer) -> str:
    return "×".join(str(size) for size in layer.output[1:])


def _share(after: Costs, before: Costs, kind: str) -> str:
    whole = getattr(before, kind)
    return f"{100 * getattr(after, kind) / whole:.3g} %" if whole else "-"
