"""Which stored sentence says the same? Cosine of tf-idf vectors over several kinds of n-gram, without any training.

Each kind of n-gram makes a vector of unit length of its own, with a weight, so that the many characters of a sentence
do not drown its few content words. Postings are kept by n-gram: a query reads only those of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.text import morphemes
from shared.text.features import Features, extract


@dataclass(frozen=True)
class Kind:
    """One kind of n-gram and its weight."""

    features: Features
    weight: float


def kinds(*, korean: bool) -> tuple[Kind, ...]:
    """What sentences are compared by.

    Args:
        korean: whether Korean is among the stored sentences; its content words are used where Kiwi is installed.
    """
    none = Features(bits=20, characters=(0, 0), words=(0, 0), jamo=(0, 0))
    if korean and morphemes.available():
        return (
            Kind(replace(none, stems=(1, 2)), 1.0),
            Kind(replace(none, morphemes=(1, 1)), 1.0),
            Kind(replace(none, characters=(1, 2)), 0.5),
        )
    if korean:
        return (Kind(replace(none, characters=(1, 2)), 1.0), Kind(replace(none, jamo=(2, 5)), 0.5))
    return (Kind(replace(none, words=(1, 1)), 1.0), Kind(replace(none, characters=(2, 4)), 0.7))


_RARITY = 0.7
"""Exponent of the idf: rare words of a short question count for less than they do in a search for documents."""


class Retriever:
    """Finds the nearest of the stored sentences. Thread-safe once made."""

    def __init__(self, sentences: Sequence[str], kinds: Sequence[Kind]) -> None:
        self.sentences = list(sentences)
        self._kinds = tuple(kinds)
        self._tables = [_Table([extract(text, kind.features) for text in sentences]) for kind in self._kinds]
        self._total = float(sum(kind.weight**2 for kind in self._kinds))

    def similarities(self, text: str) -> NDArray[np.float32]:
        """[N] 0 to 1 for each stored sentence; 1: the same n-grams."""
        found = np.zeros(len(self.sentences), dtype=np.float64)
        for kind, table in zip(self._kinds, self._tables, strict=True):
            found += kind.weight**2 * table.cosines(*extract(text, kind.features))
        return (found / self._total).astype(np.float32)


class _Table:
    """Postings of one kind of n-gram."""

    def __init__(self, rows: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> None:
        self._count = len(rows)
        ids = np.concatenate([row[0] for row in rows]) if rows else np.zeros(0, dtype=np.int64)
        counts = np.concatenate([row[1] for row in rows]) if rows else np.zeros(0, dtype=np.float32)
        owners = np.repeat(np.arange(self._count), [len(row[0]) for row in rows])
        self._known, places, occurs = np.unique(ids, return_inverse=True, return_counts=True)
        self._idf = (np.log((1 + self._count) / (1 + occurs)) + 1) ** _RARITY
        self._unseen = (np.log(1 + self._count) + 1) ** _RARITY
        values = (1 + np.log(counts)) * self._idf[places]
        lengths = np.sqrt(np.bincount(owners, weights=values**2, minlength=self._count))
        order = np.argsort(places, kind="stable")
        self._owners = owners[order]
        self._values = (values / np.maximum(lengths[owners], 1e-12))[order]
        self._starts = np.concatenate([[0], np.cumsum(occurs)])

    def cosines(self, ids: NDArray[np.int64], counts: NDArray[np.float32]) -> NDArray[np.float64]:
        """[N]"""
        places = np.searchsorted(self._known, ids)
        known = places < len(self._known)
        known[known] = self._known[places[known]] == ids[known]
        idf = np.full(len(ids), self._unseen)
        idf[known] = self._idf[places[known]]
        values = (1 + np.log(counts)) * idf
        length = float(np.sqrt(np.sum(values**2)))
        if not known.any() or length == 0:
            return np.zeros(self._count)
        chosen = places[known]
        spans = [slice(self._starts[place], self._starts[place + 1]) for place in chosen]
        owners = np.concatenate([self._owners[span] for span in spans])
        parts = np.concatenate(
            [self._values[span] * value for span, value in zip(spans, values[known] / length, strict=True)]
        )
        return np.bincount(owners, weights=parts, minlength=self._count).astype(np.float64)
