"""What a load sends: random tensors made from a model's metadata, or an image file, as one request in bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.bench_serve_load import ID_LENGTH, Address, Request, post
from shared.errors import BadInput
from shared.manifest import DATATYPES, printable

_TEXT = "How fast does this server answer?"
_PICTURE = (480, 640)
_COLOURS = (1, 3, 4)
_ANY_LENGTH = 16
_NO_ID = "0" * ID_LENGTH


@dataclass(frozen=True)
class Tensor:
    """One input as it is sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes


@dataclass(frozen=True)
class Payload:
    """The inputs of one request."""

    tensors: tuple[Tensor, ...]
    batch: int
    """Inferences in it."""
    fixed: bool
    """The model leaves no extent but the batch open, so all of its inferences cost the same."""

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(len(tensor.content) for tensor in self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        inputs = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in self.tensors]
        return {"inputs": inputs, "bytes": self.size, "batch": self.batch}

    def request(self, address: Address, path: str, headers: Mapping[str, str], timeout_ms: float | None) -> Request:
        """The HTTP request: binary tensors in and out, with an id that can be counted."""
        body, json_size, id_at = self.body(timeout_ms)
        all_headers = {
            **headers,
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(json_size),
        }
        if timeout_ms is not None:
            all_headers["X-Timeout-Ms"] = str(max(1, round(timeout_ms)))
        return post(address, path, all_headers, body, id_at=id_at, json_size=json_size)

    def body(self, timeout_ms: float | None = None) -> tuple[bytes, int, int]:
        """The body, the length of its JSON part, and where the id's digits are in it."""
        parameters: dict[str, Any] = {"binary_data_output": True}
        if timeout_ms is not None:
            parameters["timeout"] = max(1, round(1000 * timeout_ms))  # microseconds, as Triton has it
        inputs = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(tensor.content)},
            }
            for tensor in self.tensors
        ]
        header = json.dumps({"id": _NO_ID, "parameters": parameters, "inputs": inputs}).encode()
        content = b"".join(tensor.content for tensor in self.tensors)
        return header + content, len(header), header.index(_NO_ID.encode())


def make(
    metadata: Mapping[str, Any],
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    image: Path | None = None,
    seed: int = 0,
) -> Payload:
    """Inputs for a model.

    Args:
        metadata: the protocol's model metadata.
        batch: extent of open first dimensions.
        shapes: for inputs by name, whole; others get sensible ones where they are open (pictures 480 × 640).
        image: send this file, as BYTES, in the place of the picture.
        seed: of the random numbers: from a normal distribution, 0 to 255 for UINT8, 0 and 1 for other integers (a
            model may use them as indexes or masks), one sentence for BYTES.

    Raises:
        BadInput: a shape, the image or a datatype does not fit the model.
    """
    shapes = dict(shapes or {})
    specs = [_Spec.read(entry) for entry in metadata["inputs"]]
    for name in shapes.keys() - {spec.name for spec in specs}:
        raise BadInput(f"--shape {name}: the model has no such input; it has {_names(specs)}.")
    picture = _picture(specs) if image is not None else None
    generator = np.random.default_rng(seed)
    tensors = []
    for spec in specs:
        if image is not None and spec is picture:
            tensors.append(_encoded(spec.name, image, batch))
        else:
            shape = _shape(spec, batch, shapes.get(spec.name))
            tensors.append(Tensor(spec.name, spec.datatype, shape, _content(spec.datatype, shape, generator)))
    return Payload(tuple(tensors), batch, fixed=all(-1 not in spec.shape[1:] for spec in specs))


def parse_shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`["image=1,480,640,3"]` as a dictionary.

    Raises:
        BadInput: one is written otherwise.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, numbers = word.rpartition("=")
        extents = numbers.split(",")
        if not equals or not name or not all(each.strip().isdecimal() and int(each) > 0 for each in extents):
            raise BadInput(f"--shape {word} must be written like image=1,480,640,3.")
        shapes[name] = tuple(int(each) for each in extents)
    return shapes


@dataclass(frozen=True)
class _Spec:
    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def read(cls, entry: Any) -> _Spec:
        try:
            name, datatype = str(entry["name"]), str(entry["datatype"])
            shape = tuple(int(extent) for extent in entry["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("the server's metadata of this model cannot be read; is the URL right?") from error
        if datatype not in DATATYPES:
            raise BadInput(f"input {printable(name)} is {printable(datatype)}, which no tensor can be made of.")
        return cls(name, datatype, shape)


def _names(specs: Sequence[_Spec]) -> str:
    return ", ".join(f"{printable(spec.name)} {spec.datatype} {list(spec.shape)}" for spec in specs)


def _shape(spec: _Spec, batch: int, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        if len(given) != len(spec.shape) or any(
            want not in (-1, have) for want, have in zip(spec.shape, given, strict=True)
        ):
            raise BadInput(f"--shape {spec.name}={','.join(map(str, given))} does not fit {_names([spec])} (-1: any).")
        return tuple(given)
    shape = list(spec.shape)
    if shape and shape[0] == -1:
        shape[0] = batch
    elif batch > 1 and not spec.shape[1:]:
        return tuple(shape)  # a setting, such as a threshold
    elif batch > 1 and shape[0] != batch:
        raise BadInput(f"--batch {batch}: input {spec.name} takes {shape[0]} at a time.")
    for axis, extent in _picture_axes(spec.shape):
        if shape[axis] == -1:
            shape[axis] = extent
    return tuple(_ANY_LENGTH if extent == -1 else extent for extent in shape)


def _picture_axes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Axes of height and width with what they are where they are open; none if this is no picture."""
    if len(shape) == 4 and shape[3] in _COLOURS:
        return list(zip((1, 2), _PICTURE, strict=True))
    if len(shape) == 4 and shape[1] in _COLOURS:
        return list(zip((2, 3), _PICTURE, strict=True))
    return []


def _picture(specs: Sequence[_Spec]) -> _Spec:
    """The input that an image file is for."""
    found = [spec for spec in specs if _picture_axes(spec.shape)] or [s for s in specs if s.datatype == "BYTES"]
    if not found:
        raise BadInput(f"--image: the model takes no picture; its inputs are {_names(specs)}.")
    return found[0]


def _encoded(name: str, image: Path, batch: int) -> Tensor:
    try:
        content = image.read_bytes()
    except OSError as error:
        raise BadInput(f"--image {image} cannot be read: {error.strerror}.") from error
    return Tensor(name, "BYTES", (batch,), _with_length(content) * batch)


def _content(datatype: str, shape: tuple[int, ...], generator: np.random.Generator) -> bytes:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return _with_length(_TEXT.encode()) * count
    dtype = np.dtype(DATATYPES[datatype]).newbyteorder("<")
    if dtype.kind == "f":
        return generator.standard_normal(count, np.float32).astype(dtype).tobytes()
    return generator.integers(0, 256 if datatype == "UINT8" else 2, count).astype(dtype).tobytes()


def _with_length(element: bytes) -> bytes:
    return len(element).to_bytes(4, "little") + element
