"""Tracks against truth: HOTA with its two parts, IDF1 and MOTA, from files in the form of the MOTChallenge.

HOTA (Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021) is the geometric
mean of how well objects are found (DetA) and how long each keeps its identity (AssA), averaged over 19 thresholds of
overlap. IDF1 (Ristani et al. 2016) pairs whole true tracks with whole given ones; MOTA and identity switches are those
of CLEAR MOT (Bernardin and Stiefelhagen 2008). Where definitions leave room, this follows the authors' TrackEval, as
does the treatment of MOT17's truth: only pedestrians count, and what lies on a person in a car, a reflection or another
distractor is neither right nor wrong. Counts of sequences add up; no figure is a mean of means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from shared.errors import BadInput

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
ALPHAS = np.arange(0.05, 0.99, 0.05)
"""Overlaps (intersection over union) from which a box counts as found; HOTA is the mean over them."""
OVERLAP = 0.5
"""That of IDF1 and MOTA."""
PEDESTRIAN = 1
DISTRACTORS = (2, 7, 8, 12)
"""Classes of MOT17's truth: person on a vehicle, static person, distractor, reflection."""
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Boxes:
    """All boxes of a sequence, in any order; row i of each belongs together."""

    frame: Ints
    """[N] from 1."""
    id: Ints
    """[N]"""
    box: Array
    """[N, 4] left, top, right, bottom in pixels."""
    score: Array
    """[N]; of truth: 1 where the row counts."""
    kind: Ints
    """[N] class as in MOT17's truth; -1 where the file has none."""


def read_mot(path: Path) -> Boxes:
    """A file of lines `frame, id, left, top, width, height, score, …`; in truth, the eighth column is the class.

    Raises:
        BadInput: the file cannot be read, or a line is not of at least six numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}).") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    corner, size = table[:, 2:4], table[:, 4:6]
    return Boxes(
        frame=table[:, 0].astype(np.int64),
        id=table[:, 1].astype(np.int64),
        box=np.concatenate([corner, corner + size], axis=1),
        score=table[:, 6],
        kind=table[:, 7].astype(np.int64),
    )


def _row(path: Path, number: int, line: str) -> list[float]:
    try:
        values = [float(value) for value in line.split(",")]
    except ValueError:
        values = []
    if len(values) < 6 or not np.isfinite(values[:6]).all():
        raise BadInput(
            f"{path}, line {number}: expected numbers `frame,id,left,top,width,height,score`; mend this line."
        )
    return [*values, *(1.0, -1.0)[len(values) - 6 :]] if len(values) < 8 else values[:8]


@dataclass(frozen=True)
class Counts:
    """What was counted over one sequence, or, by `+`, over several. The figures follow from it."""

    found: Array = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    """[19] true boxes that were found, at each of `ALPHAS`."""
    missed: Array = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    invented: Array = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    associated: Array = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    """[19] sum, over found boxes, of how much of both tracks the pair has in common (A(c) of the paper)."""
    located: Array = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    """[19] sum of the overlaps of found boxes."""
    id_found: int = 0
    true_boxes: int = 0
    given_boxes: int = 0
    clear_found: int = 0
    switches: int = 0
    """A true track that goes on under another identity than it had when it was last found."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def hota(self) -> float:
        """0 to 1."""
        return float(np.sqrt(self._det_a() * self._ass_a()).mean())

    @property
    def det_a(self) -> float:
        """Found of all that is there or was given, 0 to 1."""
        return float(self._det_a().mean())

    @property
    def ass_a(self) -> float:
        """How much of a track keeps one identity, 0 to 1."""
        return float(self._ass_a().mean())

    @property
    def loc_a(self) -> float:
        """Mean overlap of what was found, 0 to 1."""
        return float((np.maximum(self.located, 1e-10) / np.maximum(self.found, 1e-10)).mean())

    @property
    def idf1(self) -> float:
        """Boxes under the right identity, F1, 0 to 1."""
        return 2 * self.id_found / max(self.true_boxes + self.given_boxes, 1)

    @property
    def mota(self) -> float:
        """1 less misses, inventions and switches for each true box; may be negative."""
        wrong = self.true_boxes - self.clear_found + self.given_boxes - self.clear_found + self.switches
        return 1 - wrong / max(self.true_boxes, 1)

    def _det_a(self) -> Array:
        return np.asarray(self.found / np.maximum(self.found + self.missed + self.invented, 1))

    def _ass_a(self) -> Array:
        return np.asarray(self.associated / np.maximum(self.found, 1))


@dataclass(frozen=True)
class _Moment:
    """One frame: rows into the lists of all true and all given identities, and [n, m] overlaps."""

    true: Ints
    given: Ints
    overlap: Array


def score(truth: Boxes, tracked: Boxes) -> Counts:
    """Count one sequence."""
    true_ids, given_ids = np.unique(truth.id), np.unique(tracked.id)
    moments = [
        _Moment(np.searchsorted(true_ids, true), np.searchsorted(given_ids, given), overlap)
        for true, given, overlap in _moments(truth, tracked)
    ]
    shape = (len(true_ids), len(given_ids))
    true_count, given_count = np.zeros((shape[0], 1)), np.zeros((1, shape[1]))
    for moment in moments:
        true_count[moment.true, 0] += 1
        given_count[0, moment.given] += 1
    counts = _hota(moments, true_count, given_count)
    clear_found, switches = _clear(moments, shape[0])
    return Counts(
        **counts,
        id_found=_identities(moments, true_count, given_count),
        true_boxes=int(true_count.sum()),
        given_boxes=int(given_count.sum()),
        clear_found=clear_found,
        switches=switches,
    )


def _moments(truth: Boxes, tracked: Boxes) -> Iterator[tuple[Ints, Ints, Array]]:
    """For each frame: identities that count, and their overlaps."""
    counts = (truth.score != 0) & ((truth.kind == PEDESTRIAN) | (truth.kind == -1))
    aside = np.isin(truth.kind, DISTRACTORS)
    for frame in np.union1d(truth.frame[counts], tracked.frame):
        here, there = np.flatnonzero(truth.frame == frame), np.flatnonzero(tracked.frame == frame)
        if aside[here].any():
            overlap = _overlap(truth.box[here], tracked.box[there])
            rows, columns = _pairs(np.where(overlap >= OVERLAP - _EPS, overlap, 0.0))
            there = np.delete(there, columns[aside[here[rows]]])
        here = here[counts[here]]
        yield truth.id[here], tracked.id[there], _overlap(truth.box[here], tracked.box[there])


def _hota(moments: list[_Moment], true_count: Array, given_count: Array) -> dict[str, Array]:
    """Equations 1 to 9 of the paper. Pairs are chosen so that tracks which agree as a whole are preferred."""
    shape = (len(true_count), given_count.shape[1])
    together = np.zeros(shape)
    for moment in moments:
        sums = moment.overlap.sum(axis=1, keepdims=True) + moment.overlap.sum(axis=0, keepdims=True) - moment.overlap
        together[np.ix_(moment.true, moment.given)] += moment.overlap / np.maximum(sums, _EPS)
    alike = together / np.maximum(true_count + given_count - together, _EPS)
    pairs, overlaps = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for moment in moments:
        rows, columns = _pairs(alike[np.ix_(moment.true, moment.given)] * moment.overlap)
        pairs.append(moment.true[rows] * shape[1] + moment.given[columns])
        overlaps.append(moment.overlap[rows, columns])
    names, index = np.unique(np.concatenate(pairs), return_inverse=True)
    overlap = np.concatenate(overlaps)
    good = overlap >= ALPHAS[:, None] - _EPS
    matched = np.array([np.bincount(index[each], minlength=len(names)) for each in good]).reshape(len(ALPHAS), -1)
    either = (true_count + given_count).ravel()[names]
    found = matched.sum(axis=1).astype(float)
    return {
        "found": found,
        "missed": true_count.sum() - found,
        "invented": given_count.sum() - found,
        "associated": (matched**2 / np.maximum(either - matched, 1)).sum(axis=1),
        "located": (good * overlap).sum(axis=1),
    }


def _identities(moments: list[_Moment], true_count: Array, given_count: Array) -> int:
    """Boxes found under the right identity, true tracks and given ones being paired once for the whole sequence."""
    together = np.zeros((len(true_count), given_count.shape[1]))
    for moment in moments:
        rows, columns = np.nonzero(moment.overlap >= OVERLAP)
        together[moment.true[rows], moment.given[columns]] += 1
    rows, columns = linear_sum_assignment(together, maximize=True)
    return int(together[rows, columns].sum())


def _clear(moments: list[_Moment], true_ids: int) -> tuple[int, int]:
    """True boxes found, and switches. A pair that held in the frame before goes on as long as it overlaps enough."""
    ever, before = np.full(true_ids, -1), np.full(true_ids, -1)
    found = switches = 0
    for moment in moments:
        if not moment.overlap.size:
            continue
        same = before[moment.true][:, None] == moment.given[None]
        rows, columns = _pairs(np.where(moment.overlap >= OVERLAP - _EPS, 1000.0 * same + moment.overlap, 0.0))
        true, given = moment.true[rows], moment.given[columns]
        switches += int(((ever[true] >= 0) & (ever[true] != given)).sum())
        found += len(true)
        ever[true] = given
        before[:] = -1
        before[true] = given
    return found, switches


def _pairs(gain: Array) -> tuple[Ints, Ints]:
    """Rows and columns whose sum of gains is largest; only where there is a gain."""
    rows, columns = linear_sum_assignment(gain, maximize=True)
    good = gain[rows, columns] > _EPS
    return rows[good], columns[good]


def _overlap(one: Array, two: Array) -> Array:
    """[n, m] intersection over union."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    inner = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(each[:, 2:] - each[:, :2], 0), axis=1) for each in (one, two)]
    return np.asarray(inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-9))
