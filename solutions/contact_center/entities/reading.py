"""A text as the extractors read it: one form for what is the same to a reader, with the way back to the original.

`shared.text.features.normalise` gives the form (NFKC, lower case, nothing invisible); here every character of it also
knows which characters of the original it came from, so that a span found in the one is a span of the other. Spaces
keep their number: only the kind of white space is made the same.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from shared.text import features

MAX_CHARACTERS = 10_000
"""Of a text; what comes after is not searched for entities. (Masking reads every character.)"""

_WHITE = re.compile(r"\s")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")


@dataclass(frozen=True)
class Reading:
    """The normalised `text`; its character i came from characters `starts[i]` to `ends[i]` of the original."""

    text: str
    starts: tuple[int, ...] | range
    ends: tuple[int, ...] | range

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original from which characters `start` to `end` (at least one) came."""
        return self.starts[start], self.ends[end - 1]

    def squeezed(self) -> Reading:
        """The same without any white space."""
        kept = [i for i, character in enumerate(self.text) if character != " "]
        if len(kept) == len(self.text):
            return self
        return Reading(
            "".join(self.text[i] for i in kept),
            tuple(self.starts[i] for i in kept),
            tuple(self.ends[i] for i in kept),
        )


def read(text: str, limit: int | None = MAX_CHARACTERS) -> Reading:
    """Normalise the first `limit` characters of a text (None: all of it); never fails, on any string."""
    text = text if limit is None else text[:limit]
    if unicodedata.is_normalized("NFKC", text) and not features.INVISIBLE.search(text):
        folded = text.casefold()
        if len(folded) == len(text):  # folding never shortens a character: each is one
            return Reading(_WHITE.sub(" ", folded), range(len(text)), range(1, len(text) + 1))
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    begin = 0
    for place in range(1, len(text) + 1):
        if place < len(text) and not _begins(text[place]):
            continue
        part = _folded(text[begin:place])
        parts.append(part)
        starts += [begin] * len(part)
        ends += [place] * len(part)
        begin = place
    return Reading("".join(parts), tuple(starts), tuple(ends))


@lru_cache(maxsize=4096)
def _folded(cluster: str) -> str:
    plain = features.INVISIBLE.sub("", unicodedata.normalize("NFKC", cluster)).casefold()
    return _WHITE.sub(" ", plain)


@lru_cache(maxsize=4096)
def _begins(character: str) -> bool:
    """Whether normalising never joins this character to the one before it."""
    first = unicodedata.normalize("NFKC", character)[0]
    joins = "\u1160" <= first <= "\u11ff"  # vowels and finals of decomposed Hangul
    return not joins and not unicodedata.category(first).startswith("M")


def has_hangul(text: str) -> bool:
    """Whether a text holds any composed Hangul syllable."""
    return _HANGUL.search(text) is not None
