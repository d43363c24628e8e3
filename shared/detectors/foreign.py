"""An ONNX detector that was made elsewhere becomes a model package: read, joined with its head, tried, written.

Its picture comes in and its boxes go out as with detectors that were trained here (`shared.training`), so evaluation,
serving, compression and cameras need not know the difference.
"""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shared import archive
from shared.detectors import graph
from shared.detectors.heads import HEADS, SEEING, Decoding, Seeing, Thinning, decoding
from shared.errors import BadInput, HaechiError
from shared.images import Rgb
from shared.lineage import code_revision
from shared.manifest import Lineage, Manifest, TensorSpec, Threshold, WeightsLicence
from shared.package import Golden, write_package

MOST_LABELS = 10_000
SCORE = "score"
"""Name of the threshold in the manifest from which on a detection is recommended to count."""
_SHAPES = 120
"""Shapes that are tried for the golden sample."""
_SURE, _APART = 0.3, 5e-5
"""It is good enough when the surest answer has this score, and the scores lie so far apart."""


@dataclasses.dataclass(frozen=True)
class Import:
    """What is to be imported, and how it is called."""

    head: str
    """One of `heads.HEADS`."""
    labels: tuple[str, ...]
    name: str
    version: str = "1.0.0"
    licence: str = "unknown"
    """SPDX name of the weights' licence."""
    min_score: float = 0.3
    """Recommended; the package itself gives what is above `Thinning.least_score`."""
    thinning: Thinning = dataclasses.field(default_factory=Thinning)
    seeing: Seeing | None = None
    """Default: as the head's family trains."""
    signing_key: Path | None = None


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, in the order of the network's classes; empty lines at the end do not count.

    Raises:
        BadInput: not UTF-8, none, too many, an empty line between others, or a label twice.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise BadInput(f"--labels {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"--labels {path} is not UTF-8 text; save it as such.") from error
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not 1 <= len(labels) <= MOST_LABELS:
        raise BadInput(f"--labels {path} names {len(labels)} labels; give from 1 to {MOST_LABELS}, one a line.")
    seen: set[str] = set()
    for number, label in enumerate(labels, 1):
        if not label or len(label) > 100 or not label.isprintable() or label in seen:
            what = "is empty" if not label else "is there twice" if label in seen else "is too long or not printable"
            raise BadInput(f"--labels {path}: line {number} {what}; give each class one label.")
        seen.add(label)
    return tuple(labels)


def import_detector(model: Path, destination: Path, request: Import) -> Manifest:
    """Make a package of a detector's ONNX file.

    Raises:
        BadInput: the file is no such detector, or an option does not fit; one sentence.
        HaechiError: `destination` exists or cannot be written.
    """
    if request.head not in HEADS:
        raise BadInput(f"--head {request.head} is not one of {', '.join(HEADS)}.")
    _check(request)
    if destination.exists():
        raise HaechiError(f"-o {destination} exists already; choose another name or remove it.")
    network = graph.read_network(model)
    outputs = network.run(graph.ordinary_picture(network.size))
    try:
        decoded = decoding(request.head, outputs, network.size, len(request.labels))
    except BadInput as error:
        raise BadInput(f"{model}: {error}.") from error
    seeing = request.seeing or SEEING[request.head]
    return write_detector(network, seeing, decoded, request, model, destination)


def write_detector(
    network: graph.Network, seeing: Seeing, decoded: Decoding, request: Import, source: Path, destination: Path
) -> Manifest:
    """Write the package of a network whose head is known; returns its manifest, without the hashes of the files.

    Args:
        source: the file that the network came from; its hash goes into the manifest.
    """
    model = graph.compose(network, seeing, decoded, request.thinning)
    anything = graph.compose(network, seeing, decoded, dataclasses.replace(request.thinning, least_score=0.0))
    golden = _golden(model, anything, network.size)
    weights = hashlib.sha256(source.read_bytes()).hexdigest()
    manifest = Manifest(
        name=request.name,
        version=request.version,
        task="detection",
        description=f"{request.head} detector imported from {source.name[:80]}, {len(request.labels)} classes",
        inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1 if network.batches else 1, -1, -1, 3])],
        outputs=[
            TensorSpec(
                name=name,
                datatype="INT64" if name == "classes" else "FP32",
                shape=[-1 if network.batches else 1, *golden.outputs[name].shape[1:]],
            )
            for name in ("boxes", "scores", "classes")
        ],
        preprocessing=_preprocessing(seeing, network),
        labels=list(request.labels),
        thresholds={
            SCORE: Threshold(
                value=request.min_score,
                method="recommended at import",
                details={"kept_from": request.thinning.least_score},
            )
        },
        evaluator="detection",
        lineage=Lineage(
            data_fingerprint="unknown",
            code_revision=code_revision(),
            seed=0,
            settings={"head": request.head, **dataclasses.asdict(request.thinning)},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        weights=[
            WeightsLicence(name=source.stem[:100], licence=request.licence, sha256=weights, source=source.name[:100])
        ],
    )
    write_package(destination, manifest, model, golden, signing_key=request.signing_key)
    return manifest


def package_name(destination: Path) -> str:
    """A name made of the destination's, for those who give none."""
    stem = destination.stem if archive.is_zip_name(destination) else destination.name
    name = "".join(char if char.isascii() and (char.isalnum() or char in "_.-") else "-" for char in stem.lower())
    return name.lstrip("-._")[:64] or "detector"


def _check(request: Import) -> None:
    for option, value in (("--min-score", request.min_score), ("overlap", request.thinning.overlap)):
        if not 0 <= value <= 1:
            raise BadInput(f"{option} {value} is not from 0 to 1.")


def _preprocessing(seeing: Seeing, network: graph.Network) -> dict[str, Any]:
    height, width = network.size
    return {
        "in_graph": "resize" if seeing.fit == "stretch" else "letterbox",
        "image_size": max(height, width),
        "input_size": [height, width],
        "fit": seeing.fit,
        "channels": "bgr" if seeing.bgr else "rgb",
        "mean": list(seeing.mean),
        "std": list(seeing.std),
    }


def _golden(model: bytes, anything: bytes, size: tuple[int, int]) -> Golden:
    """A drawn scene in which the detector takes something for something, in an order that is sure elsewhere too.

    Shapes are drawn over the first scene one by one; each that makes the surest answer surer stays.

    Args:
        anything: the same model without a least score, so that the way to the first answer can be seen.
    """
    rng = np.random.default_rng(0)
    score_of = graph.session(anything)
    scene, best = _ground(rng, (size[0] * 3 // 4, size[1])), -1.0
    steady: Rgb | None = None
    for tried in range(_SHAPES):
        drawn = _with_shape(rng, scene) if tried else scene
        scores = score_of({"image": drawn[None]})["scores"][0]
        if scores[0] <= best:
            continue
        scene, best = drawn, float(scores[0])
        kept = scores[scores > Thinning.least_score]
        if len(kept) and float(np.abs(np.diff(kept)).min(initial=1.0)) > _APART:
            steady = scene
            if best >= _SURE:
                break
    scene = scene if steady is None else steady
    return Golden({"image": scene[None]}, graph.run(model, {"image": scene[None]}))


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Rgb:
    coarse = rng.integers(60, 200, (4, 6, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))


def _with_shape(rng: np.random.Generator, scene: Rgb) -> Rgb:
    """An upright ellipse with a round head, or a part of such."""
    drawn = scene.copy()
    height, width = scene.shape[:2]
    x, y = int(rng.integers(width // 8, width * 7 // 8)), int(rng.integers(height // 4, height * 3 // 4))
    tall = int(rng.integers(height // 16, height // 2))
    wide = max(1, int(tall * rng.uniform(0.15, 0.6)))
    colour = [int(value) for value in rng.integers(0, 256, 3)]
    cv2.ellipse(drawn, (x, y), (wide, tall), 0, 0, 360, colour, -1, cv2.LINE_AA)
    if rng.random() < 0.5:
        cv2.circle(drawn, (x, y - tall), max(1, wide // 2), [255 - value for value in colour], -1, cv2.LINE_AA)
    return drawn
