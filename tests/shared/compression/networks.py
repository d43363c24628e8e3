"""A small residual network as a package would hold it, made node by node, and pictures for it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.manifest import Lineage, Manifest, TensorSpec
from shared.package import Golden, write_package
from tests.shared.packages import run_model

SIDE = 24
CLASSES = 5


class Builder:
    """Nodes and initialisers with names of their own."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = np.asarray(value, dtype=dtype)
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], f"node_{name}", **attributes))
        return name

    def conv(
        self, x: str, before: int, after: int, size: int, stride: int = 1, group: int = 1, gain: float = 2.0
    ) -> str:
        fan = before // group * size * size
        weight = self.generator.normal(size=(after, before // group, size, size)) * np.sqrt(gain / fan)
        bias = self.generator.normal(size=after) * 0.2
        pads = [size // 2] * 4
        strides, kernel = [stride, stride], [size, size]
        return self.add(
            "Conv", x, self.constant(weight), self.constant(bias), pads=pads, strides=strides, kernel_shape=kernel,
            group=group, dilations=[1, 1],
        )  # fmt: skip

    def residual(self, x: str, before: int, after: int, stride: int) -> str:
        inner = self.add("Relu", self.conv(x, before, after, 3, stride))
        inner = self.conv(inner, after, after, 3, gain=1.0)
        short = x if before == after and stride == 1 else self.conv(x, before, after, 1, stride, gain=1.0)
        return self.add("Relu", self.add("Add", inner, short))

    def model(
        self, outputs: dict[str, list[Any]], image: int = TensorProto.UINT8, shape: Any = ("n", "h", "w", 3)
    ) -> bytes:
        """The ONNX file: `image` in, `outputs` by name and shape out."""
        graph = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("image", image, list(shape))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


@functools.cache
def classifier(seed: int = 0, width: int = 32) -> bytes:
    """image uint8 [n, h, w, 3] of any size → logits and probabilities [n, 5].

    Its flattening is written as exporters write it: a Reshape to a shape that holds the batch, computed from the input.
    The answers to `pictures` have mean 0 and variance 1 in every class.
    """
    b = Builder(seed)
    x = b.add("Cast", b.add("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    batch = b.add("Shape", "image", start=0, end=1)
    sizes = b.add("Concat", batch, b.constant([3, SIDE, SIDE], np.int64), axis=0)
    x = b.add("Resize", x, "", "", sizes, mode="linear", antialias=1)
    x = b.add("Div", b.add("Sub", x, b.constant(127.0)), b.constant(64.0))
    x = b.add("HardSwish", b.conv(x, 3, width, 3))
    x = b.add("Clip", b.conv(x, width, width, 3, group=width), b.constant(0.0), b.constant(6.0))
    x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.residual(b.residual(x, width, width, 1), width, 2 * width, 2)
    x = b.add("ReduceMean", x, b.constant([2, 3], np.int64), keepdims=1)
    x = b.add("Reshape", x, b.add("Concat", batch, b.constant([2 * width], np.int64), axis=0), allowzero=1)
    features = _answers(b, x, ["n", 2 * width])
    weight = b.generator.normal(size=(CLASSES, 2 * width)) / features.std(0)
    spread = (features @ weight.T).std(0)
    weight = weight / spread[:, None]
    bias = -(features @ weight.T).mean(0)
    b.add("Gemm", x, b.constant(weight), b.constant(bias), output="logits", transB=1)
    b.add("Softmax", "logits", output="probabilities", axis=1)
    return b.model({"logits": ["n", CLASSES], "probabilities": ["n", CLASSES]})


def _answers(builder: Builder, name: str, shape: list[Any]) -> np.ndarray:
    inputs = {"image": np.concatenate([each["image"] for each in pictures(64, 1000)])}
    return run_model(builder.model({name: shape}), inputs)[name].astype(np.float64)


def pictures(count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Blobs around a colour of the picture's own, [1, 40, 48, 3]."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        tint, contrast = generator.uniform(30, 225, 3), generator.uniform(5, 120)
        coarse = np.clip(tint + contrast * generator.normal(size=(1, 5, 6, 3)), 0, 255).astype(np.uint8)
        yield {"image": coarse.repeat(8, axis=1).repeat(8, axis=2)}


def written(folder: Path, model: bytes, labels: Sequence[str], assets: Mapping[str, bytes] | None = None) -> Path:
    """A classifier as a package; returns `folder`."""
    golden = {"image": np.concatenate([each["image"] for each in pictures(2, 3)])}
    manifest = Manifest(
        name="shapes",
        version="1",
        task="image-classification",
        inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
        outputs=[TensorSpec(name=name, datatype="FP32", shape=[-1, CLASSES]) for name in ("logits", "probabilities")],
        labels=list(labels),
        metrics={"accuracy": 1.0},
        metric="accuracy",
        evaluator="image-classification",
        lineage=Lineage(data_fingerprint="0" * 64, code_revision="test", seed=0, created="2026-01-01T00:00:00+00:00"),
    )
    write_package(folder, manifest, model, Golden(golden, run_model(model, golden)), assets or {})
    return folder
