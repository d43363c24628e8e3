"""Linear models of sentences by scikit-learn: from hashed n-grams, from embeddings, or from both side by side.

N-grams are weighted by tf-idf (1 + log count, times the logarithm of how rare an id is) and brought to unit length; the
embedding, of unit length too, is appended with a weight. One vector for each class then gives its logit.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from shared.progress import stage
from shared.text.features import Features, extract

Kind = Literal["svm", "logistic"]

FOLDS = 3
_CHOSEN_ON = 4000
"""Samples on which C is chosen: the best one hardly depends on more of them, and the time does."""
_APART_SHARE = 0.1
_IN_SPAN = 2000
"""Samples up to which logistic regression works in their span."""
_TOLERANCE = 0.5
"""Of liblinear: a fraction of the default's effort, the same accuracy."""


@dataclass(frozen=True)
class Linear:
    """A fitted model: logits = x @ weight.T + bias."""

    weight: NDArray[np.float32]
    """[C, D]"""
    bias: NDArray[np.float32]
    """[C]"""

    def logits(self, x: Any) -> NDArray[np.float32]:
        """[N, C] for samples [N, D], sparse or dense."""
        return np.asarray(x @ self.weight.T, dtype=np.float32) + self.bias


def counted(texts: Sequence[str], features: Features) -> sparse.csr_matrix:
    """How often each id occurs in each sentence [N, 2^bits]."""
    ids, counts, starts = [], [], [0]
    with stage("n-grams", len(texts)) as bar:
        for text in texts:
            its_ids, its_counts = extract(text, features)
            ids.append(its_ids)
            counts.append(its_counts)
            starts.append(starts[-1] + len(its_ids))
            bar.advance()
    return sparse.csr_matrix(
        (np.concatenate(counts), np.concatenate(ids), np.array(starts)), shape=(len(texts), 2**features.bits)
    )


def rarity(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """[D] log((1 + N) / (1 + n)) + 1 of each id: smoothed idf."""
    occurs = np.bincount(counts.indices, minlength=counts.shape[1])
    return (np.log((1 + counts.shape[0]) / (1 + occurs)) + 1).astype(np.float32)


def weighted(counts: sparse.csr_matrix, idf: NDArray[np.float32]) -> sparse.csr_matrix:
    """tf-idf of unit length; a sentence without n-grams stays zero."""
    values = (1 + np.log(counts.data)) * idf[counts.indices]
    scaled = sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
    lengths = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(lengths, 1e-9)) @ scaled)


def fit(x: Any, y: NDArray[np.int64], kind: Kind, c: float, seed: int) -> Linear:
    """One model: a linear SVM, one class against the rest (squared hinge), or multinomial logistic regression."""
    from sklearn.svm import LinearSVC

    if kind == "logistic":
        return _logistic(x, y, c)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at this tolerance it may say that it has not converged; accuracy has
        model = LinearSVC(C=c, tol=_TOLERANCE, random_state=seed).fit(x, y)
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if len(weight) == 1:  # of two classes it keeps one
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return Linear(weight.astype(np.float32), bias.astype(np.float32))


def _logistic(x: Any, y: NDArray[np.int64], c: float) -> Linear:
    """Multinomial, in as few dimensions as there are samples.

    The best weights are a sum of samples, so a rotation into their span changes nothing but the time: of a bot's few
    hundred sentences in 32,768 dimensions it takes a hundredth.
    """
    from sklearn.linear_model import LogisticRegression

    back = None
    if x.shape[0] <= min(_IN_SPAN, x.shape[1] // 2):
        likeness = np.asarray((x @ x.T).todense() if sparse.issparse(x) else x @ x.T, dtype=np.float64)
        squares, axes = np.linalg.eigh(likeness)
        kept = squares > squares.max() * 1e-10
        lengths = np.sqrt(squares[kept])
        back = axes[:, kept] / lengths  # [N, R]: sample weights of each direction
        x, samples = axes[:, kept] * lengths, x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # In float32 its line search may fail at the start and leave weights of zero; at a tolerance of 1e-3 it ends
        # half a point of accuracy too early.
        model = LogisticRegression(C=c, tol=1e-4, max_iter=1000).fit(x.astype(np.float64), y)
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if back is not None:
        weight = np.asarray(samples.T @ (back @ weight.T)).T
    if len(weight) == 1:  # of two classes it keeps one
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Linear(np.ascontiguousarray(weight, dtype=np.float32), bias.astype(np.float32))


def choose_c(x: Any, y: NDArray[np.int64], kind: Kind, candidates: Sequence[float], seed: int) -> dict[float, float]:
    """Accuracy of each C by stratified cross-validation, on 4,000 samples at most."""
    from sklearn.model_selection import StratifiedKFold

    rows = np.random.default_rng(seed).permutation(len(y))[:_CHOSEN_ON]
    x, y = x[rows], y[rows]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    right = dict.fromkeys(candidates, 0)
    with stage("choosing C", FOLDS * len(candidates)) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels with fewer members than folds
        for train, held in folds.split(np.zeros(len(y)), y):
            known = np.unique(y[train])
            for c in candidates:
                logits = fit(x[train], y[train], kind, c, seed).logits(x[held])
                right[c] += int(np.sum(known[logits.argmax(axis=1)] == y[held]))
                bar.advance()
    return {c: count / len(y) for c, count in right.items()}


@dataclass(frozen=True)
class Fitted:
    """What `fit_calibrated` found."""

    model: Linear
    c: float
    accuracies: dict[float, float]
    """By cross-validation, of each C; empty where there was no choice."""
    temperature: float
    """softmax(logits / temperature) are probabilities as often right as they say."""
    seconds: float


def fit_calibrated(x: Any, y: NDArray[np.int64], kind: Kind, candidates: Sequence[float], seed: int) -> Fitted:
    """Choose C, find the temperature on a tenth that was kept apart, and fit on everything.

    Args:
        x: [N, D], sparse or dense.
        y: [N] classes; each of 0 to C - 1 occurs.
    """
    started = time.monotonic()
    accuracies = choose_c(x, y, kind, candidates, seed) if len(candidates) > 1 else {}
    # Of equals the smallest: it is the smoothest.
    c = min(candidates, key=lambda each: (-round(accuracies.get(each, 0.0), 3), each))
    with stage("fitting", 2) as bar:
        apart = _apart(y, seed)
        temperature = 1.0
        if apart.any():
            logits = fit(x[~apart], y[~apart], kind, c, seed).logits(x[apart])
            temperature = calibrated(logits, y[apart])
        bar.advance()
        model = fit(x, y, kind, c, seed)
        bar.advance()
    return Fitted(model, c, accuracies, temperature, time.monotonic() - started)


def _apart(y: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """[N] a tenth of the samples; of every class at least one stays."""
    generator = np.random.default_rng(seed)
    apart = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        count = min(len(members) - 1, math.ceil(_APART_SHARE * len(members)))
        apart[members[:count]] = True
    return apart


def calibrated(logits: NDArray[Any], targets: NDArray[np.int64], smoothing: float = 0.0) -> float:
    """The temperature at which softmax(logits / T) has the least cross-entropy (Guo et al., 2017); 0.01 to 100.

    Args:
        smoothing: this share of each target is spread over its strongest rival: where few samples are all right, they
            do not prove that the model never errs.
    """
    wide = logits.astype(np.float64)
    rivals = wide.copy()
    rivals[np.arange(len(targets)), targets] = -np.inf
    rival = rivals.argmax(axis=1)

    def loss(log_temperature: float) -> float:
        scaled = wide / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        rows = np.arange(len(targets))
        wanted = (1 - smoothing) * scaled[rows, targets] + smoothing * scaled[rows, rival]
        return float((np.log(np.exp(scaled).sum(axis=1)) - wanted).mean())

    found = optimize.minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded")
    return float(math.exp(found.x))
