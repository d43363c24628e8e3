"""How well a bot understands: the field's figures on a table, with what distorts text, and of retrieval.

Every figure is of one sentence at a time through `Understander`, as messages come: latency is that of all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.auroc import auroc
from shared.errors import BadInput
from shared.progress import track
from shared.text.retrieval import Retriever, kinds
from solutions.contact_center.config import OOS
from solutions.contact_center.tables import Utterances
from solutions.contact_center.understanding import Understander

_BINS = 15
_IN_SCOPE_KEPT = 0.90
_WARM_UP = 20
RECALL = f"oos_recall_at_in_scope_{_IN_SCOPE_KEPT:.2f}"


@dataclass(frozen=True)
class Answers:
    """What a bot answered on a table."""

    predicted: list[str]
    confidence: NDArray[np.float64]
    scope_score: NDArray[np.float64]
    milliseconds: NDArray[np.float64]


def ask(understander: Understander, texts: Sequence[str], what: str = "understanding") -> Answers:
    """Every text on its own, in order. Latency is wall time; the first few calls only warm up."""
    now = datetime.now(UTC)
    labels = understander.classifier.labels
    for text in texts[:_WARM_UP]:
        understander.understand(text, now)
    predicted, confidence, scores, taken = [], [], [], []
    for text in track(texts, what):
        started = time.perf_counter()
        found = understander.understand(text, now)
        taken.append((time.perf_counter() - started) * 1000)
        best = found.intents[0] if found.intents else None
        predicted.append(best.name if best else labels[0])
        confidence.append(best.confidence if best else 0.0)
        scores.append(found.scope_score)
    return Answers(predicted, np.array(confidence), np.array(scores), np.array(taken))


def evaluate(understander: Understander, table: Utterances) -> dict[str, float | None]:
    """The figures of a table; None where they cannot be computed.

    `accuracy`, `macro_f1` and `ece` are over the rows in scope, without a threshold; `oos_auroc` is of the raw score of
    being in scope; `oos_recall_at_in_scope_0.90` is the share of what is out of scope that is refused by the threshold
    that lets 90 % of what is in scope pass.

    Raises:
        BadInput: the table names intents of which the bot knows none.
    """
    inside = np.array([intent != OOS for intent in table.intents])
    unknown = {intent for intent in table.intents if intent != OOS} - set(understander.classifier.labels)
    if inside.any() and all(intent in unknown for intent in table.intents if intent != OOS):
        raise BadInput(
            f"{table.source} has intents that the bot does not know ({', '.join(sorted(unknown)[:3])}); "
            f"give a table of its own."
        )
    return _figures(ask(understander, table.texts), table.intents, inside)


def _figures(answers: Answers, intents: Sequence[str], inside: NDArray[np.bool_]) -> dict[str, float | None]:
    known, unknown = answers.scope_score[inside], answers.scope_score[~inside]
    truth = np.array(intents, dtype=np.str_)[inside]
    predicted = np.array(answers.predicted, dtype=np.str_)[inside]
    right = truth == predicted
    some = len(truth) > 0
    return {
        "accuracy": float(right.mean()) if some else None,
        "macro_f1": macro_f1(truth, predicted) if some else None,
        "oos_auroc": auroc(unknown, known),
        RECALL: oos_recall(known, unknown),
        "ece": expected_calibration_error(answers.confidence[inside], right) if some else None,
        "latency_ms_p50": float(np.percentile(answers.milliseconds, 50)),
        "latency_ms_p99": float(np.percentile(answers.milliseconds, 99)),
    }


def oos_recall(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float | None:
    """Share of `outside` below the score that 90 % of `inside` reach."""
    if not len(inside) or not len(outside):
        return None
    return float((outside < np.quantile(inside, 1 - _IN_SCOPE_KEPT)).mean())


def macro_f1(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """The mean over the labels that occur in `truth` of each label's F1."""
    values = []
    for label in np.unique(truth):
        hits = int(np.sum((truth == label) & (predicted == label)))
        values.append(2 * hits / (int(np.sum(truth == label)) + int(np.sum(predicted == label))))
    return float(np.mean(values))


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """ECE in 15 bins of equal width (Guo et al., 2017)."""
    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    total = 0.0
    for number in range(_BINS):
        members = place == number
        if members.any():
            total += members.mean() * abs(float(confidence[members].mean()) - float(right[members].mean()))
    return float(total)


def package_bytes(path: Path) -> int:
    """Size of a package on disk."""
    return path.stat().st_size if path.is_file() else sum(e.stat().st_size for e in path.rglob("*") if e.is_file())


def robustness(
    understander: Understander, table: Utterances, perturbations: dict[str, Callable[[str], str]]
) -> list[dict[str, Any]]:
    """Accuracy on the rows in scope as they are, and under each perturbation.

    `changed`: the share of texts that the perturbation touches.
    """
    pairs = [(text, intent) for text, intent in zip(table.texts, table.intents, strict=True) if intent != OOS]
    truth = np.array([intent for _, intent in pairs], dtype=np.str_)
    rows = []
    for name, change in {"as it is": lambda text: text, **perturbations}.items():
        texts = [change(text) for text, _ in pairs]
        predicted = np.array(ask(understander, texts, name).predicted, dtype=np.str_)
        touched = np.array([new != old for new, (old, _) in zip(texts, pairs, strict=True)])
        rows.append(
            {
                "perturbation": name,
                "changed": float(touched.mean()),
                "accuracy": float((predicted == truth).mean()),
            }
        )
    return rows


def retrieval(texts: Sequence[str], groups: Sequence[str]) -> dict[str, float]:
    """How well paraphrases find each other.

    `same_group_at_1`: the nearest of all other sentences is of the same group. `recall_at_1`: with the first sentence
    of each group stored, the nearest stored one to each of the others is its own; `recall_at_1_no_spaces`: the same
    with all spaces taken out of the query.

    Raises:
        BadInput: no group has two sentences.
    """
    names = np.array(groups, dtype=np.str_)
    first = np.sort(np.unique(names, return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(names)), first)
    if not len(rest):
        raise BadInput("no group has two sentences; give paraphrases with the same label.")
    korean = any("가" <= each <= "힣" for text in texts[:100] for each in text)
    every = Retriever(texts, kinds(korean=korean))
    hits = 0
    for row, text in enumerate(track(texts, "among all")):
        found = every.similarities(text)
        found[row] = -1.0
        hits += int(names[found.argmax()] == names[row])
    stored = Retriever([texts[row] for row in first], kinds(korean=korean))

    def recall(change: Callable[[str], str], what: str) -> float:
        asked = [(change(texts[row]), names[row]) for row in rest]
        return float(
            np.mean([names[first[stored.similarities(text).argmax()]] == name for text, name in track(asked, what)])
        )

    return {
        "same_group_at_1": hits / len(names),
        "recall_at_1": recall(lambda text: text, "among stored"),
        "recall_at_1_no_spaces": recall(lambda text: "".join(text.split()), "without spaces"),
    }
