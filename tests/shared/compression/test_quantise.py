"""int8 on a small residual network: what is quantised, how exactly, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.compression import graph, overflow, quantise, storage
from shared.compression.calibration import METHODS, Ranges, collect
from shared.compression.targets import TARGETS, target_named
from shared.errors import BadInput
from tests.shared.compression.networks import classifier, pictures
from tests.shared.packages import run_model


@pytest.fixture(scope="module")
def clean() -> bytes:
    return graph.clean(classifier())


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    return list(pictures(24, 7))


@pytest.fixture(scope="module")
def ranges(clean: bytes, samples: list[dict[str, np.ndarray]]) -> Ranges:
    proto = graph.read(clean)
    return collect(clean, quantise.tensors_of(quantise.quantisable(proto), proto), samples, 1)


def logits(model: bytes, inputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([run_model(model, each)["logits"] for each in inputs])


def error(model: bytes, small: bytes, inputs: list[dict[str, np.ndarray]]) -> float:
    wanted = logits(model, inputs)
    return float(np.linalg.norm(logits(small, inputs) - wanted) / np.linalg.norm(wanted))


def test_cleaning_changes_no_answer(clean, samples):
    assert np.allclose(logits(clean, samples), logits(classifier(), samples), atol=1e-4)
    nodes = graph.read(clean).graph.node
    assert len({node.name for node in nodes}) == len(nodes)
    kinds = [node.op_type for node in nodes]
    assert "GlobalAveragePool" in kinds
    assert "Div" not in kinds  # the normalisation is one convolution now


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["x86", "arm64"])
def test_int8_is_smaller_and_answers_alike(clean, samples, ranges, method, target):
    small = quantise.static(clean, ranges.bounds(method), TARGETS[target])
    assert len(small) < 0.36 * len(clean)
    assert error(clean, small, list(pictures(16, 99))) < 0.2


def test_pre_processing_and_tail_stay_in_float(clean, ranges):
    proto = graph.read(quantise.static(clean, ranges.bounds("minmax"), TARGETS["x86"]))
    made = graph.producers(proto)
    resize = next(node for node in proto.graph.node if node.op_type == "Resize")
    softmax = next(node for node in proto.graph.node if node.op_type == "Softmax")
    assert made[resize.input[0]].op_type == "Cast"
    assert made[softmax.input[0]].op_type == "Gemm"  # its output is not rounded for the softmax
    normalise = next(node for node in proto.graph.node if node.name.endswith("_normalise"))
    assert made[normalise.input[0]].op_type == "Resize"


def test_the_types_are_the_target_s(clean, ranges):
    for name, activations in (("x86-vnni", TensorProto.UINT8), ("arm64", TensorProto.INT8)):
        proto = graph.read(quantise.static(clean, ranges.bounds("minmax"), TARGETS[name]))
        constants = graph.weights(proto)
        quantisers = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
        assert {constants[node.input[2]].data_type for node in quantisers} == {activations}
        weights = [each for each in proto.graph.initializer if each.name.endswith("_quantized") and len(each.dims) == 4]
        assert weights
        assert {each.data_type for each in weights} == {TensorProto.INT8}


def test_layers_can_be_left_out(clean, samples, ranges):
    whole = quantise.static(clean, ranges.bounds("minmax"), TARGETS["x86"])
    errors = quantise.layer_errors(clean, whole, samples[:4], 1)
    layers = [node.name for node in quantise.quantisable(graph.read(clean)) if node.op_type in ("Conv", "Gemm")]
    assert [each.name for each in errors] == layers
    assert all(0 < each.error < 0.3 and each.own <= each.error for each in errors)
    worst = max(errors, key=lambda each: each.own)
    part = quantise.static(clean, ranges.bounds("minmax"), TARGETS["x86"], frozenset({worst.name}))
    assert worst.name not in {each.name for each in quantise.layer_errors(clean, part, samples[:1], 1)}
    assert len(part) > len(whole)


def test_dynamic_int8_on_convolutions_is_refused(clean):
    with pytest.raises(BadInput, match="refused for a model with convolutions"):
        quantise.dynamic(clean, TARGETS["x86"])


def test_unknown_targets_are_refused():
    with pytest.raises(BadInput, match="use one of x86-vnni"):
        target_named("mips")


def test_an_outlier_costs_only_itself():
    histogram = np.zeros(2048, dtype=np.int64)
    histogram[:120] = 10_000 * np.exp(-np.square(np.arange(120) / 40))
    histogram[-1] = 1
    found = Ranges({"x": (0.0, 100.0)}, {"x": histogram})
    assert found.bounds("minmax")["x"] == (0.0, 100.0)
    for method in ("percentile", "entropy"):
        low, high = found.bounds(method)["x"]
        assert low == 0.0
        assert 3 < high < 15


# -- overflow ----------------------------------------------------------------------------------------------------------


def one_layer(weight: np.ndarray, groups: int = 1) -> bytes:
    """x [1, C, 8, 8] → a convolution → y."""
    size = list(weight.shape[2:])
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], "layer", kernel_shape=size, pads=[each // 2 for each in size] * 2, group=groups
    )
    channels = weight.shape[1] * groups
    proto = helper.make_model(
        helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(weight), 8, 8])],
            [numpy_helper.from_array(weight.astype(np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("kind", ["wide", "spatial", "depthwise"])
def test_sums_do_not_overflow_where_vnni_is_missing(kind):
    """The worst there is: every input at the top of its range, and large weights side by side."""
    generator = np.random.default_rng(0)
    shape = {"wide": (32, 32, 1, 1), "spatial": (32, 16, 3, 3), "depthwise": (32, 1, 3, 3)}[kind]
    weight = np.abs(generator.normal(1.0, 0.05, shape))
    model = one_layer(weight, 32 if kind == "depthwise" else 1)
    x = np.ones((1, 16 if kind == "spatial" else 32, 8, 8), dtype=np.float32)
    bounds = {"x": (0.0, 1.0), "y": (0.0, float(run_model(model, {"x": x})["y"].max()))}
    small = quantise.static(graph.clean(model), bounds, TARGETS["x86"])
    wanted, got = run_model(model, {"x": x})["y"], run_model(small, {"x": x})["y"]
    assert np.abs(got - wanted).max() < 0.02 * wanted.max()


def test_weights_keep_more_than_seven_bits(clean):
    """Pairs bound a channel's scale, not its largest weight twice."""
    proto = graph.read(clean)
    constants = graph.weights(proto)
    finer = []
    for node in quantise.quantisable(proto):
        found = overflow.bounds(node, constants) if node.op_type in ("Conv", "Gemm") else None
        if found is not None:
            axis, values = found
            weight = np.moveaxis(numpy_helper.to_array(constants[node.input[1]]), axis, 0).reshape(len(values), -1)
            largest = np.abs(weight).max(axis=1)
            assert (values >= largest * 0.999).all()
            finer.append(float(np.mean(2 * largest / values)))  # against 7 bits, for which the value is 2 · largest
    assert min(finer) >= 1.0
    assert np.mean(finer) > 1.3


def test_pairs_bound_both_signs():
    rows = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-3.0, -1.0, 2.0]])
    assert overflow.pairs(rows).tolist() == [2.0, 1.0, 4.0]


# -- constants ---------------------------------------------------------------------------------------------------------


def table(values: np.ndarray) -> bytes:
    """x [n, K] → x · values."""
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "bank"], ["y"], "product")],
            "bank",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", values.shape[0]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", values.shape[1]])],
            [numpy_helper.from_array(values.astype(np.float32), "bank")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return bytes(proto.SerializeToString())


def test_constants_are_stored_in_fewer_bits():
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(96, 400)) * generator.uniform(0.01, 10, 400)
    model, x = table(bank), generator.normal(size=(3, 96)).astype(np.float32)
    wanted = run_model(model, {"x": x})["y"]
    for bits, smaller, tolerance in (("int8", 3.7, 0.02), ("fp16", 1.95, 0.001)):
        small, stored = storage.store_weights(model, bits)
        assert [(each.name, each.bits) for each in stored] == [("bank", bits)]
        assert len(model) / len(small) > smaller
        got = run_model(small, {"x": x})["y"]
        assert np.linalg.norm(got - wanted) < tolerance * np.linalg.norm(wanted)
        assert storage.store_weights(small, bits)[1] == []  # once is enough


def test_what_eight_bits_describe_badly_gets_sixteen():
    bank = np.random.default_rng(0).normal(size=(96, 400)) * 0.01
    bank[0] = 30.0  # an outlier in every column
    bank[1:] *= 1.0
    stored = storage.store_weights(table(bank - bank.mean()), "int8")[1]
    small = storage.store_weights(table(np.where(np.arange(96)[:, None] == 0, 1.0, bank)), "int8")[1]
    assert {each.bits for each in stored + small} <= {"int8", "fp16"}
    assert all(each.error < 0.03 for each in stored + small)


def test_stacks_of_matrices_are_quantised_with_a_scale_for_each_column():
    """What whitening is: a matrix for each place, with columns of very unlike sizes."""
    generator = np.random.default_rng(0)
    stack = (generator.normal(size=(9, 32, 32)) * generator.uniform(0.01, 100, (9, 1, 32))).astype(np.float32)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "stack"], ["y"], "whiten")],
            "stack",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [9, "n", 32])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [9, "n", 32])],
            [numpy_helper.from_array(stack, "stack")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    model, x = bytes(proto.SerializeToString()), generator.normal(size=(9, 64, 32)).astype(np.float32)
    limit = float(np.abs(x).max())
    small = quantise.static(graph.clean(model), {"x": (-limit, limit), "y": (-1.0, 1.0)}, TARGETS["x86"])
    wanted, got = run_model(model, {"x": x})["y"], run_model(small, {"x": x})["y"]
    assert len(small) < 0.6 * len(model)
    relative = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert relative.max() < 0.03  # in small columns as in large ones
