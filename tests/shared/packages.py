"""Real, tiny model packages for tests: an ONNX graph with the interface of an inspection model, built with onnx.helper.

The graph calls brightness a defect: the heat map is the picture resized to `size`×`size`, grey, 0…`gain`; the score is
the map's maximum. A black picture scores 0 (OK), a white one scores `gain` (NG with the default thresholds).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from shared.package import Golden, Lineage, Manifest, TensorSpec, Threshold, WeightsLicence, write_package

REVIEW, NG, PIXEL = 0.5, 0.75, 0.6
"""Thresholds of the packages made here, for gain 1."""


def make_model(size: int = 16, gain: float = 1.0) -> bytes:
    """An ONNX model: image UINT8 [-1,-1,-1,3] and pixel_threshold FP32 [1] to score, heatmap and mask."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["planes"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "tail"], ["sizes"], axis=0),
        helper.make_node("Resize", ["planes", "", "", "sizes"], ["small"], mode="linear", antialias=1),
        helper.make_node("ReduceMean", ["small", "channel"], ["grey"], keepdims=0),
        helper.make_node("Mul", ["grey", "scale"], ["heatmap"]),
        helper.make_node("ReduceMax", ["heatmap", "plane"], ["score"], keepdims=0),
        helper.make_node("Greater", ["heatmap", "pixel_threshold"], ["over"]),
        helper.make_node("Cast", ["over"], ["mask"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3]),
            helper.make_tensor_value_info("pixel_threshold", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["n", size, size]),
            helper.make_tensor_value_info("mask", TensorProto.UINT8, ["n", size, size]),
        ],
        [
            helper.make_tensor("tail", TensorProto.INT64, [3], [3, size, size]),
            helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
            helper.make_tensor("plane", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [gain / 255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def run_model(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime answers on the CPU, without any of our code in between."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def make_manifest(
    name: str = "tiny",
    version: str = "1.0.0",
    size: int = 16,
    metrics: Mapping[str, float] | None = None,
) -> Manifest:
    """A complete manifest for `make_model`; `write_package` fills in the files."""
    return Manifest(
        name=name,
        version=version,
        task="inspection",
        description="Calls brightness a defect; made for tests.",
        inputs=[
            TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3]),
            TensorSpec(name="pixel_threshold", datatype="FP32", shape=[1]),
        ],
        outputs=[
            TensorSpec(name="score", datatype="FP32", shape=[-1]),
            TensorSpec(name="heatmap", datatype="FP32", shape=[-1, size, size]),
            TensorSpec(name="mask", datatype="UINT8", shape=[-1, size, size]),
        ],
        preprocessing={"size": size, "resize": "linear, antialiased, inside the graph"},
        labels=["good", "defect"],
        thresholds={
            "review": Threshold(value=REVIEW, method="fixed", details={"parts": 2}),
            "ng": Threshold(value=NG, method="fixed"),
            "pixel": Threshold(value=PIXEL, method="fixed"),
        },
        metrics=dict(metrics) if metrics is not None else {"image_auroc": 1.0},
        metric="image_auroc",
        lineage=Lineage(
            data_fingerprint="0" * 64,
            parent=None,
            code_revision="test",
            seed=0,
            settings={"gain": 1.0},
            created="2026-01-01T00:00:00+00:00",
        ),
        weights=[WeightsLicence(name="none", licence="Apache-2.0", sha256="0" * 64, source="made by hand")],
    )


def make_package(
    destination: Path,
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    size: int = 16,
    gain: float = 1.0,
    assets: Mapping[str, bytes] | None = None,
    metrics: Mapping[str, float] | None = None,
    signing_key: Path | None = None,
    wrong_golden: bool = False,
) -> Path:
    """Write a package at `destination` (a zip when it ends in .zip or .haechi) and return that path.

    Args:
        destination: a path that does not exist yet.
        gain: scale of the heat map; packages with different gains are different models.
        wrong_golden: store expected outputs that the model does not give, so that its self-test fails.
    """
    model = make_model(size, gain)
    generator = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {
        "image": generator.integers(0, 256, (2, 24, 20, 3), dtype=np.uint8),
        "pixel_threshold": np.array([PIXEL], dtype=np.float32),
    }
    outputs = run_model(model, inputs)
    if wrong_golden:
        outputs["score"] = outputs["score"] + np.float32(0.25)
    write_package(
        destination,
        make_manifest(name, version, size, metrics),
        model,
        Golden(inputs=inputs, outputs=outputs),
        assets or {},
        signing_key=signing_key,
    )
    return destination
