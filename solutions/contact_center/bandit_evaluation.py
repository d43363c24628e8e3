"""What a policy would have earned, from logs of another one; and whether that is enough to let it go live.

Logged choices carry the probability with which they were made. Three estimates of what a target policy is worth:

- IPS: rewards weighted by target over logged probability (Horvitz and Thompson, 1952). Unbiased, wide.
- SNIPS: the same, divided by the sum of the weights (Swaminathan and Joachims, NeurIPS 2015). Little bias, narrower.
- DR: a model of the reward, corrected by the weighted error it makes on what was logged (Dudík, Langford, Li, ICML
  2011). The model is fitted on other conversations than it predicts, in folds, so that the estimate stays unbiased.

Choices within a conversation depend on one another: intervals count conversations, not choices. They are normal ones,
a little widened where conversations are few.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from solutions.contact_center.bandit import FEATURES, LEAST_TRIED, LinUcb, Matrix, Policy, Vector, distribution
from solutions.contact_center.dialogue.events import RUNGS

FOLDS = 5
LEARN_SHARE = 0.6
"""Of the conversations, the earliest: what a model is learned from; the later ones judge it."""
LEAST_CONVERSATIONS = 50
"""To judge by; fewer give intervals that mean nothing."""
LEAST_EFFECTIVE = 50.0
"""Kish's effective number of weighted choices; below, one heavy weight decides."""
_Z = 1.959964


@dataclass(frozen=True)
class Logs:
    """Logged choices among the same arms, in the order of time.

    Attributes:
        arms: names, K of them.
        contexts: [N, d].
        taken: [N], index of the arm.
        propensities: [N], with which it was taken; above 0.
        rewards: [N], 0 to 1.
        allowed: [N, K].
        ladder: [N], the arm without a policy.
        groups: [N], number of the conversation, rising with time.
    """

    arms: tuple[str, ...]
    contexts: Matrix
    taken: NDArray[np.int64]
    propensities: Vector
    rewards: Vector
    allowed: NDArray[np.bool_]
    ladder: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.taken)

    def where(self, mask: NDArray[np.bool_]) -> Logs:
        """Some of them."""
        parts = {name: value[mask] for name, value in vars(self).items() if name != "arms"}
        return Logs(self.arms, **parts)

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]], arms: Sequence[str] = RUNGS) -> Logs:
        """From the entries that `bandit_logs.logged` gives.

        Raises:
            BadInput: an entry names an arm that is none, or has no probability above 0.
        """
        names = tuple(arms)
        index = {arm: place for place, arm in enumerate(names)}
        for entry in entries:
            if entry["arm"] not in index or entry["ladder"] not in index or not 0 < entry["propensity"] <= 1:
                raise BadInput(
                    f"a logged choice {entry['arm']!r} of probability {entry['propensity']} does not belong to the "
                    f"arms {', '.join(names)}; leave it out."
                )
        conversations = {name: place for place, name in enumerate(dict.fromkeys(e["conversation"] for e in entries))}
        width = len(entries[0]["context"]) if entries else len(FEATURES)
        return cls(
            names,
            np.array([entry["context"] for entry in entries], dtype=np.float64).reshape(len(entries), width),
            np.array([index[entry["arm"]] for entry in entries], dtype=np.int64),
            np.array([entry["propensity"] for entry in entries], dtype=np.float64),
            np.array([entry["reward"] for entry in entries], dtype=np.float64),
            np.array([[arm in entry["allowed"] for arm in names] for entry in entries], dtype=bool).reshape(
                len(entries), len(names)
            ),
            np.array([index[entry["ladder"]] for entry in entries], dtype=np.int64),
            np.array([conversations[entry["conversation"]] for entry in entries], dtype=np.int64),
        )


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Values:
    """What a target policy is worth by each estimator, and how far the logs reach."""

    ips: Estimate
    snips: Estimate
    dr: Estimate
    effective: float
    """Kish's effective number of choices."""


def evaluate(logs: Logs, target: Matrix) -> Values:
    """What a policy is worth. target [N, K]: its probabilities in the logged situations; rows sum to 1.

    Raises:
        BadInput: there are no logs.
    """
    if not len(logs):
        raise BadInput("there are no logged choices to evaluate on; let the bot serve with policies.bandit: true.")
    rows = np.arange(len(logs))
    weights = target[rows, logs.taken] / logs.propensities
    weighted = weights * logs.rewards
    total = float(weights.sum())
    snips = float(weighted.sum() / total) if total else 0.0
    spread = weights * (logs.rewards - snips) / max(total / len(logs), 1e-12)
    per_choice = _doubly_robust(logs, target, _predicted(logs))
    effective = total**2 / float((weights**2).sum()) if total else 0.0
    return Values(
        _interval(weighted, logs.groups),
        _interval(spread + snips, logs.groups),
        _interval(per_choice, logs.groups),
        effective,
    )


def gain(logs: Logs, target: Matrix, base: Matrix) -> Estimate:
    """How much more the target policy is worth than another, by DR on the same logs. Both [N, K]."""
    predicted = _predicted(logs)
    return _interval(_doubly_robust(logs, target, predicted) - _doubly_robust(logs, base, predicted), logs.groups)


def _doubly_robust(logs: Logs, target: Matrix, predicted: Matrix) -> Vector:
    rows = np.arange(len(logs))
    weights = target[rows, logs.taken] / logs.propensities
    error = logs.rewards - predicted[rows, logs.taken]
    return np.asarray((target * predicted).sum(axis=1) + weights * error, dtype=np.float64)


def _predicted(logs: Logs) -> Matrix:
    """Expected rewards [N, K], each from a ridge regression on the conversations of the other folds."""
    predicted = np.zeros((len(logs), len(logs.arms)))
    folds = np.unique(logs.groups, return_inverse=True)[1] % FOLDS
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any():
            others = logs.where(~inside)
            usual = float(others.rewards.mean()) if len(others) else 0.0  # what a seldom tried arm is taken to earn
            model = learn(dataclasses.replace(others, rewards=others.rewards - usual))
            predicted[inside] = usual + model.scores(logs.contexts[inside])[0]
    return predicted


def learn(logs: Logs, *, alpha: float = 0.5) -> LinUcb:
    """A model from logs; every arm from the choices of it."""
    model = LinUcb(logs.arms, logs.contexts.shape[1], alpha=alpha)
    for arm in range(len(logs.arms)):
        x = logs.contexts[logs.taken == arm]
        model.a[arm] += x.T @ x
        model.b[arm] += x.T @ logs.rewards[logs.taken == arm]
        model.tried[arm] = len(x)
    return model


def _interval(values: Vector, groups: NDArray[np.int64]) -> Estimate:
    """Mean and interval of per-choice values, whose deviations are summed by conversation."""
    mean = float(values.mean())
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], weights=values - mean)
    count = len(sums)
    if count < 2:
        return Estimate(mean, -math.inf, math.inf)
    error = math.sqrt(float((sums**2).sum()) * count / (count - 1)) / len(values)
    width = error * _Z * (1 + (_Z**2 + 1) / (4 * (count - 1)))  # Student's t, to first order (Cornish and Fisher)
    return Estimate(mean, mean - width, mean + width)


@dataclass(frozen=True)
class Judgement:
    """Whether a learned policy may go live, and the numbers."""

    approved: bool
    why: str
    policy: Policy
    learned_from: int
    judged_on: int
    conversations: int
    values: Values | None = None
    ladder: Values | None = None
    gain: Estimate | None = None
    changed: float = 0.0
    """Share of choices in which the policy's favourite is not the ladder's."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the policy."""
        return {
            "approved": self.approved,
            "why": self.why,
            "learned_from": self.learned_from,
            "judged_on": self.judged_on,
            "conversations": self.conversations,
            "policy": asdict(self.values) if self.values else None,
            "ladder": asdict(self.ladder) if self.ladder else None,
            "gain": asdict(self.gain) if self.gain else None,
            "changed": self.changed,
        }


def judge(logs: Logs, *, explore: float, alpha: float = 0.5) -> Judgement:
    """Learn from the earlier conversations and evaluate on the later ones, against the ladder.

    Approved only if the whole interval of the gain is above 0, and the logs reach far enough to say so. The policy that
    was evaluated is the one that goes live, exploration included; it is not fitted once more.
    """
    return _judge(logs, explore, alpha, 0.0)


def judge_variants(logs: Mapping[str, Logs], *, explore: float, alpha: float = 0.5) -> dict[str, Judgement]:
    """The same for the variants of each response, against saying each as often as any other.

    Many responses are judged at once, and an interval of 95 % errs once in forty upwards: some that are let live are
    no better than the others. They are no worse either, for variants say the same thing.
    """
    return {response: _judge(entries, explore, alpha, 1.0) for response, entries in logs.items()}


def _judge(logs: Logs, explore: float, alpha: float, usual: float) -> Judgement:
    """`usual`: the exploration of what there would be without the policy: 0 the ladder, 1 even chances."""
    edge = np.quantile(logs.groups, LEARN_SHARE) if len(logs) else 0.0
    earlier, later = logs.where(logs.groups <= edge), logs.where(logs.groups > edge)
    conversations = len(np.unique(later.groups))
    if conversations < LEAST_CONVERSATIONS:
        why = f"{conversations} conversations to judge by; {LEAST_CONVERSATIONS} are needed"
        return Judgement(False, why, Policy(explore), len(earlier), len(later), conversations)
    policy = Policy(explore, learn(earlier, alpha=alpha))
    target = policy.probabilities(later.contexts, later.ladder, later.allowed)
    base = distribution(None, later.contexts, later.ladder, later.allowed, usual)
    values, ladder, difference = evaluate(later, target), evaluate(later, base), gain(later, target, base)
    changed = float((target.argmax(axis=1) != later.ladder).mean())
    why = _objection(values, difference, changed)
    return Judgement(
        not why,
        why or f"worth {difference.value:+.4f} more than the ladder, at least {difference.low:+.4f}",
        policy,
        len(earlier),
        len(later),
        conversations,
        values,
        ladder,
        difference,
        changed,
    )


def _objection(values: Values, difference: Estimate, changed: float) -> str:
    if changed == 0.0:
        return f"it chooses what the ladder chooses (a rung needs {LEAST_TRIED} tries to be taken instead)"
    if values.effective < LEAST_EFFECTIVE:
        return f"the logs hold {values.effective:.0f} effective choices of this policy; {LEAST_EFFECTIVE:.0f} needed"
    if difference.low <= 0:
        return f"the gain over the ladder, {difference.low:+.4f} to {difference.high:+.4f}, is not surely above 0"
    return ""


def approved(judgement: Judgement, variants: Mapping[str, Judgement] | None = None) -> Policy:
    """What may serve of it, ready to be saved: the rungs, and the variants of those responses that gain by it.

    Raises:
        BadInput: nothing of it was approved.
    """
    better = {
        response: one.policy.rungs
        for response, one in (variants or {}).items()
        if one.approved and one.policy.rungs is not None
    }
    if not judgement.approved and not better:
        raise BadInput(f"the learned policy may not go live: {judgement.why}. The ladder goes on as before.")
    rungs = judgement.policy.rungs if judgement.approved else None
    return Policy(judgement.policy.explore, rungs, better, judgement.as_dict())
