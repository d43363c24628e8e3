"""The rungs of the ladder: ways to make a model smaller, from those that cost nothing to those that cost hours.

Each rung is a generator of candidates. It is told what became of those before (`Climb.best`), so that the later ones
build on the best calibration, and it may find that it does not apply to a model: then it says why (`Skipped`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shared.compression import attention, graph, quantise, rounding, storage
from shared.compression.calibration import METHODS, Ranges, collect
from shared.compression.candidate import Candidate, Measured
from shared.compression.quantise import LayerError
from shared.compression.rewrites import same
from shared.compression.rounding import Rounded
from shared.compression.targets import Target
from shared.errors import BadInput, HaechiError
from shared.evaluation import EvaluationData
from shared.progress import stage

Sample = Mapping[str, np.ndarray]

_SAMPLE_BYTES = 1 << 30
_COMPARED = 8
"""Samples by which the error of layers is measured."""
_LEAVE = (1, 2, 4, 8)
_KEEP = (0.5, 0.25)
_WIDTHS = (0.75, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25)
_SKETCHED = 2
"""Samples by which a model that is not taught yet gets its ranges."""


class Skipped(Exception):
    """A rung does not apply; the message says why, without a full stop."""


@dataclass(frozen=True)
class Calibrated:
    """A cleaned graph, and what all its forms in int8 share."""

    model: bytes
    ranges: Ranges
    """Of the tensors to quantise."""
    rounded: Mapping[str, Rounded]
    """Weights on their levels, by the name of the node."""


@dataclass
class Climb:
    """What all rungs share while one package is compressed."""

    model: bytes
    target: Target
    data: EvaluationData
    samples: list[Sample]
    threads: int
    seed: int
    epochs: int
    folder: Path
    tutors: tuple[Path, ...] = ()
    """Packages that teach in the model's place."""
    labels: tuple[str, ...] = ()
    """Of the model."""
    hopeful: Callable[[Callable[[], Candidate]], bool] = lambda _: True
    """Whether a model of this shape may meet the budget; asked before it is taught, and made only if that matters."""
    done: list[Measured] = field(default_factory=list)
    _clean: bytes = b""
    _calibrated: Calibrated | None = None

    @property
    def clean(self) -> bytes:
        """The cleaned graph, as it computes the same; made once."""
        if not self._clean:
            with stage("cleaning the graph"):
                self._clean = graph.clean(self.model)
                if self.target.provider == "cpu" and graph.is_transformer(graph.read(self._clean)):
                    self._clean = self._fused(self._clean)
        return self._clean

    def _fused(self, model: bytes) -> bytes:
        """A transformer with fused kernels, if it still answers the same."""
        fused = attention.fuse(model)
        names = [each.name for each in graph.read(model).graph.output]
        before, after = (graph.Probe(each, names, self.threads) for each in (model, fused))
        alike = all(same(dict(before.run(each)), dict(after.run(each)), 1e-3) for each in self.samples[:4])
        return fused if alike else model

    @property
    def calibrated(self) -> Calibrated:
        """The cleaned graph with what int8 needs to know of it; made once."""
        if self._calibrated is None:
            self._calibrated = self.calibrate(self.clean)
        return self._calibrated

    def calibrate(self, tidy: bytes) -> Calibrated:
        """What the samples say of a cleaned graph."""
        nodes = quantise.quantisable(graph.read(tidy))
        rounded = rounding.fit(tidy, nodes, self.samples, self.target, self.threads)
        return Calibrated(tidy, ranges_of(tidy, self.samples, self.threads), rounded)

    def best(self, of: Callable[[Measured], bool]) -> Measured | None:
        """The candidate with the smallest drop among those, the first where several are level."""
        fit = [one for one in self.done if of(one)]
        return min(fit, key=lambda one: one.drop.point) if fit else None


def take_samples(data: EvaluationData, count: int, seed: int) -> list[Sample]:
    """Calibration samples, as many as fit into a gigabyte but at least eight. BadInput if there is none."""
    found: list[Sample] = []
    held = 0
    for sample in data.calibration(count, seed):
        found.append(sample)
        held += sum(array.nbytes for array in sample.values())
        if held > _SAMPLE_BYTES and len(found) >= 8:
            break
    if not found:
        raise BadInput("the data set has no sample in its training split to calibrate with; add some.")
    return found


def ranges_of(clean: bytes, samples: Sequence[Sample], threads: int) -> Ranges:
    proto = graph.read(clean)
    return collect(clean, quantise.tensors_of(quantise.quantisable(proto), proto), samples, threads)


# -- the rungs ------------------------------------------------------------------------------------------------------


def clean(climb: Climb) -> Iterator[Candidate]:
    """Graph clean-up: the same function in fewer nodes."""
    yield Candidate("clean", climb.clean, "float", "the same function in fewer nodes")


def weights(climb: Climb) -> Iterator[Candidate]:
    """Weight storage: constants in 16 or 8 bits in the file, floats when loaded."""
    for bits in ("fp16", "int8"):
        model, stored = storage.store_weights(climb.clean, bits)
        if not stored:
            raise Skipped("no constant is large enough to be worth it")
        note = f"{len(stored)} constants stored in {bits}, computed with in float"
        yield Candidate(f"weights, {bits}", model, "float", note, stored=stored)


def fp16(climb: Climb) -> Iterator[Candidate]:
    """float16 for GPUs."""
    if not climb.target.fp16:
        raise Skipped("processors compute float16 no faster than float32")
    yield Candidate("fp16", quantise.half(climb.clean), "fp16", "the network in float16")


def int8(climb: Climb) -> Iterator[Candidate]:
    """Static int8 with three ways of calibrating."""
    _check_static(climb)
    for method in METHODS:
        yield _static(climb, method)


def int8_without(climb: Climb) -> Iterator[Candidate]:
    """Static int8 that leaves the layers with the largest errors in float."""
    _check_static(climb)
    best = climb.best(lambda one: one.candidate.rung.startswith("int8") and bool(one.candidate.layers))
    if best is None:
        raise Skipped("it builds on int8, which was not tried")
    method = best.candidate.rung.split(", ")[1]
    worst = sorted(best.candidate.layers, key=lambda layer: -layer.own)
    for count in _LEAVE:
        if count < len(worst):
            yield _static(climb, method, tuple(layer.name for layer in worst[:count]))


def dynamic(climb: Climb) -> Iterator[Candidate]:
    """Dynamic int8, for transformers."""
    proto = graph.read(climb.clean)
    if graph.has_convolutions(proto):
        raise Skipped("dynamic int8 is refused for convolutions: slower than float, and wrong for depthwise ones")
    if climb.target.provider != "cpu":
        raise Skipped("only processors have kernels for it")
    if not graph.is_transformer(proto):
        raise Skipped("the model has no attention, which it is for")
    small = quantise.dynamic(climb.clean, climb.target)
    yield Candidate("dynamic int8", small, "int8", "weights int8, activations quantised in each call")


def prune(climb: Climb) -> Iterator[Candidate]:
    """Structured pruning with distillation, then int8."""
    shrink, shrunk = (_trained(climb, "shared.compression.prune", name) for name in ("shrink", "shrunk"))
    for keep in _KEEP:
        name, outline = f"pruned to {keep:g}", {"keep": keep, "seed": climb.seed, "threads": climb.threads}
        if not climb.hopeful(partial(_sketch, climb, name, partial(shrunk, climb.model, climb.data, **outline))):
            continue
        model = shrink(climb.model, climb.data, keep=keep, **_taught(climb, f"prune-{keep}"))
        yield from _student(climb, name, model)


def student(climb: Climb) -> Iterator[Candidate]:
    """The widest network that is quick and small enough, taught by the model or its tutors, then int8. A narrower one
    is only tried where that turns out too slow or too large after all: it would lose more."""
    narrow, narrowed = (_trained(climb, "shared.compression.prune", name) for name in ("narrow", "narrowed"))
    for width in _WIDTHS:
        name = f"width {width:g}"
        outline = {"width": width, "threads": climb.threads}
        if not climb.hopeful(partial(_sketch, climb, name, partial(narrowed, climb.model, **outline))):
            continue
        model = narrow(climb.model, climb.data, width=width, **_taught(climb, f"width-{width}"))
        before = len(climb.done)
        yield from _student(climb, name, model)
        if not any(one.holds for one in climb.done[before:]):
            return


def qat(climb: Climb) -> Iterator[Candidate]:
    """Training with rounding in it."""
    if not climb.target.int8:
        raise Skipped("the target has no int8")
    aware = _trained(climb, "shared.compression.qat", "quantisation_aware")
    model = aware(climb.model, climb.data, reduce_range=climb.target.reduce_range, **_course(climb, "qat"))
    trained = importlib.import_module("shared.compression.qat").ranges(model)
    tidy = graph.clean(model)
    bounds = ranges_of(tidy, climb.samples, climb.threads).bounds("minmax")
    bounds |= {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in trained.items() if name in bounds}
    small = quantise.static(tidy, bounds, climb.target, trained=True)
    errors = quantise.layer_errors(tidy, small, climb.samples[:_COMPARED], climb.threads)
    whole, stored = storage.store_weights(small, "int8")
    note = f"{climb.target.types}, {len(errors)} layers"
    yield Candidate("trained for int8", whole, "int8", note, errors, (), stored, own=False)


RUNGS: dict[str, Callable[[Climb], Iterator[Candidate]]] = {
    "clean": clean,
    "weights": weights,
    "fp16": fp16,
    "dynamic": dynamic,
    "int8": int8,
    "int8-without": int8_without,
    "prune": prune,
    "student": student,
    "qat": qat,
}
TRAINED = ("prune", "student", "qat")
"""Rungs that learn, and so take long."""


# -- how ------------------------------------------------------------------------------------------------------------


def _check_static(climb: Climb) -> None:
    if not climb.target.int8:
        raise Skipped("CUDA has no quick int8 kernels in ONNX Runtime; use --target tensorrt")
    proto = graph.read(climb.clean)
    if graph.is_transformer(proto):
        raise Skipped("a transformer's activations have outliers that fixed ranges cut off; dynamic int8 is for it")
    if not quantise.quantisable(proto):
        raise Skipped("no layer has weights to quantise")


def _static(climb: Climb, method: str, leave: tuple[str, ...] = ()) -> Candidate:
    without = f", {len(leave)} layer{'s' if len(leave) > 1 else ''} in float" if leave else ""
    rung = f"int8, {method}{without}"
    model, errors, stored = quantised(climb, climb.calibrated, method, frozenset(leave))
    note = f"{climb.target.types}, {len(errors)} layers" + (f"; in float: {', '.join(leave)}" if leave else "")
    return Candidate(rung, model, "int8", note, errors, leave, stored)


def quantised(
    climb: Climb, source: Calibrated, method: str, leave: frozenset[str] = frozenset()
) -> tuple[bytes, list[LayerError], list[storage.Stored]]:
    """A cleaned graph in int8, with the error of each layer, and the constants that are left stored in int8 too."""
    small = quantise.static(source.model, source.ranges.bounds(method), climb.target, leave, rounded=source.rounded)
    errors = quantise.layer_errors(source.model, small, climb.samples[:_COMPARED], climb.threads)
    model, stored = storage.store_weights(small, "int8")
    return model, errors, stored


def _sketch(climb: Climb, name: str, make: Callable[[], bytes]) -> Candidate:
    """A model that is not taught yet, as small and as quick as it will be."""
    tidy = graph.clean(make())
    if not climb.target.int8:
        return Candidate(f"{name}, untaught", quantise.half(tidy) if climb.target.fp16 else tidy, "fp16", own=False)
    bounds = ranges_of(tidy, climb.samples[:_SKETCHED], climb.threads).bounds("minmax")
    small, _ = storage.store_weights(quantise.static(tidy, bounds, climb.target), "int8")
    return Candidate(f"{name}, untaught", small, "int8", own=False)


def _student(climb: Climb, name: str, model: bytes) -> Iterator[Candidate]:
    """A trained model as it is, and in int8 by each calibration."""
    tidy = graph.clean(model)
    if not climb.target.int8:
        small = quantise.half(tidy) if climb.target.fp16 else tidy
        yield Candidate(f"{name}, fp16", small, "fp16", own=False)
        return
    source = climb.calibrate(tidy)
    for method in METHODS[:2]:
        whole, errors, stored = quantised(climb, source, method)
        yield Candidate(
            f"{name}, int8, {method}", whole, "int8", f"{climb.target.types}, {len(errors)} layers", errors, (), stored,
            own=False,
        )  # fmt: skip


def _trained(climb: Climb, module: str, name: str) -> Any:
    """A function of the rungs that train; they need torch. `Skipped` where the model cannot be trained."""
    try:
        why: str | None = importlib.import_module("shared.compression.revive").trainable(climb.model)
        function = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise Skipped(f"it needs the training extra ({error})") from error
    if why is not None:
        raise Skipped(why.rstrip("."))
    return _guarded(function)


def _guarded(function: Callable[..., bytes]) -> Callable[..., bytes]:
    """What a model or its data cannot be trained for is a reason to skip the rung, not to give up."""

    def run(*arguments: Any, **options: Any) -> bytes:
        try:
            return function(*arguments, **options)
        except HaechiError as error:
            raise Skipped(str(error).rstrip(".")) from error

    return run


def _taught(climb: Climb, name: str) -> dict[str, Any]:
    """`_course`, with those who teach."""
    tutors = importlib.import_module("shared.compression.imitate").Tutors(climb.tutors, climb.labels)
    return _course(climb, name) | {"tutors": tutors}


def _course(climb: Climb, name: str) -> dict[str, Any]:
    return {
        "epochs": climb.epochs,
        "seed": climb.seed,
        "folder": climb.folder / name,
        "threads": climb.threads,
    }
