"""Hashed n-grams of a sentence: what the light linear models read. No vocabulary, and without
morphemes no language model: well under 1 ms.

Four kinds of n-gram, each with its own hash seed so that they do not meet:

- characters, with a space at either end: they forgive typing errors and word endings;
- words: what was said in so many words;
- jamo, the letters that Hangul syllables are made of: `할게` and `할께` differ in one of six;
- morphemes, if asked for: Korean content words by Kiwi (`shared.text.morphemes`).

Korean is written with spaces, without, or with some in the wrong places. So spaces between Hangul syllables are left
out before characters and jamo are taken: `비밀번호 변경` and `비밀번호변경` are then the same. What differs by form
alone (half-width letters, full-width digits, composed and decomposed Hangul, case) is made the same first, by NFKC.

The same code makes the features in training and at run time; the graph of a package takes its ids and counts.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.text import morphemes as kiwi

Ids = NDArray[np.int64]
Counts = NDArray[np.float32]

MAX_CHARACTERS = 1000
"""Of a sentence; what comes after is not read."""

_BETWEEN_HANGUL = re.compile(r"(?<=[\uac00-\ud7a3]) (?=[\uac00-\ud7a3])")
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff\ufe00-\ufe0f]")
_WORD = re.compile(r"[\w']+|[^\w\s]")
_FIRST_SYLLABLE, _SYLLABLES = 0xAC00, 11172
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_CHARACTERS, _WORDS, _JAMO, _MORPHEMES, _STEMS, _FORMS, _TAGS = 1, 2, 3, 4, 5, 6, 7
_HANGUL = re.compile(r"[\uac00-\ud7a3]")


@dataclass(frozen=True)
class Features:
    """Which n-grams are taken, from the shortest to the longest of a kind; (0, 0): none of it."""

    bits: int = 15
    """Ids are below 2^bits. 15 costs no accuracy on 150 intents against 18, and a table an eighth the size."""
    characters: tuple[int, int] = (2, 5)
    words: tuple[int, int] = (1, 2)
    jamo: tuple[int, int] = (3, 6)
    morphemes: tuple[int, int] = (0, 0)
    """Of content words in Korean text; needs the extra `korean`."""
    stems: tuple[int, int] = (0, 0)
    """Of the characters inside each content word; needs it too."""
    forms: tuple[int, int] = (0, 0)
    """Of all morphemes with their tags, endings and both ends of the sentence included; needs it too."""
    tags: tuple[int, int] = (0, 0)
    """The same of the tags alone: how a sentence is built."""

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 24:
            raise BadInput(f"bits of the text features must be 8 to 24, not {self.bits}.")
        for kind in ("characters", "words", "jamo", "morphemes", "stems", "forms", "tags"):
            low, high = getattr(self, kind)
            if not (low == high == 0 or 1 <= low <= high <= 8):
                raise BadInput(f"{kind} of the text features must be two lengths, 1 to 8, such as [2, 5]; or [0, 0].")

    @classmethod
    def from_dict(cls, raw: Any) -> Features:
        """As read from a manifest or a configuration; BadInput if it is not one."""
        known = {field.name for field in fields(cls)}
        if not isinstance(raw, dict) or not raw.keys() <= known:
            raise BadInput(f"text features are described by {', '.join(sorted(known))}, not by {raw!r}.")
        try:
            values = {key: int(value) if key == "bits" else _pair(value) for key, value in raw.items()}
        except (TypeError, ValueError) as error:
            raise BadInput(f"text features: {raw!r} holds something that is no number ({error}).") from error
        return cls(**values)  # type: ignore[arg-type]

    @property
    def needs_kiwi(self) -> bool:
        """Whether a Korean sentence must be cut into morphemes."""
        return any(kind[1] for kind in (self.morphemes, self.stems, self.forms, self.tags))

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _pair(value: Any) -> tuple[int, int]:
    low, high = value
    return int(low), int(high)


def normalise(text: str) -> str:
    """One form for what is the same to a reader: NFKC, lower case, single spaces, nothing invisible.

    >>> normalise("  ＨＥＬＬＯ\\tﾜｰﾙﾄﾞ ")
    'hello ワールド'
    """
    text = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS])
    return " ".join(INVISIBLE.sub("", text).casefold().split())


def extract(text: str, features: Features) -> tuple[Ids, Counts]:
    """The features of one sentence.

    Returns:
        ids [L] in rising order, 0 to 2^bits - 1, and how often each occurs [L], 1 or more. L is 0 where there is
        nothing to read.
    """
    text = normalise(text)
    hashes = []
    if features.words[1]:
        hashes += _ngrams(_hashed(_WORD.findall(text)), features.words, _WORDS)
    if features.needs_kiwi and _HANGUL.search(text):
        hashes += _of_morphemes(text, features)
    joined = _BETWEEN_HANGUL.sub("", text)
    if features.characters[1] and joined:
        hashes += _ngrams(_codes(f" {joined} "), features.characters, _CHARACTERS)
    if features.jamo[1]:
        hashes += _ngrams(_jamo(_codes(joined)), features.jamo, _JAMO)
    if not hashes:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    ids, counts = np.unique(_mixed(np.concatenate(hashes)) >> np.uint64(64 - features.bits), return_counts=True)
    return ids.astype(np.int64), counts.astype(np.float32)


def batch(texts: Sequence[str], features: Features) -> tuple[Ids, Counts]:
    """The features of several sentences side by side, filled up with id 0 and count 0.

    Returns:
        ids [N, L] and counts [N, L]; L is at least 1.
    """
    found = [extract(text, features) for text in texts]
    length = max([1, *(len(ids) for ids, _ in found)])
    ids = np.zeros((len(found), length), dtype=np.int64)
    counts = np.zeros((len(found), length), dtype=np.float32)
    for row, (its_ids, its_counts) in enumerate(found):
        ids[row, : len(its_ids)] = its_ids
        counts[row, : len(its_counts)] = its_counts
    return ids, counts


def _of_morphemes(text: str, features: Features) -> list[NDArray[np.uint64]]:
    found = []
    pairs = kiwi.tagged(text)
    content = [pair for pair in pairs if kiwi.is_content(pair[1])]
    if features.morphemes[1]:
        found += _ngrams(_hashed([f"{form}/{tag[0]}" for form, tag in content]), features.morphemes, _MORPHEMES)
    if features.stems[1]:
        for form, _ in content:
            found += _ngrams(_codes(form), features.stems, _STEMS)
    ends = ("^", "$")
    if features.forms[1]:
        forms = [ends[0], *(f"{form}/{tag}" for form, tag in pairs), ends[1]]
        found += _ngrams(_hashed(forms), features.forms, _FORMS)
    if features.tags[1]:
        found += _ngrams(_hashed([ends[0], *(tag for _, tag in pairs), ends[1]]), features.tags, _TAGS)
    return found


def _hashed(words: Sequence[str]) -> NDArray[np.uint64]:
    return np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype=np.uint64)


def _codes(text: str) -> NDArray[np.uint64]:
    """Code points, lone surrogates (from broken UTF-16) included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)


def _jamo(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The letters of the Hangul syllables, in order, everything else left out; Unicode 15.0, section 3.12."""
    syllables = codes - np.uint64(_FIRST_SYLLABLE)  # others wrap around to large numbers
    syllables = syllables[syllables < _SYLLABLES]
    initial, rest = np.divmod(syllables, np.uint64(588))
    medial, final = np.divmod(rest, np.uint64(28))
    letters = np.stack([initial + np.uint64(1), medial + np.uint64(32), final + np.uint64(64)], axis=1).ravel()
    return letters[letters != 64]  # 64: no final consonant


def _ngrams(items: NDArray[np.uint64], lengths: tuple[int, int], kind: int) -> list[NDArray[np.uint64]]:
    """Hashes of all n-grams of these lengths, still to be mixed: polynomials over the items."""
    found = []
    scattered = _mixed(items + np.uint64(1))
    rolling = scattered
    for length in range(1, min(lengths[1], len(items)) + 1):
        if length > 1:
            rolling = rolling[:-1] * _PRIME + scattered[length - 1 :]
        if length >= lengths[0]:
            found.append(rolling + np.uint64(kind << 8 | length))
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the input changes every bit of the output (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
