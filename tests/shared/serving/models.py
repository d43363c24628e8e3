"""Real packages for the server's tests: every datatype, one as slow as asked, one that fails on some inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from shared.manifest import DATATYPES
from shared.package import Golden, Lineage, Manifest, TensorSpec, write_package
from tests.shared.packages import run_model

_ONNX = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
assert _ONNX.keys() == DATATYPES.keys()


def echo_package(destination: Path, name: str = "echo") -> Path:
    """Every datatype at once: input `in_fp16` [-1,-1] comes back as output `out_fp16`, and so on."""
    kinds = {datatype: datatype.lower() for datatype in _ONNX}
    nodes = [helper.make_node("Identity", [f"in_{low}"], [f"out_{low}"]) for low in kinds.values()]
    specs = {
        side: [TensorSpec(name=f"{side}_{low}", datatype=kind, shape=[-1, -1]) for kind, low in kinds.items()]
        for side in ("in", "out")
    }
    return write(destination, name, nodes, specs["in"], specs["out"], echo_inputs(2, 3))


def echo_inputs(rows: int, columns: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for the echo model, with each datatype's extremes among them."""
    generator = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    for datatype, dtype in DATATYPES.items():
        if datatype == "BYTES":
            words = ["", "a", "해치", "x" * 300, "\n", '"quoted"']
            array = np.array(generator.choice(words, rows * columns), dtype=object)
        elif datatype == "BOOL":
            array = generator.integers(0, 2, rows * columns).astype(bool)
        elif dtype.kind in "iu":
            bounds = np.iinfo(dtype)
            array = generator.integers(bounds.min, bounds.max, rows * columns, dtype=dtype, endpoint=True)
            array[0], array[-1] = bounds.min, bounds.max
        else:
            array = generator.normal(size=rows * columns).astype(dtype)
        inputs[f"in_{datatype.lower()}"] = array.reshape(rows, columns)
    return inputs


def slow_package(destination: Path, name: str = "slow", golden_steps: int = 1) -> Path:
    """As slow as its caller asks: `steps` INT64 [1] products of 192×192 matrices, some 0.1 ms to 1 ms each."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["go_on"]),
            helper.make_node("MatMul", ["state", "matrix"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [192, 192]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [192, 192]),
        ],
    )
    matrix = np.eye(192, dtype=np.float32)
    nodes = [
        helper.make_node("Squeeze", ["steps"], ["count"]),
        helper.make_node("Loop", ["count", "", "matrix"], ["last"], body=body),
        helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        helper.make_node("Reshape", ["sum", "one"], ["total"]),
    ]
    weights = [onnx.numpy_helper.from_array(matrix, "matrix"), helper.make_tensor("one", TensorProto.INT64, [1], [1])]
    return write(
        destination,
        name,
        nodes,
        [TensorSpec(name="steps", datatype="INT64", shape=[1])],
        [TensorSpec(name="total", datatype="FP32", shape=[1])],
        {"steps": np.array([golden_steps], dtype=np.int64)},
        weights,
    )


def picky_package(destination: Path, name: str = "picky") -> Path:
    """Looks up `index` INT64 [-1] in a table of four: any other index fails inside ONNX Runtime."""
    table = np.array([1, 2, 3, 4], dtype=np.float32)
    return write(
        destination,
        name,
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        [TensorSpec(name="index", datatype="INT64", shape=[-1])],
        [TensorSpec(name="value", datatype="FP32", shape=[-1])],
        {"index": np.array([0, 3], dtype=np.int64)},
        [onnx.numpy_helper.from_array(table, "table")],
    )


def write(
    destination: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    golden: dict[str, np.ndarray],
    weights: Sequence[onnx.TensorProto] = (),
    preprocessing: Mapping[str, Any] | None = None,
) -> Path:
    """A package of a graph; what it gives for `golden` becomes its expected outputs."""
    graph = helper.make_graph(list(nodes), name, _infos(inputs), _infos(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    manifest = Manifest(
        name=name,
        version="1",
        task="test",
        inputs=list(inputs),
        outputs=list(outputs),
        preprocessing=dict(preprocessing or {}),
        lineage=Lineage(data_fingerprint="0" * 64, code_revision="test", seed=0, created="2026-01-01T00:00:00+00:00"),
    )
    stored = {key: value.astype(str) if value.dtype.kind == "O" else value for key, value in golden.items()}
    results = {
        key: value.astype(str) if value.dtype.kind == "O" else value
        for key, value in run_model(content, golden).items()
    }
    write_package(destination, manifest, content, Golden(inputs=stored, outputs=results))
    return destination


def _infos(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            spec.name,
            _ONNX[spec.datatype],
            [f"{spec.name}_{axis}" if n == -1 else n for axis, n in enumerate(spec.shape)],
        )
        for spec in specs
    ]
