"""Between gRPC messages and the requests and answers that the rest of the server knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.errors import BadInput
from shared.manifest import Manifest
from shared.serving import oip, tensors
from shared.serving.limits import Limits
from shared.serving.oip import InferRequest, RequestedOutput
from shared.serving.rpc.messages import message
from shared.serving.tensors import Array

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of InferTensorContents that holds each datatype. FP16 has none, it comes raw."""


def read_request(request: Any, manifest: Manifest, limits: Limits) -> InferRequest:
    """A ModelInferRequest against a model's declared tensors.

    Raises:
        BadInput: anything malformed, with the tensor and the mend in the sentence.
        NotImplementedHere: it asks for what this server does not do.
    """
    told = _parameters("the request", request.parameters)
    arrays = _inputs(request, manifest, limits)
    return InferRequest(
        request.id,
        arrays,
        _outputs(request.outputs, manifest),
        oip.bytes_of(arrays),
        timeout_us=oip.count(told, "timeout"),
        priority=oip.count(told, "priority"),
    )


def write_response(name: str, version: str, parsed: InferRequest, outputs: Mapping[str, Array]) -> Any:
    """The ModelInferResponse with the wanted outputs, raw."""
    response = message("ModelInferResponse")(model_name=name, model_version=version, id=parsed.id)
    for wanted in parsed.outputs:
        array = wanted.of(outputs)
        response.outputs.add(name=wanted.name, datatype=tensors.datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(tensors.to_binary(array))
    return response


def parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A map of InferParameter or ModelRepositoryParameter as plain values."""
    chosen = {key: value.WhichOneof("parameter_choice") for key, value in entries.items()}
    return {key: getattr(entries[key], which) if which else None for key, which in chosen.items()}


def _parameters(where: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    if not entries:
        return {}
    told = parameters(entries)
    oip.check_parameters(where, told)
    return told


def _inputs(request: Any, manifest: Manifest, limits: Limits) -> dict[str, Array]:
    specs = {spec.name: spec for spec in manifest.inputs}
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadInput(
            f"raw_input_contents has {len(raw)} tensors for {len(request.inputs)} inputs; give one for each."
        )
    arrays: dict[str, Array] = {}
    for index, entry in enumerate(request.inputs):
        name, where = entry.name, f"input {entry.name[:200]}"
        if name not in specs:
            raise BadInput(f"{where} is unknown to this model; its inputs are {', '.join(specs)}.")
        if name in arrays:
            raise BadInput(f"{where} is there twice.")
        _parameters(where, entry.parameters)
        datatype, shape = oip.check_tensor(manifest, specs[name], entry.datatype, list(entry.shape), limits)
        if not raw:
            arrays[name] = _typed(where, entry.contents, datatype, shape)
        elif entry.HasField("contents"):
            raise BadInput(f"{where} has contents beside raw_input_contents; use one of them.")
        else:
            arrays[name] = tensors.from_binary(where, memoryview(raw[index]), datatype, shape)
    oip.check_complete(arrays, specs)
    return arrays


def _typed(where: str, contents: Any, datatype: str, shape: Sequence[int]) -> Array:
    """The array of a tensor given element by element."""
    field = _CONTENTS.get(datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if field is None or any(name != field for name in filled):
        words = f"in {field}" if field else "in raw_input_contents"
        raise BadInput(f"{where}: {datatype} data must be {words}, found {', '.join(filled) or 'nothing'}.")
    values = getattr(contents, field)
    if len(values) != math.prod(shape):
        raise BadInput(f"{where}: {field} holds {len(values)} elements, its shape needs {math.prod(shape)}.")
    if datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = list(values)
        return array.reshape(shape)
    dtype = tensors.DTYPES[datatype]
    wide = np.array(values, dtype=np.int64) if dtype.kind in "iu" and dtype.itemsize < 8 else np.array(values, dtype)
    if wide.dtype != dtype and wide.size:
        bounds = np.iinfo(dtype)
        if wide.min() < bounds.min or wide.max() > bounds.max:
            raise BadInput(f"{where}: a value is out of the range of {datatype} ({bounds.min} to {bounds.max}).")
    return wide.astype(dtype, copy=False).reshape(shape)


def _outputs(entries: Any, manifest: Manifest) -> list[RequestedOutput]:
    known = [spec.name for spec in manifest.outputs]
    if not entries:
        return [RequestedOutput(name, True) for name in known]
    wanted: list[RequestedOutput] = []
    for entry in entries:
        oip.check_output(entry.name[:200], known, wanted)
        told = _parameters(f"output {entry.name}", entry.parameters)
        wanted.append(RequestedOutput(entry.name, True, oip.classes(told, manifest)))
    return wanted
