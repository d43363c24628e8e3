"""ONNX → torch → ONNX gives the same answers, and says which node stops it where it cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from shared.compression.core import Norm, normalise
from shared.compression.revive import NotTrainable, revive, trainable
from shared.training.export import Session
from tests.shared.compression.networks import CLASSES, SIDE, Builder, classifier, pictures
from tests.shared.packages import make_model, run_model


@pytest.fixture(scope="module")
def model() -> bytes:
    return classifier()


def stacked(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"image": np.concatenate([each["image"] for each in pictures(count, seed)])}


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_the_core_is_what_lies_between_pre_and_post_processing(model: bytes) -> None:
    assert trainable(model) is None
    revived = revive(model)
    assert revived.shape == (2, 3, SIDE, SIDE)
    assert revived.core.exits == ["logits"]
    assert revived.follows("logits") == {"Softmax"}
    kinds = [step.node.op for step in revived.core.steps]
    assert kinds.count("Conv") == 7
    assert not {"Resize", "Softmax", "Cast"} & set(kinds)


def test_core_computes_what_the_graph_computes(model: bytes) -> None:
    revived = revive(model)
    inputs = stacked(3, 1)
    x = revived.front(inputs)
    with torch.inference_mode():
        ours = revived.core(torch.from_numpy(x))["logits"].numpy()
    assert difference(ours, run_model(model, inputs)["logits"]) < 1e-4
    assert difference(revived.parent(1).run({revived.core.entry: x})["logits"], ours) < 1e-4


def test_norms_change_nothing_and_fold_away(model: bytes) -> None:
    revived = revive(model)
    batch = torch.from_numpy(revived.front(stacked(12, 2)))
    normalise(revived.core, [batch[:6], batch[6:]])
    norms = [module for module in revived.core.modules() if isinstance(module, Norm)]
    assert len(norms) == 7
    inputs = stacked(4, 3)
    before = run_model(model, inputs)
    grafted = revived.graft()
    for name, after in run_model(grafted, inputs).items():
        assert difference(after, before[name]) < 1e-4
    assert [node.op_type for node in onnx.load_from_string(grafted).graph.node].count("BatchNormalization") == 0
    revived.core.train()
    with torch.no_grad():
        trained = revived.core(batch)["logits"].numpy()
    assert difference(trained, run_model(model, stacked(12, 2))["logits"]) < 1e-3, "statistics are those of the data"


def test_graft_keeps_interface_and_takes_new_weights(model: bytes) -> None:
    revived = revive(model)
    head = revived.core.layers[revived.core.steps[-1].layer].inner
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.arange(CLASSES))
    session = Session(revived.graft(), 1)
    for count in (1, 3):  # any batch size still
        found = session.run(stacked(count, 4))
        assert found["logits"].shape == found["probabilities"].shape == (count, CLASSES)
        assert np.allclose(found["logits"], np.arange(CLASSES), atol=1e-5)
    ours, theirs = onnx.load_from_string(revived.graft()).graph, onnx.load_from_string(model).graph
    assert ours.input == theirs.input
    assert ours.output == theirs.output


def test_features_are_cut_behind_their_activation() -> None:
    """A feature extractor with several exits and a tail that torch is not asked to compute."""
    b = Builder(0)
    x = b.add("Cast", b.add("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    fine = b.add("Relu", b.conv(b.add("Div", x, b.constant(255.0)), 3, 16, 3, 2))
    coarse = b.add("Relu", b.conv(fine, 16, 24, 3, 2))
    for name, features in (("fine", fine), ("coarse", coarse)):
        flat = b.add("Reshape", features, b.constant([0, 0, -1], np.int64))
        b.nodes.append(
            helper.make_node("TopK", [flat, b.constant([3], np.int64)], [name, f"{name}_places"], f"best_{name}")
        )
    model = b.model({"fine": ["n", 16, 3], "coarse": ["n", 24, 3]})
    revived = revive(model)
    assert revived.core.exits == [fine, coarse]
    inputs = {"image": np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)}
    with torch.inference_mode():
        found = revived.core(torch.from_numpy(revived.front(inputs)))
    assert [tuple(value.shape) for value in found.values()] == [(2, 16, 8, 8), (2, 24, 4, 4)]
    assert all(float(value.min()) == 0.0 for value in found.values())
    after = run_model(revived.graft(), inputs)
    for name, before in run_model(model, inputs).items():
        assert difference(after[name], before) < 1e-4


@pytest.mark.parametrize("moved", [False, True])
def test_a_copy_by_computed_positions_is_seen_through(moved: bool) -> None:
    """Exporters flatten by a Gather of every element in its place; one that moves elements is something else."""
    b = Builder(0)
    pooled = b.add("ReduceMean", b.conv("image", 4, 16, 3), b.constant([2, 3], np.int64), keepdims=1)
    flat = b.add("Reshape", pooled, b.constant([-1], np.int64))
    size = b.add("Squeeze", b.add("Shape", "image", start=0, end=1))
    zero, one = b.constant(0, np.int64), b.constant(1, np.int64)
    rows = b.add("Mul", b.add("Range", zero, size, one), b.constant(16, np.int64))
    order = np.arange(16)[::-1] if moved else np.arange(16)
    rows = b.add("Unsqueeze", rows, b.constant([1, 2, 3], np.int64))
    places = b.add("Add", rows, b.constant(order.reshape(1, 16, 1, 1), np.int64))
    copied = b.add("Reshape", b.add("Gather", flat, places), b.constant([-1, 16], np.int64), allowzero=1)
    b.add("Gemm", copied, b.constant(b.generator.normal(size=(16, 40))), output="out")
    model = b.model({"out": ["n", 40]}, TensorProto.FLOAT, ("n", 4, 6, 6))
    if moved:
        reason = trainable(model)
        assert reason is None or "Gather" in reason
        assert revive(model).core.exits != ["out"]
        return
    revived = revive(model)
    assert revived.core.exits == ["out"]
    inputs = {"image": np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)}
    assert difference(run_model(revived.graft(), inputs)["out"], run_model(model, inputs)["out"]) < 1e-5


def dense(op: str) -> bytes:
    """float [n, 16] → MatMul → `op` → MatMul."""
    generator = np.random.default_rng(0)
    matrices = [numpy_helper.from_array(generator.normal(size=(16, 16)).astype(np.float32), name) for name in "ab"]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"], "first"),
        helper.make_node(op, ["y"], ["z"], "middle"),
        helper.make_node("MatMul", ["z", "b"], ["out"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 16])],
        matrices,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def test_matrix_products_and_float_inputs_are_revived_too() -> None:
    model = dense("Relu")
    revived = revive(model)
    inputs = {"x": np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)}
    assert difference(run_model(revived.graft(), inputs)["out"], run_model(model, inputs)["out"]) < 1e-6
    with torch.no_grad():
        revived.core.layers["last"].inner.weight.mul_(2.0)
    assert difference(run_model(revived.graft(), inputs)["out"], 2 * run_model(model, inputs)["out"]) < 1e-6


def test_what_stops_it_is_named() -> None:
    reason = trainable(make_model())
    assert reason is not None
    assert "no layer" in reason
    model = onnx.load_from_string(dense("Hardmax"))
    big = np.ones((16, 64), np.float32)  # most of the network lies behind the node that stops it
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(big, "b"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    reason = trainable(model.SerializeToString())
    assert reason is not None
    assert "middle" in reason
    assert "Hardmax" in reason
    with pytest.raises(NotTrainable, match="Hardmax"):
        revive(model.SerializeToString())
