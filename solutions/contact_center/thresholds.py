"""Thresholds by what mistakes cost: a wrong answer, a question back, a person's time.

The bot answers from one probability on, asks "did you mean" from a lower one, and otherwise, or where a message seems
out of scope, asks again or hands over. On messages that the model had not seen, each pair of thresholds has a price;
the cheapest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.manifest import Threshold
from solutions.contact_center.config import Costs

OUTSIDE_SHARE = 0.15
"""Share of messages out of scope that is reckoned with; what a bot meets is not known before it stands."""
_ANSWERED_OUTSIDE = 0.5
"""Share of what is out of scope and passes as in scope that is then sure enough to be answered."""
_GIVE_UP = 0.5
"""Share of those who are asked again that end with a person."""
METHOD = "least cost on held-out messages; among answers that cost the same within the error, the one that asks least"
_STEPS = np.round(np.arange(0.02, 0.991, 0.01), 2)


@dataclass(frozen=True)
class Judged:
    """Messages that the model had not seen."""

    confidence: NDArray[np.float64]
    """[N] of the likeliest intent."""
    right: NDArray[np.bool_]
    """[N] whether that is the one meant; False for what is out of scope."""
    scope: NDArray[np.float64]
    """[N] P(in scope)."""
    inside: NDArray[np.bool_]
    """[N] whether it is."""

    @property
    def weight(self) -> NDArray[np.float64]:
        """[N] so that the share out of scope is `OUTSIDE_SHARE`; sums to 1."""
        inside, outside = int(self.inside.sum()), int((~self.inside).sum())
        share = OUTSIDE_SHARE if outside else 0.0
        return np.where(self.inside, (1 - share) / max(inside, 1), share / max(outside, 1))


@dataclass(frozen=True)
class CurvePoint:
    """What to expect if the bot answers from this probability on, the other thresholds as chosen."""

    answer: float
    cost: float
    """Per message."""
    answered: float
    """Share of all messages that is answered at once."""
    wrong: float
    """Share of all messages that is answered wrongly."""
    asked_back: float
    """Share of all messages that is confirmed first."""


@dataclass(frozen=True)
class Chosen:
    """The thresholds and how they were found."""

    thresholds: dict[str, Threshold]
    curve: list[CurvePoint]


def choose(judged: Judged, costs: Costs) -> Chosen:
    """The cheapest thresholds on these messages."""
    scope = _scope_threshold(judged, costs)
    inside = judged.scope >= scope
    # Below this probability asking again is cheaper than "did you mean", since confidences are calibrated; too few
    # held-out messages are that unsure for their prices to say it.
    least = min(costs.clarification / max(costs.clarification + costs.hand_over * _GIVE_UP, 1e-9), 0.9)
    allowed = [[least <= c <= a for c in _STEPS] for a in _STEPS]
    table = np.array(
        [
            [_cost(judged, costs, inside, a, c) if fine else np.inf for c, fine in zip(_STEPS, row, strict=True)]
            for a, row in zip(_STEPS, allowed, strict=True)
        ]
    )
    place = np.unravel_index(int(np.argmin(table)), table.shape)
    confirm = float(_STEPS[place[1]])
    answer = _least_asking(judged, costs, inside, float(_STEPS[place[0]]), confirm)
    best = _cost(judged, costs, inside, answer, confirm)
    told: dict[str, float | int | str] = {
        "messages": len(judged.right),
        "wrong_answer": costs.wrong_answer,
        "clarification": costs.clarification,
        "hand_over": costs.hand_over,
        "out_of_scope_share": OUTSIDE_SHARE,
        "cost_per_message": round(best, 4),
    }
    found = {
        name: Threshold(value=value, method=METHOD, details=told)
        for name, value in (("answer", answer), ("confirm", confirm), ("scope", scope))
    }
    curve = [_point(judged, costs, inside, float(step), min(confirm, float(step))) for step in _STEPS[::2]]
    return Chosen(found, curve)


def _scope_threshold(judged: Judged, costs: Costs) -> float:
    """Where refusing what is in scope and answering what is not cost the same in all."""
    refused = costs.clarification + costs.hand_over * _GIVE_UP
    weight = judged.weight
    inside = judged.inside & judged.right  # refusing what would be answered wrongly costs nothing
    prices = [
        float(weight[inside & (judged.scope < step)].sum()) * refused
        + float(weight[~judged.inside & (judged.scope >= step)].sum()) * costs.wrong_answer * _ANSWERED_OUTSIDE
        for step in _STEPS
    ]
    return float(_STEPS[int(np.argmin(prices))])


def _least_asking(judged: Judged, costs: Costs, inside: NDArray[np.bool_], best: float, confirm: float) -> float:
    """The lowest probability to answer from whose cost is the least one, as far as these messages can tell.

    The cost hardly changes towards 1 while customers are asked back ever more often; where exactly a few hundred
    messages put the least is chance. So the rule of one standard error, of the difference message by message
    (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10).
    """
    least = _costs(judged, costs, inside, best, confirm)
    for step in (each for each in _STEPS if confirm <= each < best):
        extra = _costs(judged, costs, inside, float(step), confirm) - least
        mean = float((extra * judged.weight).sum())
        if mean <= float(np.sqrt((judged.weight**2 * (extra - mean) ** 2).sum())):
            return float(step)
    return best


def _cost(judged: Judged, costs: Costs, inside: NDArray[np.bool_], answer: float, confirm: float) -> float:
    """Per message."""
    return float((_costs(judged, costs, inside, answer, confirm) * judged.weight).sum())


def _costs(
    judged: Judged, costs: Costs, inside: NDArray[np.bool_], answer: float, confirm: float
) -> NDArray[np.float64]:
    """[N] of each message. Who is asked again, or denies "did you mean", tries once more; half end with a person."""
    again = costs.clarification + costs.hand_over * _GIVE_UP
    answers = inside & (judged.confidence >= answer)
    confirms = inside & ~answers & (judged.confidence >= confirm)
    price = np.where(judged.right, 0.0, costs.wrong_answer) * answers
    price += (costs.clarification + np.where(judged.right, 0.0, again)) * confirms
    price += again * (~answers & ~confirms & judged.inside)
    price += costs.clarification * (~answers & ~confirms & ~judged.inside)
    return np.asarray(price, dtype=np.float64)


def _point(judged: Judged, costs: Costs, inside: NDArray[np.bool_], answer: float, confirm: float) -> CurvePoint:
    weight = judged.weight
    answers = inside & (judged.confidence >= answer)
    confirms = inside & ~answers & (judged.confidence >= confirm)
    return CurvePoint(
        answer,
        _cost(judged, costs, inside, answer, confirm),
        float(weight[answers].sum()),
        float(weight[answers & ~judged.right].sum()),
        float(weight[confirms].sum()),
    )
