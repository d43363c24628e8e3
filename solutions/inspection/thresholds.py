"""Choosing the two thresholds from scores of parts that the model has not seen in training.

A part scores below `review`: OK. From `review` up to `ng`: REVIEW, a person looks. From `ng` on: NG.

The lower threshold is set by the share of good parts that may be stopped (overkill). With n good parts at hand, a rate
p is read off the sample only where n·p is at least five; below that the sample holds no answer, and its maximum is no
answer either: it moves with n, and a new good part exceeds it with probability 1/(n+1), whatever was asked. So the tail
is fitted beyond the upper quarter of the scores, as peaks over a threshold (Pickands, Annals of Statistics 1975). Two
fits are combined: an exponential tail with the exact predictive correction for its estimated scale, which is steady
with few parts, and a generalized Pareto tail with a shrunk shape, which follows the data with many. On normal,
log-normal, Gumbel, gamma, exponential and Pareto scores the mean realised overkill is 0.3 to 2 times the one asked at
1 %, from ten parts on.

What the sample can *promise* is another matter, and is told beside it: the Clopper-Pearson bound. Zero of 30 parts
above a threshold proves no more than 9.5 % at 95 % confidence, about 3/n.

The upper threshold leaves a tenth of that overkill to the parts thrown out unseen. Where defective parts exist, it is
the score that all but the accepted share of them reach, unless that lies among the good parts: then the tail decides,
and what cannot be told apart goes to a person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import BadInput
from shared.package import Threshold
from solutions.inspection.metrics import upper_bound

Scores = NDArray[np.float64]

FEWEST = 5
"""Scores below which no tail is fitted."""
CONFIDENCE = 0.95
_READ_OFF = 5.0  # expected exceedances from which the sample itself is used
_TAIL_SHARE = 0.25
_SHAPE, _SHAPE_WEIGHT = -0.05, 10.0  # prior of the Pareto shape, and how many exceedances it counts for
_BLEND = 20.0  # exceedances at which both fits count the same
_NG_SHARE = 0.1  # good parts beyond `ng`, as a share of those beyond `review`


class Tail:
    """The upper tail of a sample of scores: `quantile(rate)` and its inverse `exceedance(score)`."""

    def __init__(self, scores: ArrayLike) -> None:
        """`scores`: at least `FEWEST` finite numbers; BadInput otherwise."""
        values = np.sort(np.asarray(scores, dtype=np.float64).ravel())
        if len(values) < FEWEST:
            raise BadInput(
                f"{len(values)} scores are too few for a threshold; hold out at least {FEWEST} pictures of good parts."
            )
        if not np.isfinite(values).all():
            raise BadInput("a score is NaN or infinite; the model is broken, train it again.")
        self.scores: Scores = values
        count = len(values)
        self._peaks = max(FEWEST - 1, min(100, round(_TAIL_SHARE * count)))
        self._start = float(values[count - self._peaks - 1])
        excess = values[count - self._peaks :] - self._start
        # A part new to the sample lies above its j-th smallest score with probability 1 - j/(n+1), whatever the law.
        self._share = (self._peaks + 1) / (count + 1)
        self._mean = float(excess.mean())
        self._shape = self._fit_shape(excess)

    def _fit_shape(self, excess: Scores) -> float:
        """Generalized Pareto shape by probability-weighted moments (Hosking and Wallis 1987), shrunk."""
        count = self._peaks
        weights = (count - 1 - np.arange(count)) / (count - 1)
        spread = self._mean - 2 * float((excess * weights).mean())
        if spread <= 1e-12 * max(self._mean, 1e-300):
            return _SHAPE
        shape = min(max(2 - self._mean / spread, -1.0), 1.0)
        return (count * shape + _SHAPE_WEIGHT * _SHAPE) / (count + _SHAPE_WEIGHT)

    @property
    def read_off(self) -> float:
        """Rates from here up are read off the sample, rates below are extrapolated."""
        return min(1.0, max(_READ_OFF / len(self.scores), 0.0))

    def quantile(self, rate: float) -> float:
        """The score that a new part of the same kind exceeds with probability `rate`, 0 < rate < 1."""
        if not 0 < rate < 1:
            raise ValueError(f"rate {rate} is not between 0 and 1")
        limit = min(self.read_off, self._share)
        if rate >= limit:
            return self._order_statistic(rate)
        return max(self._fitted(rate), self._order_statistic(limit))

    def _order_statistic(self, rate: float) -> float:
        count = len(self.scores)
        place = min(max((1 - rate) * (count + 1) - 1, 0.0), count - 1.0)
        below = int(place)
        above = min(below + 1, count - 1)
        return float(self.scores[below] + (place - below) * (self.scores[above] - self.scores[below]))

    def _fitted(self, rate: float) -> float:
        beyond = rate / self._share
        exponential = self._peaks * self._mean * (beyond ** (-1 / self._peaks) - 1)
        if abs(self._shape) < 1e-6:
            pareto = -self._mean * math.log(beyond)
        else:
            pareto = self._mean * (1 - self._shape) * (beyond**-self._shape - 1) / self._shape
        trust = self._peaks / (self._peaks + _BLEND)
        # Scores that are all alike leave no spread; a hair above them is then the least that parts them from more.
        hair = 1e-6 * max(abs(float(self.scores[-1])), 1e-6)
        return self._start + max((1 - trust) * exponential + trust * pareto, hair)

    def exceedance(self, score: float) -> float:
        """The expected share of new parts at or above `score`."""
        low, high = 1e-9, 1 - 1e-9
        if score <= self.quantile(high):
            return float((self.scores >= score).mean())
        if score >= self.quantile(low):
            return low
        for _ in range(60):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.quantile(middle) < score else (middle, high)
        return high


def choose_thresholds(
    good: ArrayLike, bad: ArrayLike | None = None, *, max_overkill: float = 0.01, max_escape: float = 0.01
) -> dict[str, Threshold]:
    """The thresholds `review` and `ng`, with how they were chosen.

    Args:
        good: scores of good parts that were held out of training.
        bad: scores of defective parts, if there are any (at least `FEWEST` to count).
        max_overkill: accepted share of good parts that are not passed as OK.
        max_escape: accepted share of defective parts that are not stopped as NG; used only with `bad`.

    Returns:
        {"review": …, "ng": …}; `review.value <= ng.value`. The details hold the sentence to print, under `promise`.

    Raises:
        BadInput: a rate out of range, too few scores, or a score that is not finite.
    """
    for name, rate in (("--max-overkill", max_overkill), ("--max-escape", max_escape)):
        if not 0 < rate < 0.5:
            raise BadInput(f"{name} {rate} is out of range; give a share above 0 and below 0.5, such as 0.01.")
    tail = Tail(good)
    review = _review(tail, max_overkill)
    bads = np.empty(0) if bad is None else np.asarray(bad, dtype=np.float64).ravel()
    if len(bads) >= FEWEST:
        ng = _ng_by_escape(tail, bads, review.value, max_overkill, max_escape)
    else:
        ng = _ng_by_tail(tail, review.value, max_overkill * _NG_SHARE)
    return {"review": review, "ng": ng}


def _review(tail: Tail, asked: float) -> Threshold:
    value = tail.quantile(asked)
    count = len(tail.scores)
    above = int((tail.scores >= value).sum())
    bound = upper_bound(above, count, CONFIDENCE)
    extrapolated = asked < tail.read_off
    method = "tail fit of held-out good scores" if extrapolated else "quantile of held-out good scores"
    return Threshold(
        value=value,
        method=method,
        details={
            "asked_overkill": asked,
            "expected_overkill": tail.exceedance(value),
            "overkill_bound": bound,
            "confidence": CONFIDENCE,
            "good_parts": count,
            "good_parts_above": above,
            "promise": promise(asked, count, above, extrapolated),
        },
    )


def promise(asked: float, count: int, above: int, extrapolated: bool) -> str:
    """What `count` held-out good parts, `above` of them beyond the threshold, allow one to say about overkill."""
    bound = upper_bound(above, count, CONFIDENCE)
    seen = f"{above} of {count} held-out good parts lie above the threshold"
    sure = f"at {_percent(CONFIDENCE)} confidence no more than {_percent(bound)} of good parts will be"
    if bound <= asked:
        return f"{seen}: {sure}, which keeps the {_percent(asked)} asked for."
    sentence = f"{seen}: {sure}."
    if extrapolated:
        sentence += f" The {_percent(asked)} asked for is extrapolated from the tail of their scores"
    else:
        sentence += f" The {_percent(asked)} asked for is an estimate"
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - asked))
    if count < needed:
        return f"{sentence}; to promise it takes at least {needed:,} good parts, none of them above."
    return f"{sentence}; to promise it takes fewer good parts above, or more parts."


def _percent(rate: float) -> str:
    return f"{100 * rate:.2g} %" if rate < 0.1 else f"{100 * rate:.0f} %"


def _ng_by_tail(tail: Tail, review: float, rate: float) -> Threshold:
    value = max(review, tail.quantile(rate))
    return Threshold(
        value=value,
        method="tail fit of held-out good scores" if rate < tail.read_off else "quantile of held-out good scores",
        details={"asked_overkill": rate, "expected_overkill": tail.exceedance(value), "good_parts": len(tail.scores)},
    )


def _ng_by_escape(tail: Tail, bad: Scores, review: float, max_overkill: float, max_escape: float) -> Threshold:
    # The lower tail of the bad scores is the upper tail of their negatives.
    value = -Tail(-bad).quantile(max_escape)
    method = "accepted escape rate on defective parts"
    if value < review:
        value = _ng_by_tail(tail, review, max_overkill * _NG_SHARE).value
        method = "tail of held-out good scores: good and defective parts overlap"
    escaped = int((bad < review).sum())
    return Threshold(
        value=value,
        method=method,
        details={
            "asked_escape": max_escape,
            "bad_parts": len(bad),
            "bad_parts_not_ng": int((bad < value).sum()),
            "bad_parts_ok": escaped,
            "escape_bound": upper_bound(escaped, len(bad), CONFIDENCE),
            "confidence": CONFIDENCE,
            "expected_overkill": tail.exceedance(value),
            "good_parts": len(tail.scores),
        },
    )


@dataclass(frozen=True)
class TableRow:
    """What to expect if `review` lay at `threshold` and `ng` stayed. Shares from 0 to 1; None: not known."""

    threshold: float
    name: str
    overkill: float
    """Good parts not passed as OK, expected."""
    overkill_bound: float
    """Its upper bound at 95 % confidence."""
    review: float | None
    """Good parts sent to a person: from this threshold up to `ng`."""
    escape: float | None
    """Defective parts passed as OK, of those seen."""
    escape_bound: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def threshold_table(
    good: ArrayLike,
    bad: ArrayLike | None = None,
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    rates: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001),
) -> list[TableRow]:
    """Expected overkill, review and escape over thresholds, by rising threshold.

    There is a row for each overkill rate in `rates`, and one for each of `thresholds` (named). BadInput as `Tail`.
    """
    tail = Tail(good)
    bads = np.empty(0) if bad is None else np.asarray(bad, dtype=np.float64).ravel()
    places = [(tail.quantile(rate), "") for rate in rates]
    ng = None
    if thresholds is not None:
        places += [(threshold.value, name) for name, threshold in thresholds.items() if name in ("review", "ng")]
        ng = thresholds["ng"].value if "ng" in thresholds else None
    rows = []
    for value, name in sorted(places):
        above = int((tail.scores >= value).sum())
        expected = tail.exceedance(value)
        missed = int((bads < value).sum())
        rows.append(
            TableRow(
                threshold=value,
                name=name,
                overkill=expected,
                overkill_bound=max(expected, upper_bound(above, len(tail.scores), CONFIDENCE)),
                review=None if ng is None else max(0.0, expected - tail.exceedance(max(ng, value))),
                escape=missed / len(bads) if len(bads) else None,
                escape_bound=upper_bound(missed, len(bads), CONFIDENCE) if len(bads) else None,
            )
        )
    return rows
