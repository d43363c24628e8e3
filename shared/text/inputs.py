"""Sentences → the inputs of a text package, whatever it reads: tokens, n-grams, or both. No torch.

A manifest says so in `preprocessing`, in one or both of

    tokens: {asset: tokenizer.json, max_length: 64}     inputs input_ids, attention_mask
    ngrams: {bits: 15, characters: [2, 5], ...}         inputs ngram_ids, ngram_counts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.manifest import Manifest, TensorSpec
from shared.text import features, tokenise
from shared.text.features import Features
from shared.text.tokenise import Tokeniser

TOKENS, NGRAMS = "tokens", "ngrams"
TOKEN_SPECS = [
    TensorSpec(name="input_ids", datatype="INT64", shape=[-1, -1]),
    TensorSpec(name="attention_mask", datatype="INT64", shape=[-1, -1]),
]
NGRAM_SPECS = [
    TensorSpec(name="ngram_ids", datatype="INT64", shape=[-1, -1]),
    TensorSpec(name="ngram_counts", datatype="FP32", shape=[-1, -1]),
]
Inputs = dict[str, NDArray[Any]]


class TextInputs:
    """Makes the inputs of one package. Thread-safe."""

    def __init__(self, tokeniser: Tokeniser | None, ngrams: Features | None) -> None:
        self.tokeniser, self.ngrams = tokeniser, ngrams

    @classmethod
    def of(cls, manifest: Manifest, assets: Mapping[str, bytes]) -> TextInputs:
        """As a manifest says.

        Args:
            assets: the package's, by name below `assets/`.

        Raises:
            BadInput: it is no text package, or its tokeniser is missing.
        """
        told = manifest.preprocessing
        tokeniser = None
        if TOKENS in told:
            raw = told[TOKENS]
            if not isinstance(raw, dict) or not isinstance(raw.get("max_length"), int):
                raise BadInput(
                    f"the manifest of {manifest.name}: preprocessing.{TOKENS} must have asset and max_length."
                )
            tokeniser = tokenise.from_assets(assets, str(raw.get("asset", tokenise.ASSET)), raw["max_length"])
        ngrams = Features.from_dict(told[NGRAMS]) if NGRAMS in told else None
        if tokeniser is None and ngrams is None:
            raise BadInput(
                f"package {manifest.name} does not take sentences: its manifest has neither preprocessing.{TOKENS} nor "
                f"preprocessing.{NGRAMS}; use a text package."
            )
        return cls(tokeniser, ngrams)

    def __call__(self, texts: Sequence[str]) -> Inputs:
        """The inputs of these sentences as one batch."""
        inputs = self.tokeniser(texts) if self.tokeniser else {}
        if self.ngrams:
            inputs["ngram_ids"], inputs["ngram_counts"] = features.batch(texts, self.ngrams)
        return inputs

    def batches(self, texts: Sequence[str], size: int) -> Iterator[tuple[list[int], Inputs]]:
        """All sentences in batches of like length, each with the indices that it is made of."""
        if self.tokeniser is None:
            for start in range(0, len(texts), size):
                rows = list(range(start, min(start + size, len(texts))))
                yield rows, self([texts[row] for row in rows])
            return
        ids = self.tokeniser.ids(texts)
        for rows in tokenise.alike([len(row) for row in ids], size):
            inputs = self.tokeniser.padded([ids[row] for row in rows])
            if self.ngrams:
                inputs["ngram_ids"], inputs["ngram_counts"] = features.batch([texts[row] for row in rows], self.ngrams)
            yield rows, inputs

    def specs(self) -> list[TensorSpec]:
        """For a manifest."""
        return (TOKEN_SPECS if self.tokeniser else []) + (NGRAM_SPECS if self.ngrams else [])

    def preprocessing(self) -> dict[str, Any]:
        """For a manifest."""
        told: dict[str, Any] = {}
        if self.tokeniser:
            told[TOKENS] = {"asset": tokenise.ASSET, "max_length": self.tokeniser.max_length}
        if self.ngrams:
            told[NGRAMS] = self.ngrams.as_dict()
        return told


def gathered(answers: Iterator[tuple[list[int], NDArray[Any]]], count: int) -> NDArray[Any]:
    """The rows of batches [n, ...] put back into their order [count, ...]."""
    found: NDArray[Any] | None = None
    for rows, values in answers:
        if found is None:
            found = np.empty((count, *values.shape[1:]), dtype=values.dtype)
        found[rows] = values
    if found is None:
        raise BadInput("there are no sentences; give one or more.")
    return found
