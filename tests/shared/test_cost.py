"""The cost table against counts by hand, and as `haechi package show --cost` prints it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from shared.cost import REST, costs, human
from shared.package import Golden, write_package
from solutions.cli import main
from tests.shared.compression.networks import CLASSES, SIDE, classifier, pictures
from tests.shared.packages import make_manifest, make_package, run_model

WIDTH = 32
STEM = SIDE * SIDE * 27 * WIDTH
DEPTHWISE = SIDE * SIDE * 9 * WIDTH
HALF = (SIDE // 2) ** 2
QUARTER = (SIDE // 4) ** 2
RESIDUAL = 2 * HALF * 9 * WIDTH * WIDTH
GROWING = QUARTER * (9 * WIDTH * 2 * WIDTH + 9 * (2 * WIDTH) ** 2 + WIDTH * 2 * WIDTH)
HEAD = 2 * WIDTH * CLASSES


def picture() -> dict[str, np.ndarray]:
    return next(iter(pictures(1, 0)))


def test_counts_by_hand() -> None:
    found = costs(classifier(), picture())
    assert found.multiply_adds == STEM + DEPTHWISE + RESIDUAL + GROWING + HEAD
    by_operator = [layer.operator for layer in found.layers]
    assert by_operator[:8] == [
        "Conv 3×3", "Conv 3×3 depthwise", "Conv 3×3", "Conv 3×3", "Conv 3×3 /2", "Conv 3×3", "Conv 1×1 /2", "Gemm",
    ]  # fmt: skip
    assert found.layers[8].name == REST
    assert found.layers[0].parameters == 28 * WIDTH
    assert found.layers[0].output == (1, WIDTH, SIDE, SIDE)
    assert found.layers[7].parameters == HEAD + CLASSES
    arrays = onnx.load_from_string(classifier()).graph.initializer
    floats = sum(numpy_helper.to_array(each).size for each in arrays if each.data_type == onnx.TensorProto.FLOAT)
    assert found.parameters == floats


def test_int8_has_the_same_layers_and_counts(tmp_path: Path) -> None:
    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = pictures(4, 1)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    (tmp_path / "float.onnx").write_bytes(classifier())
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm"],
    )
    before = costs(classifier(), picture())
    after = costs((tmp_path / "int8.onnx").read_bytes(), picture())
    assert after.multiply_adds == before.multiply_adds
    assert {each.name: each for each in after.layers}.items() >= {each.name: each for each in before.layers[:8]}.items()


def test_products_of_computed_tensors_count_too() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["scores"], "attention"),
        helper.make_node("MatMul", ["scores", "w"], ["y"], "mix"),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", "t", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "t", 3])],
        [numpy_helper.from_array(np.ones((5, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = costs(model.SerializeToString(), {"x": np.ones((1, 5, 8), np.float32)})
    assert [(each.multiply_adds, each.parameters) for each in found.layers] == [(5 * 5 * 8, 0), (5 * 3 * 5, 15)]


def packaged(destination: Path, model: bytes) -> Path:
    manifest = make_manifest(destination.name)
    image = picture()
    outputs = run_model(model, image)
    manifest = manifest.model_copy(
        update={
            "inputs": manifest.inputs[:1],
            "outputs": [
                manifest.outputs[0].model_copy(update={"name": name, "shape": [-1, CLASSES]}) for name in outputs
            ],
        }
    )
    write_package(destination, manifest, model, Golden(inputs=image, outputs=outputs), {})
    return destination


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = packaged(tmp_path / "wide", classifier(width=32))
    slim = packaged(tmp_path / "slim", classifier(width=16))
    report = tmp_path / "out.json"
    assert main(["package", "show", str(slim), "--cost", "--against", str(wide), "--json", str(report)]) == 0
    said = capsys.readouterr().out
    saved = json.loads(report.read_text("utf-8"))
    total = saved["multiply_adds"]
    assert saved["against"]["multiply_adds"] == STEM + DEPTHWISE + RESIDUAL + GROWING + HEAD
    assert f"{100 * total / saved['against']['multiply_adds']:.3g} %" in said
    assert human(total) in said
    assert "Conv 3×3 depthwise" in said
    assert sum(each["multiply_adds"] for each in saved["layers"]) == total
    assert main(["package", "show", str(slim), "--cost"]) == 0
    assert "before" not in capsys.readouterr().out
    assert main(["package", "show", str(slim), "--against", str(wide)]) == 2
    assert "--cost" in capsys.readouterr().err


def test_a_model_without_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_package(tmp_path / "p")
    assert main(["package", "show", str(path), "--cost"]) == 0
    assert "total" in capsys.readouterr().out
