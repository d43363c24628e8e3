"""Which values the tensors of a network take, and between which bounds eight bits are best spent.

One look at the calibration samples serves all three ways of choosing bounds: the extremes, a percentile of the values
(an outlier then costs itself instead of everybody's resolution), and the bound that loses least information by
Kullback-Leibler (Migacz, 8-bit Inference with TensorRT, 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.compression import graph
from shared.progress import track

Sample = Mapping[str, NDArray[Any]]
Bounds = dict[str, tuple[float, float]]

METHODS = ("minmax", "percentile", "entropy")
_BINS = 2048
_LEVELS = 128
_LOOKED_AT = 20_000
"""Values of one tensor and sample that go into its histogram: more change no bound, and cost seconds."""
_PERCENTILE = 99.99


@dataclass
class Ranges:
    """Extremes and histograms of tensors over the calibration samples."""

    extremes: Bounds
    histograms: dict[str, NDArray[np.int64]]
    """[2048] counts between the extremes."""

    def bounds(self, method: str) -> Bounds:
        """(low, high) of each tensor, by one of `METHODS`; 0 is always within."""
        found = {}
        for name, (low, high) in self.extremes.items():
            chosen = (low, high)
            if method != "minmax" and high > low:
                edges = np.linspace(low, high, _BINS + 1)
                choose = _percentile if method == "percentile" else _entropy
                chosen = choose(self.histograms[name], edges)
            found[name] = (min(chosen[0], 0.0), max(chosen[1], 0.0))
        return found


def collect(model: bytes, tensors: Sequence[str], samples: Sequence[Sample], threads: int) -> Ranges:
    """Run the float model twice over the samples: for the extremes, then for the histograms between them."""
    probe = graph.Probe(model, tensors, threads)
    extremes: Bounds = {}
    for sample in track(samples, "calibrating: extremes"):
        for name, value in probe.run(sample):
            if value.size:
                low, high = extremes.get(name, (np.inf, -np.inf))
                extremes[name] = (min(low, float(value.min())), max(high, float(value.max())))
    histograms = {name: np.zeros(_BINS, dtype=np.int64) for name in extremes}
    for sample in track(samples, "calibrating: histograms"):
        for name, value in probe.run(sample):
            if value.size:
                flat = value.ravel()
                # A prime stride walks over all channels and places.
                step = max(1, flat.size // _LOOKED_AT)
                seen = flat[:: step + (step > 1 and step % 2 == 0)]
                histograms[name] += np.histogram(seen, _BINS, extremes[name])[0]
    return Ranges(extremes, histograms)


def _percentile(histogram: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """Bounds that leave out 0.01 % of the values, half of it on each side."""
    share = np.cumsum(histogram) / max(1, histogram.sum())
    tail = (1 - _PERCENTILE / 100) / 2
    low = int(np.searchsorted(share, tail, side="right"))
    high = int(np.searchsorted(share, 1 - tail, side="left"))
    # What piles up in the first bin is usually the zeros of a ReLU: no tail to cut.
    return float(edges[low]), float(edges[min(high, _BINS - 1) + 1])


def _entropy(histogram: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """Clip |x| where the distribution, folded into 128 levels, still says most about the whole."""
    centres = (edges[:-1] + edges[1:]) / 2
    top = float(np.max(np.abs(edges)))
    magnitudes = np.histogram(np.abs(centres), _BINS, (0.0, top), weights=histogram)[0]
    magnitudes[0] = 0  # exact zeros stay exact, whatever the bound
    best, bound = np.inf, _BINS
    for stop in range(_LEVELS, _BINS + 1, 32):
        distance = _divergence(magnitudes, stop)
        if distance < best:
            best, bound = distance, stop
    limit = top * bound / _BINS
    return max(float(edges[0]), -limit), min(float(edges[-1]), limit)


def _divergence(counts: NDArray[np.float64], stop: int) -> float:
    """KL from the counts clipped at bin `stop` to the same in 128 levels."""
    clipped = counts[:stop].copy()
    clipped[-1] += counts[stop:].sum()
    total = clipped.sum()
    if not total:
        return np.inf
    level = np.arange(stop) * _LEVELS // stop
    # The levels do not see what was cut off: that is their loss.
    sums = np.bincount(level, counts[:stop], _LEVELS)
    filled = np.bincount(level, counts[:stop] > 0, _LEVELS)
    folded = np.where(counts[:stop] > 0, (sums / np.maximum(filled, 1))[level], 0.0)
    if not folded.sum():
        return np.inf
    p, q = clipped / total, folded / folded.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))).sum())
