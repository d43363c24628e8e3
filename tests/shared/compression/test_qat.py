"""Training for int8: weights end on the grid, answers stay, and rounding hurts less than without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from shared.compression.imitate import Imitation, Material
from shared.compression.qat import install, quantisation_aware, ranges
from shared.compression.revive import revive
from tests.shared.compression.networks import classifier, pictures
from tests.shared.packages import run_model


@pytest.fixture(scope="module")
def model() -> bytes:
    return classifier()


def layers(model: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(model).graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return {node.name: arrays[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")}


@pytest.mark.parametrize(("reduce_range", "most"), [(False, 127), (True, 63)])
def test_weights_lie_on_the_grid(model: bytes, tmp_path: Path, reduce_range: bool, most: int) -> None:
    trained = quantisation_aware(
        model, pictures(40, 1), epochs=1, seed=0, folder=tmp_path, threads=1, reduce_range=reduce_range
    )
    for name, weight in layers(trained).items():
        rows = weight.reshape(len(weight), -1)
        steps = rows / np.abs(rows).max(axis=1, keepdims=True) * most
        assert np.abs(steps - steps.round()).max() < 1e-2, name
        assert not np.array_equal(weight, layers(model)[name])
    inputs = {"image": np.concatenate([each["image"] for each in pictures(100, 5)])}
    before, after = run_model(model, inputs)["logits"], run_model(trained, inputs)["logits"]
    assert float((before.argmax(1) == after.argmax(1)).mean()) > 0.85
    found = ranges(trained)
    names = {name for node in onnx.load_from_string(trained).graph.node for name in node.output}
    assert len(found) > 7
    assert found.keys() <= names
    assert all(low <= 0.0 <= high and low < high for low, high in found.values())
    assert ranges(model) == {}


def test_training_makes_up_for_rounding(model: bytes, tmp_path: Path) -> None:
    """Rounded to 7 bits and with coarse outliers in a layer, the model drifts from its answers; training mends it."""
    proto = onnx.load_from_string(model)
    revived = revive(model)
    layer = [each for each in revived.core.layers.values() if getattr(each.inner, "kernel_size", 0) == (3, 3)][-1]
    with torch.no_grad():  # one large weight in each channel makes the steps of all the others coarse
        layer.inner.weight[:, 0, 0, 0] = 40 * layer.inner.weight.abs().amax()
    hard = revived.graft()
    assert len(hard) == pytest.approx(len(proto.SerializeToString()), rel=0.1)
    fresh = revive(hard)
    material = Material(fresh, pictures(64, 1), 0)
    task = Imitation(material, 1)
    install(fresh.core, material, reduce_range=True)
    with torch.no_grad():
        before = task.validate(fresh.core.eval(), "cpu")["fidelity"]
    trained = quantisation_aware(hard, pictures(64, 1), epochs=6, seed=0, folder=tmp_path, threads=1, reduce_range=True)
    again = revive(trained)
    install(again.core, Material(again, pictures(64, 1), 0), reduce_range=True)
    with torch.no_grad():
        after = task.validate(again.core.eval(), "cpu")["fidelity"]
    assert after > 0.7 * before, f"divergence {-before:.4g} → {-after:.4g}"
