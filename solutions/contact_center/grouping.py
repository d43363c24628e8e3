"""Groups of utterances that say much the same, and a name for each; numpy only.

Every utterance is its n-grams (`shared.text.features`: characters, words and jamo, so that Korean without spaces and
with slips still meets its like), weighted by tf-idf. Groups are made bottom-up by average linkage over cosine, with the
nearest-neighbour chain (Murtagh, 1983), which is exact and takes time and memory in the square of the texts; above
`MOST` distinct texts the rest join the group that is nearest, if it is near enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.text.features import Features, extract, normalise
from solutions.contact_center.dialogue.patterns import squeezed

Matrix = NDArray[np.float32]

FEATURES = Features(bits=13, characters=(2, 4), words=(1, 1), jamo=(3, 5))
"""Fewer ids than a classifier reads: for likeness, what meets by chance is drowned by what does not."""
LIKENESS = 0.2
"""Average cosine from which groups are one; see `benchmarks/bot_grouping.py`, which measures it."""
MOST = 1500
_USUAL = 100
_WORDS_IN_NAME = 3
_EXAMPLES = 5
_WORD = re.compile(r"[^\W\d_]{2,}|\d+[^\W\d_]+")
_PARTICLE = re.compile(
    r"([가-힣]{2,}?)(?:이랑|에서|으로|부터|까지|에게|한테|이|가|은|는|을|를|에|도|로|랑|와|과|만|의)"
)
_PREDICATE = re.compile(
    r"[가-힣]*(?:요|까|죠|다|데|려고|려면|면|어|아|해|줘|돼|네|지만|하고|되고|싶고|싶은|하는|되는|라서|해서|봐|야|자|할|될)"
)
"""Korean words with such an ending are mostly verbs: `안되는데요`, `싶어요`."""
_STOP = re.compile(
    "the|and|you|for|can|how|what|that|this|with|are|have|has|was|not|but|there|when|does|need|want|please|tell|know|"
    "would|like|could|my|me|is|to|do|it|of|in|on|an|at|be|if|or|so|we|am|did|get|will"
)
"""English words that name nothing."""


@dataclass(frozen=True)
class Group:
    """Utterances that belong together."""

    name: str
    """Its characteristic words."""
    members: tuple[int, ...]
    """Indices into the texts, those nearest to the middle first."""
    examples: list[str]
    """The members nearest to the middle, each text once."""


def vectors(texts: Sequence[str]) -> Matrix:
    """Unit vectors by tf-idf [N, 2^bits]; a row of nothing is 0."""
    counts = np.zeros((len(texts), 2**FEATURES.bits), dtype=np.float32)
    for row, text in enumerate(texts):
        ids, found = extract(text, FEATURES)
        counts[row, ids] = 1 + np.log(found)
    present = (counts > 0).sum(axis=0)
    # among few texts, what half of them share is no common word yet
    counts *= np.log((1 + max(len(texts), _USUAL)) / (1 + present)).astype(np.float32) + 1
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(lengths, 1e-9), dtype=np.float32)


def key_of(text: str) -> str:
    """The same for texts that differ by spaces, signs and case alone."""
    return squeezed(text) or normalise(text)


def group(texts: Sequence[str], likeness: float = LIKENESS) -> list[Group]:
    """The groups, the largest first; an utterance that is like no other is a group of its own."""
    if not texts:
        return []
    distinct: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        distinct.setdefault(key_of(text), []).append(place)
    rows = vectors([texts[places[0]] for places in distinct.values()])
    keys = list(distinct)
    labels = _linked(rows[:MOST], likeness)
    labels = np.concatenate([labels, _nearest(rows, labels, likeness)])
    by_label: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_label.setdefault(int(label), []).append(row)
    found = []
    shown = [normalise(texts[distinct[key][0]]) for key in keys]
    words = Counter(word for text in shown for word in _stems(text))
    for inside in by_label.values():
        middle = rows[inside].mean(axis=0)
        nearest = sorted(inside, key=lambda row: -float(rows[row] @ middle))
        members = tuple(place for row in nearest for place in distinct[keys[row]])
        examples = [texts[distinct[keys[row]][0]] for row in nearest[:_EXAMPLES]]
        found.append(Group(_name([shown[row] for row in nearest], words, len(keys)), members, examples))
    return sorted(found, key=lambda one: (-len(one.members), one.members))


def _nearest(rows: Matrix, labels: NDArray[np.int64], likeness: float) -> NDArray[np.int64]:
    """Groups for the rows beyond those that have one; what is near to none begins its own."""
    count = len(labels)
    if len(rows) == count:
        return np.zeros(0, dtype=np.int64)
    middles = np.stack([rows[:count][labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    like = rows[count:] @ middles.T
    best = like.argmax(axis=1)
    alone = like.max(axis=1) < likeness
    best[alone] = labels.max() + 1 + np.arange(int(alone.sum()))
    return np.asarray(best, dtype=np.int64)


def _linked(rows: Matrix, likeness: float) -> NDArray[np.int64]:
    """Labels 0, 1, … by average linkage: the merges of the chain that are at least so alike."""
    count = len(rows)
    like = np.asarray(rows @ rows.T, dtype=np.float32)
    np.fill_diagonal(like, -np.inf)
    size = np.ones(count, dtype=np.float32)
    parent = np.arange(count)
    active = np.ones(count, dtype=bool)
    chain: list[int] = []
    for _ in range(count - 1):
        if not chain:
            chain.append(int(np.flatnonzero(active)[0]))
        while True:
            row = like[chain[-1]]
            nearest = int(row.argmax())
            if len(chain) > 1 and row[chain[-2]] >= row[nearest]:
                break
            chain.append(nearest)
        second, first = chain.pop(), chain.pop()
        if like[first, second] >= likeness:
            parent[_root(parent, second)] = _root(parent, first)
        merged = (size[first] * like[first] + size[second] * like[second]) / (size[first] + size[second])
        like[first], like[:, first] = merged, merged
        like[first, first] = -np.inf
        like[second], like[:, second] = -np.inf, -np.inf
        size[first] += size[second]
        active[second] = False
    roots = [_root(parent, place) for place in range(count)]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _root(parent: NDArray[np.int64], place: int) -> int:
    while parent[place] != place:
        place = int(parent[place])
    return place


def _stems(text: str) -> set[str]:
    """The words of a text that may name something: Korean nouns without their particles, as far as endings tell."""
    found = set()
    for word in _WORD.findall(text):
        if _STOP.fullmatch(word) or _PREDICATE.fullmatch(word):
            continue
        bare = _PARTICLE.fullmatch(word)
        found.add(bare[1] if bare else word)
    return found


def _name(texts: Sequence[str], words: Counter[str], count: int) -> str:
    """The words that most of the group have and few others; the middle text where it has no words."""
    inside = Counter(word for text in texts for word in _stems(text))
    weight = {word: share * np.log(1 + count / words[word]) * len(word) ** 0.25 for word, share in inside.items()}
    chosen: list[str] = []
    for word in sorted(weight, key=lambda word: (-weight[word], word)):
        if any(word in other or other in word for other in chosen):
            continue
        # the longest form that is about as frequent: 요금제, not 요금
        longer = [other for other in inside if other.startswith(word) and inside[other] >= 0.8 * inside[word]]
        chosen.append(max(longer, key=lambda other: (len(other), other)))
        if len(chosen) == _WORDS_IN_NAME:
            break
    return " · ".join(chosen) or texts[0][:40]
