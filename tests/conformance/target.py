"""The server under test, and inputs made from what it says of its model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.utils import triton_to_np_dtype

BATCH = 2
"""First extent of inputs whose first dimension is free."""
DATATYPES = {
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
    "BYTES",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Where the server is, and what to ask of it."""

    http: str
    """host:port."""
    grpc: str | None
    model: str
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """For one request: the client writes into it. Names are in lower case, as gRPC demands."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    @classmethod
    def from_environment(cls) -> Target | None:
        """The one that the variables name; see README.md."""
        url = os.environ.get("HAECHI_CONFORMANCE_URL")
        if not url:
            return None
        return cls(
            url.removeprefix("http://").rstrip("/"),
            os.environ.get("HAECHI_CONFORMANCE_GRPC"),
            os.environ.get("HAECHI_CONFORMANCE_MODEL", "set-HAECHI_CONFORMANCE_MODEL"),
            os.environ.get("HAECHI_CONFORMANCE_KEY"),
        )


def arrays_for(inputs: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, np.ndarray]:
    """An array for each input in a model's metadata, of zeros and ones (UINT8: of all pixels' values)."""
    generator = np.random.default_rng(seed)
    extent = int(os.environ.get("HAECHI_CONFORMANCE_EXTENT", "8"))
    made: dict[str, np.ndarray] = {}
    for entry in inputs:
        free = [BATCH] + [extent] * len(entry["shape"])
        shape = [free[axis] if int(n) == -1 else int(n) for axis, n in enumerate(entry["shape"])]
        if entry["datatype"] == "BYTES":
            made[entry["name"]] = generator.choice([b"0", b"1"], shape).astype(object)
        else:
            most = 256 if entry["datatype"] == "UINT8" else 2
            dtype = triton_to_np_dtype(entry["datatype"])
            made[entry["name"]] = generator.integers(0, most, shape).astype(dtype)
    return made


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Whether a tensor may have this shape."""
    pairs = list(zip(shape, map(int, declared), strict=False))
    return len(shape) == len(declared) and all(want in (-1, have) for have, want in pairs)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two answers agree, up to the last bits of fractions."""
    if first.dtype.kind in "OSU" or second.dtype.kind in "OSU":
        return [_text(each) for each in first.ravel()] == [_text(each) for each in second.ravel()]
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True)


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)
