"""How to run a model on this machine, found by a short measurement when it is loaded.

Two cores can compute one request together, or two requests side by side. Side by side gives more answers a second,
together each answer comes sooner. So a model of a few milliseconds runs side by side, and a longer one together where
that gives at least 90 % as many answers. Batching is switched on only where it really makes an inference cheaper and
changes no answer: with convolutions on a CPU it does not, with large matrix products or on a GPU it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared import runtime
from shared.errors import HaechiError
from shared.log import get_logger
from shared.manifest import Manifest
from shared.package import Package
from shared.runtime import Model
from shared.serving.tensors import Array

_PROBE_SECONDS = 0.12
"""Of each measurement; at least `_LEAST_RUNS`, and none where one run takes longer than `_SLOW_SECONDS`."""
_LEAST_RUNS = 3
_SLOW_SECONDS = 0.5
_TOGETHER = 0.9
_QUICK_SECONDS = 0.02
"""An answer that comes sooner than this on one thread need not come sooner still."""
_BATCHES = (2, 4, 8, 16, 32)
_WORTH = 1.2
"""A batch must make an inference this much cheaper, since its first request waits for its last."""
_WAIT_SECONDS = 0.08
_LEAST_WAITING = 8

Inputs = Mapping[str, Array]
_log = get_logger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was measured and chosen. The statistics show it."""

    threads: int
    """For one inference."""
    workers: int
    """Inferences side by side."""
    max_batch: int
    """Inferences computed together; 1: none are."""
    one_thread_ms: float
    """Median of one inference on one thread, with nothing else running; of all threads on a GPU."""
    per_second: float
    """Inferences a second with these settings."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def waiting(self, most: int) -> int:
        """How many may wait: what is computed in 80 ms, so that an admitted request is answered in about 100.

        By the time of one inference: what several give together is measured less well where other programs run.
        """
        per_second = max(self.per_second, self.workers * 1e3 / self.one_thread_ms)
        return min(most, max(_LEAST_WAITING, round(_WAIT_SECONDS * per_second)))


def load(package: Package, threads: int | None) -> tuple[Model, Choice]:
    """Load a package, and measure how to run it.

    Args:
        threads: for one inference; None: choose.

    Raises:
        PackageRefused: it cannot be loaded, or fails its golden samples.
    """
    cores = runtime.default_threads()
    model = runtime.load(package, threads=threads or 1, spin=False)
    sample = _first_row(package.manifest, package.golden.inputs)
    one = _median_seconds(model, sample)
    if model.provider != runtime.CPU:
        return model, _batched(model, sample, one, 1, one, 1 / one)
    workers = max(1, cores // (threads or 1))
    side_by_side = _per_second(model, sample, workers, one)
    if threads is None and cores > 1 and one > _QUICK_SECONDS:
        together = runtime.load(package, threads=cores, self_test=False, spin=False)
        each = _median_seconds(together, sample)
        if 1 / each >= _TOGETHER * side_by_side:
            return together, _batched(together, sample, one, 1, each, 1 / each)
        del together
    return model, _batched(model, sample, one, workers, one, side_by_side)


def _batched(model: Model, sample: Inputs, one_thread: float, workers: int, each: float, per_second: float) -> Choice:
    """The choice, with the smallest batch that gives nearly all there is to be gained."""
    gains = {1: 1.0}
    for size in _BATCHES:
        if not can_batch(model.manifest) or each * size > _SLOW_SECONDS:
            break
        gain = _gain(model, sample, size, each)
        if gain <= 1.05 * max(gains.values()):
            break
        gains[size] = gain
    best = max(gains.values())
    size = next(size for size, gain in gains.items() if gain >= 0.9 * best) if best >= _WORTH else 1
    choice = Choice(model.threads, workers, size, round(one_thread * 1e3, 4), round(per_second * gains[size], 1))
    _log.info("model_measured", model=model.manifest.name, version=model.manifest.version, **choice.as_dict())
    return choice


def can_batch(manifest: Manifest) -> bool:
    """True if rows of several requests can be put below one another: every first dimension is open."""
    specs = [*manifest.inputs, *manifest.outputs]
    return all(spec.shape and spec.shape[0] == -1 for spec in specs)


def _gain(model: Model, sample: Inputs, size: int, each: float) -> float:
    """How much cheaper an inference is in a batch of this size; 0 where it answers otherwise, or fails."""
    stacked = {name: np.concatenate([array] * size) for name, array in sample.items()}
    try:
        alone, together = model.run(sample), model.run(stacked)
        for name, array in alone.items():
            expected = np.concatenate([array] * size)
            if runtime.tolerance_problem(name, expected, together[name], model.manifest.golden_tolerance):
                return 0.0
        return each * size / _median_seconds(model, stacked)
    except (HaechiError, ValueError):  # a model may say that its batch is open and be wrong
        return 0.0


def _first_row(manifest: Manifest, inputs: Inputs) -> Inputs:
    """One inference of the golden samples."""
    if not can_batch(manifest):
        return inputs
    return {name: array[:1] for name, array in inputs.items()}


def _median_seconds(model: Model, inputs: Inputs) -> float:
    return float(np.median(_durations(lambda: model.run(inputs))))


def _durations(run: Callable[[], object]) -> list[float]:
    began, found = time.perf_counter(), list[float]()
    while len(found) < _LEAST_RUNS or time.perf_counter() - began < _PROBE_SECONDS:
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
        if found[-1] > _SLOW_SECONDS:
            break
    return found


def _per_second(model: Model, inputs: Inputs, workers: int, one: float) -> float:
    """Inferences a second of so many threads side by side."""
    if workers == 1 or one > _SLOW_SECONDS:
        return workers / one
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        runs = pool.map(lambda _: len(_durations(lambda: model.run(inputs))), range(workers))
        return sum(runs) / (time.perf_counter() - began)
