"""How fast packages are on this machine, and how much memory they take, side by side. No torch.

A machine is never quiet: another program, heat and the clock rate slow it down for seconds at a time. So the models
take turns in rounds, in an order shuffled anew for each round; a slow second then meets all of them. What is compared
is the time of one model to that of another *in the same round*, and the interval comes from the rounds.

    timings = measure({"before": load(big), "after": load(small)}, inputs, repeats=200)
    timings["after"].p50                                 # milliseconds
    timings["after"].ratio_to(timings["before"]).point   # 0.4: takes 40 % of the time

Each turn is one call that does not count and one that does: the call before it was another model's, which has left its
weights in the caches and (with more than one thread) its threads spinning, neither of which a model meets in service.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.archive import read_arrays, write_arrays
from shared.errors import HaechiError
from shared.package import Package
from shared.progress import stage
from shared.runtime import Model

Inputs = Mapping[str, np.ndarray]

FEWEST = 6
"""Rounds below which no interval of 95 % exists (2 · 0.5⁶ = 3 %)."""
_MEMORY_RUNS = 3  # what a session allocates has settled by the second call
_SPIN_PAUSE = 0.02  # seconds; ONNX Runtime's threads spin for a few milliseconds after a call
_WORKER = "shared.bench_worker"


@dataclass(frozen=True)
class Ratio:
    """One model's time over another's (0.5: half the time, twice as fast) with its 95 % interval."""

    point: float
    low: float
    high: float
    """(0, inf) where there were fewer than `FEWEST` rounds."""

    @property
    def faster(self) -> float:
        """How many times faster: 1 / point."""
        return 1 / self.point


@dataclass(frozen=True)
class Timing:
    """The calls of one model. Percentiles are in milliseconds a call."""

    seconds: NDArray[np.float64]
    """[rounds] wall time of the counted call of each round."""
    batch: int
    """Samples in a call."""

    def percentile(self, q: float) -> float:
        """Milliseconds; `q` from 0 to 100."""
        return float(1000 * np.percentile(self.seconds, q))

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p95(self) -> float:
        return self.percentile(95)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def throughput(self) -> float:
        """Samples a second, one call after the other."""
        return float(self.batch / self.seconds.mean())

    def ratio_to(self, other: Timing) -> Ratio:
        """This model's time over `other`'s, paired by round: the median of the rounds' ratios.

        The interval is that of the sign test (order statistics of the ratios; Conover, Practical Nonparametric
        Statistics, 3.2), which assumes nothing about how the times are spread.

        Raises:
            ValueError: they were not measured in the same rounds.
        """
        if len(self.seconds) != len(other.seconds):
            raise ValueError(f"{len(self.seconds)} and {len(other.seconds)} rounds cannot be paired")
        ratios = np.sort(self.seconds / other.seconds)
        low, high = _median_bounds(len(ratios))
        return Ratio(
            float(np.median(ratios)),
            0.0 if low < 0 else float(ratios[low]),
            math.inf if low < 0 else float(ratios[high]),
        )

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return {
            "p50_ms": self.p50,
            "p90_ms": self.p90,
            "p95_ms": self.p95,
            "p99_ms": self.p99,
            "mean_ms": float(1000 * self.seconds.mean()),
            "samples_per_second": self.throughput,
            "rounds": len(self.seconds),
            "batch": self.batch,
        }


def _median_bounds(count: int) -> tuple[int, int]:
    """Positions (from 0) of the order statistics that hold the median with at least 95 %; (-1, count): there are none.

    The number of values below the median is binomial(count, 1/2); the largest k with P(X <= k) <= 2.5 % is left out on
    each side.
    """
    below, cumulative = -1, 0.0
    for k in range(count // 2):
        cumulative += math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)) * 0.5**count
        if cumulative > 0.025:
            break
        below = k
    return below, count - 1 - below


def measure(
    models: Mapping[str, Model],
    inputs: Inputs | Mapping[str, Inputs],
    *,
    repeats: int = 200,
    warmup: int = 10,
    seed: int = 0,
    description: str = "measuring",
) -> dict[str, Timing]:
    """Time the models against one another.

    Args:
        models: loaded, on the threads and the provider they are to be measured with; by any name.
        inputs: the same arrays for every model (by input name), or arrays for each model (by the model's name).
        repeats: rounds; each model is called twice in each, and the second call counts.
        warmup: rounds before that.
        seed: of the order in the rounds.

    Returns:
        A `Timing` for every name in `models`; all have the same rounds, so any two can be compared.
    """
    feeds = {name: _inputs_of(name, inputs) for name in models}
    names = list(models)
    generator = np.random.default_rng(seed)
    seconds = {name: np.zeros(repeats) for name in names}
    pause = _SPIN_PAUSE if len(models) > 1 and any(model.threads > 1 for model in models.values()) else 0.0
    with stage(description, warmup + repeats) as bar, _no_garbage_collection():
        for turn in range(-warmup, repeats):
            for index in generator.permutation(len(names)):
                name = names[index]
                run, feed = models[name].run, feeds[name]
                if pause:
                    time.sleep(pause)
                run(feed)
                start = time.perf_counter()
                run(feed)
                if turn >= 0:
                    seconds[name][turn] = time.perf_counter() - start
            bar.advance()
    return {name: Timing(seconds[name], batch_of(models[name].package, feeds[name])) for name in names}


def _inputs_of(name: str, inputs: Inputs | Mapping[str, Inputs]) -> Inputs:
    own = inputs.get(name)
    if isinstance(own, Mapping):
        return own
    return {key: value for key, value in inputs.items() if isinstance(value, np.ndarray)}


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python's collector runs when it likes, for milliseconds; `timeit` switches it off as well."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# -- inputs ----------------------------------------------------------------------------------------------------------


def golden_inputs(package: Package, batch: int = 1) -> dict[str, np.ndarray]:
    """The package's golden samples as a batch of this size: the first ones, repeated where there are too few.

    Inputs without a batch dimension (a threshold, say) stay as they are.
    """
    return with_batch(package, package.golden.inputs, batch)


def with_batch(package: Package, inputs: Inputs, batch: int) -> dict[str, np.ndarray]:
    """`inputs` of any batch size as a batch of this size."""
    batched = _batched(package)
    return {
        name: np.take(array, np.arange(batch) % len(array), axis=0) if name in batched and len(array) else array
        for name, array in inputs.items()
    }


def batch_of(package: Package, inputs: Inputs) -> int:
    """Samples in `inputs`; 1 where no input has a batch dimension."""
    return next((len(inputs[name]) for name in sorted(_batched(package)) if name in inputs), 1)


def _batched(package: Package) -> set[str]:
    """Inputs whose first dimension is the batch: of any length, and in the golden samples as long as the outputs'."""
    golden, manifest = package.golden, package.manifest
    lengths = {len(golden.outputs[spec.name]) for spec in manifest.outputs if spec.shape[:1] == [-1]}
    free = {spec.name for spec in manifest.inputs if spec.shape[:1] == [-1]}
    return {name for name in free if len(golden.inputs[name]) in lengths}


# -- memory ----------------------------------------------------------------------------------------------------------


def peak_memory(
    path: Path | str, threads: int, provider: str = "auto", inputs: Inputs | None = None, batch: int = 1
) -> int:
    """Bytes that a process of its own needs at most to load a package and run it, beyond the interpreter and its
    libraries: the model in all its copies, ONNX Runtime's arenas, the tensors of the self-test and of three calls.

    Args:
        inputs: what to run it on; default: its golden samples, `batch` of them.

    Returns:
        Peak resident set minus the resident set before loading. Memory on a GPU is not in it.

    Raises:
        HaechiError: the process failed; with its reason.
    """
    command = [sys.executable, "-m", _WORKER, str(path), str(threads), provider, str(batch), str(_MEMORY_RUNS)]
    content = b"" if inputs is None else write_arrays(_as_text(inputs))
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1].removeprefix("error: ") if said else f"it ended with {done.returncode}"
        raise HaechiError(f"the memory of {path} could not be measured: {reason.rstrip('.')}.")
    return int(json.loads(lines[-1])["bytes"])


def _as_text(inputs: Inputs) -> dict[str, np.ndarray]:
    """Arrays of Python strings could only be pickled; fixed-width Unicode is plain."""
    return {name: array.astype(np.str_) if array.dtype.kind == "O" else array for name, array in inputs.items()}


def run_and_count(arguments: Sequence[str], content: bytes) -> dict[str, Any]:
    """What the process behind `peak_memory` does: load, run, and tell the bytes it took."""
    from shared.package import open_package
    from shared.runtime import load, onnxruntime

    onnxruntime()  # a library like the others: its size is the interpreter's, not the model's
    path, threads, provider, batch, runs = arguments
    before = _resident()
    _reset_peak()
    package = open_package(path)
    inputs = read_arrays(content, "the inputs") if content else golden_inputs(package, int(batch))
    model = load(package, provider, int(threads))
    for _ in range(int(runs)):
        model.run(inputs)
    return {"bytes": max(_peak() - before, 0), "provider": model.provider}


def _resident() -> int:
    return _status("VmRSS") or _peak()


def _peak() -> int:
    # Not getrusage on Linux: its maximum includes what the parent held when it forked.
    found = _status("VmHWM")
    if found:
        return found
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def _reset_peak() -> None:
    """Let the peak start from what is resident now; where the system cannot (no Linux), imports count as before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is no such thing."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
