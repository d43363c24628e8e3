"""The one way from a torch module to `model.onnx`: opset fixed, checked against the module it came from."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import HaechiError
from shared.runtime import onnxruntime

OPSET = 18
_OUTPUT = "haechi::"


def export(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> bytes:
    """The ONNX file of a module.

    Args:
        module: in evaluation mode; takes the examples in their order.
        examples: an example tensor for each input, by name; a dynamic dimension should be at least 2 in it.
        outputs: names of the outputs, in order.
        dynamic: for each input that has any: dimension → its name. A name used twice is one and the same size.

    Raises:
        HaechiError: torch could not export the module, with the reason.
    """
    sizes = {name: torch.export.Dim(name) for dims in dynamic.values() for name in dims.values()}
    shapes = tuple({index: sizes[size] for index, size in dynamic.get(name, {}).items()} for name in examples)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                tuple(examples.values()),
                input_names=list(examples),
                output_names=[_OUTPUT + name for name in outputs],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            model = onnxslim.slim(program.model_proto)
            _rename(model.graph, outputs)
    except Exception as error:
        raise HaechiError(f"the model could not be exported to ONNX: {type(error).__name__}: {error}") from error
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rename(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Give the outputs their names. The exporter itself would let them clash with tensors inside, which it names after
    operators: `embedding` is one."""
    names = {name: f"inner_{name}" for name in outputs} | {_OUTPUT + name: name for name in outputs}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.initializer, *graph.value_info, *graph.output):
        value.name = names.get(value.name, value.name)


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter speaks to its developers on stdout and in warnings; its failures are exceptions all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Session:
    """An exported model in ONNX Runtime on the CPU, as it was exported: for checks before a package is written."""

    def __init__(self, model: bytes, threads: int) -> None:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))


def relative_difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest |a - b| / max(|a|, |b|, 1e-6)."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    return float(np.max(np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-6), initial=0.0))
