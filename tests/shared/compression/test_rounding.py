"""Rounding by what a layer reads: its output is nearer to the float layer's, and no sum overflows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph, quantise, rounding
from shared.compression.calibration import collect
from shared.compression.targets import TARGETS
from tests.shared.compression.networks import classifier, pictures
from tests.shared.packages import run_model

Inputs = list[dict[str, np.ndarray]]


def model_of(nodes: list[onnx.NodeProto], x: list[object], y: list[object], **constants: np.ndarray) -> bytes:
    """x → nodes → y, cleaned."""
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "few",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(proto)
    return graph.clean(bytes(proto.SerializeToString()))


def convolution(weight: np.ndarray, groups: int = 1, strides: int = 1, bias: bool = False) -> bytes:
    """x [1, C, 9, 9] → a convolution → y."""
    size = list(weight.shape[2:])
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    node = helper.make_node(
        "Conv", inputs, ["y"], "layer", kernel_shape=size, pads=[each // 2 for each in size] * 2, group=groups,
        strides=[strides, strides],
    )  # fmt: skip
    side = (9 - 1) // strides + 1
    constants = {"w": weight} | ({"b": np.linspace(-1, 1, len(weight))} if bias else {})
    return model_of([node], [1, weight.shape[1] * groups, 9, 9], [1, len(weight), side, side], **constants)


def product(kind: str, weight: np.ndarray) -> bytes:
    """x [16, K] → x · weight [K, N], written as one of the operators that do that."""
    match kind:
        case "MatMul":
            node, constants = helper.make_node("MatMul", ["x", "w"], ["y"], "layer"), {"w": weight}
        case "Gemm":
            node, constants = helper.make_node("Gemm", ["x", "w"], ["y"], "layer"), {"w": weight}
        case _:
            node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer", transB=1)
            constants = {"w": weight.T, "b": np.ones(weight.shape[1])}
    return model_of([node], [16, weight.shape[0]], [16, weight.shape[1]], **constants)


def alike(shape: tuple[int, ...], count: int, seed: int) -> Inputs:
    """Inputs as after a ReLU: positive, and each brighter or darker as a whole."""
    generator = np.random.default_rng(seed)
    each = (1,) * (len(shape) - 1)
    found = generator.uniform(0.5, 2.0, (count, shape[0], *each)) * generator.uniform(0.9, 1.1, (count, *shape))
    return [{"x": one.astype(np.float32)} for one in found]


def both(model: bytes, samples: Inputs, target: str) -> tuple[bytes, bytes]:
    """In int8, each weight rounded for itself, and rounded by the samples."""
    proto = graph.read(model)
    nodes = quantise.quantisable(proto)
    bounds = collect(model, quantise.tensors_of(nodes, proto), samples, 1).bounds("minmax")
    rounded = rounding.fit(model, nodes, samples, TARGETS[target], 1)
    assert rounded
    plain = quantise.static(model, bounds, TARGETS[target])
    return plain, quantise.static(model, bounds, TARGETS[target], rounded=rounded)


def weights_off(model: bytes, small: bytes, samples: Inputs) -> float:
    """How far off the output is for the weights' sake alone: those of `small` in the float model."""
    proto, constants = graph.read(model), graph.weights(graph.read(small))
    changed = graph.weights(proto)
    layer = next(node for node in proto.graph.node if node.op_type in graph.WEIGHTED)
    dequantise = next(node for node in graph.read(small).graph.node if node.input[0] == f"{layer.input[1]}_quantized")
    levels, scale = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in dequantise.input[:2])
    by = [-1 if axis == graph.attribute(dequantise, "axis", 1) else 1 for axis in range(levels.ndim)]
    changed[layer.input[1]].CopyFrom(
        numpy_helper.from_array((levels * scale.reshape(by)).astype(np.float32), layer.input[1])
    )
    return off(model, graph.write(proto), samples)


def off(model: bytes, small: bytes, samples: Inputs, output: str = "y") -> float:
    wanted = np.concatenate([run_model(model, each)[output] for each in samples])
    got = np.concatenate([run_model(small, each)[output] for each in samples])
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


SHAPES = {
    "wide": ((24, 32, 1, 1), 1),
    "spatial": ((24, 8, 3, 3), 1),
    "depthwise": ((32, 1, 5, 5), 32),
    "grouped": ((24, 8, 3, 3), 4),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("target", ["x86", "x86-vnni", "arm64"])
def test_what_a_convolution_gives_is_nearer(kind, target):
    shape, groups = SHAPES[kind]
    model = convolution(np.random.default_rng(1).normal(size=shape), groups, strides=2 if kind == "spatial" else 1)
    size = (1, shape[1] * groups, 9, 9)
    plain, better = both(model, alike(size, 12, 0), target)
    fresh = alike(size, 6, 9)
    assert weights_off(model, better, fresh) < 0.5 * weights_off(model, plain, fresh)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm, transposed"])
def test_what_a_product_gives_is_nearer(kind):
    model = product(kind, np.random.default_rng(1).normal(size=(48, 20)))
    plain, better = both(model, alike((16, 48), 12, 0), "x86")
    fresh = alike((16, 48), 6, 9)
    assert weights_off(model, better, fresh) < 0.5 * weights_off(model, plain, fresh)


def test_the_mean_of_what_a_layer_gives_is_kept():
    """Also for a layer with a bias, and for one that had none."""
    generator = np.random.default_rng(3)
    for bias in (False, True):
        model = convolution(generator.normal(size=(24, 32, 1, 1)), bias=bias)
        samples = alike((1, 32, 9, 9), 16, 0)
        nodes = quantise.quantisable(graph.read(model))
        rounded = rounding.fit(model, nodes, samples, TARGETS["x86"], 1)
        proto = graph.read(model)
        rounding.put(proto, rounded)
        means = [
            np.mean([run_model(each, sample)["y"] for sample in samples], axis=(0, 1, 3, 4))
            for each in (model, graph.write(proto))
        ]
        levels = rounded["layer"].limits / rounding.LEVELS
        assert np.abs(means[1] - means[0]).max() < 0.02 * levels.max()  # a fiftieth of what one weight may be off


def test_a_network_answers_more_alike():
    model, samples = graph.clean(classifier()), list(pictures(24, 7))
    for target in ("x86", "arm64"):
        plain, better = both(model, samples, target)
        fresh = list(pictures(32, 99))
        assert off(model, better, fresh, "logits") < 0.85 * off(model, plain, fresh, "logits")
        assert len(better) < 1.02 * len(plain)


@pytest.mark.parametrize("shape", [(64, 32, 1, 1), (64, 16, 3, 3), (16, 128, 3, 3)])
def test_no_two_neighbours_overflow(shape):
    """What is made good elsewhere must not push a pair over its bound; the widest kernel is rounded in blocks."""
    generator = np.random.default_rng(0)
    model = convolution(generator.normal(1.0, 0.01, shape))  # every pair is near its bound
    samples = []
    for _ in range(12):  # the last channel, faintly, says what all others say, so it is asked to make good for them
        x = generator.uniform(0, 1, (1, shape[1], 9, 9)).astype(np.float32)
        x[:, -1] = 0.2 / np.sqrt(shape[1]) * x[:, :-1].sum(axis=1)
        samples.append({"x": x})
    _, small = both(model, samples, "x86")
    levels = next(
        numpy_helper.to_array(each).astype(int)
        for each in graph.read(small).graph.initializer
        if each.name.endswith("_quantized") and len(each.dims) == 4
    )
    for order in (levels, levels.transpose(0, 2, 3, 1)):
        row = order.reshape(len(order), -1)
        assert np.abs(row[:, 0::2] + row[:, 1::2]).max() <= 128
    brightest = max(samples, key=lambda each: float(each["x"].sum()))
    assert off(model, small, [brightest]) < 0.01


def test_layers_left_out_keep_their_weights():
    model, samples = graph.clean(classifier()), list(pictures(8, 7))
    proto = graph.read(model)
    nodes = quantise.quantisable(proto)
    bounds = collect(model, quantise.tensors_of(nodes, proto), samples, 1).bounds("minmax")
    rounded = rounding.fit(model, nodes, samples, TARGETS["x86"], 1)
    name = next(iter(rounded))
    layer = next(node for node in proto.graph.node if node.name == name)
    small = quantise.static(model, bounds, TARGETS["x86"], frozenset({name}), rounded=rounded)
    kept = {each.name: numpy_helper.to_array(each) for each in graph.read(small).graph.initializer}
    assert np.array_equal(kept[layer.input[1]], numpy_helper.to_array(graph.weights(proto)[layer.input[1]]))


def test_what_two_layers_share_is_left_to_the_quantiser():
    weight = np.random.default_rng(0).normal(size=(32, 32, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["middle"], "one", kernel_shape=[1, 1]),
        helper.make_node("Conv", ["middle", "w"], ["y"], "two", kernel_shape=[1, 1]),
    ]
    model = model_of(nodes, [1, 32, 9, 9], [1, 32, 9, 9], w=weight)
    layers = quantise.quantisable(graph.read(model))
    assert len(layers) == 2
    assert rounding.fit(model, layers, alike((1, 32, 9, 9), 2, 0), TARGETS["x86"], 1) == {}


def test_inputs_that_never_vary_round_each_weight_for_itself():
    weight = np.random.default_rng(0).normal(size=(24, 32, 1, 1))
    model = convolution(weight)
    nodes = quantise.quantisable(graph.read(model))
    samples = [{"x": np.zeros((1, 32, 9, 9), dtype=np.float32)}] * 2
    rounded = rounding.fit(model, nodes, samples, TARGETS["arm64"], 1)["layer"]
    limits, found = np.abs(weight).max(axis=(1, 2, 3)), rounded.weight
    assert np.allclose(rounded.limits, limits)
    assert (np.abs(found - weight).max(axis=(1, 2, 3)) <= 0.501 * limits / rounding.LEVELS).all()
