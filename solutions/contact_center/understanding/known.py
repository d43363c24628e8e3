"""Sentences whose meaning a person wrote down: where a customer says one of them, nothing has to be guessed.

A model that was chosen for sentences it never saw may be unsure of its own examples, and a bot that answers "did you
mean …?" to the very words in its folder looks broken; so does one that forgets what a reviewer corrected yesterday.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.text.features import normalise


class Known:
    """Sentences and what they mean, compared by their letters and digits: not by case, spaces or punctuation."""

    def __init__(self, sentences: Iterable[tuple[str, str]]) -> None:
        """
        Args:
            sentences: each with its label; one that stands under two labels is left to the model.
        """
        labels: dict[str, set[str]] = {}
        for text, label in sentences:
            labels.setdefault(_letters(text), set()).add(label)
        labels.pop("", None)
        self._labels = {letters: next(iter(found)) for letters, found in labels.items() if len(found) == 1}

    def label(self, text: str) -> str | None:
        """What a sentence is known to mean; None where it is not known."""
        return self._labels.get(_letters(text))


def _letters(text: str) -> str:
    return "".join(character for character in normalise(text) if character.isalnum())
