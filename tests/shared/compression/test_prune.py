"""Channels go where they matter least, the interface stays, and what is left learns to answer as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from shared.compression.imitate import Course, Tutors, prepare, sides
from shared.compression.prune import Channels, narrow, narrowed, shrink, shrunk
from shared.compression.revive import revive
from shared.errors import BadInput
from tests.shared.compression.networks import CLASSES, classifier, pictures, written
from tests.shared.packages import run_model


@pytest.fixture(scope="module")
def model() -> bytes:
    return classifier()


def weights(model: bytes) -> dict[str, tuple[int, ...]]:
    """Shapes of the layers' weights by node."""
    graph = onnx.load_from_string(model).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    return {node.name: shapes[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")}


def numbers(model: bytes) -> int:
    return sum(int(np.prod(shape)) for shape in weights(model).values())


def agreement(model: bytes, other: bytes) -> float:
    """Share of unseen pictures with the same first class."""
    inputs = {"image": np.concatenate([each["image"] for each in pictures(200, 77)])}
    return float((run_model(model, inputs)["logits"].argmax(1) == run_model(other, inputs)["logits"].argmax(1)).mean())


def test_shrink(model: bytes, tmp_path: Path) -> None:
    small = shrink(model, pictures(80, 1), keep=0.4, epochs=4, seed=0, folder=tmp_path)
    assert numbers(small) <= 0.4 * numbers(model)
    before, after = weights(model), weights(small)
    assert before.keys() == after.keys()
    assert all(shape[0] % 8 == 0 for shape in after.values() if shape[0] != 5)
    assert after[list(after)[-1]][0] == 5, "the answers stay"
    assert agreement(model, small) > 0.5, "five classes: chance is 0.2"
    assert list(tmp_path.iterdir()) == []


def test_narrow(model: bytes, tmp_path: Path) -> None:
    half = narrow(model, pictures(80, 1), width=0.5, epochs=4, seed=0, folder=tmp_path)
    before, after = weights(model), weights(half)
    for name, shape in before.items():
        assert after[name][0] == (5 if shape[0] == 5 else shape[0] // 2)
    assert agreement(model, half) > 0.5
    graph = onnx.load_from_string(half).graph
    assert graph.input == onnx.load_from_string(model).graph.input
    again = narrow(model, pictures(80, 1), width=0.5, epochs=4, seed=0, folder=tmp_path)
    assert again == half, "the same seed gives the same model"
    found = run_model(half, {"image": np.zeros((3, 9, 11, 3), np.uint8)})
    assert found["probabilities"].shape == (3, 5)


def test_how_small_it_will_be_is_known_before_it_learns(model: bytes, tmp_path: Path) -> None:
    half = narrow(model, pictures(40, 1), width=0.5, epochs=1, folder=tmp_path)
    assert weights(narrowed(model, width=0.5)) == weights(half)
    assert run_model(narrowed(model, width=0.5), next(pictures(1, 9)))["logits"].shape == (1, CLASSES)
    assert numbers(shrunk(model, pictures(40, 1), keep=0.4)) <= 0.4 * numbers(model)


def test_a_tutor_teaches_what_the_model_does_not_know(model: bytes, tmp_path: Path) -> None:
    """The tutor is another network, its classes in another order: the student takes after it, and not after the model
    that it was made from."""
    order = [3, 0, 4, 1, 2]
    labels = tuple(f"kind-{number}" for number in range(CLASSES))
    tutor = written(tmp_path / "tutor", classifier(seed=1), [labels[number] for number in order])
    tutors = Tutors((tutor,), labels)
    half = narrow(model, pictures(160, 1), width=0.5, epochs=12, folder=tmp_path / "run", tutors=tutors)
    inputs = {"image": np.concatenate([each["image"] for each in pictures(200, 77)])}
    said = run_model(half, inputs)["logits"].argmax(1)
    taught = np.array(order)[run_model(classifier(seed=1), inputs)["logits"].argmax(1)]
    assert (said == taught).mean() > agreement(model, half) + 0.2
    strangers = Tutors((tutor,), (*labels[1:], "strange"))
    with pytest.raises(BadInput, match="does not know 'strange'"):
        narrow(model, pictures(40, 1), width=0.5, epochs=1, folder=tmp_path, tutors=strangers)


def test_a_long_course_begins_with_small_pictures(model: bytes) -> None:
    core = revive(model).core
    assert sides(core, Course(8), (2, 3, 128, 160)) == [
        (64, 80), (64, 80), (64, 80), (64, 80), (96, 128), (96, 128), (112, 144), (112, 144),
    ]  # fmt: skip
    assert sides(core, Course(2), (2, 3, 48, 48)) == [(48, 48), (48, 48)], "small ones stay"
    core.exits = [core.steps[0].node.outputs[0]]
    assert sides(core, Course(2), (2, 3, 128, 128)) == [], "a map has as many places as the picture"


def test_dead_channels_go_first(model: bytes) -> None:
    """Channels that reach no answer cost nothing to lose, so that is what pruning must find."""
    revived = revive(model)
    dead = [3, 4, 5, 10, 11, 20, 21, 30]
    example = torch.zeros(2, *revived.shape[1:])
    alone = [bundle for bundle in Channels(revived.core, example).bundles if len(bundle.makers) == 1]
    layer = alone[0].root
    with torch.no_grad():
        layer.inner.weight[dead] = 0.0
        layer.inner.bias[dead] = -1.0
    before = revived.graft()
    material, task = prepare(revived, pictures(24, 2), seed=0, threads=1)
    channels = Channels(revived.core, example)
    channels.judge(task, material, 0)
    sizes = [bundle.size - 8 * (bundle.root is layer) for bundle in channels.bundles]
    channels.prune(sizes)
    after = revived.graft()
    assert numbers(after) < numbers(before)
    inputs = next(iter(pictures(1, 9)))
    assert np.allclose(run_model(after, inputs)["logits"], run_model(before, inputs)["logits"], rtol=1e-3, atol=1e-3)


def test_what_cannot_be_is_refused(model: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="keep"):
        shrink(model, pictures(20, 1), keep=1.5, epochs=1, folder=tmp_path)
    with pytest.raises(BadInput, match="8"):
        narrow(model, pictures(3, 1), width=0.5, epochs=1, folder=tmp_path)
