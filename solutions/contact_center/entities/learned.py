"""Learned entities: a sequence labeller for what no list and no pattern can name, such as a symptom or a playlist.

A linear model gives every token a label in the scheme `B-symptom I-symptom O`, and Viterbi's algorithm finds the best
sequence of them. It is trained as an averaged structured perceptron (Collins, 2002): for every sentence that it gets
wrong, the features of the right labels gain and those of the wrong labels lose; the mean over all steps is kept.

Tokens are words in Latin script, numbers, single signs, and single syllables in Hangul: a Korean word carries its
particles, and `인터넷이 느려요` must give `인터넷` alone. A syllable's features tell where it stands in its word, and
the syllables around it across spaces, so that missing or wrong spaces change little.

`fit` needs numpy alone and takes seconds; `Labeller` reads its weights at run time. The weights are plain JSON:
names of features, labels, transitions, and one table of signed bytes in Base64.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from solutions.contact_center.entities.reading import read

Span = tuple[int, int, str]
"""Characters `start` to `end` of a text are this entity."""
Example = tuple[str, Sequence[Span]]
"""A text and what is marked in it. Spans that overlap an earlier one are left out."""

MAX_TOKENS = 400
"""Of a text; what comes after is not labelled."""
_HANGUL = "\uac00-\ud7a3"
_TOKEN = re.compile(rf"[{_HANGUL}]|\d+|[^\W\d_{_HANGUL}]+(?:['’][^\W\d_{_HANGUL}]+)*|[^\w\s]|_")
_OUTSIDE = "O"
_VERSION = 1
_NEVER = -1e9


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    """In characters of the original text, as `end`."""
    end: int
    spaced: bool
    """Whether a space stands before it."""
    shape: str


@dataclass(frozen=True)
class Found:
    """Characters `start` to `end` are a `label`, with a confidence of 0.5 to 1 that grows with the margin."""

    start: int
    end: int
    label: str
    confidence: float


def fit(
    examples: Sequence[Example],
    epochs: int | None = None,
    seed: int = 0,
    min_count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Weights for `Labeller`, as JSON.

    Args:
        examples: texts with their spans; texts without any teach what is outside.
        epochs: passes over the examples, in an order drawn anew each time from `seed`; None: 5, and up to 30 where
            there are few examples.
        min_count: features seen in fewer tokens are left out; None: 2 from 20,000 tokens on, else 1.
        progress: told after each epoch how many are done, of how many.

    Raises:
        BadInput: no example has a span.
    """
    sentences = [(_tokens(text), spans) for text, spans in examples]
    sentences = [(tokens, spans) for tokens, spans in sentences if tokens]
    sentences += [(joined, spans) for tokens, spans in sentences if (joined := _joined(tokens)) != tokens]
    labels = [_OUTSIDE] + [
        f"{part}-{name}" for name in sorted({span[2] for _, spans in sentences for span in spans}) for part in "BI"
    ]
    if len(labels) == 1:
        raise BadInput("learned entities need marked examples: mark some, as in [인터넷이 끊겨요](symptom).")
    named = [_features(tokens) for tokens, _ in sentences]
    if epochs is None:
        epochs = max(5, min(30, 20_000 // len(sentences)))
    if min_count is None:
        min_count = 2 if sum(len(tokens) for tokens, _ in sentences) >= 20_000 else 1
    counts = Counter(name for sentence in named for token in sentence for name in token)
    known = {name: row for row, name in enumerate((n for n, c in counts.items() if c >= min_count), start=1)}
    ids = [_ids(sentence, known) for sentence in named]
    numbers = {label: number for number, label in enumerate(labels)}
    gold = [_gold(tokens, spans, numbers) for tokens, spans in sentences]
    weights, transitions = _perceptron(ids, gold, len(known) + 1, labels, epochs, seed, progress)
    return _written(weights, transitions, list(known), labels)


class Labeller:
    """Finds learned entities with the weights that `fit` gave."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        """Raises BadInput where `weights` is not what `fit` gives."""
        try:
            if weights["version"] != _VERSION:
                raise ValueError(f"version {weights['version']!r} is not {_VERSION}")
            self.labels: list[str] = [str(label) for label in weights["labels"]]
            self._known = {str(name): row for row, name in enumerate(weights["features"], start=1)}
            table = np.frombuffer(base64.b64decode(weights["weights"], validate=True), dtype=np.int8)
            self._weights = table.reshape(len(self._known) + 1, len(self.labels))
            self._transitions = np.array(weights["transitions"], dtype=np.float32)
            self._scale = float(weights["scale"])
            if self._transitions.shape != (len(self.labels) + 1, len(self.labels)):
                raise ValueError("the transitions do not fit the labels")
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"the weights of the learned entities are damaged ({error}); train the bot anew.") from error

    def find(self, text: str) -> list[Found]:
        """What is in a text, in order; spans do not overlap."""
        tokens = _tokens(text)
        if not tokens:
            return []
        ids = _ids(_features(tokens), self._known)
        scores = self._weights[ids].sum(axis=1, dtype=np.int32).astype(np.float32) * self._scale
        path = viterbi(scores, self._transitions)
        margins = _margins(scores, path)
        found: list[Found] = []
        for one in self._spans(tokens, path, margins):
            if not found or one.start >= found[-1].end:  # one sign can be two tokens, as ㈜ is
                found.append(one)
        return found

    def _spans(self, tokens: list[_Token], path: list[int], margins: NDArray[np.float32]) -> Iterable[Found]:
        begin = None
        for place in range(len(tokens) + 1):
            label = self.labels[path[place]] if place < len(tokens) else _OUTSIDE
            if begin is not None and not label.startswith("I-"):
                sure = 1.0 - 0.5 * float(np.exp(-max(0.0, float(margins[begin:place].min()))))
                yield Found(tokens[begin].start, tokens[place - 1].end, self.labels[path[begin]][2:], round(sure, 4))
                begin = None
            if label.startswith("B-"):
                begin = place


# --- tokens and features ----------------------------------------------------------------------------------------------


def _tokens(text: str) -> list[_Token]:
    reading = read(text)
    tokens: list[_Token] = []
    last = 0
    for match in _TOKEN.finditer(reading.text):
        start, end = reading.original(match.start(), match.end())
        tokens.append(_Token(match[0], start, end, match.start() > last, _shape(text[start:end])))
        last = match.end()
        if len(tokens) == MAX_TOKENS:
            break
    return tokens


def _joined(tokens: list[_Token]) -> list[_Token]:
    """As if no spaces stood between syllables: what many people write, and few examples show."""
    before = ["", *(token.shape for token in tokens)]
    return [
        replace(token, spaced=token.spaced and not (token.shape == before[place] == "가"))
        for place, token in enumerate(tokens)
    ]


def _shape(written: str) -> str:
    if written.isdigit():
        return f"0{min(len(written), 5)}"
    if "\uac00" <= written[:1] <= "\ud7a3":
        return "가"
    if written.isalpha():
        return "A" if written.isupper() else "Aa" if written[:1].isupper() else "a"
    return "."


def _features(tokens: list[_Token]) -> list[list[str]]:
    """The names of each token's features; no name occurs twice in one token."""
    words = ["<2>", "<1>", *(token.text for token in tokens), "</1>", "</2>"]
    shapes = ["", "", *(token.shape for token in tokens), "", ""]
    spaces = [True, True, *(token.spaced for token in tokens), True, True, True]
    words.append("</3>")
    first = words[2]
    second = words[3]
    found = []
    for place in range(2, len(tokens) + 2):
        here, before, after = words[place], words[place - 1], words[place + 1]
        names = [
            f"w={here}",
            f"-1={before}",
            f"+1={after}",
            f"-2={words[place - 2]}",
            f"+2={words[place + 2]}",
            f"-1w={before}|{here}",
            f"w+1={here}|{after}",
            f"-1+1={before}|{after}",
            f"-2-1={words[place - 2]}|{before}",
            f"+1+2={after}|{words[place + 2]}",
            f"-2w={words[place - 2]}|{before}|{here}",
            f"w+2={here}|{after}|{words[place + 2]}",
            f"s={shapes[place - 1]}|{shapes[place]}|{shapes[place + 1]}",
            f"sp={spaces[place]:d}{spaces[place + 1]:d}{shapes[place]}",
            f"spw={spaces[place]:d}{spaces[place + 1]:d}{here}",
            f"1st={first}|{shapes[place]}",
            f"12={first}|{second}",
            f"1w={first}|{here}",
            f"1-1={first}|{before}",
            f"1+1={first}|{after}",
            f"at={min(place - 2, 4)}|{min(len(tokens) + 1 - place, 3)}",
        ]
        if shapes[place] not in ("가", "."):
            names += [f"p{n}={here[:n]}" for n in (1, 2, 3, 4) if len(here) > n]
            names += [f"e{n}={here[-n:]}" for n in (1, 2, 3, 4) if len(here) > n]
        found.append(names)
    return found


def _ids(sentence: list[list[str]], known: Mapping[str, int]) -> NDArray[np.intp]:
    """Rows of the table [tokens, features], filled up with row 0, whose weights are 0."""
    rows = [[known[name] for name in names if name in known] for names in sentence]
    ids = np.zeros((len(rows), max(1, *(len(row) for row in rows)) if rows else 1), dtype=np.intp)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return ids


def _gold(tokens: list[_Token], spans: Sequence[Span], numbers: Mapping[str, int]) -> list[int]:
    labels = [0] * len(tokens)
    taken = 0
    for start, end, name in sorted(spans):
        inside = [p for p, token in enumerate(tokens) if token.start < end and token.end > start and p >= taken]
        for place in inside:
            labels[place] = numbers[f"{'B' if place == inside[0] else 'I'}-{name}"]
            taken = place + 1
    return labels


# --- the perceptron ---------------------------------------------------------------------------------------------------


def _allowed(labels: list[str]) -> NDArray[np.float32]:
    """0 where a label (row; the last row: the beginning) may come before another (column), else a very low score."""
    table = np.zeros((len(labels) + 1, len(labels)), dtype=np.float32)
    for column, label in enumerate(labels):
        if label.startswith("I-"):
            for row, before in enumerate([*labels, ""]):
                if before[2:] != label[2:] or before[:2] not in ("B-", "I-"):
                    table[row, column] = _NEVER
    return table


def viterbi(scores: NDArray[np.float32], transitions: NDArray[np.float32]) -> list[int]:
    """The labels of the highest sum of scores [T, L] and transitions [L + 1, L] (last row: from the beginning)."""
    between = transitions[:-1].T.copy()  # [to, from]: the maximum runs along memory
    best = scores[0] + transitions[-1]
    back = np.zeros((len(scores), scores.shape[1]), dtype=np.intp)
    everyone = np.arange(scores.shape[1])
    for place in range(1, len(scores)):
        through = between + best
        back[place] = through.argmax(axis=1)
        best = through[everyone, back[place]] + scores[place]
    path = [int(best.argmax())]
    for place in range(len(scores) - 1, 0, -1):
        path.append(int(back[place, path[-1]]))
    return path[::-1]


def _margins(scores: NDArray[np.float32], path: list[int]) -> NDArray[np.float32]:
    """By how much each token's own score prefers its label to the next best [T]; negative: its neighbours chose it."""
    chosen = scores[np.arange(len(path)), path]
    others = scores.copy()
    others[np.arange(len(path)), path] = -np.inf
    return chosen - others.max(axis=1)


def _perceptron(
    ids: list[NDArray[np.intp]],
    gold: list[list[int]],
    rows: int,
    labels: list[str],
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Averaged weights [rows, labels] and transitions [labels + 1, labels]."""
    weights = np.zeros((rows, len(labels)), dtype=np.float32)
    moves = np.zeros((len(labels) + 1, len(labels)), dtype=np.float32)
    late_weights, late_moves = np.zeros_like(weights), np.zeros_like(moves)  # sums weighted by the step
    allowed = _allowed(labels)
    random = np.random.default_rng(seed)
    step = 1.0
    for epoch in range(epochs):
        for sentence in random.permutation(len(ids)):
            its_ids, right = ids[sentence], gold[sentence]
            guessed = viterbi(weights[its_ids].sum(axis=1), moves + allowed)
            if guessed != right:
                for place, (good, bad) in enumerate(zip(right, guessed, strict=True)):
                    if good != bad:
                        for table, by in ((weights, 1.0), (late_weights, step)):
                            table[its_ids[place], good] += by
                            table[its_ids[place], bad] -= by
                    from_good = right[place - 1] if place else len(labels)
                    from_bad = guessed[place - 1] if place else len(labels)
                    for table, by in ((moves, 1.0), (late_moves, step)):
                        table[from_good, good] += by
                        table[from_bad, bad] -= by
                weights[0] = late_weights[0] = 0.0  # the row that fills up
            step += 1.0
        if progress is not None:
            progress(epoch + 1, epochs)
    return weights - late_weights / step, moves - late_moves / step + allowed


def _written(
    weights: NDArray[np.float32], transitions: NDArray[np.float32], names: list[str], labels: list[str]
) -> dict[str, Any]:
    """As JSON: rows that round to nothing left out, the rest in signed bytes of one common scale."""
    largest = float(np.abs(weights).max()) or 1.0
    scale = largest / 127
    table = np.rint(weights / scale).astype(np.int8)
    kept = np.flatnonzero(table.any(axis=1))
    return {
        "version": _VERSION,
        "labels": labels,
        "features": [names[row - 1] for row in kept],
        "scale": scale,
        "weights": base64.b64encode(np.vstack([np.zeros_like(table[:1]), table[kept]]).tobytes()).decode("ascii"),
        "transitions": [[round(float(value), 4) for value in row] for row in transitions],
    }
