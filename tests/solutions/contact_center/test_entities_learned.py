"""Learned entities: what a handful of examples teach, and slot F1 on real sentences."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from solutions.contact_center.config import EntityConfig
from solutions.contact_center.entities import Extractor, learned
from solutions.contact_center.entities.learned import Example, Labeller, fit
from tests.solutions.contact_center.test_entities import NOW

SNIPS = Path(__file__).parents[4] / "shared" / "data" / "contact_center" / "snips"


def marked(text: str, *surfaces: tuple[str, str]) -> Example:
    return text, [(text.index(one), text.index(one) + len(one), label) for one, label in surfaces]


KOREAN = [
    marked("인터넷이 자꾸 끊겨요", ("인터넷", "thing"), ("끊겨요", "symptom")),
    marked("티비가 안 나와요", ("티비", "thing"), ("안 나와요", "symptom")),
    marked("와이파이가 느려요", ("와이파이", "thing"), ("느려요", "symptom")),
    marked("전화가 안 걸려요", ("전화", "thing"), ("안 걸려요", "symptom")),
    marked("인터넷이 느려요", ("인터넷", "thing"), ("느려요", "symptom")),
    marked("티비가 자꾸 꺼져요", ("티비", "thing"), ("꺼져요", "symptom")),
    marked("전화가 자꾸 끊겨요", ("전화", "thing"), ("끊겨요", "symptom")),
    marked("티비가 너무 느려요", ("티비", "thing"), ("느려요", "symptom")),
    ("요금이 궁금해요", []),
    ("해지하고 싶어요", []),
]
WEIGHTS = fit(KOREAN)


def test_a_few_examples_teach_words_without_their_particles_and_without_spaces() -> None:
    extractor = Extractor(
        [EntityConfig(entity="thing", kind="learned"), EntityConfig(entity="symptom", kind="learned")],
        weights=json.loads(json.dumps(WEIGHTS)),
        used=[],
    )
    for text in ("와이파이가 자꾸 끊겨요", "와이파이가자꾸끊겨요"):
        found = [(one.kind, one.surface) for one in extractor.extract(text, NOW)]
        assert found == [("thing", "와이파이"), ("symptom", "끊겨요")]
    assert extractor.extract("요금이 궁금해요", NOW) == []


def test_training_twice_gives_the_same_weights() -> None:
    assert fit(KOREAN) == WEIGHTS


def test_nothing_marked_and_damaged_weights_are_bad_input() -> None:
    with pytest.raises(BadInput, match="mark"):
        fit([("요금이 궁금해요", [])])
    for damage in ({"version": 9}, {"weights": "!!"}, {"labels": ["O"]}, {"transitions": [[0.0]]}):
        with pytest.raises(BadInput, match="damaged"):
            Labeller({**WEIGHTS, **damage})


@given(st.text(max_size=300))
@settings(deadline=None)
def test_any_text_gives_spans_inside_it(text: str) -> None:
    position = 0
    for one in Labeller(WEIGHTS).find(text):
        assert position <= one.start < one.end <= len(text)
        assert 0.5 <= one.confidence <= 1
        position = one.end


def snips(part: str, limit: int | None = None) -> list[Example]:
    examples: list[Example] = []
    for folder in sorted(path for path in SNIPS.iterdir() if path.is_dir()):
        name = f"{part}_{folder.name}{'_full' if part == 'train' else ''}.json"
        raw = json.loads((folder / name).read_bytes().decode("utf-8", "replace"))
        for query in raw[folder.name][:limit]:
            text, spans = "", []
            for piece in query["data"]:
                words = piece["text"]
                if "entity" in piece:
                    before = len(words) - len(words.lstrip())
                    spans.append((len(text) + before, len(text) + len(words.rstrip()), piece["entity"]))
                text += words
            examples.append((text, spans))
    return examples


def slot_f1(labeller: Labeller, examples: list[Example]) -> float:
    """Micro-averaged over exact spans with their labels, as CoNLL counts them."""
    right = said = there = 0
    for text, spans in examples:
        found = {(one.start, one.end, one.label) for one in labeller.find(text)}
        right += len(found & set(spans))
        said += len(found)
        there += len(set(spans))
    return 2 * right / (said + there)


needs_snips = pytest.mark.skipif(not SNIPS.is_dir(), reason=f"{SNIPS} is not there")


@needs_snips
def test_a_tenth_of_the_training_sentences_teaches_most_slots() -> None:
    assert slot_f1(Labeller(fit(snips("train", 200), epochs=4)), snips("validate", 40)) >= 0.80


@pytest.mark.slow
@needs_snips
def test_seven_intents_jointly_reach_their_bar() -> None:
    weights = fit(snips("train"))
    assert slot_f1(Labeller(weights), snips("validate")) >= 0.92
    assert len({label[2:] for label in weights["labels"]} - {""}) == 39


def test_viterbi_finds_the_best_of_all_paths() -> None:
    random = np.random.default_rng(7)
    for _ in range(20):
        scores = random.normal(size=(4, 3)).astype(np.float32)
        moves = random.normal(size=(4, 3)).astype(np.float32)

        def total(path: tuple[int, ...], s: np.ndarray = scores, m: np.ndarray = moves) -> float:
            return float(
                m[-1, path[0]]
                + sum(s[t, y] for t, y in enumerate(path))
                + sum(m[a, b] for a, b in itertools.pairwise(path))
            )

        best = max(np.ndindex(3, 3, 3, 3), key=total)
        assert tuple(learned.viterbi(scores, moves)) == best
