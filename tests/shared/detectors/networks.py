"""Small ONNX networks whose answers are known, made with the onnx library, and the real ones where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
MODELS = DATA / "models"


def real_model(name: str) -> Path:
    path = MODELS / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: real models are kept beside the project")
    return path


def constant_network(
    path: Path, answers: dict[str, np.ndarray], size: tuple[int, int] = (64, 64), *, opset: int = 11, batch: int = 1
) -> Path:
    """A network that looks at its picture (by a factor of zero) and always gives the same answers, batch one."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "none"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "line"], ["flat"]),
    ]
    weights = [
        numpy_helper.from_array(np.zeros(1, dtype=np.float32), "none"),
        numpy_helper.from_array(np.array([1, 1, -1], dtype=np.int64), "line"),
    ]
    for name, answer in answers.items():
        weights.append(numpy_helper.from_array(answer.astype(np.float32), f"{name}_answer"))
        nodes.append(helper.make_node("Add", ["flat", f"{name}_answer"], [name]))
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(each.shape)) for name, each in answers.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.save(model, path)
    return path


def yolox_answer(size: int, cells: Mapping[int, Sequence[float]], classes: int) -> np.ndarray:
    """[1, A, 5 + classes] with nothing anywhere but in the anchors given: four numbers, objectness, chances."""
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    answer = np.zeros((1, anchors, 5 + classes), dtype=np.float32)
    for anchor, values in cells.items():
        answer[0, anchor] = values
    return answer


def write_labels(path: Path, labels: list[str]) -> Path:
    path.write_text("\n".join(labels) + "\n", encoding="utf-8")
    return path
