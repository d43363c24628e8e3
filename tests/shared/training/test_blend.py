"""The blend of models for bots: what its graph answers is what its parts average to."""

from __future__ import annotations

import numpy as np
import pytest

from shared.text.features import Features, batch
from shared.training import blend, blend_graph, linear
from shared.training.export import Session
from shared.training.sentence_layers import LayerEncoder, load_static

FEATURES = Features(bits=12, jamo=(0, 0))
TEXTS = [
    f"{verb} the {thing}" for verb in ("open", "close", "paint", "sell") for thing in ("door", "box", "gate", "car")
]
TARGETS = np.repeat(np.arange(4), 4)


@pytest.fixture(scope="module")
def static() -> LayerEncoder:
    encoder = load_static()
    if encoder is None:
        pytest.skip("MiniLM is not installed (extra `training`)")
    return encoder


def test_the_graph_answers_what_the_parts_average_to(static: LayerEncoder) -> None:
    seen = blend.Seen(linear.counted(TEXTS, FEATURES), static.embed(TEXTS), static.width)
    fitted = blend.fit(seen, TARGETS, 0)
    assert len(fitted.parts) == 2, "of a single layer one logistic regression is enough"
    temperatures = [0.5, 2.0]
    expected = np.mean([logits / by for logits, by in zip(fitted.logits(seen), temperatures, strict=True)], axis=0)
    scope = blend.Scope(1.0, 2.0, 0.5, 0.1, 0.5, 1.5, 0.3)
    part, hidden = fitted.merged(temperatures)
    assert hidden is None, "a few sentences make no network"
    session = Session(blend_graph.write(part, hidden, fitted.idf, scope, fitted.bank, static), 1)
    from shared.text.tokenise import Tokeniser

    tokens = Tokeniser(static.tokeniser, 64)
    for row, text in enumerate(TEXTS):
        ids, counts = batch([text], FEATURES)
        answer = session.run({"ngram_ids": ids, "ngram_counts": counts, **tokens([text])})
        assert np.allclose(answer["logits"][0], expected[row], atol=1e-3)
        nearest = fitted.nearest(seen.rows(np.array([row])))
        score = scope.score(expected[row : row + 1].max(axis=1), nearest)
        assert answer["scope_score"][0] == pytest.approx(score[0], abs=0.05)
        assert answer["scope"][0] == pytest.approx(scope.probability(score)[0], abs=0.02)


def test_a_hidden_layer_learns_what_no_line_can_part_and_its_graph_agrees(static: LayerEncoder) -> None:
    pytest.importorskip("torch")
    from shared.training import hidden_layer

    generator = np.random.default_rng(0)
    layers = generator.normal(size=(4000, static.width)).astype(np.float32)
    targets = ((layers[:, 0] > 0) ^ (layers[:, 1] > 0)).astype(np.int64)
    layers[:, :2] *= 6
    found = blend.Hidden(*hidden_layer.fit(layers[:3000], targets[:3000], 0))
    counts = linear.counted(["a"] * 1000, FEATURES)
    logits = found.logits(counts, layers[3000:])
    assert (logits.argmax(axis=1) == targets[3000:]).mean() > 0.85
    again = hidden_layer.fit(layers[:3000], targets[:3000], 0)
    assert np.array_equal(found.first, again[0]), "the same seed gives the same weights"


def test_the_bank_keeps_some_of_every_class_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blend, "BANK", 8)
    texts, targets = TEXTS * 4, np.concatenate([TARGETS] * 4)
    layers = np.eye(len(texts), dtype=np.float32)
    seen = blend.Seen(linear.counted(texts, FEATURES), layers, len(texts))
    bank = blend.fit(seen, targets, 0).bank
    assert bank is not None
    assert np.bincount(targets[bank.argmax(axis=1)]).tolist() == [2, 2, 2, 2]


def test_static_vectors_know_which_words_are_alike(static: LayerEncoder) -> None:
    first, near, far, empty = static.embed(["buy a car", "purchase an automobile", "boil the eggs", ""])
    assert first @ near > first @ far + 0.1
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(empty).all()
