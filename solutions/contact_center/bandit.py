"""A learned policy that may move the ladder's choice by a little: LinUCB over the rungs and over response variants.

The ladder (answer, confirm, choose, ask again, hand over) is chosen by thresholds. Where `policies.bandit` is true,
`Policy.choose` is asked after it, with the rungs that are safe there, and says which one is taken and with which
probability. Off by default, and bounded:

- `ladder.decide` does not ask it where the text is out of scope or patience is over, and offers only the ladder's own
  rung and those beside it, a hand-over only where there is somebody;
- without an approved model it only explores: a small share of choices (`explore`, at most `MOST_EXPLORED`) is spread
  over the safe rungs, so that there is something to learn from; the rest is the ladder's;
- a model is approved by `bandit_evaluation.judge` on logs that it has not learned from, or not at all;
- a rung that was tried too seldom is left to the ladder, and so is everything where the model does not fit this code.

Every choice is in its event with its probability and its context (`Choice.as_dict`), which is what off-policy
evaluation needs. The draw comes from outside: the engine takes it from the conversation and the turn, so that a turn
that is decided again after a clash is decided alike. Models are learned from logs, a batch at a time
(`bandit_evaluation.learn`), and are JSON.

LinUCB with one ridge regression an arm: Li, Chu, Langford, Schapire, "A Contextual-Bandit Approach to Personalized
News Article Recommendation", WWW 2010. `benchmarks/bot_bandit.py` compares it with linear Thompson sampling (Agrawal
and Goyal, ICML 2013): the regret is no worse, and its probabilities are exact where the other's must be sampled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared import files
from shared.errors import BadInput
from shared.log import get_logger
from solutions.contact_center.dialogue import ladder
from solutions.contact_center.dialogue.events import RUNGS

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

FEATURES = (
    "one",
    "confidence",
    "margin",
    "scope",
    "sureness",
    "faq",
    "turn",
    "clarifications",
    "web",
    "kakao",
    "voice",
)
"""What a choice is seen by, all from 0 to 1; see `context_of`."""
SCHEMA = 1
EXPLORE = 0.05
"""The share of choices that is spread over the safe rungs."""
MOST_EXPLORED = 0.2
LEAST_TRIED = 30
"""A rung with fewer logged choices is left to the ladder."""
_CHANNELS = ("web", "kakao", "voice")
_log = get_logger(__name__)


class LinUcb:
    """One ridge regression of the reward an arm, and how sure it is of it.

    Attributes:
        arms: their names.
        a: [arms, d, d], ridge·I plus the sum of x xᵀ.
        b: [arms, d], the sum of reward·x.
        tried: [arms], how often each was updated.
    """

    def __init__(self, arms: Sequence[str], dimension: int, *, alpha: float = 0.5, ridge: float = 1.0) -> None:
        self.arms = tuple(arms)
        self.alpha = alpha
        """Width of the bonus for what is little known, in standard deviations."""
        self.ridge = ridge
        self.a: Matrix = np.tile(np.eye(dimension) * ridge, (len(self.arms), 1, 1))
        self.b: Matrix = np.zeros((len(self.arms), dimension))
        self.tried = np.zeros(len(self.arms), dtype=np.int64)
        self._solved: tuple[Matrix, Matrix] | None = None

    @property
    def dimension(self) -> int:
        """Length of a context."""
        return int(self.b.shape[1])

    def update(self, arm: int, x: Vector, reward: float) -> None:
        """Learn from one choice. x [d]; reward about 0 to 1."""
        self.a[arm] += np.outer(x, x)
        self.b[arm] += reward * x
        self.tried[arm] += 1
        self._solved = None

    def weights(self) -> Matrix:
        """[arms, d]: what each feature adds to an arm's expected reward."""
        return self._solve()[0]

    def scores(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Expected reward and bonus of every arm. x [N, d] → two of [N, arms]."""
        weights, inverse = self._solve()
        spread = np.einsum("nd,kde,ne->nk", x, inverse, x)
        return x @ weights.T, self.alpha * np.sqrt(np.maximum(spread, 0.0))

    def best(self, x: Matrix, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The allowed arm with the highest upper bound. x [N, d], allowed [N, arms] → [N]."""
        mean, bonus = self.scores(x)
        return np.asarray(np.where(allowed, mean + bonus, -np.inf).argmax(axis=1), dtype=np.int64)

    def _solve(self) -> tuple[Matrix, Matrix]:
        if self._solved is None:
            inverse: Matrix = np.linalg.inv(self.a).astype(np.float64)
            self._solved = (np.einsum("kde,ke->kd", inverse, self.b), inverse)
        return self._solved

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "arms": list(self.arms),
            "alpha": self.alpha,
            "ridge": self.ridge,
            "a": self.a.tolist(),
            "b": self.b.tolist(),
            "tried": self.tried.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LinUcb:
        """The reverse of `as_dict`.

        Raises:
            ValueError: sizes that do not fit, or matrices that no learning gives.
        """
        arms = [str(arm) for arm in values["arms"]]
        a, b = np.asarray(values["a"], dtype=np.float64), np.asarray(values["b"], dtype=np.float64)
        tried = np.asarray(values["tried"], dtype=np.int64)
        if b.ndim != 2 or a.shape != (len(arms), b.shape[1], b.shape[1]) or tried.shape != (len(arms),):
            raise ValueError("the sizes of arms, a, b and tried do not fit one another")
        if not (np.isfinite(a).all() and np.isfinite(b).all() and np.allclose(a, a.transpose(0, 2, 1))):
            raise ValueError("a or b holds what no learning gives")
        if (np.linalg.eigvalsh(a) <= 0).any() or b.shape[0] != len(arms):
            raise ValueError("a is not positive definite")
        model = cls(arms, b.shape[1], alpha=float(values["alpha"]), ridge=float(values["ridge"]))
        model.a, model.b, model.tried = a, b, tried
        return model


@dataclass(frozen=True)
class Choice:
    """What was chosen among which, and how likely that was."""

    arm: str
    ladder: str
    """What would have been chosen without the policy."""
    propensity: float
    """Of `arm`, over the draw."""
    allowed: tuple[str, ...]
    context: tuple[float, ...]
    live: bool = False
    """An approved model chose, not the ladder."""

    @property
    def changed(self) -> bool:
        """Another arm than the ladder's was taken."""
        return self.arm != self.ladder

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for the event that records the decision."""
        return {**vars(self), "allowed": list(self.allowed), "context": list(self.context)}


@dataclass
class Policy:
    """What may choose instead of the ladder. Thread-safe, since nothing of it changes while it serves."""

    explore: float = EXPLORE
    rungs: LinUcb | None = None
    """Approved, or None: then only exploration moves the ladder's choice."""
    variants: Mapping[str, LinUcb] = field(default_factory=dict)
    """Response: its approved model; the arms are `0`, `1`, …"""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the evaluation said that approved it."""

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= MOST_EXPLORED:
            raise BadInput(f"explore must be 0 to {MOST_EXPLORED}, not {self.explore}; lower it.")

    def choose(self, context: Sequence[float], ladder: str, allowed: Sequence[str], draw: float) -> Choice:
        """The rung to take.

        Args:
            context: as `context_of` gives it.
            ladder: the rung that the thresholds chose; it is always allowed.
            allowed: the safe rungs.
            draw: 0 to below 1, as if at random.
        """
        return _draw(self.rungs, context, ladder, allowed, self.explore, draw)

    def variant(self, context: Sequence[float], response: str, count: int, draw: float) -> Choice:
        """The variant of a response to say; arms are their numbers as text. Variants differ in words only, so that
        without a model each is as likely as any other.
        """
        model = self.variants.get(response)
        arms = [str(number) for number in range(count)]
        fits = model is not None and model.arms == tuple(arms)
        return _draw(model if fits else None, context, "0", arms, self.explore if fits else 1.0, draw)

    def probabilities(self, x: Matrix, ladder: NDArray[np.int64], allowed: NDArray[np.bool_]) -> Matrix:
        """How likely each rung is in logged situations. x [N, d], ladder [N], allowed [N, rungs] → [N, rungs]."""
        return distribution(self.rungs, x, ladder, allowed, self.explore)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema": SCHEMA,
            "features": list(FEATURES),
            "explore": self.explore,
            "rungs": self.rungs.as_dict() if self.rungs else None,
            "variants": {name: model.as_dict() for name, model in sorted(self.variants.items())},
            "report": dict(self.report),
        }

    def save(self, path: Path) -> None:
        """Write it whole."""
        files.write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: Path) -> Policy:
        """What `save` wrote; a policy that only explores where there is no file.

        Raises:
            BadInput: the file is no policy of this version.
        """
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be read as a policy ({error}); remove it and learn again.") from error
        try:
            if values["schema"] != SCHEMA or tuple(values["features"]) != FEATURES:
                raise ValueError("it is of another version")
            rungs = LinUcb.from_dict(values["rungs"]) if values["rungs"] else None
            if rungs is not None and (rungs.arms != RUNGS or rungs.dimension != len(FEATURES)):
                raise ValueError("its rungs or features are others")
            variants = {str(name): LinUcb.from_dict(model) for name, model in values["variants"].items()}
            return cls(float(values["explore"]), rungs, variants, values["report"])
        except (KeyError, TypeError, ValueError, AttributeError, np.linalg.LinAlgError) as error:
            raise BadInput(f"{path} is no policy of this version ({error}); remove it and learn again.") from error


def distribution(
    model: LinUcb | None, x: Matrix, ladder: NDArray[np.int64], allowed: NDArray[np.bool_], explore: float
) -> Matrix:
    """Probabilities [N, arms]: 1 − explore on the model's best arm (or the ladder's), the rest evenly on the allowed.

    Args:
        x: contexts [N, d].
        ladder: the arm without a policy [N]; it counts as allowed.
        allowed: [N, arms].
    """
    rows = np.arange(len(ladder))
    allowed = allowed.copy()
    allowed[rows, ladder] = True
    favourite = ladder
    if model is not None and len(rows):
        known = allowed & (model.tried >= LEAST_TRIED)
        known[rows, ladder] = True
        favourite = model.best(x, known)
    shares = explore * allowed / allowed.sum(axis=1, keepdims=True)
    shares[rows, favourite] += 1.0 - explore
    return np.asarray(shares, dtype=np.float64)


def _draw(
    model: LinUcb | None, context: Sequence[float], ladder: str, allowed: Sequence[str], explore: float, draw: float
) -> Choice:
    arms = model.arms if model is not None else tuple(dict.fromkeys([*allowed, ladder]))
    mask = np.array([[arm in allowed for arm in arms]])
    x = np.asarray([context], dtype=np.float64)
    shares = distribution(model, x, np.array([arms.index(ladder)]), mask, explore)[0]
    place = int(np.searchsorted(np.cumsum(shares), draw, side="right"))
    taken = min(place, int(np.flatnonzero(shares)[-1]))  # the sum may end a rounding error below 1
    offered = tuple(arm for arm in arms if arm in allowed or arm == ladder)
    return Choice(arms[taken], ladder, float(shares[taken]), offered, tuple(context), model is not None)


def context_of(
    confidences: Sequence[float], scope: float, faq: float, turn: int, clarifications: int, channel: str
) -> tuple[float, ...]:
    """A situation as numbers from 0 to 1, in the order of `FEATURES`.

    Args:
        confidences: of the intents, best first; calibrated, so that rewards are about linear in them.
        scope: probability that the text is in scope.
        faq: confidence of the best question found, 0 without one.
        turn: messages so far.
        clarifications: in a row.
        channel: where the customer is.
    """
    first = confidences[0] if confidences else 0.0
    second = confidences[1] if len(confidences) > 1 else 0.0
    values = (
        1.0,
        first,
        first - second,
        scope,
        first * scope,
        faq,
        math.log1p(turn) / math.log1p(50),
        clarifications / 3,
        *(float(channel == name) for name in _CHANNELS),
    )
    return tuple(round(min(max(value, 0.0), 1.0), 6) for value in values)


class LivePolicy:
    """A `Policy` as the dialogue engine asks it (`dialogue.ladder.Policy`)."""

    def __init__(self, policy: Policy, path: Path | None = None) -> None:
        """
        Args:
            path: where the policy comes from; it is read again when the file changes.
        """
        self._policy = policy
        self._path = path
        self._stamp: tuple[int, int] | None = None

    @classmethod
    def of(cls, path: Path) -> LivePolicy:
        """The policy in a file, and whatever it is replaced by later."""
        return cls(Policy(), path)

    @property
    def policy(self) -> Policy:
        """The newest. A file that cannot be used leaves everything to the ladder, and the log says so."""
        if self._path is not None:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                try:
                    self._policy = Policy.load(self._path)
                except BadInput as error:
                    _log.error("policy_not_loaded", error=str(error))
                    self._policy = Policy(0.0)
                self._stamp = stamp
        return self._policy

    def choose_rung(self, context: Mapping[str, float], allowed: Sequence[str], default: str) -> ladder.Choice:
        """One of `allowed`.

        Args:
            context: `confidence`, `margin`, `scope`, `asked`, and from the engine `faq`, `turn`, `draw` and a 1 for the
                channel; what is missing counts as 0.
        """
        return _as_ladder(self.policy.choose(_context(context), default, allowed, context.get("draw", 0.0)))

    def choose_variant(self, response: str, count: int, context: Mapping[str, float]) -> ladder.Choice | None:
        """A variant, its number as text; None where there is nothing to choose."""
        if count < 2:
            return None
        return _as_ladder(self.policy.variant(_context(context), response, count, context.get("draw", 0.0)))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def path_of(bot: str, home: Path) -> Path:
    """Where a bot's policy is kept."""
    return home / "policies" / f"{bot}.json"


def _context(context: Mapping[str, float]) -> tuple[float, ...]:
    confidence = context.get("confidence", 0.0)
    confidences = (confidence, confidence - context.get("margin", 0.0))
    channel = next((name for name in _CHANNELS if context.get(name)), "")
    return context_of(
        confidences,
        context.get("scope", 0.0),
        context.get("faq", 0.0),
        int(context.get("turn", 0)),
        int(context.get("asked", 0)),
        channel,
    )


def _as_ladder(choice: Choice) -> ladder.Choice:
    why = "learned" if choice.live and choice.changed else "explored" if choice.changed else "as the ladder"
    return ladder.Choice(choice.arm, choice.propensity, why, choice.as_dict())
