"""Entities by their values: `5G 스탠다드` and its synonyms, in any spelling of spaces and with slips of the finger.

Three searches, each over the text without its spaces:

1. exact, in a tree of characters: one walk from every place where a value may begin;
2. by sound, in a tree of jamo in which letters that are often confused are one (ㅐ ㅔ, ㅚ ㅙ ㅞ, plain and tense
   consonants);
3. by edit distance on jamo and letters: 1 slip from 7 letters on, 2 from 12, 3 from 20. A value cut into one piece more
   than it may have slips has a piece without any, so candidates are found by their pieces, each near its place in the
   value; texts over 400 characters are not searched this way.

A value may begin inside a run of Hangul only if it has three syllables or more (`내요금제스탠다드`); two syllables
need a word boundary before them and a boundary or a particle behind (`사과를`, not `사과문`), Latin letters and
digits boundaries on both sides. Of overlapping values the longest wins, less what had to be forgiven.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from shared.text import features
from solutions.contact_center import korean
from solutions.contact_center.entities.reading import Reading

MAX_FUZZY_CHARACTERS = 400
_SQUEEZE = re.compile(r"[\s\-_·.,/'\"()]+")
_END = ""
_ALIKE = str.maketrans("ㅔㅖㅙㅞㄲㄸㅃㅆㅉ", "ㅐㅒㅚㅚㄱㄷㅂㅅㅈ")
_FOLLOWS = re.compile(
    r"은|는|이|가|을|를|와|과|로|으로|도|만|에|의|까지|부터|요|예요|이에요|입니|인데|인가|이고|이나|나\b|라|이라|랑|이랑|하고|하|해|했|할|한|"
    r"보다|처럼|밖에|마다|님|씨|용|쪽|점|행|역|꺼|거|걸|께|한테|더러|좀|정도"
)
_PARTICLE_ONLY = re.compile(r"(?:은|는|이|가|을|를|와|과|로|으로|도|만|랑|이랑|하고|이)?(?:요)?(?![가-힣])")
_MAX_PIECE = 8
_MIN_FUZZY = ((20, 3), (12, 2), (7, 1))


def squeeze(text: str) -> str:
    """The form in which values are compared: normalised, without spaces and light punctuation."""
    return _SQUEEZE.sub("", features.normalise(text))


def slips(length: int) -> int:
    """How many letters of so long a value may be wrong."""
    return next((many for least, many in _MIN_FUZZY if length >= least), 0)


def _bits(letters: str) -> dict[str, int]:
    """For each letter the places where it stands, as bits."""
    bits: dict[str, int] = {}
    for place, letter in enumerate(letters):
        bits[letter] = bits.get(letter, 0) | 1 << place
    return bits


def _distances(bits: Mapping[str, int], length: int, text: str) -> Iterator[int]:
    """After each letter of `text` the distance of what was read so far to a value of that `length` (above 0).

    Insertions, deletions, changes and swaps of neighbours count 1 (optimal string alignment). All rows of a column are
    the bits of one number (H. Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit
    distances", 2003).
    """
    full, last = (1 << length) - 1, 1 << (length - 1)
    up, down, diagonal, before, score = full, 0, 0, 0, length
    for letter in text:
        here = bits.get(letter, 0)
        swap = ((~diagonal & here) << 1) & before
        diagonal = ((((here & up) + up) ^ up) | here | down | swap) & full
        right = down | (~(diagonal | up) & full)
        left = diagonal & up
        score += (right & last != 0) - (left & last != 0)
        right = (right << 1 | 1) & full
        up = (left << 1 | ~(diagonal | right)) & full
        down = right & diagonal
        before = here
        yield score


def distance(first: str, second: str) -> int:
    """The number of letters to insert, delete, change or swap with the next, to make one text of the other."""
    if not first or not second:
        return len(first) + len(second)
    *_, score = _distances(_bits(second), len(second), first)
    return score


@dataclass(frozen=True)
class Hit:
    """Characters `start` to `end` of the reading name a value of an entity."""

    entity: str
    start: int
    end: int
    value: str
    confidence: float
    slips: int = 0

    @property
    def weight(self) -> int:
        """Which of overlapping hits wins: the longer, but letters that had to be forgiven count against it."""
        return self.end - self.start - 3 * self.slips


@dataclass(frozen=True)
class _Value:
    entity: str
    canonical: str
    key: str
    jamo: str
    fuzzy: bool
    bits: dict[str, int]


@dataclass(frozen=True)
class _Squeezed:
    """The text without spaces, and where each of its characters stood."""

    text: str
    places: list[int]
    whole: str


class Lists:
    """All list entities of a bot, searched at once."""

    def __init__(self, declared: Iterable[tuple[str, Mapping[str, Iterable[str]], bool]]) -> None:
        """`declared`: name, values (canonical: synonyms) and whether slips are allowed, of each entity."""
        self._values: list[_Value] = []
        self._exact: dict[str, Any] = {}
        self._sound: dict[str, Any] = {}
        self._pieces: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for entity, values, fuzzy in declared:
            taken: set[str] = set()
            for canonical, synonyms in values.items():
                for name in (canonical, *synonyms):
                    key = squeeze(name)
                    if key and key not in taken:
                        taken.add(key)
                        self._add(_Value(entity, canonical, key, jamo := korean.decompose(key), fuzzy, _bits(jamo)))

    def _add(self, value: _Value) -> None:
        number = len(self._values)
        self._values.append(value)
        _plant(self._exact, value.key, number)
        if not value.fuzzy:
            return
        if len(value.key) >= 2 and re.search("[가-힣]{2}", value.key):
            _plant(self._sound, [_sounds(one) for one in value.key], number)
        for offset, piece in _cut(value.jamo):
            self._pieces.setdefault(len(piece), {}).setdefault(piece, []).append((number, offset))

    def find(self, reading: Reading) -> list[Hit]:
        """What is found, the longest of overlapping ones of each entity."""
        text = _squeezed(reading.text)
        found = list(self._walk(self._exact, text, list(text.text), 1.0))
        found += self._walk(self._sound, text, [_sounds(one) for one in text.text], 0.9)
        if len(text.text) <= MAX_FUZZY_CHARACTERS:
            found += self._near(text, found)
        return _longest(found)

    def resolve(self, reading: Reading, entity: str) -> Hit | None:
        """The value that a whole answer names; more slips are forgiven than inside a sentence.

        None: no or two values.
        """
        text = _squeezed(reading.text)
        found = [hit for hit in self.find(reading) if hit.entity == entity]
        if found:
            return max(found, key=lambda hit: (hit.end - hit.start, hit.confidence))
        answer = re.sub(r"(?:으로|로|이요|요|입니다|이에요|예요|을|를|은|는)+\Z", "", text.text) or text.text
        jamo = korean.decompose(answer)
        if len(jamo) > 80 or len(jamo) < 2:
            return None
        best: dict[str, int] = {}
        for value in self._values:
            if value.entity == entity and value.fuzzy:
                most = max(1, round(len(value.jamo) * 0.25)) if len(value.jamo) >= 4 else 0
                far = distance(jamo, value.jamo)
                if far <= most:
                    best[value.canonical] = min(far, best.get(value.canonical, far))
                elif len(jamo) >= 4 and value.jamo.startswith(jamo):
                    best.setdefault(value.canonical, most + 1)  # the beginning of one value alone
        if not best:
            return None
        least = min(best.values())
        names = [name for name, far in best.items() if far == least]
        return Hit(entity, 0, len(reading.text), names[0], 0.7) if len(names) == 1 else None

    def _walk(self, tree: dict[str, Any], text: _Squeezed, steps: list[str], sure: float) -> Iterator[Hit]:
        for begin in range(len(steps)):
            node = tree
            longest: list[tuple[int, list[int]]] = []
            for place in range(begin, len(steps)):
                node = node.get(steps[place])  # type: ignore[assignment]
                if node is None:
                    break
                if _END in node:
                    longest.append((place + 1, node[_END]))
            for end, numbers in reversed(longest):
                hits = [self._values[number] for number in numbers if self._fits(text, begin, end)]
                for value in hits:
                    yield self._hit(value, text, begin, end, sure)

    def _hit(self, value: _Value, text: _Squeezed, begin: int, end: int, sure: float) -> Hit:
        return Hit(value.entity, text.places[begin], text.places[end - 1] + 1, value.canonical, sure)

    def _fits(self, text: _Squeezed, begin: int, end: int) -> bool:
        """Whether a value may begin and end here, as the module says."""
        matched = text.text[begin:end]
        start, stop = text.places[begin], text.places[end - 1] + 1
        before, after = text.whole[start - 1 : start] if start else "", text.whole[stop : stop + 1]
        if _runs_on(before, matched[0]) or _runs_on(matched[-1], after):
            return False
        if _latin(matched[0]) and _latin(before) and len(matched) < 3:
            return False
        if not any(map(korean.is_syllable, matched)):
            return stop - start <= len(matched) + 4 and (len(matched) >= 4 or " " not in text.whole[start:stop])
        return len(matched) >= 3 or self._stands_alone(text.whole, start, stop, matched)

    def _stands_alone(self, whole: str, start: int, stop: int, matched: str) -> bool:
        """Whether one or two syllables are a word here, and not a part of one."""
        if " " in whole[start:stop] and all(map(korean.is_syllable, matched)):
            return False  # `세 대` is not 세대
        if start and korean.is_syllable(matched[0]) and korean.is_syllable(whole[start - 1]):
            return False
        rest = re.match(r"[가-힣]*", whole[stop : stop + 12])
        assert rest is not None  # it may be empty
        if not rest[0] or not korean.is_syllable(matched[-1]):
            return True
        if len(matched) == 1:
            return _PARTICLE_ONLY.match(whole, stop) is not None
        # A long run behind it is writing without spaces: `서울날씨알려줘`.
        return _FOLLOWS.match(whole, stop) is not None or len(rest[0]) >= 5

    def _near(self, text: _Squeezed, exact: list[Hit]) -> Iterator[Hit]:
        """Values with slips, where nothing was found without."""
        if not self._pieces:
            return
        covered = bytearray(len(text.whole) + 1)
        for hit in exact:
            covered[hit.start : hit.end] = b"\1" * (hit.end - hit.start)
        letters, owners = _letters(text.text)
        firsts = _firsts(owners, len(text.text))
        tried: set[tuple[int, int]] = set()
        for size, pieces in self._pieces.items():
            for place in range(len(letters) - size + 1):
                for number, offset in pieces.get(letters[place : place + size], ()):
                    value = self._values[number]
                    most = slips(len(value.jamo))
                    low = max(0, place - offset - most)
                    for start in range(owners[low], owners[place] + 1):
                        if firsts[start] > place - offset + most or (number, start) in tried or firsts[start] < low:
                            continue
                        tried.add((number, start))
                        if not covered[text.places[start]] and self._may_begin(text, start):
                            yield from self._verified(value, text, letters, firsts, start, most)

    def _verified(
        self, value: _Value, text: _Squeezed, letters: str, firsts: list[int], start: int, most: int
    ) -> Iterator[Hit]:
        """The value, if the text from `start` on is near enough; the nearest end of several."""
        at, length = firsts[start], len(value.jamo)
        window = letters[at : at + length + most]
        best: tuple[int, int] | None = None
        end = start + 1
        for size, far in enumerate(_distances(value.bits, length, window), start=1):
            if firsts[end] - at > size:
                continue  # inside a syllable
            if far <= most and size >= length - most and (best is None or far < best[0]) and self._may_end(text, end):
                best = (far, end)
            end = min(end + 1, len(firsts) - 1)
        if best is not None:
            yield replace(self._hit(value, text, start, best[1], 0.9 - 0.1 * best[0]), slips=best[0])

    def _may_begin(self, text: _Squeezed, place: int) -> bool:
        start = text.places[place]
        before, here = text.whole[start - 1 : start] if start else "", text.text[place]
        if _latin(here):
            return not _runs_on(before, here)
        return korean.is_syllable(here)

    def _may_end(self, text: _Squeezed, end: int) -> bool:
        stop = text.places[end - 1] + 1
        here, after = text.text[end - 1], text.whole[stop : stop + 1]
        return not (_latin(here) and _latin(after))


def _runs_on(first: str, second: str) -> bool:
    """Whether two neighbours are letters of one Latin word, or digits of one number."""
    return _latin(first) and _latin(second) and first.isdigit() == second.isdigit()


def _latin(one: str) -> bool:
    return bool(one) and one.isalnum() and not korean.is_syllable(one)


@lru_cache(maxsize=16384)
def _sounds(text: str) -> str:
    return korean.decompose(text).translate(_ALIKE)


def _squeezed(text: str) -> _Squeezed:
    places = [i for i, one in enumerate(text) if not _SQUEEZE.match(one)]
    return _Squeezed("".join(text[i] for i in places), places, text)


def _letters(text: str) -> tuple[str, list[int]]:
    """The letters of a text, and for each the character it belongs to."""
    parts = [korean.decompose(one) for one in text]
    return "".join(parts), [i for i, part in enumerate(parts) for _ in part]


def _firsts(owners: list[int], count: int) -> list[int]:
    """For each character its first letter; at the end the number of letters."""
    firsts = [0] * (count + 1)
    for letter in range(len(owners) - 1, -1, -1):
        firsts[owners[letter]] = letter
    firsts[count] = len(owners)
    return firsts


def _plant(tree: dict[str, Any], key: str | Iterable[str], number: int) -> None:
    for step in key:
        tree = tree.setdefault(step, {})
    tree.setdefault(_END, []).append(number)


def _cut(jamo: str) -> Iterator[tuple[int, str]]:
    """The pieces by which a value is found, with their offsets in it; none for a value too short for slips."""
    most = slips(len(jamo))
    if most:
        edges = [len(jamo) * part // (most + 1) for part in range(most + 2)]
        for begin, end in itertools.pairwise(edges):
            yield begin, jamo[begin : min(end, begin + _MAX_PIECE)]


def _longest(found: list[Hit]) -> list[Hit]:
    kept: list[Hit] = []
    taken: dict[str, bytearray] = {}
    size = max((hit.end for hit in found), default=0)
    for hit in sorted(found, key=lambda one: (-one.weight, -one.confidence, one.start)):
        mine = taken.setdefault(hit.entity, bytearray(size))
        if not any(mine[hit.start : hit.end]):
            mine[hit.start : hit.end] = b"\1" * (hit.end - hit.start)
            kept.append(hit)
    return sorted(kept, key=lambda one: (one.start, one.end))
