"""How good a detector is: COCO's average precision, kept so that a bootstrap over pictures can ask again. No torch.

The measure is that of pycocotools (Lin et al., "Microsoft COCO", 2014): for each class and each IoU threshold,
detections are taken from the surest down and each gets the best free box of its picture, if they overlap enough; the
precision is made non-increasing and read at 101 recalls. Matches never cross pictures, so they are found once; a
resample of pictures only changes how often each row counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

IOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""The thresholds of mAP50-95."""
MOST = 100
"""Detections of each class in a picture that count, the surest ones."""
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Detections:
    """What a detector found in one picture. Places in pixels of that picture."""

    boxes: NDArray[np.float32]
    """[K, 4] left, top, right, bottom."""
    scores: NDArray[np.float32]
    """[K]"""
    classes: NDArray[np.int64]
    """[K]"""


@dataclass(frozen=True)
class Truth:
    """What is in one picture."""

    boxes: NDArray[np.float32]
    """[M, 4], in pixels like the detections."""
    classes: NDArray[np.int64]
    """[M]"""
    crowd: NDArray[np.bool_]
    """[M] regions that excuse detections on them and are not missed."""


@dataclass(frozen=True)
class _Class:
    """One class's detections of all pictures, surest first."""

    pictures: NDArray[np.int64]
    """[D] which picture each is from."""
    hits: NDArray[np.bool_]
    """[D, T] whether it found a box, at each threshold."""
    misses: NDArray[np.bool_]
    """[D, T] whether it is false; neither: excused by a crowd."""
    truths: NDArray[np.int64]
    """[N] boxes of this class in each picture."""


class MeanPrecision:
    """Average precision over a data set of N pictures.

    Args:
        found: [N] what the detector says.
        truths: [N] what is there.
        classes: numbers of the classes that count; a class without any box is left out of the mean.
    """

    def __init__(self, found: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[int]) -> None:
        if len(found) != len(truths):
            raise ValueError(f"{len(found)} pictures were looked at and {len(truths)} have a truth")
        self.pictures = len(truths)
        self._classes = [_gather(found, truths, number) for number in classes]

    def mean(self, pictures: NDArray[np.int64] | None = None, *, thresholds: slice = slice(None)) -> float:
        """The mean over classes and IoU thresholds, on the pictures with these indices (repeats allowed; None: all).

        0 where no class has a box among them.
        """
        weights = (
            np.ones(self.pictures, dtype=np.int64)
            if pictures is None
            else np.bincount(pictures, minlength=self.pictures)
        )
        values = [_precision(each, weights, thresholds) for each in self._classes if weights @ each.truths]
        return float(np.mean(values)) if values else 0.0

    def map50(self, pictures: NDArray[np.int64] | None = None) -> float:
        """At an IoU of 0.5."""
        return self.mean(pictures, thresholds=slice(0, 1))

    def map50_95(self, pictures: NDArray[np.int64] | None = None) -> float:
        """Mean over the IoUs 0.5, 0.55 … 0.95."""
        return self.mean(pictures)

    def by_class(self) -> list[float | None]:
        """mAP50-95 of each class; None where there is no box of it."""
        weights = np.ones(self.pictures, dtype=np.int64)
        return [_precision(each, weights, slice(None)) if each.truths.any() else None for each in self._classes]


def _precision(rows: _Class, weights: NDArray[np.int64], thresholds: slice) -> float:
    """Mean over thresholds of the average precision, each row counted as often as its picture."""
    times = weights[rows.pictures]
    taken = times > 0
    times = times[taken, None]
    hits = np.cumsum(rows.hits[taken, thresholds] * times, axis=0, dtype=np.float64)
    misses = np.cumsum(rows.misses[taken, thresholds] * times, axis=0, dtype=np.float64)
    if not len(hits):
        return 0.0
    recall = hits / float(weights @ rows.truths)
    precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    total = 0.0
    for column in range(recall.shape[1]):
        places = np.searchsorted(recall[:, column], _RECALLS, side="left")
        reached = places < len(recall)
        total += float(precision[places[reached], column].sum()) / len(_RECALLS)
    return total / recall.shape[1]


def _gather(found: Sequence[Detections], truths: Sequence[Truth], number: int) -> _Class:
    pictures, scores, hits, misses = [], [], [], []
    for index, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        chosen = np.flatnonzero((detections.classes == number) & (detections.scores > 0))
        chosen = chosen[np.argsort(-detections.scores[chosen], kind="stable")][:MOST]
        here = truth.classes == number
        hit, miss = _match(detections.boxes[chosen], truth.boxes[here], truth.crowd[here])
        pictures.append(np.full(len(chosen), index, dtype=np.int64))
        scores.append(detections.scores[chosen])
        hits.append(hit)
        misses.append(miss)
    order = np.argsort(-np.concatenate(scores), kind="stable") if scores else np.zeros(0, dtype=np.int64)
    counts = [int(((truth.classes == number) & ~truth.crowd).sum()) for truth in truths]
    empty = np.zeros((0, len(IOUS)), dtype=bool)
    return _Class(
        np.concatenate([*pictures, np.zeros(0, dtype=np.int64)])[order],
        np.concatenate([*hits, empty])[order],
        np.concatenate([*misses, empty])[order],
        np.array(counts, dtype=np.int64),
    )


def _match(
    boxes: NDArray[np.float32], truth: NDArray[np.float32], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[D, T] which detections (surest first) find a box of one picture at each threshold, and which are false."""
    hits = np.zeros((len(boxes), len(IOUS)), dtype=bool)
    misses = np.ones_like(hits)
    if not len(truth) or not len(boxes):
        return hits, misses
    overlaps = iou(boxes, truth)
    overlaps[:, crowd] = covered(boxes, truth[crowd])
    free = np.repeat(~crowd[None], len(IOUS), axis=0)
    rows = np.arange(len(IOUS))
    for index in np.flatnonzero(overlaps.max(axis=1) >= IOUS[0]):
        candidates = np.where(free, overlaps[index], -1.0)
        best = candidates.argmax(axis=1)
        hit = candidates[rows, best] >= IOUS - 1e-9
        free[rows[hit], best[hit]] = False
        hits[index] = hit
        excused = overlaps[index, crowd].max(initial=-1.0) >= IOUS - 1e-9
        misses[index] = ~hit & ~excused
    return hits, misses


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """[A, B] intersection over union of boxes [A, 4] and [B, 4]."""
    common = _common(a, b)
    union = _area(a)[:, None] + _area(b)[None] - common
    return common / np.maximum(union, 1e-12)


def covered(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """[A, B] the share of each box of `a` that lies in each box of `b`."""
    return _common(a, b) / np.maximum(_area(a)[:, None], 1e-12)


def _common(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    left_top = np.maximum(a[:, None, :2], b[None, :, :2]).astype(np.float64)
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:]).astype(np.float64)
    sides = (right_bottom - left_top).clip(0)
    return sides[..., 0] * sides[..., 1]


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    sides = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).clip(0)
    return sides[:, 0] * sides[:, 1]


def letterbox(height: int, width: int, side: int) -> tuple[float, int, int, int, int]:
    """How a picture lies in a square of `side` pixels: (scale, height and width there, first row, first column).

    The same arithmetic as in the graph of a detection package: the longer side becomes `side`, the rest is grey, half
    of it before and half after.
    """
    scale = float(np.float32(side) / np.float32(max(height, width)))
    new = [max(1, int(np.floor(np.float32(each) * np.float32(scale) + np.float32(0.5)))) for each in (height, width)]
    return scale, new[0], new[1], (side - new[0]) // 2, (side - new[1]) // 2


def paste_mask(mask: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """A mask of a segmentation package in the picture it is of.

    Args:
        mask: [h, h] probabilities from the output `masks`, which lie over the letterboxed square.
        height, width: of the picture, in pixels.

    Returns:
        [height, width] where the thing is.
    """
    side = mask.shape[0]
    # Where the picture lies in the square, in the mask's own fractions of a pixel; warpAffine maps backwards.
    scale = side / max(height, width)
    top, left = (side - height * scale) / 2, (side - width * scale) / 2
    matrix = np.array([[scale, 0, left + scale / 2 - 0.5], [0, scale, top + scale / 2 - 0.5]], dtype=np.float64)
    pasted = cv2.warpAffine(
        np.ascontiguousarray(mask, dtype=np.float32),
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    inside: NDArray[np.bool_] = pasted > 0.5
    return inside
