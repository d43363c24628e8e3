"""The ladder: answer, confirm, choose between two, ask again, hand over; which rung, from what was understood.

Confidences are calibrated probabilities, so the thresholds are prices: they were chosen at training for the least cost
of wrong answers, clarifications and hand-overs (or are written in `bot.yaml`). A learned policy may move one rung up or
down within `allowed`, never to an answer that the thresholds do not even let the bot ask about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from solutions.contact_center.config import OOS, RESERVED_INTENTS, Bot

if TYPE_CHECKING:
    from solutions.contact_center.understanding import Understanding

ANSWER, CONFIRM, CHOOSE, ASK_AGAIN, HAND_OVER = "answer", "confirm", "choose", "ask_again", "hand_over"
DEFAULT_ANSWER, DEFAULT_CONFIRM, DEFAULT_SCOPE = 0.7, 0.35, 0.5
"""Where neither the bot nor the package names thresholds."""
SAME_QUESTION = 0.95
"""A stored question this similar is the question, whatever the scope score says."""
BESIDE = 0.2
"""A wish this probable is what the message is about, and the greeting in it a greeting."""
MOST_LOST = 0.8
"""Share that may be taken from what is no wish: a wish is not made sure by leaving everything else out."""
_NO_WISH = frozenset({"affirm", "deny", "cancel", "correct", "back", "skip", "insult"})
"""Reserved intents that mean nothing outside of a flow, or are met by `patience` where they are plain."""
_POLITE = frozenset({"greet", "thank"})


class ThresholdsLike(Protocol):
    """Probabilities from which the bot answers, asks "did you mean", takes a text as in scope."""

    @property
    def answer(self) -> float | None: ...
    @property
    def confirm(self) -> float | None: ...
    @property
    def scope(self) -> float | None: ...


@dataclass(frozen=True)
class Limits:
    """The thresholds in force."""

    answer: float
    confirm: float
    scope: float

    @staticmethod
    def of(bot: Bot, trained: ThresholdsLike | None) -> Limits:
        """What `bot.yaml` says, else what training chose, else the defaults."""
        written = bot.settings.thresholds

        def pick(name: str, default: float) -> float:
            for source in (written, trained):
                value = getattr(source, name, None)
                if value is not None:
                    return float(value)
            return default

        return Limits(pick("answer", DEFAULT_ANSWER), pick("confirm", DEFAULT_CONFIRM), pick("scope", DEFAULT_SCOPE))


@dataclass(frozen=True)
class Option:
    """Something that the user may have meant."""

    kind: str
    """`intent` or `faq`."""
    name: str
    confidence: float


@dataclass(frozen=True)
class Choice:
    """What a learned policy chose, for the event: how probable the choice was, and why in a few words."""

    rung: str
    """Or the variant's number as text."""
    probability: float
    why: str
    logged: Mapping[str, object] = field(default_factory=dict)
    """What the policy needs to know of this choice when it learns from it; JSON."""


class Policy(Protocol):
    """A learned policy. It is asked, never obeyed beyond `allowed`."""

    def choose_rung(self, context: Mapping[str, float], allowed: Sequence[str], default: str) -> Choice:
        """One of `allowed`."""

    def choose_variant(self, response: str, count: int, context: Mapping[str, float]) -> Choice | None:
        """A variant from 0, or None to leave it to chance."""


@dataclass(frozen=True)
class Decision:
    """The rung, and what it is about."""

    rung: str
    options: tuple[Option, ...]
    """Best first: the one to answer or confirm, the two to choose from."""
    reason: str
    """`confident`, `unsure`, `two_alike`, `out_of_scope`, `unclear`, `too_often`."""
    scope: float
    choice: Choice | None = None
    """What a learned policy chose, where it was asked."""
    default: str = ""
    """The rung that the thresholds alone would have taken."""

    def as_dict(self) -> dict[str, object]:
        """As an event keeps it."""
        best = self.options[0] if self.options else Option("", "", 0.0)
        kept: dict[str, object] = {
            "rung": self.rung,
            "kind": best.kind,
            "name": best.name,
            "confidence": best.confidence,
            "second": self.options[1].name if len(self.options) > 1 else "",
            "scope": self.scope,
            "reason": self.reason,
        }
        if self.choice is not None:
            kept |= {"probability": self.choice.probability, "why": self.choice.why, "default": self.default}
            kept["policy"] = dict(self.choice.logged)
        return kept


def options_of(understood: Understanding, bot: Bot) -> tuple[Option, ...]:
    """Intents and questions together, best first; each name once, `oos` never."""
    found: dict[tuple[str, str], float] = {}
    for intent in understood.intents:
        if intent.name != OOS:
            kind = "faq" if intent.name in bot.faqs and intent.name not in bot.intents else "intent"
            key = (kind, intent.name)
            found[key] = max(found.get(key, 0.0), intent.confidence)
    for hit in understood.faqs:
        key = ("faq", hit.name)
        found[key] = max(found.get(key, 0.0), hit.confidence)
    ranked = sorted(_wishes(found), key=lambda item: (-item[1], item[0]))
    return tuple(Option(kind, name, share) for (kind, name), share in ranked)


def _wishes(found: Mapping[tuple[str, str], float]) -> list[tuple[tuple[str, str], float]]:
    """Without what is no wish: a yes or a curse never is one, a greeting not beside one. Their share is the others'."""
    best = max((share for (_, name), share in found.items() if name not in RESERVED_INTENTS), default=0.0)
    left_out = _NO_WISH | (_POLITE if best >= BESIDE else frozenset())
    kept = [(key, share) for key, share in found.items() if key[1] not in left_out]
    lost = min(sum(share for key, share in found.items() if key[1] in left_out), MOST_LOST)
    return [(key, min(1.0, share / (1 - lost))) for key, share in kept]


def in_scope(understood: Understanding, limits: Limits) -> bool:
    """Whether the text is the bot's business at all."""
    same = bool(understood.faqs) and understood.faqs[0].similarity >= SAME_QUESTION
    return understood.scope >= limits.scope or same


def decide(
    understood: Understanding,
    bot: Bot,
    limits: Limits,
    clarifications: int,
    policy: Policy | None = None,
    context: Mapping[str, float] | None = None,
) -> Decision:
    """The rung for one message (or one part of it) outside of a flow.

    Args:
        clarifications: how often in a row the bot has asked already; at `max_clarifications` it asks no more.
    """
    options = options_of(understood, bot)
    rung, reason = _by_thresholds(understood, options, limits)
    default, choice = rung, None
    patient = clarifications < bot.settings.policies.max_clarifications
    if policy is not None and reason != "out_of_scope" and patient:
        best = options[0].confidence if options else 0.0
        second = options[1].confidence if len(options) > 1 else 0.0
        seen = {"confidence": best, "margin": best - second, "scope": understood.scope, "asked": float(clarifications)}
        allowed = _allowed(rung, options, limits, people=bot.settings.policies.hand_over)
        choice = policy.choose_rung({**seen, **(context or {})}, allowed, rung)
        if choice.rung in allowed:
            rung = choice.rung
        else:  # a conversation goes on without its advice
            choice = None
    if rung != ANSWER and not patient:
        rung, reason = HAND_OVER, "too_often"
    shown = {ANSWER: 2, CONFIRM: 1, CHOOSE: 2}.get(rung, len(options))
    return Decision(rung, options[:shown], reason, understood.scope, choice, default)


def _by_thresholds(understood: Understanding, options: Sequence[Option], limits: Limits) -> tuple[str, str]:
    if not options:
        return ASK_AGAIN, "unclear"
    if not in_scope(understood, limits):
        return ASK_AGAIN, "out_of_scope"
    best = options[0].confidence
    second = options[1].confidence if len(options) > 1 else 0.0
    if best >= limits.answer:
        return ANSWER, "confident"
    # two that together are as sure as an answer, and neither much surer than the other
    if second >= limits.confirm / 2 and best + second >= limits.confirm and best < 2 * second:
        return CHOOSE, "two_alike"
    if best >= limits.confirm:
        return CONFIRM, "unsure"
    return ASK_AGAIN, "unclear"


def _allowed(rung: str, options: Sequence[Option], limits: Limits, *, people: bool) -> tuple[str, ...]:
    """The rung and those beside it that make sense here; a hand-over only where there are people."""
    if not options:
        return (rung,)
    sure_enough = options[0].confidence >= limits.confirm
    possible = [ANSWER, CONFIRM] if sure_enough else [CONFIRM]
    if len(options) > 1:
        possible.append(CHOOSE)
    possible.append(ASK_AGAIN)
    if people:
        possible.append(HAND_OVER)
    if rung not in possible:
        return (rung,)
    at = possible.index(rung)
    return tuple(possible[max(0, at - 1) : at + 2])
