"""From float graphs to graphs with eight (or sixteen) bits.

* `static`: activations and weights of the network in int8, as QDQ pairs that ONNX Runtime turns into integer kernels.
* `dynamic`: weights in int8, activations quantised as they come. For transformers alone: on convolutions it is slower
  than float and, on depthwise ones, wrong.
* `half`: float16 for GPUs.
* `layer_errors`: how far each layer's output is from the float model's.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from shared.compression import graph, overflow, rewrites, rounding
from shared.compression.calibration import Bounds, Sample
from shared.compression.rounding import Rounded
from shared.compression.targets import Target
from shared.errors import BadInput
from shared.progress import track

_ALWAYS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ALONG = frozenset(
    {
        "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat",
        "Split", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice",
    }
)  # fmt: skip
"""Operators with an int8 kernel that are quantised where they lie between quantised layers."""
_REMOVABLE = ("Relu", "Clip")


def quantisable(proto: onnx.ModelProto, leave: frozenset[str] = frozenset()) -> list[onnx.NodeProto]:
    """Nodes to quantise: layers of the network with constant weights, and what lies between two of them.

    Between: everything that it reads is quantised, or everything that reads it, so that no value is rounded for the
    sake of an operator alone.
    """
    inside = graph.parts(proto).network - leave
    constants = graph.weights(proto)
    chosen = {
        node.name: node
        for node in proto.graph.node
        if node.name in inside and node.op_type in _ALWAYS and _has_kernel(node, constants)
    }
    makers, readers = graph.producers(proto), graph.consumers(proto)
    floats = graph.float_tensors(proto)
    candidates = [
        node
        for node in proto.graph.node
        if node.name in inside and node.op_type in _ALONG and set(node.output) <= floats
    ]
    changed = True
    while changed:
        changed = False
        for node in candidates:
            if node.name in chosen:
                continue
            read = [name for name in node.input if name and name in floats and name not in constants]
            fed = bool(read) and all(name in makers and _gives_int8(makers[name], chosen) for name in read)
            if fed:
                chosen[node.name] = node
                changed = True
    _drop_ends(chosen, readers)
    return [node for node in proto.graph.node if node.name in chosen]


def _has_kernel(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """A constant weight in float32."""
    weight = graph.layer_weight(node, constants)
    return weight is not None and constants[weight].data_type == TensorProto.FLOAT


def _gives_int8(node: onnx.NodeProto, chosen: Mapping[str, onnx.NodeProto]) -> bool:
    return node.name in chosen and node.op_type not in ("MatMul", "Gemm")


def _drop_ends(chosen: dict[str, onnx.NodeProto], readers: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Leave out operators (not layers) whose result only float operators read: they would round for nothing."""
    changed = True
    while changed:
        changed = False
        for node in list(chosen.values()):
            if node.op_type in _ALWAYS or node.op_type in _REMOVABLE:
                continue
            users = [user for name in node.output for user in readers.get(name, [])]
            if not any(user.name in chosen for user in users):
                del chosen[node.name]
                changed = True


def tensors_of(nodes: Iterable[onnx.NodeProto], proto: onnx.ModelProto) -> list[str]:
    """The float tensors that these nodes read and make: what must be calibrated."""
    floats, constants = graph.float_tensors(proto), graph.weights(proto)
    found = [name for node in nodes for name in (*node.input, *node.output) if name in floats]
    return [name for name in dict.fromkeys(found) if name not in constants]


def static(
    model: bytes,
    bounds: Bounds,
    target: Target,
    leave: frozenset[str] = frozenset(),
    *,
    rounded: Mapping[str, Rounded] | None = None,
    trained: bool = False,
) -> bytes:
    """The network in int8.

    Args:
        model: cleaned (`graph.clean`): nodes have names, tensors have types.
        bounds: (low, high) of every tensor of `tensors_of(quantisable(...))`.
        leave: nodes that stay in float, by name.
        rounded: weights that are on their levels already, by the name of their node; see `rounding.fit`.
        trained: the weights lie on the grid of their channel already (see `qat`) and must stay on it.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    proto = graph.read(model)
    nodes = quantisable(proto, leave)
    if not nodes:
        return model
    weights = rounding.put(proto, {node.name: rounded[node.name] for node in nodes if rounded and node.name in rounded})
    proto, stacks = rewrites.stacks(proto, frozenset(node.name for node in nodes), target.reduce_range)
    ranges = {name: [{"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}] for name in stacks}
    for each in ranges.values():
        each[0] |= {"rmin": np.float32(-1), "rmax": np.float32(1)}
    if target.reduce_range and target.per_channel:
        ranges |= overflow.overrides(
            [node for node in nodes if stacks.isdisjoint(node.input)], graph.weights(proto), trained
        )
    ranges |= weights
    span = {name: tuple(np.array(each, dtype=np.float32) for each in pair) for name, pair in bounds.items()}
    with _quiet():
        quantiser = QDQQuantizer(
            proto,
            target.per_channel,
            target.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if target.signed_activations else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, span),
            [node.name for node in nodes],
            [],
            sorted({node.op_type for node in nodes}),
            {
                "ActivationSymmetric": target.symmetric,
                # A product that floats read keeps its precision: the integer kernel can give floats.
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                # Per column: a matrix has its output channels there.
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
                # Among them: the kernel for stacks of matrices knows one scale.
                "TensorQuantOverrides": ranges,
            },
        )
        quantiser.quantize_model()
    return graph.write(quantiser.model.model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantiser logs advice to the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def dynamic(model: bytes, target: Target) -> bytes:
    """Weights of matrix products and tables in int8; activations are quantised in each call, by their own extremes.

    Raises:
        BadInput: the model has convolutions.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = graph.read(model)
    if graph.has_convolutions(proto):
        raise BadInput(
            "dynamic int8 is refused for a model with convolutions: it makes them slower than float, and depthwise "
            "ones wrong; use static int8 (rung `int8`)."
        )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        result = Path(folder, "dynamic.onnx")
        quantize_dynamic(
            proto,
            result,
            op_types_to_quantize=["MatMul", "Attention", "Gather"],
            per_channel=target.per_channel,
            reduce_range=target.reduce_range,
            weight_type=QuantType.QInt8,
            # Types cannot be inferred behind ONNX Runtime's own operators.
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        return result.read_bytes()


def half(model: bytes) -> bytes:
    """The network in float16; inputs, outputs, pre-processing and tail stay as they are."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    proto = graph.read(model)
    parts = graph.parts(proto)
    with _quiet():
        converted = convert_float_to_float16(
            proto,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Resize"],
            node_block_list=sorted(parts.before | parts.after),
        )
    return graph.write(converted)


# -- errors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output is from the float model's, over the calibration samples: ‖q - f‖ / ‖f‖."""

    name: str
    operator: str
    error: float
    """With everything that came before it."""
    own: float
    """What the layer added to the error of its input."""


def layer_errors(model: bytes, quantised: bytes, samples: Sequence[Sample], threads: int) -> list[LayerError]:
    """The error of each quantised layer, in the order of the graph.

    Args:
        model: the float graph that `quantised` was made from.
    """
    proto, small = graph.read(model), graph.read(quantised)
    pairs = _pairs(proto, small)
    names = [name for pair in pairs for name in (pair.float_input, pair.float_output)]
    reference = graph.Probe(model, names, threads)
    probe = graph.Probe(quantised, [name for pair in pairs for name in (pair.input, pair.output)], threads)
    off: dict[tuple[str, str], float] = {}
    norm: dict[str, float] = {}
    for sample in track(samples, "comparing layers"):
        wanted, got = dict(reference.run(sample)), dict(probe.run(sample))
        for pair in pairs:
            for ours, theirs in ((pair.input, pair.float_input), (pair.output, pair.float_output)):
                difference = got[ours].astype(np.float64) - wanted[theirs]
                off[ours, theirs] = off.get((ours, theirs), 0.0) + float(np.square(difference).sum())
                norm[theirs] = norm.get(theirs, 0.0) + float(np.square(wanted[theirs], dtype=np.float64).sum())

    def relative(ours: str, theirs: str) -> float:
        return float(np.sqrt(off[ours, theirs] / max(norm[theirs], 1e-20)))

    errors = []
    for pair in pairs:
        came, left = relative(pair.input, pair.float_input), relative(pair.output, pair.float_output)
        own = float(np.sqrt(max(0.0, left * left - came * came)))
        errors.append(LayerError(pair.node.name, pair.node.op_type, left, own))
    return errors


@dataclass(frozen=True)
class _Pair:
    """A layer's tensors in the quantised graph and in the float one."""

    node: onnx.NodeProto
    input: str
    output: str
    float_input: str
    float_output: str


def _pairs(proto: onnx.ModelProto, small: onnx.ModelProto) -> list[_Pair]:
    readers, small_readers = graph.consumers(proto), graph.consumers(small)
    makers = graph.producers(small)
    named = {node.name: node for node in small.graph.node}
    floats = graph.producers(proto)
    pairs = []
    for node in proto.graph.node:
        twin = named.get(node.name)
        if twin is None or node.op_type not in _ALWAYS or makers.get(twin.input[0]) is None:
            continue
        weight = makers.get(twin.input[1])
        rounded = weight is not None and weight.op_type == "DequantizeLinear"  # else it was left in float
        if makers[twin.input[0]].op_type != "DequantizeLinear" or node.input[0] not in floats or not rounded:
            continue
        after, users = node.output[0], readers.get(node.output[0], [])
        # Quantisation bounds a ReLU's values, so that the ReLU itself is taken out.
        if len(users) == 1 and users[0].op_type in _REMOVABLE and users[0].name not in named:
            after = users[0].output[0]
        pairs.append(_Pair(node, twin.input[0], _dequantised(twin.output[0], small_readers), node.input[0], after))
    return pairs


def _dequantised(tensor: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """The tensor after a layer's output was quantised, or the output itself."""
    quantised = next((user for user in readers.get(tensor, []) if user.op_type == "QuantizeLinear"), None)
    if quantised is None:
        scaled = next((user for user in readers.get(tensor, []) if user.name.endswith("_columns")), None)
        return scaled.output[0] if scaled is not None else tensor
    back = next((user for user in readers.get(quantised.output[0], []) if user.op_type == "DequantizeLinear"), None)
    return back.output[0] if back is not None else tensor
