"""Evaluators of text packages, against models whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from shared.errors import BadInput
from shared.evaluation import Evaluator, Run, changed_answers, paired_drop
from shared.evaluators.text import BANK, SentenceEmbeddingEvaluator, TextClassificationEvaluator
from shared.manifest import Manifest
from shared.text.features import Features
from shared.text.inputs import TextInputs
from shared.text.labelled import read
from shared.text.tokenise import Tokeniser
from tests.shared.packages import make_manifest
from tests.shared.text.sentences import INTENTS, make_intents, tokenizer_json

TOKENS = Tokeniser(tokenizer_json().encode(), 16)
ASSETS = {"tokenizer.json": tokenizer_json().encode()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_intents(tmp_path_factory.mktemp("texts") / "intents.json", count=80)


def manifest_of(reader: TextInputs, **fields: object) -> Manifest:
    return make_manifest().model_copy(update={"preprocessing": reader.preprocessing(), "labels": [], **fields})


def opened(evaluator: Evaluator, manifest: Manifest) -> Evaluator:
    evaluator.assets = ASSETS
    return evaluator


def by_words(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """[N, 128] which words occur: a perfect encoder of the templates."""
    found = np.zeros((len(inputs["input_ids"]), 128), dtype=np.float32)
    for row, ids in enumerate(inputs["input_ids"]):
        found[row, ids[inputs["attention_mask"][row] == 1]] = 1
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_prototypes_find_what_an_encoder_keeps_apart(data: Path) -> None:
    manifest = manifest_of(TextInputs(TOKENS, None))
    opened_data = opened(SentenceEmbeddingEvaluator(), manifest).open(manifest, data)
    good = opened_data.evaluate(lambda inputs: {"embedding": by_words(inputs)})
    generator = np.random.default_rng(0)
    bad = opened_data.evaluate(
        lambda inputs: {"embedding": generator.normal(size=(len(inputs["input_ids"]), 8)).astype(np.float32)}
    )
    assert good.metric == "prototype_accuracy"
    assert good.value > 0.9
    assert 0.05 < bad.value < 0.4  # one in five by chance
    # 40 of val and what the prototypes are not made of
    assert good.samples == bad.samples == 40 + 5 * (80 - BANK)
    assert paired_drop(good, bad).low > 0.4
    assert good.answers is not None
    assert len(good.answers) == good.samples


def test_calibration_never_shows_what_is_judged(data: Path) -> None:
    manifest = manifest_of(TextInputs(None, Features(bits=16)))
    opened_data = SentenceEmbeddingEvaluator().open(manifest, data)
    shown = {tuple(inputs["ngram_ids"][0]) for inputs in opened_data.calibration(10_000, seed=0)}
    judged: list[tuple[int, ...]] = []

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        judged.extend(tuple(ids[counts > 0]) for ids, counts in zip(*inputs.values(), strict=True))
        return {"embedding": np.ones((len(inputs["ngram_ids"]), 2), dtype=np.float32)}

    opened_data.evaluate(run)
    # The bank itself is asked for its embeddings, so that calibration sentences are among what was run, and no others.
    assert shown <= set(judged)
    assert len(list(opened_data.calibration(10_000, seed=0))) == 5 * BANK
    assert len(list(opened_data.calibration(7, seed=0))) == 7
    assert opened_data.example()["ngram_ids"].shape[0] == 1


def test_a_classifier_is_right_as_often_as_it_is(data: Path) -> None:
    labels = list(reversed(INTENTS))  # the package's order, not the data's
    manifest = manifest_of(TextInputs(TOKENS, None), labels=labels)
    truth = {tuple(TOKENS.ids([each.text])[0]): each.label for each in read(data, known=labels).val}
    wrong = next(iter(truth))

    def model(mistaken: bool) -> Run:
        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            logits = np.zeros((len(inputs["input_ids"]), 5), dtype=np.float32)
            for row, ids in enumerate(inputs["input_ids"]):
                sentence = tuple(ids[inputs["attention_mask"][row] == 1].tolist())
                logits[row, (truth[sentence] + (mistaken and sentence == wrong)) % 5] = 4
            return {"logits": logits}

        return run

    held = opened(TextClassificationEvaluator(), manifest).open(manifest, data)
    found = held.evaluate(model(mistaken=True))
    mistakes = [tuple(TOKENS.ids([each.text])[0]) == wrong for each in read(data, known=labels).val]
    assert found.metric == "accuracy"
    assert found.value == pytest.approx(1 - float(np.mean(mistakes)))
    assert found.value < 1
    assert found.extra["ece"] < 0.2
    assert changed_answers(found, held.evaluate(model(mistaken=False))) == sum(mistakes) > 0


def test_data_of_other_labels_are_refused(data: Path) -> None:
    manifest = manifest_of(TextInputs(None, Features(bits=10)), labels=["balance", "block"])
    with pytest.raises(BadInput, match="which the package does not know"):
        TextClassificationEvaluator().open(manifest, data)
