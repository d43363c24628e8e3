"""Which detection is which track: overlap of boxes, and the assignment that makes the sum of overlaps largest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]


def overlap(one: Array, two: Array, buffer: float = 0.0) -> Array:
    """[N, M] intersection over union of boxes [N, 4] and [M, 4] (left, top, right, bottom).

    Args:
        buffer: boxes are grown by this share of their size on each side first, so that what moved by more than its own
            width between two frames still meets (Yang et al., "Hard to Track Objects with Irregular Motions", 2023).
    """
    one, two = _grown(one, buffer), _grown(two, buffer)
    inner = _intersection(one, two)
    return inner / np.maximum(_area(one)[:, None] + _area(two)[None] - inner, 1e-9)


def closeness(predicted: Array, boxes: Array, buffer: float) -> Array:
    """[N, M] how well boxes fit where they were expected, 0 to 1.

    The mean of the overlap of the boxes and of the grown ones, times the overlap of their heights: people who pass one
    another overlap in width, but seldom stand and end at the same height in the picture (Yang et al., "Hybrid-SORT:
    Weak Cues Matter for Online Multi-Object Tracking", 2024).
    """
    low, high = np.maximum(predicted[:, 1, None], boxes[:, 1]), np.minimum(predicted[:, 3, None], boxes[:, 3])
    both = (predicted[:, 3] - predicted[:, 1])[:, None] + (boxes[:, 3] - boxes[:, 1])
    shared = np.maximum(high - low, 0)
    upright = shared / np.maximum(both - shared, 1e-9)
    return np.asarray(upright * (overlap(predicted, boxes) + overlap(predicted, boxes, buffer)) / 2)


def covered(one: Array, two: Array) -> Array:
    """[N, M] share of each box of `one` that lies in each of `two`."""
    return _intersection(one, two) / np.maximum(_area(one)[:, None], 1e-9)


def assign(gain: Array, least: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of row and column whose gain is `least` or more, the sum of all as large as can be."""
    if not gain.size:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    possible = gain >= least
    if np.all(possible.sum(axis=0) <= 1) and np.all(possible.sum(axis=1) <= 1):  # nothing to decide, as mostly
        rows, columns = np.nonzero(possible)
        return rows, columns
    rows, columns = linear_sum_assignment(np.where(possible, gain, -1e3), maximize=True)
    taken = possible[rows, columns]
    return rows[taken], columns[taken]


def _grown(boxes: Array, buffer: float) -> Array:
    if not buffer:
        return boxes
    by = buffer * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - by, boxes[:, 2:] + by], axis=1)


def _intersection(one: Array, two: Array) -> Array:
    across = np.minimum(one[:, 2, None], two[None, :, 2]) - np.maximum(one[:, 0, None], two[None, :, 0])
    down = np.minimum(one[:, 3, None], two[None, :, 3]) - np.maximum(one[:, 1, None], two[None, :, 1])
    return np.asarray(np.maximum(across, 0) * np.maximum(down, 0))


def _area(boxes: Array) -> Array:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
