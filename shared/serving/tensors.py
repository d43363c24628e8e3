"""Tensors of the Open Inference Protocol: between numpy, JSON and Triton's binary form.

Datatypes are BOOL, UINT8 … UINT64, INT8 … INT64, FP16, FP32, FP64 and BYTES. Elements are in row-major order. Binary
numbers are little-endian; BOOL is one byte; each BYTES element is a 4-byte little-endian length and then its bytes.
In JSON, a tensor is a flat or nested list of numbers, booleans (BOOL) or strings (BYTES, UTF-8); a not-a-number or
infinity leaves as null, since JSON has no word for it. In memory a BYTES tensor is an object array of `bytes`.

Everything is checked against the bytes that are really there before memory is taken for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = 4
"""Bytes of the length before each BYTES element."""


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's element type; text of any kind is BYTES."""
    name = _NAMES.get(array.dtype)  # nearly always: another byte order is asked for below, which takes longer
    if name is not None:
        return name
    if array.dtype.kind in "OSU":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("<")]
    except KeyError:
        raise TypeError(f"arrays of {array.dtype} have no name in the protocol") from None


def check_shape(where: str, shape: Any, datatype: str, limit: int) -> tuple[int, ...]:
    """`shape` as a tuple of integers whose elements take at most `limit` bytes (BYTES: their lengths alone).

    An extent of 0 is an empty tensor, as in Triton and ONNX; its other extents are bounded as if it were 1.

    Raises:
        BadInput: not a list of integers of 0 or more, or larger than the limit.
    """
    if not isinstance(shape, list) or any(type(extent) is not int or extent < 0 for extent in shape):
        raise BadInput(f"{where}: shape must be a list of integers of 0 or more.")
    itemsize = _LENGTH if datatype == "BYTES" else DTYPES[datatype].itemsize
    if math.prod(extent or 1 for extent in shape) * itemsize > limit:
        raise BadInput(f"{where}: shape {_short(shape)} is larger than this server's limit of {limit} bytes.")
    return tuple(shape)


def from_json(where: str, data: Any, datatype: str, shape: tuple[int, ...], max_depth: int) -> Array:
    """The array of a tensor given in JSON. `shape` has passed `check_shape`.

    Raises:
        BadInput: wrong number of elements, elements of another kind or out of the datatype's range, nesting too deep.
    """
    if not isinstance(data, list):
        raise BadInput(f"{where}: data must be a list.")
    flat = _flatten(where, data, max_depth)
    expected = math.prod(shape)
    if len(flat) != expected:
        raise BadInput(f"{where}: data holds {len(flat)} elements, shape {_short(shape)} needs {expected}.")
    _check_kinds(where, flat, datatype)
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return _objects([text.encode("utf-8") for text in flat], shape)
    if dtype.kind in "iu" and flat:
        bounds = np.iinfo(dtype)
        if min(flat) < bounds.min or max(flat) > bounds.max:
            raise BadInput(f"{where}: a value is out of the range of {datatype} ({bounds.min} to {bounds.max}).")
    with np.errstate(over="ignore"):
        array = np.array(flat, dtype=dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"{where}: a value is out of the range of {datatype}.")
    return array.reshape(shape)


def from_binary(where: str, view: memoryview, datatype: str, shape: tuple[int, ...]) -> Array:
    """The array of a tensor given in binary: a read-only view of `view` where its alignment allows, else a copy.

    Raises:
        BadInput: `view` has not exactly the bytes that `shape` needs.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _objects(_split(where, view, count), shape)
    dtype = DTYPES[datatype]
    if len(view) != count * dtype.itemsize:
        needed = count * dtype.itemsize
        raise BadInput(f"{where}: {len(view)} bytes of data; {datatype} of shape {_short(shape)} needs {needed}.")
    if datatype == "BOOL":
        return (np.frombuffer(view, np.uint8) != 0).reshape(shape)  # any byte but 0 is true, in memory it must be 1
    array = np.frombuffer(view, dtype)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def to_json(array: Array) -> list[Any]:
    """The flat list of an output tensor for JSON.

    Raises:
        BadInput: a BYTES element is not UTF-8 text; ask for it as binary.
    """
    if array.dtype.kind in "OSU":
        try:
            return [item if isinstance(item, str) else bytes(item).decode("utf-8") for item in array.ravel()]
        except UnicodeDecodeError:
            raise BadInput("an output holds bytes that are not UTF-8 text; request it with binary_data true.") from None
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            return [value if ok else None for value, ok in zip(array.ravel().tolist(), finite.ravel(), strict=True)]
    values: list[Any] = array.ravel().tolist()
    return values


def to_binary(array: Array) -> bytes:
    """The bytes of an output tensor in the binary extension."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for item in array.ravel():
        content = item.encode("utf-8") if isinstance(item, str) else bytes(item)
        parts += (len(content).to_bytes(_LENGTH, "little"), content)
    return b"".join(parts)


def _flatten(where: str, data: list[Any], max_depth: int) -> list[Any]:
    """One level at a time and without recursion, so that nesting costs no stack."""
    for _ in range(max_depth):
        kinds = set(map(type, data))
        if list not in kinds:
            return data
        if len(kinds) > 1:
            raise BadInput(f"{where}: data mixes lists and values at one level.")
        data = list(itertools.chain.from_iterable(data))
    raise BadInput(f"{where}: data is nested deeper than {max_depth} levels.")


def _check_kinds(where: str, flat: list[Any], datatype: str) -> None:
    kind = DTYPES[datatype].kind
    allowed: set[type] = {"b": {bool}, "O": {str}, "f": {int, float}}.get(kind, {int})  # type: ignore[assignment]
    wrong = set(map(type, flat)) - allowed
    if wrong:
        wanted = {"b": "true or false", "O": "strings", "f": "numbers"}.get(kind, "whole numbers")
        raise BadInput(f"{where}: {datatype} data must be {wanted}, found {_json_name(wrong.pop())}.")


def _json_name(kind: type) -> str:
    names = {bool: "a boolean", str: "a string", dict: "an object", int: "an integer", float: "a fraction"}
    return names.get(kind, "null")


def _split(where: str, view: memoryview, count: int) -> list[bytes]:
    if count * _LENGTH > len(view):
        raise BadInput(f"{where}: {len(view)} bytes cannot hold {count} BYTES elements and their 4-byte lengths.")
    items: list[bytes] = []
    at = 0
    while at < len(view):
        if len(items) == count or at + _LENGTH > len(view):
            raise BadInput(f"{where}: the BYTES data goes on after its {count} elements.")
        size = int.from_bytes(view[at : at + _LENGTH], "little")
        at += _LENGTH
        if size > len(view) - at:
            raise BadInput(f"{where}: BYTES element {len(items)} claims {size} bytes, {len(view) - at} are left.")
        items.append(bytes(view[at : at + size]))
        at += size
    if len(items) != count:
        raise BadInput(f"{where}: the BYTES data holds {len(items)} elements, its shape needs {count}.")
    return items


def _objects(items: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _short(shape: Sequence[int]) -> str:
    text = ",".join(map(str, shape))
    return f"[{text if len(text) <= 60 else text[:57] + '...'}]"
