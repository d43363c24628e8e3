"""A real server with a real, tiny inspection package: ONNX that finds pixels unlike the picture's mean brightness."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from shared.manifest import Lineage, Manifest, TensorSpec, Threshold
from shared.package import Golden, write_package
from shared.serving.keys import Role
from shared.serving.server import RunningServer

SIDE = 32
THRESHOLDS = {"review": 40.0, "ng": 80.0, "pixel": 60.0}


def deviation_model() -> bytes:
    """image uint8 [N, H, W, 3] → heat map of |brightness - mean brightness| on 32×32, its maximum, and its mask."""
    constants = {
        "size": np.array([SIDE, SIDE], np.int64),
        "channel": np.array([3], np.int64),
        "plane": np.array([1, 2, 3], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "channel"], ["grey_hw1"], keepdims=1),
        helper.make_node("Transpose", ["grey_hw1"], ["grey"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["grey"], ["nc"], start=0, end=2),
        helper.make_node("Concat", ["nc", "size"], ["sizes"], axis=0),
        helper.make_node(
            "Resize",
            ["grey", "", "", "sizes"],
            ["small"],
            mode="linear",
            antialias=1,
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("ReduceMean", ["small", "plane"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["small", "mean"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["deviation"]),
        helper.make_node("Squeeze", ["deviation", "one"], ["heatmap"]),
        helper.make_node("ReduceMax", ["deviation", "plane"], ["score"], keepdims=0),
        helper.make_node("Greater", ["heatmap", "pixel_threshold"], ["above"]),
        helper.make_node("Cast", ["above"], ["mask"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "deviation",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, [None, None, None, 3]),
            helper.make_tensor_value_info("pixel_threshold", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, [None, SIDE, SIDE]),
            helper.make_tensor_value_info("mask", TensorProto.UINT8, [None, SIDE, SIDE]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def write_deviation_package(folder: Path, name: str = "washer", thresholds: Mapping[str, float] = THRESHOLDS) -> Path:
    """A package of `deviation_model` with these thresholds."""
    import onnxruntime

    model = deviation_model()
    inputs: dict[str, NDArray[Any]] = {
        "image": np.random.default_rng(0).integers(0, 255, (1, 48, 64, 3), dtype=np.uint8),
        "pixel_threshold": np.array([THRESHOLDS["pixel"]], np.float32),
    }
    outputs = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)
    manifest = Manifest(
        name=name,
        version="1",
        task="inspection",
        inputs=[
            TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3]),
            TensorSpec(name="pixel_threshold", datatype="FP32", shape=[1]),
        ],
        outputs=[
            TensorSpec(name="score", datatype="FP32", shape=[-1]),
            TensorSpec(name="heatmap", datatype="FP32", shape=[-1, SIDE, SIDE]),
            TensorSpec(name="mask", datatype="UINT8", shape=[-1, SIDE, SIDE]),
        ],
        thresholds={name: Threshold(value=value, method="chosen for tests") for name, value in thresholds.items()},
        lineage=Lineage(
            data_fingerprint="0" * 64, code_revision="test", seed=0, created=dt.datetime.now(dt.UTC).isoformat()
        ),
    )
    path = folder / f"{name}.haechi"
    golden = Golden(inputs, dict(zip(["score", "heatmap", "mask"], outputs, strict=True)))
    write_package(path, manifest, model, golden)
    return path


def part(defect: int = 0, size: tuple[int, int] = (320, 240)) -> NDArray[np.uint8]:
    """A grey part RGB [H, W, 3] with a spot `defect` levels darker than its surroundings at (200..240, 100..140)."""
    width, height = size
    image = np.full((height, width, 3), 128, np.uint8)
    noise = np.random.default_rng(1).integers(-8, 8, image.shape)
    image = (image + noise).astype(np.uint8)
    image[height * 5 // 12 : height * 7 // 12, width * 5 // 8 : width * 3 // 4] -= np.uint8(defect)
    return image


def picture(defect: int = 0, extension: str = ".png", size: tuple[int, int] = (320, 240)) -> bytes:
    """`part` as the bytes of a file: about `defect` is its score, so 0 is OK, 60 REVIEW, 110 NG."""
    done, encoded = cv2.imencode(extension, part(defect, size))
    assert done
    return bytes(encoded.tobytes())


@dataclass(frozen=True)
class Server:
    """A running server and a way to make clients of it."""

    running: RunningServer
    home: Path

    @property
    def url(self) -> str:
        return self.running.url

    def key(self, role: Role, name: str = "") -> str:
        return self.running.state.auth.store.create(name or f"{role}-1", role)

    def client(self, role: Role | None = "operator") -> httpx.Client:
        headers = {"X-Api-Key": self.key(role)} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)
