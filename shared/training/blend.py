"""The classifier of sentences for bots: some models side by side, and how near a sentence is to known ones.

* A linear SVM on hashed n-grams and, where there is an encoder, principal components of several of its layers.
* With an encoder, logistic regression on its last layer, and another on those components.
* With an encoder and thousands of examples, a network with one hidden layer on its layers.

Each is brought to probabilities by a temperature of its own and their logits are averaged. Of the linear ones this is
one linear layer again: at run time nothing is left of them but their sum. Any of them alone is up to a point worse.

How far a sentence is in scope is another question than which class it belongs to: its score is the largest logit and,
with an encoder, the cosine of the nearest known sentence, each in standard deviations of known sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shared.training import linear

Matrix = NDArray[np.float32]
_C_SVM, _C_LAST, _C_INNER = 1.0, 30.0, 10.0
_LAYERS_WEIGHT = 1.5
"""By which the layers' components count beside n-grams of length 1."""
_COMPONENTS = 256
"""Of several layers together. Of a single one half of them: CLINC150 as well (94.2 %), in four fifths of the time."""
BANK = 20_000
"""Known sentences at most that a new one is compared with."""
_NEAREST_WEIGHT = 0.5
_DEEP_FROM = 3000
"""Examples from which a hidden layer pays."""
_CALIBRATED_ON = 5000
"""Sentences from which a model is fitted at most where it is fitted for its probabilities alone."""


@dataclass(frozen=True)
class Seen:
    """Sentences as the models see them."""

    counts: sparse.csr_matrix
    """[N, 2^bits] n-grams."""
    layers: Matrix | None
    """[N, K * width] of the encoder, as `shared.training.sentence_layers` gives them."""
    width: int = 0

    def rows(self, which: NDArray[Any]) -> Seen:
        """Some of them."""
        return Seen(self.counts[which], None if self.layers is None else self.layers[which], self.width)

    @property
    def last(self) -> Matrix:
        """[N, width] the last layer's embedding, of unit length."""
        assert self.layers is not None
        return self.layers[:, -self.width :]


@dataclass(frozen=True)
class Part:
    """One of the linear models: logits = tf-idf @ table + layers @ dense + bias."""

    table: Matrix | None
    """[2^bits, C]"""
    dense: Matrix | None
    """[K * width, C]"""
    bias: Matrix
    """[C]"""

    def logits(self, weighted: sparse.csr_matrix, layers: Matrix | None) -> Matrix:
        """[N, C]"""
        found = np.zeros((weighted.shape[0], len(self.bias)), dtype=np.float32) + self.bias
        if self.table is not None:
            found += np.asarray(weighted @ self.table, dtype=np.float32)
        if self.dense is not None:
            assert layers is not None
            found += layers @ self.dense
        return found


@dataclass(frozen=True)
class Hidden:
    """The network: logits = relu(layers @ first + first_bias) @ second + second_bias."""

    first: Matrix
    """[K * width, H]"""
    first_bias: Matrix
    second: Matrix
    """[H, C]"""
    second_bias: Matrix

    def logits(self, _weighted: sparse.csr_matrix, layers: Matrix | None) -> Matrix:
        """[N, C]"""
        assert layers is not None
        return np.maximum(layers @ self.first + self.first_bias, 0) @ self.second + self.second_bias


@dataclass(frozen=True)
class Blend:
    """Fitted parts, not yet averaged."""

    idf: NDArray[np.float32]
    parts: list[Part | Hidden]
    bank: Matrix | None
    """[M, width] known sentences' embeddings."""

    def logits(self, seen: Seen) -> list[Matrix]:
        """[N, C] of each part."""
        weighted = linear.weighted(seen.counts, self.idf)
        return [part.logits(weighted, seen.layers) for part in self.parts]

    def nearest(self, seen: Seen) -> NDArray[np.float32] | None:
        """[N] cosine of the nearest known sentence; None without an encoder."""
        if self.bank is None:
            return None
        step = 512
        blocks = [seen.last[start : start + step] @ self.bank.T for start in range(0, len(seen.last), step)]
        return np.concatenate([block.max(axis=1) for block in blocks])

    def merged(self, temperatures: list[float]) -> tuple[Part, Hidden | None]:
        """The average of the parts, each divided by its temperature: the linear ones as one, and the network."""
        linears: list[Part] = []
        hidden = None
        for part, temperature in zip(self.parts, temperatures, strict=True):
            by = np.float32(1 / len(self.parts) / temperature)
            if isinstance(part, Part):
                table = None if part.table is None else part.table * by
                linears.append(Part(table, None if part.dense is None else part.dense * by, part.bias * by))
            else:
                hidden = Hidden(part.first, part.first_bias, part.second * by, part.second_bias * by)
        tables = [part.table for part in linears if part.table is not None]
        denses = [part.dense for part in linears if part.dense is not None]
        bias: Matrix = np.stack([part.bias for part in linears]).sum(axis=0)
        dense: Matrix | None = np.stack(denses).sum(axis=0) if denses else None
        return Part(tables[0], dense, bias), hidden


def fit(seen: Seen, targets: NDArray[np.int64], seed: int) -> Blend:
    """Fit the parts.

    Args:
        targets: [N] classes; each of 0 to C - 1 occurs.
    """
    idf = linear.rarity(seen.counts)
    weighted = linear.weighted(seen.counts, idf)
    size = weighted.shape[1]
    if seen.layers is None:
        model = linear.fit(weighted, targets, "svm", _C_SVM, seed)
        return Blend(idf, [Part(_transposed(model.weight), None, model.bias)], None)
    several = seen.layers.shape[1] > seen.width
    middle, axes = _components(seen.layers, _COMPONENTS if several else _COMPONENTS // 2)
    inner = (seen.layers - middle) @ axes
    both = sparse.hstack([weighted, sparse.csr_matrix(inner * np.float32(_LAYERS_WEIGHT))]).tocsr()
    svm = linear.fit(both, targets, "svm", _C_SVM, seed)
    of_layers = (axes @ svm.weight[:, size:].T) * np.float32(_LAYERS_WEIGHT)
    of_inner = linear.fit(inner, targets, "logistic", _C_INNER, seed)
    unfolded = axes @ of_inner.weight.T
    parts: list[Part | Hidden] = [
        Part(_transposed(svm.weight[:, :size]), of_layers, svm.bias - middle @ of_layers),
        Part(None, unfolded, of_inner.bias - middle @ unfolded),
    ]
    if several:  # of a single one, a second model says the same again: 94.7 % instead of 94.9 % on CLINC150's val
        of_last = linear.fit(seen.last, targets, "logistic", _C_LAST, seed)
        last = np.zeros_like(of_layers)
        last[-seen.width :] = of_last.weight.T
        parts.append(Part(None, last, of_last.bias))
    if several and len(targets) >= _DEEP_FROM:
        from shared.training import hidden_layer

        parts.append(Hidden(*hidden_layer.fit(seen.layers, targets, seed)))
    return Blend(idf, parts, _bank(seen.last, targets, seed))


def _transposed(weight: Matrix) -> Matrix:
    return np.ascontiguousarray(weight.T)


def _components(layers: Matrix, most: int) -> tuple[Matrix, Matrix]:
    """The mean [D] of the layers and their first principal components [D, K]: the rest is noise, and costs time."""
    middle = layers.mean(axis=0)
    centred = layers - middle
    count = max(1, min(most, len(layers) - 1, layers.shape[1]))
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    return middle, np.ascontiguousarray(axes, dtype=np.float32)


def _bank(last: Matrix, targets: NDArray[np.int64], seed: int) -> Matrix:
    """All known sentences, or as many of each class where they are too many."""
    if len(last) <= BANK:
        return last
    order = np.random.default_rng(seed).permutation(len(last))
    place = np.empty(len(last), dtype=np.int64)
    for label in np.unique(targets):
        members = order[targets[order] == label]
        place[members] = np.arange(len(members))
    return last[np.sort(np.argsort(place, kind="stable")[:BANK])]


@dataclass(frozen=True)
class Scope:
    """How the score of being in scope is made, and its probability."""

    logit_mean: float
    logit_std: float
    nearest_mean: float
    nearest_std: float
    nearest_weight: float
    """0 without an encoder."""
    slope: float
    offset: float
    """P(in scope) = 1 / (1 + exp(-(slope * score + offset)))."""

    def score(self, largest: NDArray[np.float32], nearest: NDArray[np.float32] | None) -> NDArray[np.float64]:
        """[N], higher is more surely in scope."""
        found = (largest.astype(np.float64) - self.logit_mean) / self.logit_std
        if nearest is not None:
            found += self.nearest_weight * (nearest.astype(np.float64) - self.nearest_mean) / self.nearest_std
        return found

    def probability(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N] P(in scope)."""
        return 1 / (1 + np.exp(-np.clip(self.slope * score + self.offset, -50, 50)))


@dataclass(frozen=True)
class HeldOut:
    """What models that had not seen these sentences answered."""

    logits: list[Matrix]
    """[N, C] of each part; a class that a fold left out has -1e4."""
    targets: NDArray[np.int64]
    """[N]; -1: out of scope."""
    nearest: NDArray[np.float32] | None
    rows: NDArray[np.int64]
    """[N] which sentence; those out of scope that were given as such follow the others."""


_ABSENT = np.float32(-1e4)


def cross_validate(
    seen: Seen,
    targets: NDArray[np.int64],
    outside: Seen | None,
    folds: int,
    seed: int,
    progress: Any = None,
    *,
    missing: bool = True,
    held: NDArray[np.int64] | None = None,
) -> HeldOut:
    """Ask each sentence of models fitted without it.

    A fold leaves out a part of every class, and a fifth of the classes altogether (from five on): their sentences, to
    which no right answer exists, stand for questions out of scope. One fold: a tenth of the sentences.

    Args:
        targets: [N] classes.
        outside: sentences known to be out of scope; each fold is asked about them.
        progress: a stage, told of each fold.
        missing: False: no class is left out.
        held: the rows that are held out, where it matters which; then there is one fold.
    """
    classes = int(targets.max()) + 1
    generator = np.random.default_rng(seed)
    left_out = (
        np.array_split(generator.permutation(classes), 5) if missing and classes >= 5 else [np.zeros(0, dtype=np.int64)]
    )
    found: list[HeldOut] = []
    fold_of = _folds(targets, folds, generator) if held is None else np.full(len(targets), -1)
    if held is not None:
        fold_of[held], folds = 0, 1
    for number in range(folds):
        absent = left_out[number % len(left_out)]
        asked_rows = np.flatnonzero(fold_of == number)
        train = np.flatnonzero((fold_of != number) & ~np.isin(targets, absent))
        if not len(asked_rows) and number + 1 == folds and not found:
            # One sentence of each class: there is nothing to leave out, and nothing better to ask than what is known.
            asked_rows = train = np.arange(len(targets))
        if not len(asked_rows):
            continue
        if len(train) > _CALIBRATED_ON:
            train = _some_of_each(train, targets, generator)
        known = np.unique(targets[train])
        blend = fit(seen.rows(train), np.searchsorted(known, targets[train]), seed)
        truths = np.where(np.isin(targets[asked_rows], known), targets[asked_rows], -1)
        found.append(_asked(blend, seen.rows(asked_rows), known, classes, truths, asked_rows))
        if outside is not None:
            rows = np.arange(outside.counts.shape[0])
            found.append(_asked(blend, outside, known, classes, np.full(len(rows), -1), len(targets) + rows))
        if progress is not None:
            progress.advance()
    near = [each.nearest for each in found if each.nearest is not None]
    return HeldOut(
        [np.concatenate([each.logits[part] for each in found]) for part in range(len(found[0].logits))],
        np.concatenate([each.targets for each in found]),
        np.concatenate(near) if near else None,
        np.concatenate([each.rows for each in found]),
    )


def _asked(
    blend: Blend, seen: Seen, known: NDArray[np.int64], classes: int, truths: NDArray[np.int64], rows: NDArray[np.int64]
) -> HeldOut:
    """What a blend of the `known` classes answers, written as answers about all of them."""
    wide = [np.full((len(truths), classes), _ABSENT, dtype=np.float32) for _ in blend.parts]
    for array, logits in zip(wide, blend.logits(seen), strict=True):
        array[:, known] = logits
    return HeldOut(wide, truths, blend.nearest(seen), rows)


def _some_of_each(
    rows: NDArray[np.int64], targets: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """`_CALIBRATED_ON` of the rows, drawn anew; of every class one at least."""
    rows = generator.permutation(rows)
    first = np.unique(targets[rows], return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(rows)), first, assume_unique=True)
    return np.sort(np.concatenate([rows[first], rows[rest][: _CALIBRATED_ON - len(first)]]))


def _folds(targets: NDArray[np.int64], folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """[N] the fold in which each sentence is held out; -1: never, which is so for what a class has but one of."""
    among = folds if folds > 1 else 10
    fold_of = np.full(len(targets), -1, dtype=np.int64)
    for label in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == label))
        if len(members) > 1:
            # Few members begin with fold 0 where it is the only one, and anywhere else.
            start = 0 if folds == 1 else generator.integers(folds)
            fold_of[members] = (np.arange(len(members)) + start) % among
    return fold_of


def temperatures(held: HeldOut) -> list[float]:
    """Of each part, on the sentences in scope, times the one of their average."""
    inside = held.targets >= 0
    if not inside.any():
        return [1.0] * len(held.logits)
    smoothing = 1 / (2 + int(inside.sum()))
    own = [linear.calibrated(logits[inside], held.targets[inside], smoothing) for logits in held.logits]
    average = averaged(held, own)
    of_all = linear.calibrated(average[inside], held.targets[inside], smoothing)
    return [each * of_all for each in own]


def averaged(held: HeldOut, by: list[float]) -> Matrix:
    """[N, C] logits of the blend, each part divided by its temperature."""
    scaled = [logits / np.float32(each) for logits, each in zip(held.logits, by, strict=True)]
    return np.mean(scaled, axis=0, dtype=np.float32)


def scope(held: HeldOut, logits: Matrix, outside_share: float) -> Scope:
    """The score's scales from sentences in scope, its probability by logistic regression against those out of it.

    Args:
        outside_share: the share of questions that are out of scope where the bot will stand.
    """
    inside = held.targets >= 0
    largest = logits.max(axis=1)

    def scales(values: NDArray[np.float32]) -> tuple[float, float]:
        return float(values[inside].mean()), max(float(values[inside].std()), 1e-6)

    logit_mean, logit_std = scales(largest)
    near_mean, near_std = scales(held.nearest) if held.nearest is not None else (0.0, 1.0)
    weight = _NEAREST_WEIGHT if held.nearest is not None else 0.0
    made = Scope(logit_mean, logit_std, near_mean, near_std, weight, 1.0, 0.0)
    score = made.score(largest, held.nearest)
    slope, offset = _platt(score[inside], score[~inside], outside_share)
    return Scope(logit_mean, logit_std, near_mean, near_std, weight, slope, offset)


def _platt(inside: NDArray[np.float64], outside: NDArray[np.float64], outside_share: float) -> tuple[float, float]:
    """Slope and offset; where nothing is known to be out of scope, half of it is put three deviations below."""
    from sklearn.linear_model import LogisticRegression

    if not len(outside):
        spread = max(float(inside.std()), 1e-6)
        outside = inside.mean() - 3 * spread + spread * np.linspace(-2, 2, 101)
    x = np.concatenate([inside, outside])[:, None]
    y = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    weight = np.concatenate(
        [np.full(len(inside), (1 - outside_share) / len(inside)), np.full(len(outside), outside_share / len(outside))]
    )
    model = LogisticRegression(C=1e4).fit(x, y, sample_weight=weight * len(x))
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])
