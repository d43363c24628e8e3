"""The area under the receiver operating characteristic, from raw scores, in numpy alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def finite_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as a flat array. ValueError if one is NaN or infinite."""
    values = np.asarray(scores, dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        raise ValueError("scores hold NaN or infinity")
    return values


def auroc(negative: ArrayLike, positive: ArrayLike) -> float | None:
    """Probability that a positive sample scores higher than a negative one, ties counting half; exact.

    None if either set is empty; ValueError if a score is NaN or infinite.
    """
    low, high = finite_scores(negative), finite_scores(positive)
    if not len(low) or not len(high):
        return None
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    not_above = np.searchsorted(ordered, high, side="right")
    return float((below + not_above).mean() / (2 * len(low)))


def auroc_interval(
    negative: ArrayLike, positive: ArrayLike, *, seed: int = 0, rounds: int = 1000, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Bootstrap interval of `auroc`: negative and positive samples drawn anew, each set on its own, `rounds` times.

    Where the sets separate fully every draw gives 1; the interval then says nothing about samples not seen.
    """
    low, high = finite_scores(negative), finite_scores(positive)
    if not len(low) or not len(high):
        return None
    rng = np.random.default_rng(seed)
    values, place = np.unique(np.concatenate([low, high]), return_inverse=True)
    drawn = np.empty(rounds)
    for index in range(rounds):
        lows = np.bincount(place[rng.integers(0, len(low), len(low))], minlength=len(values))
        highs = np.bincount(place[len(low) + rng.integers(0, len(high), len(high))], minlength=len(values))
        below = np.cumsum(lows) - lows
        drawn[index] = float((highs * (below + lows / 2)).sum()) / (len(low) * len(high))
    tail = (1 - confidence) / 2
    first, last = np.quantile(drawn, [tail, 1 - tail])
    return float(first), float(last)


def standard_error(value: float, negatives: int, positives: int) -> float:
    """Of an AUROC of `value` measured on so many samples (Hanley and McNeil, Radiology 1982)."""
    q1, q2 = value / (2 - value), 2 * value * value / (1 + value)
    spread = (positives - 1) * (q1 - value * value), (negatives - 1) * (q2 - value * value)
    square = value * (1 - value) + spread[0] + spread[1]
    return math.sqrt(max(0.0, square) / max(1, negatives * positives))
