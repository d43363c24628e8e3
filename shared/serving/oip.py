"""Open Inference Protocol v2 over REST with Triton's binary-tensor extension: bytes in, arrays out, and back.

A request body is JSON, or, when the header `Inference-Header-Content-Length: N` is there, N bytes of JSON followed by
the raw bytes of those inputs that say `"parameters": {"binary_data_size": n}`, in the order in which they are listed.
An output leaves as raw bytes when its `"parameters": {"binary_data": true}` says so, or by default when the request's
parameters hold `"binary_data_output": true`. Clients send no Content-Type that could be relied on: none is
looked at. An input that is a picture may come as BYTES of shape [N] or [N, 1], each an image file; see `encoded.py`.

What this server does not do (shared memory, sequences) is refused as such, with 501: an answer that silently left it
out would be wrong.

Protocol: https://github.com/kserve/open-inference-protocol; binary extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
Everything here is pure; `routes.py` connects it to HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from shared.errors import BadInput
from shared.manifest import Manifest
from shared.serving import encoded, tensors
from shared.serving.classes import Classes
from shared.serving.errors import NotImplementedHere, TooLarge
from shared.serving.limits import Limits
from shared.serving.tensors import Array

HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
]
"""Triton's names of what is served beyond the Open Inference Protocol."""
_MAX_NAME = 200
_UNSUPPORTED = {
    "shared_memory_region": "shared memory",
    "sequence_id": "the sequence extension",
    "sequence_start": "the sequence extension",
    "sequence_end": "the sequence extension",
}


class Spec(Protocol):
    """What this module needs to know of a declared tensor; `shared.package.TensorSpec` has it."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(slots=True)
class RequestedOutput:
    name: str
    binary: bool
    classes: Classes | None = None
    """Wanted in place of the tensor."""

    def of(self, outputs: Mapping[str, Array]) -> Array:
        """What leaves for this output.

        Raises:
            BadInput: classes are wanted of an output that has no numbers.
        """
        array = outputs[self.name]
        return array if self.classes is None else self.classes.best(self.name, array)


@dataclass(slots=True)
class InferRequest:
    """One parsed request, over REST or gRPC."""

    id: str
    inputs: dict[str, Array]
    outputs: list[RequestedOutput]
    """In the order in which they shall leave."""
    size: int
    """Bytes of all inputs."""
    timeout_us: int = 0
    """Microseconds in which the answer is wanted, by the parameter `timeout`; 0: no limit."""
    priority: int = 0
    """By the parameter `priority`; 0: the usual."""


def parse_request(
    body: bytes | bytearray | memoryview, header_length: str | None, manifest: Manifest, limits: Limits
) -> InferRequest:
    """Read one `infer` body against a model's declared tensors.

    Raises:
        BadInput: anything malformed, with the tensor and the mend in the sentence.
        NotImplementedHere: it asks for what this server does not do.
        TooLarge: the JSON part is larger than `limits.max_json_bytes`.
    """
    size = _header_size(header_length, len(body))
    if size > limits.max_json_bytes:
        raise TooLarge(f"the JSON part of the body is over {limits.max_json_bytes} bytes; send tensors as binary data.")
    header = _object("the request", _json(body[:size] if size < len(body) else body))
    parameters = _parameters("the request", header)
    identity = header.get("id", "")
    if not isinstance(identity, str):
        raise BadInput("the request: id must be a string.")
    arrays = _inputs(header.get("inputs"), memoryview(body)[size:], manifest, limits)
    wanted = _outputs(header.get("outputs"), manifest, _flag(parameters, "binary_data_output"))
    timeout_us, priority = count(parameters, "timeout"), count(parameters, "priority")
    return InferRequest(identity, arrays, wanted, bytes_of(arrays), timeout_us, priority)


def build_response(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON part when binary tensors follow it."""
    described: list[dict[str, Any]] = []
    binaries: list[bytes] = []
    for wanted in request.outputs:
        array = wanted.of(outputs)
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": tensors.datatype_of(array),
            "shape": list(array.shape),
        }
        if wanted.binary:
            content = tensors.to_binary(array)
            entry["parameters"] = {"binary_data_size": len(content)}
            binaries.append(content)
        else:
            entry["data"] = tensors.to_json(array)
        described.append(entry)
    header: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        header["id"] = request.id
    text = orjson.dumps(header)
    if not any(wanted.binary for wanted in request.outputs):
        return text, None
    return b"".join((text, *binaries)), len(text)


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to GET /v2."""
    return {"name": "haechi", "version": version, "extensions": EXTENSIONS}


def model_metadata(
    name: str, versions: Sequence[str], inputs: Sequence[Spec], outputs: Sequence[Spec]
) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in inputs],
        "outputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in outputs],
    }


def batch_size(arrays: Mapping[str, Array], inputs: Sequence[Spec]) -> int:
    """Inferences in one request: the first extent of the first input whose first dimension is dynamic, else 1."""
    for spec in inputs:
        array = arrays.get(spec.name)
        if spec.shape and spec.shape[0] == -1 and array is not None and array.ndim:
            return int(array.shape[0])
    return 1


def _header_size(header_length: str | None, available: int) -> int:
    if header_length is None:
        return available
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
        raise BadInput("Inference-Header-Content-Length must be a whole number of bytes.")
    size = int(header_length)
    if size > available:
        raise BadInput(f"Inference-Header-Content-Length is {size}, the body has only {available} bytes.")
    return size


def _json(text: bytes | bytearray | memoryview) -> Any:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise BadInput(f"the request is not valid JSON: {str(error)[:200]}.") from None


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a JSON object.")
    return value


def _parameters(where: str, entry: dict[str, Any]) -> dict[str, Any]:
    value = entry.get("parameters")
    if value is None:
        return {}
    parameters = _object(f"{where}: parameters", value)
    check_parameters(where, parameters)
    return parameters


def check_parameters(where: str, parameters: Mapping[str, Any]) -> None:
    """Raise `NotImplementedHere` if one of the parameters asks for what this server does not do."""
    for key in _UNSUPPORTED.keys() & parameters.keys():
        if parameters[key]:  # clients send sequence_id 0 to say: none
            raise NotImplementedHere(
                f"{where}: this server has not {_UNSUPPORTED[key]}; send and request whole tensors."
            )


def _flag(parameters: dict[str, Any], key: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise BadInput(f"parameter {key} must be true or false.")
    return value


def count(parameters: Mapping[str, Any], key: str) -> int:
    """A parameter that is a whole number of 0 or more; 0 where it is not there. BadInput if it is something else."""
    value = parameters.get(key, 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise BadInput(f"parameter {key} must be a whole number of 0 or more.")
    return value


def _name(where: str, entry: dict[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where}: every tensor needs a name.")
    return name[:_MAX_NAME]


def _inputs(entries: Any, binary: memoryview, manifest: Manifest, limits: Limits) -> dict[str, Array]:
    if not isinstance(entries, list) or not entries:
        raise BadInput("the request: inputs must be a list with at least one tensor.")
    specs = {spec.name: spec for spec in manifest.inputs}
    arrays: dict[str, Array] = {}
    at = 0
    for item in entries:
        entry = _object("an input", item)
        name = _name("inputs", entry)
        spec = specs.get(name)
        if spec is None:
            raise BadInput(f"input {name} is unknown to this model; its inputs are {', '.join(specs)}.")
        if name in arrays:
            raise BadInput(f"input {name} is there twice.")
        where = f"input {name}"
        parameters = _parameters(where, entry)
        datatype, shape = check_tensor(manifest, spec, entry.get("datatype"), entry.get("shape"), limits)
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in entry:
                raise BadInput(f"{where} has neither data nor the parameter binary_data_size.")
            arrays[name] = tensors.from_json(where, entry["data"], datatype, shape, limits.max_json_depth)
            continue
        if type(size) is not int or size < 0 or size > len(binary) - at:
            raise BadInput(
                f"{where}: binary_data_size must be a whole number, at most the {len(binary) - at} bytes left."
            )
        arrays[name] = tensors.from_binary(where, binary[at : at + size], datatype, shape)
        at += size
    if at != len(binary):
        raise BadInput(f"the body has {len(binary) - at} bytes more than its inputs name; check binary_data_size.")
    check_complete(arrays, specs)
    return arrays


def check_complete(arrays: Mapping[str, Array], wanted: Iterable[str]) -> None:
    """Raise BadInput if a wanted input is not there."""
    names = list(wanted)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise BadInput(f"input {missing[0]} is missing; this model needs {', '.join(names)}.")


def check_tensor(
    manifest: Manifest, spec: Spec, datatype: Any, shape: Any, limits: Limits
) -> tuple[str, tuple[int, ...]]:
    """Datatype and shape of an input, once they agree with what the model declares.

    Encoded pictures are [N], whether they came as [N] or [N, 1].

    Raises:
        BadInput: they do not.
    """
    where = f"input {spec.name}"
    if datatype == "BYTES" != spec.datatype and encoded.accepts(manifest, spec):
        files = _extents(where, shape, "BYTES", limits)
        if len(files) not in (1, 2) or files[1:] not in ((), (1,)) or spec.shape[0] not in (-1, files[0]):
            want = "N" if spec.shape[0] == -1 else spec.shape[0]
            raise BadInput(f"{where}: encoded pictures must have the shape [{want}] or [{want}, 1].")
        return "BYTES", files[:1]
    if datatype != spec.datatype:
        raise BadInput(f"{where}: datatype must be {spec.datatype}, found {str(datatype)[:20]}.")
    extents = _extents(where, shape, spec.datatype, limits)
    declared = spec.shape
    if len(extents) != len(declared) or any(
        want not in (-1, have) for want, have in zip(declared, extents, strict=True)
    ):
        raise BadInput(f"{where}: shape {list(extents)[:16]} does not fit {declared} (-1 takes any extent).")
    return spec.datatype, extents


def _extents(where: str, shape: Any, datatype: str, limits: Limits) -> tuple[int, ...]:
    extents = tensors.check_shape(where, shape, datatype, limits.max_upload_bytes)
    if datatype == "BYTES" and math.prod(extents) > limits.max_strings:
        raise TooLarge(f"{where}: {math.prod(extents)} elements are over the limit of {limits.max_strings} for BYTES.")
    return extents


def _outputs(entries: Any, manifest: Manifest, binary_default: bool) -> list[RequestedOutput]:
    known = [spec.name for spec in manifest.outputs]
    if entries is None or entries == []:
        return [RequestedOutput(name, binary_default) for name in known]
    if not isinstance(entries, list):
        raise BadInput("the request: outputs must be a list.")
    wanted: list[RequestedOutput] = []
    for item in entries:
        entry = _object("an output", item)
        name = _name("outputs", entry)
        parameters = _parameters(f"output {name}", entry)
        check_output(name, known, wanted)
        wanted.append(
            RequestedOutput(name, _flag(parameters, "binary_data", binary_default), classes(parameters, manifest))
        )
    return wanted


def check_output(name: str, known: Sequence[str], wanted: Sequence[RequestedOutput]) -> None:
    """Raise BadInput if an output is not among the known ones, or already among the wanted ones."""
    if name not in known:
        raise BadInput(f"output {name} is unknown to this model; its outputs are {', '.join(known)}.")
    if any(other.name == name for other in wanted):
        raise BadInput(f"output {name} is there twice.")


def classes(parameters: Mapping[str, Any], manifest: Manifest) -> Classes | None:
    """What the parameter `classification` of an output asks for."""
    wanted = count(parameters, "classification")
    return Classes.of(manifest, wanted) if wanted else None


def bytes_of(arrays: Mapping[str, Array]) -> int:
    """Memory that a request's inputs take."""
    return sum(_bytes_of(array) for array in arrays.values())


def _bytes_of(array: Array) -> int:
    if array.dtype.kind == "O":  # the pointers, and each object with its header of some 33 bytes
        return sum(len(item) + 41 for item in array.ravel())
    return int(array.nbytes)
