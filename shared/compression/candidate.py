"""A model that a rung of the ladder made, as a package of its own, measured beside the package it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from shared.bench import Ratio, Timing, measure
from shared.compression import graph
from shared.compression.quantise import LayerError
from shared.compression.storage import Stored
from shared.compression.targets import Target
from shared.errors import HaechiError
from shared.evaluation import Drop, Evaluation, EvaluationData, changed_answers, paired_drop
from shared.lineage import code_revision
from shared.manifest import GoldenTolerance, Manifest
from shared.package import ASSETS, Golden, Package, open_package, write_package
from shared.runtime import Model, load

CERTIFICATE = "certificate.html"
_SECONDS = 12.0
"""That a comparison of two models may take, about."""
_FEWEST, _MOST = 20, 200
"""Rounds."""

_TOLERANCE = {"int8": (0.02, 0.05, 0.02), "fp16": (0.01, 0.02, 0.01)}
"""atol (as a share of the smallest output's largest value), rtol, mismatch. Another machine may round a value that lies
between two levels to the other one; the float model's tolerance would call that damage."""


@dataclass
class Candidate:
    """What a rung made, before it is measured."""

    rung: str
    """Name for people: `int8, percentile`."""
    model: bytes
    precision: str
    """`float`, `fp16` or `int8`: how far outputs may differ between machines."""
    note: str = ""
    layers: list[LayerError] = dataclasses.field(default_factory=list)
    left: tuple[str, ...] = ()
    """Layers that were left in float on purpose."""
    stored: list[Stored] = dataclasses.field(default_factory=list)
    own: bool = True
    """Whether its weights are the parent's (else a student's)."""


@dataclass
class Timed:
    """A candidate as a package, timed side by side with the parent."""

    candidate: Candidate
    path: Path
    package: Package
    before: Timing
    after: Timing
    speed: Ratio
    """Its time over the parent's."""


@dataclass
class Measured(Timed):
    """A candidate with all its figures."""

    evaluation: Evaluation
    drop: Drop
    holds: bool
    """Whether the drop is one that is allowed."""
    warning: str
    changed: int | None
    """Samples that get another answer than the parent's; None where nothing is decided."""

    @property
    def agreement(self) -> float | None:
        """Share of samples that get the parent's answer."""
        return None if self.changed is None else 1 - self.changed / self.evaluation.samples

    @property
    def slower(self) -> bool:
        """Surely slower than the parent: by the whole interval, and by more than a hair."""
        return self.speed.low > 1.0 and self.speed.point > 1.02

    @property
    def faster(self) -> bool:
        """Surely faster."""
        return self.speed.high < 1.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model_bytes": len(self.package.model),
            "package_bytes": size_of(self.package),
            "latency_ms_p50": self.after.p50,
            "speedup": self.speed.faster,
            self.evaluation.metric: self.evaluation.value,
            "drop": dataclasses.asdict(self.drop),
            "agreement": self.agreement,
            "changed": self.changed,
        }


@dataclass(frozen=True)
class Bench:
    """The parent, and how to measure something beside it."""

    package: Package
    target: Target
    data: EvaluationData
    threads: int
    seed: int
    max_drop: float
    folder: Path
    """For packages while they are looked at."""
    parent: Model
    example: Mapping[str, np.ndarray]
    evaluation: Evaluation

    def measure(self, candidate: Candidate, settings: Mapping[str, Any]) -> Measured:
        """Package, load (with its self-test), time and judge a candidate.

        Raises:
            HaechiError: it does not load or run.
        """
        timed, model = self._timed(candidate, settings)
        evaluation = self.data.evaluate(model.run)
        drop = paired_drop(self.evaluation, evaluation, seed=self.seed)
        holds, warning = drop.allowed(self.max_drop)
        changed = changed_answers(self.evaluation, evaluation)
        return Measured(**vars(timed), evaluation=evaluation, drop=drop, holds=holds, warning=warning, changed=changed)

    def time(self, candidate: Candidate, settings: Mapping[str, Any]) -> Timed:
        """Package, load and time a candidate that has learned nothing yet: size and speed do not wait for that.

        Raises:
            HaechiError: it does not load or run.
        """
        return self._timed(candidate, settings)[0]

    def _timed(self, candidate: Candidate, settings: Mapping[str, Any]) -> tuple[Timed, Model]:
        path = self.folder / f"candidate-{len(list(self.folder.iterdir()))}"
        write_package(path, *contents(self, candidate, settings))
        package = open_package(path, public_keys=[])
        model = load(package, self.target.provider, self.threads)
        timings = self.race(model, f"timing {candidate.rung}")
        speed = timings["after"].ratio_to(timings["before"])
        return Timed(candidate, path, package, timings["before"], timings["after"], speed), model

    def race(self, model: Model, description: str, factor: float = 1.0) -> dict[str, Timing]:
        """`model` (after) against the parent (before), in turns. `factor`: how much longer than usual."""
        models = {"before": self.parent, "after": model}
        first = measure(models, self.example, repeats=3, warmup=1, seed=self.seed, description=description)
        a_round = 2 * sum(float(np.median(each.seconds)) for each in first.values())
        rounds = int(np.clip(factor * _SECONDS / max(a_round, 1e-6), _FEWEST, _MOST * factor))
        return measure(models, self.example, repeats=rounds, warmup=2, seed=self.seed, description=description)


def size_of(package: Package) -> int:
    """Bytes of a package without its certificate page: what is compared."""
    return package.size - len(package.files.get(ASSETS + CERTIFICATE, b""))


def contents(
    bench: Bench, candidate: Candidate, settings: Mapping[str, Any]
) -> tuple[Manifest, bytes, Golden, dict[str, bytes]]:
    """What `write_package` takes: the parent's package around another model."""
    parent = bench.package
    manifest = parent.manifest
    golden = _golden(parent, candidate, bench)
    lineage = manifest.lineage.model_copy(
        update={
            "parent": parent.fingerprint,
            "code_revision": code_revision(),
            "seed": bench.seed,
            "settings": manifest.lineage.settings | {"compression": dict(settings) | {"rung": candidate.rung}},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    child = manifest.model_copy(
        update={
            "version": f"{manifest.version}-{bench.target.name}"[:256],
            "hardware": bench.target.name,
            "lineage": lineage,
            "golden_tolerance": tolerance(manifest.golden_tolerance, candidate.precision, golden.outputs),
            "certificate": {},
            "files": {},
            "checksum": "",
        }
    )
    assets = {name: parent.asset(name) for name in parent.assets if name != CERTIFICATE}
    return child, graph.shortened(candidate.model), golden, assets


def tolerance(parent: GoldenTolerance, precision: str, outputs: Mapping[str, np.ndarray]) -> GoldenTolerance:
    """How far another machine's answers may be from these."""
    if precision not in _TOLERANCE:
        return parent
    share, relative, mismatch = _TOLERANCE[precision]
    floats = [float(np.abs(values).max(initial=0.0)) for values in outputs.values() if values.dtype.kind == "f"]
    return GoldenTolerance(
        atol=max(parent.atol, share * min(floats, default=0.0)),
        rtol=max(parent.rtol, relative),
        mismatch=max(parent.mismatch, mismatch),
    )


def _golden(parent: Package, candidate: Candidate, bench: Bench) -> Golden:
    """The parent's samples with the candidate's answers, on the provider that it is meant for."""
    trial = dataclasses.replace(parent, files={**parent.files, "model.onnx": candidate.model})
    try:
        model = load(trial, bench.target.provider, bench.threads, self_test=False, warm_up=False)
    except HaechiError as error:
        raise HaechiError(f"the rung {candidate.rung!r} made a model that does not load: {error}") from error
    return Golden(parent.golden.inputs, model.run(parent.golden.inputs))
