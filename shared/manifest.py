"""The manifest of a model package, as pydantic models; `shared.package` writes, reads and verifies it.

Schema changes: a new optional field keeps `SCHEMA_VERSION`; anything an older reader would misread raises it.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

SCHEMA_VERSION = 1

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""Datatype names of the Open Inference Protocol v2 and their numpy types. BYTES are arrays of `str`."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
"""Names of packages: lower-case letters, digits, `_`, `.`, `-`; 64 characters at most."""
Line = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^\P{C}+$")]
"""One line of text without control characters."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    """Unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def datatype_of(array: np.ndarray) -> str | None:
    """The Open Inference Protocol name of an array's type, or None if it has none."""
    if array.dtype.kind in "OUS":
        return "BYTES"
    return next((name for name, dtype in DATATYPES.items() if dtype == array.dtype), None)


class TensorSpec(_Strict):
    """Name, type and shape of one input or output."""

    name: Line
    datatype: str
    """One of `DATATYPES`."""
    shape: list[Annotated[int, Field(ge=-1)]]
    """One length for each axis; -1 where any length will do."""

    @model_validator(mode="after")
    def _known_datatype(self) -> TensorSpec:
        if self.datatype not in DATATYPES:
            raise ValueError(f"datatype {self.datatype} of {self.name} is not one of {', '.join(DATATYPES)}")
        return self

    def mismatch(self, array: np.ndarray) -> str | None:
        """What keeps `array` from being this tensor, as the end of a sentence that began with its name, or None."""
        if datatype_of(array) != self.datatype:
            return f"must be {self.datatype} ({DATATYPES[self.datatype]}), not {array.dtype}"
        if array.ndim != len(self.shape):
            return f"must have {len(self.shape)} dimensions, shape {self.shape}, not {array.ndim}"
        if any(want not in (-1, have) for want, have in zip(self.shape, array.shape, strict=True)):
            return f"must have the shape {self.shape} (-1: any), not {list(array.shape)}"
        return None


class Threshold(_Strict):
    """A decision threshold, with how it was chosen."""

    value: float
    method: str
    details: dict[str, float | int | str] = {}


class WeightsLicence(_Strict):
    """Pretrained weights that went into the model, and on what terms."""

    name: str
    licence: str
    sha256: Sha256
    source: str


class Lineage(_Strict):
    """What the model was made from, enough to make it again."""

    data_fingerprint: str
    parent: str | None = None
    """Fingerprint of the package this one was derived from (compressed, fine-tuned)."""
    code_revision: str
    seed: int
    settings: dict[str, Any] = {}
    created: str
    """ISO 8601, UTC."""


class FileEntry(_Strict):
    """Hash and size of one file of the package."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]
    """Bytes."""


class GoldenTolerance(_Strict):
    """How far outputs may be from the golden ones: |got - expected| <= atol + rtol * |expected|."""

    atol: Annotated[float, Field(ge=0)] = 1e-4
    rtol: Annotated[float, Field(ge=0)] = 1e-3
    mismatch: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of an integer or boolean output that may differ: values that lie on a threshold flip with the last bit."""


class Manifest(_Strict):
    """What a package is. `files` and `checksum` are filled in when the package is written."""

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    name: Name
    version: Line
    task: Line
    """The solution that understands it, such as `inspection`."""
    description: str = ""
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    preprocessing: dict[str, Any] = {}
    labels: list[str] = []
    thresholds: dict[str, Threshold] = {}
    metrics: dict[str, float] = {}
    """As measured when the package was made."""
    metric: str = ""
    """Name of the headline metric among `metrics`."""
    evaluator: str = ""
    """Name of the evaluator that measures this package on data; see `shared.evaluation`."""
    certificate: dict[str, Any] = {}
    """What compression cost, before and after side by side; written by `haechi compress`."""
    lineage: Lineage
    hardware: str = "any"
    weights: list[WeightsLicence] = []
    golden_tolerance: GoldenTolerance = GoldenTolerance()
    files: dict[str, FileEntry] = {}
    checksum: str = ""
    """SHA-256 of this manifest without this field: catches accidents where no signature does."""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if not names:
                raise ValueError(f"{kind} is empty")
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} names a tensor twice")
        if self.metric and self.metric not in self.metrics:
            raise ValueError(f"metric {self.metric} is not among the metrics ({', '.join(self.metrics) or 'none'})")
        return self


_PARTS: dict[str, type[BaseModel]] = {
    "inputs": TensorSpec,
    "outputs": TensorSpec,
    "thresholds": Threshold,
    "lineage": Lineage,
    "weights": WeightsLicence,
    "golden_tolerance": GoldenTolerance,
    "files": FileEntry,
}


def printable(text: str) -> str:
    """`text` with `?` for line feeds and control characters: what a package says must not steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def describe_error(error: ValidationError) -> str:
    """The first problem of a manifest in words, without a full stop; an unknown key names the nearest known one."""
    first = error.errors()[0]
    where = [printable(str(part)) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = list((_PARTS.get(where[0], Manifest) if len(where) > 1 else Manifest).model_fields)
        nearest = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"the nearest known one is {nearest[0]}" if nearest else f"known keys: {', '.join(known)}"
        return f"unknown key {'.'.join(where)}; {hint}"
    message = printable(first["msg"].removeprefix("Value error, ").rstrip("."))
    return f"{'.'.join(where)}: {message}" if where else message
