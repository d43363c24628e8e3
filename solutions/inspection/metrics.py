"""The field's metrics for anomaly detection, on raw scores, in numpy alone; image AUROC is in `shared.auroc`.

Pixel AUROC and AUPRO come from histograms, so that memory does not grow with the data: a score is
sorted into about a million bins that are finest near the middle of the scores (float32 ordered by its bits, 11 bits of
mantissa), which keeps both metrics within 1e-4 of the exact value on real heat maps.

AUPRO is the per-region overlap of Bergmann et al. (The MVTec Anomaly Detection Dataset, IJCV 2021): the mean over all
connected defect regions of their covered share, against the false positive rate over all good pixels, integrated from 0
to 0.3 and divided by 0.3. Regions are 8-connected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FPR_LIMIT = 0.3
_SHIFT = 12  # bits of the mantissa that a bin ignores
_BINS = 1 << (32 - _SHIFT)


class PixelMeter:
    """Pixel AUROC and AUPRO over a stream of heat maps; about 40 MB however many pictures pass.

    meter = PixelMeter()
    for heatmap, mask in pictures:
        meter.add(heatmap, mask)
    meter.pixel_auroc(), meter.aupro()
    """

    def __init__(self) -> None:
        self._good = np.zeros(_BINS, dtype=np.int64)
        self._bad = np.zeros(_BINS, dtype=np.int64)
        self._overlap = np.zeros(_BINS, dtype=np.float64)
        self._regions = 0
        self._origin: float | None = None

    @property
    def regions(self) -> int:
        """Connected defect regions seen so far."""
        return self._regions

    def add(self, heatmap: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """One picture: heat map float [h, w] in raw units, stretched (bilinearly) to the mask bool [H, W].

        For a good picture the mask is all False, at the picture's own resolution. NaN or infinity is a ValueError.
        """
        height, width = mask.shape
        scores = np.ascontiguousarray(heatmap, dtype=np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("the heat map holds NaN or infinity")
        if scores.shape != mask.shape:
            scores = np.asarray(cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
        if self._origin is None:
            self._origin = float(np.median(scores))
        bins = _bin(scores - np.float32(self._origin))
        if not mask.any():
            _add(self._good, bins.ravel())
            return
        _add(self._good, bins[~mask])
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        sizes = np.bincount(labels.ravel(), minlength=count)
        self._regions += count - 1
        _add(self._bad, bins[mask])
        _add(self._overlap, bins[mask], 1.0 / sizes[labels[mask]])

    def pixel_auroc(self) -> float | None:
        """Probability that a defect pixel scores higher than a good one; None without a defect or a good pixel."""
        goods, bads = float(self._good.sum()), float(self._bad.sum())
        if not goods or not bads:
            return None
        below = np.cumsum(self._good) - self._good
        return float((self._bad * (below + self._good / 2)).sum() / (goods * bads))

    def aupro(self, limit: float = FPR_LIMIT) -> float | None:
        """Area under per-region overlap up to the false positive rate `limit`, divided by it; None as `pixel_auroc`."""
        goods = float(self._good.sum())
        if not goods or not self._regions:
            return None
        used = np.flatnonzero(self._good + self._bad)[::-1]
        rate = np.concatenate([[0.0], np.cumsum(self._good[used]) / goods])
        overlap = np.concatenate([[0.0], np.cumsum(self._overlap[used]) / self._regions])
        end = int(np.searchsorted(rate, limit, side="right"))
        last = float(np.interp(limit, rate, overlap))
        xs, ys = np.append(rate[:end], limit), np.append(overlap[:end], last)
        return float(((ys[1:] + ys[:-1]) / 2 * np.diff(xs)).sum() / limit)


def _add(histogram: NDArray[Any], bins: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> None:
    """Count into the part of a histogram that `bins` reach."""
    if len(bins):
        first = int(bins.min())
        counted = np.bincount(bins - first, weights)
        histogram[first : first + len(counted)] += counted


def _bin(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bins in the order of the scores: the bits of a float32 sort like the number, once negative ones are inverted."""
    bits = np.ascontiguousarray(scores).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return (ordered >> _SHIFT).astype(np.int64)


def clopper_pearson(events: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate, of which `events` in `trials` were seen; (0, 1) without trials.

    Clopper and Pearson, Biometrika 26 (1934). Each side is missed with probability (1 - confidence) / 2.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events in {trials} trials")
    if not trials:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    # P(X >= events) grows with the rate, P(X <= events) falls: the limits are where each equals `tail`.
    low = 0.0 if events == 0 else _solve(lambda rate: tail - (1 - _at_most(events - 1, trials, rate)))
    high = 1.0 if events == trials else _solve(lambda rate: _at_most(events, trials, rate) - tail)
    return low, high


def upper_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound: the rate is below it with this confidence; without an event about 3 / trials."""
    return clopper_pearson(events, trials, 2 * confidence - 1)[1]


def _at_most(events: int, trials: int, rate: float) -> float:
    """Binomial P(X <= events)."""
    if rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0 if events < trials else 1.0
    counts = np.arange(1, events + 1, dtype=np.float64)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((trials - counts + 1) / counts))])
    number = np.arange(events + 1)
    terms = log_choose + number * math.log(rate) + (trials - number) * math.log1p(-rate)
    return float(np.exp(terms).sum())


def _solve(falling: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
