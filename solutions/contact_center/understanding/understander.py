"""From a message to everything that the dialogue needs to know about it. Pure but for the clock that it is given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from shared.package import Package
from solutions.contact_center.config import OOS, Bot
from solutions.contact_center.entities import Entity, Extractor
from solutions.contact_center.understanding.known import Known
from solutions.contact_center.understanding.model import FAQ, Answer, Classifier
from solutions.contact_center.understanding.parts import splits
from solutions.contact_center.understanding.questions import FaqHit, Questions

BOT_ASSET = "bot.json"
ENTITIES_ASSET = "entities.json"
SHOWN = 5
"""Intents in an `Understanding` at most."""
SURE = 0.99
"""Probability of what the bot's own folder says in so many words."""


@dataclass(frozen=True)
class IntentScore:
    """An intent and the probability that it is meant."""

    name: str
    confidence: float
    """Calibrated: of the messages with 0.8, four in five mean it, if they are in scope at all."""


@dataclass(frozen=True)
class Thresholds:
    """Probabilities from which the bot answers, asks "did you mean", and takes a message as in scope."""

    answer: float
    confirm: float
    scope: float


@dataclass(frozen=True)
class Understanding:
    """What was understood of one message."""

    text: str
    intents: tuple[IntentScore, ...]
    """Best first, five at most."""
    scope: float
    """P(in scope), calibrated."""
    scope_score: float
    """The same before calibration; higher is more surely in scope."""
    faqs: tuple[FaqHit, ...] = ()
    entities: tuple[Entity, ...] = ()
    parts: tuple[Understanding, ...] = ()
    """Where the message asks for several things: each of them; empty where it is one."""


class Understander:
    """Understands the messages of one bot. Thread-safe."""

    def __init__(
        self, classifier: Classifier, bot: Bot | None, thresholds: Thresholds, weights: dict[str, Any] | None = None
    ) -> None:
        """
        Args:
            bot: None for a package that was trained from a table: it knows intents and nothing else.
            weights: of learned entities.
        """
        self.classifier, self.bot, self.thresholds, self.weights = classifier, bot, thresholds, weights
        self._known = Known(_sentences(bot))
        self._extractor = None if bot is None else Extractor.of_bot(bot, weights=weights)
        self._questions = None
        if bot is not None and bot.faqs:
            asked = {name: faq.questions for name, faq in bot.faqs.items()}
            self._questions = Questions(asked, "ko" in bot.settings.languages, classifier)
        self._intents = np.array([not label.startswith(FAQ) for label in classifier.labels])

    @classmethod
    def load(cls, package: Package | Path | str, threads: int = 1) -> Understander:
        """The understander of a package.

        Args:
            threads: that one message may use.

        Raises:
            PackageRefused: the package fails verification or its self-test.
            BadInput: it is not a bot's.
        """
        classifier = Classifier(package, threads)
        opened = classifier.package
        bot = Bot.from_dict(json.loads(opened.asset(BOT_ASSET))) if BOT_ASSET in opened.assets else None
        weights = json.loads(opened.asset(ENTITIES_ASSET)) if ENTITIES_ASSET in opened.assets else None
        told = {name: threshold.value for name, threshold in opened.manifest.thresholds.items()}
        thresholds = Thresholds(told["answer"], told["confirm"], told["scope"])
        return cls(classifier, bot, thresholds, weights)

    def understand(self, text: str, now: datetime) -> Understanding:
        """What a message means.

        Args:
            now: aware; "tomorrow" is counted from it.
        """
        whole = self._one(text, now)
        for left, right in splits(text):
            first = self._one(left, now)
            if not self._sure(first):
                continue
            second = self._one(right, now)
            if self._sure(second) and _best(first)[0] != _best(second)[0]:
                return replace(whole, parts=(first, second))
        return whole

    def _one(self, text: str, now: datetime) -> Understanding:
        answer = self._certain(text, self.classifier.ask(text))
        return Understanding(
            text=text,
            intents=self._ranked(answer),
            scope=answer.scope,
            scope_score=answer.scope_score,
            faqs=self._asked(text, answer),
            entities=() if self._extractor is None else tuple(self._extractor.extract(text, now)),
        )

    def _certain(self, text: str, answer: Answer) -> Answer:
        """The answer, made sure where the message is word for word one of the bot's own sentences."""
        label = self._known.label(text)
        if label == OOS:
            return replace(answer, scope=min(answer.scope, 1 - SURE))
        if label is None or label not in self.classifier.labels:
            return answer
        row = self.classifier.labels.index(label)
        before = float(answer.probabilities[row])
        if before >= SURE and answer.scope >= SURE:
            return answer
        probabilities = answer.probabilities * ((1 - SURE) / max(1 - before, 1e-9))
        probabilities[row] = SURE
        return replace(answer, probabilities=probabilities, scope=max(answer.scope, SURE))

    def _ranked(self, answer: Answer) -> tuple[IntentScore, ...]:
        order = [row for row in np.argsort(-answer.probabilities, kind="stable") if self._intents[row]][:SHOWN]
        return tuple(IntentScore(self.classifier.labels[row], float(answer.probabilities[row])) for row in order)

    def _asked(self, text: str, answer: Answer) -> tuple[FaqHit, ...]:
        if self._questions is None:
            return ()
        pairs = zip(self.classifier.labels, answer.probabilities, strict=True)
        confidences = {label.removeprefix(FAQ): float(value) for label, value in pairs if label.startswith(FAQ)}
        return self._questions.find(text, answer, confidences)

    def _sure(self, side: Understanding) -> bool:
        """Whether a part of a message is a wish by itself."""
        return _best(side)[1] >= self.thresholds.answer and side.scope >= self.thresholds.scope


def _sentences(bot: Bot | None) -> Iterator[tuple[str, str]]:
    """The sentences of a bot, each with the label that it stands for."""
    if bot is None:
        return
    for name, intent in bot.intents.items():
        yield from ((example.text, name) for example in intent.examples)
    for name, faq in bot.faqs.items():
        yield from ((question, FAQ + name) for question in faq.questions)


def _best(side: Understanding) -> tuple[str, float]:
    """The likeliest intent or question."""
    found = [(each.name, each.confidence) for each in side.intents[:1]]
    found += [(FAQ + each.name, each.confidence) for each in sorted(side.faqs, key=lambda hit: -hit.confidence)[:1]]
    return max(found, key=lambda pair: pair[1])
