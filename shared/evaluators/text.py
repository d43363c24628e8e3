"""Judges packages that read sentences: text classifiers by accuracy, sentence encoders by how well they keep meanings
apart. Data as in `shared.text.labelled`. Sentences go in batches of like length, so that nothing depends on padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.evaluation import Evaluation, EvaluationData, Evaluator, Run, mean_evaluation
from shared.evaluators.classification import scores, softmax
from shared.manifest import Manifest
from shared.progress import stage
from shared.text.inputs import TextInputs, gathered
from shared.text.labelled import HOLD_OUT, LabelledTexts, Sentence, read

ACCURACY = "accuracy"
PROTOTYPE_ACCURACY = "prototype_accuracy"
BATCH = 16
BANK = 20
"""Sentences of each label whose mean embedding is the label's prototype."""
MOST_QUERIES = 6000
"""Enough for the difference of two encoders of 90 % to be known to about a quarter of a point."""


class TextClassificationEvaluator(Evaluator):
    """For packages with an output `probabilities` or `logits`, whose labels are those of the data."""

    def open(self, manifest: Manifest, data: Path) -> EvaluationData:
        found = open_texts(manifest, data, known=manifest.labels)
        return _Classified(TextInputs.of(manifest, self.assets), found)


class SentenceEmbeddingEvaluator(Evaluator):
    """For packages with an output `embedding`; takes any labels.

    The metric is the accuracy of the simplest classifier there is on embeddings: each label's prototype is the mean of
    up to 20 sentences, and a sentence belongs to the nearest one by cosine. Nothing is trained, so that it measures the
    encoder alone.
    """

    def open(self, manifest: Manifest, data: Path) -> EvaluationData:
        return EmbeddedTexts(TextInputs.of(manifest, self.assets), open_texts(manifest, data, known=None))


def open_texts(manifest: Manifest, data: Path, *, known: Sequence[str] | None) -> LabelledTexts:
    """The sentences, read and split as in the training that a manifest tells of.

    Raises:
        BadInput: no known layout, other labels, or nothing held out.
    """
    settings = manifest.lineage.settings.get("data")
    told: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}
    share = told.get("hold_out", HOLD_OUT)
    found = read(
        data,
        text=str(told.get("text", "text")),
        label=str(told.get("label", "label")),
        hold_out=share if isinstance(share, float) and 0 < share < 1 else HOLD_OUT,
        seed=manifest.lineage.seed,
        known=known,
    )
    if not found.held_out:
        raise BadInput(f"{data} has no sentences to evaluate on; put some of each label into a split `val`.")
    return found


class _Texts(EvaluationData):
    def __init__(self, inputs: TextInputs, found: LabelledTexts) -> None:
        self._inputs, self._found = inputs, found

    def _for_calibration(self) -> list[Sentence]:
        return self._found.train

    def calibration(self, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        sentences = self._for_calibration()
        if not sentences:
            raise BadInput(f"{self._found.root} has no sentences in its split `train` to calibrate with; add some.")
        order = np.random.default_rng(seed).permutation(len(sentences))[:count]
        return (self._inputs([sentences[index].text]) for index in order)

    def _answers(self, run: Run, texts: Sequence[str], what: str, *outputs: str) -> NDArray[Any]:
        """The first of these outputs that the model has, for each text."""

        def batches() -> Iterator[tuple[list[int], NDArray[Any]]]:
            with stage(what, len(texts)) as bar:
                for rows, inputs in self._inputs.batches(texts, BATCH):
                    answer = run(inputs)
                    yield rows, next(answer[name] for name in outputs if name in answer)
                    bar.advance(len(rows))

        return gathered(batches(), len(texts))


class _Classified(_Texts):
    def evaluate(self, run: Run) -> Evaluation:
        held_out = self._found.held_out
        answer = self._answers(run, [each.text for each in held_out], "classifying", "probabilities", "logits")
        sums = answer.sum(axis=1)
        probabilities = answer if np.allclose(sums, 1, atol=1e-3) and (answer >= 0).all() else softmax(answer)
        targets = np.array([each.label for each in held_out], dtype=np.int64)
        answers = probabilities.argmax(axis=1)
        extra = scores(probabilities, targets)
        extra.pop(ACCURACY)
        evaluation = mean_evaluation(ACCURACY, (answers == targets).astype(np.float64), extra)
        return dataclasses.replace(evaluation, answers=answers)


class EmbeddedTexts(_Texts):
    """Sentences in which an encoder has to find each one's label by its prototype."""

    def __init__(self, inputs: TextInputs, found: LabelledTexts) -> None:
        super().__init__(inputs, found)
        self._bank, rest = _bank(found.train)
        # A frozen encoder has seen none of the labels: what the prototypes are not made of is held out too, and the
        # difference between two encoders is known the better for it.
        self._queries = (found.held_out + _spread(rest, found))[:MOST_QUERIES]
        if len({each.label for each in self._bank}) < 2:
            raise BadInput(f"{found.root} has fewer than two labels in its split `train`; add sentences of others.")

    def _for_calibration(self) -> list[Sentence]:
        return self._bank

    def evaluate(self, run: Run) -> Evaluation:
        bank = self._answers(run, [each.text for each in self._bank], "prototypes", "embedding")
        queries = self._answers(run, [each.text for each in self._queries], "embedding", "embedding")
        labels = np.array([each.label for each in self._bank])
        known = np.unique(labels)
        prototypes = np.stack([bank[labels == label].mean(axis=0) for label in known])
        prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)
        answers = known[(queries @ prototypes.T).argmax(axis=1)]
        right = answers == np.array([each.label for each in self._queries])
        extra = {"labels": float(len(known)), "bank": float(len(bank))}
        evaluation = mean_evaluation(PROTOTYPE_ACCURACY, right.astype(np.float64), extra)
        return dataclasses.replace(evaluation, answers=answers)


def _bank(sentences: Sequence[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """The first sentences of each label (20, or half of them), and the others."""
    counts: dict[int, int] = {}
    for each in sentences:
        counts[each.label] = counts.get(each.label, 0) + 1
    taken: dict[int, int] = {}
    bank: list[Sentence] = []
    rest: list[Sentence] = []
    for each in sentences:
        taken[each.label] = taken.get(each.label, 0) + 1
        wanted = min(BANK, max(1, counts[each.label] // 2))
        (bank if taken[each.label] <= wanted else rest).append(each)
    return bank, rest


def _spread(sentences: list[Sentence], found: LabelledTexts) -> list[Sentence]:
    """In an order in which every beginning holds all labels alike; always the same."""
    order = np.random.default_rng(len(found.labels)).permutation(len(sentences))
    return [sentences[index] for index in order]
