"""The bot's frequent questions, found by meaning rather than by word.

How alike a message is to a stored question is said twice over: `similarity` by words and characters (and embeddings,
where there is an encoder), for "did you mean"; `confidence` by the classifier, which knows each question as a class
beside the intents, so that both compete for the same probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.text.features import normalise
from shared.text.retrieval import Retriever, kinds
from solutions.contact_center.understanding.model import Answer, Classifier

SHOWN = 5
_EMBEDDING_SHARE = 0.5
"""Of the similarity, where there is an encoder."""


@dataclass(frozen=True)
class FaqHit:
    """A frequent question that a message may ask."""

    name: str
    similarity: float
    """0 to 1 with the nearest of its stored questions."""
    confidence: float
    """Probability that it is meant, calibrated with those of the intents."""
    question: str
    """The nearest of its stored questions."""


class Questions:
    """All questions of one bot."""

    def __init__(self, asked: Mapping[str, Sequence[str]], korean: bool, classifier: Classifier) -> None:
        """
        Args:
            asked: name of each question → ways of asking it.
        """
        pairs = [(name, text) for name, texts in asked.items() for text in texts]
        self._names = [name for name, _ in pairs]
        self._retriever = Retriever([text for _, text in pairs], kinds(korean=korean))
        self._same = {normalise(text): row for row, (_, text) in reversed(list(enumerate(pairs)))}
        self._embeddings = classifier.embed([text for _, text in pairs])

    def find(self, text: str, answer: Answer, confidences: Mapping[str, float]) -> tuple[FaqHit, ...]:
        """The likeliest questions, best first."""
        if not self._names:
            return ()
        similarities = self._similarities(text, answer)
        best: dict[str, int] = {}
        for row in np.argsort(-similarities, kind="stable"):
            best.setdefault(self._names[row], int(row))
        hits = [
            FaqHit(name, round(float(similarities[row]), 4), confidences.get(name, 0.0), self._retriever.sentences[row])
            for name, row in best.items()
        ]
        hits.sort(key=lambda hit: -(hit.similarity + hit.confidence))
        return tuple(hits[:SHOWN])

    def _similarities(self, text: str, answer: Answer) -> NDArray[np.float32]:
        found = self._retriever.similarities(text)
        if self._embeddings is not None and answer.embedding is not None:
            cosine = np.clip(self._embeddings @ answer.embedding, 0, 1)
            found = (1 - _EMBEDDING_SHARE) * found + _EMBEDDING_SHARE * cosine
        same = self._same.get(normalise(text))
        if same is not None:
            found = found.copy()
            found[same] = 1.0
        return found
