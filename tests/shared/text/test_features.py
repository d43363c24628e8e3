"""Hashed n-grams: the same for what reads the same, different for what differs, and the same on every machine."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from shared.text.features import MAX_CHARACTERS, Features, batch, extract

CHARACTERS = Features(bits=20, words=(0, 0), jamo=(0, 0))
JAMO = Features(bits=20, words=(0, 0), characters=(0, 0))
PINNED_IDS = [467, 953, 2049, 3216, 3790, 7307]
PINNED_SIZES = (39, 54.0)
"""Of `카드 lost lost`."""


def likeness(first: str, second: str, features: Features) -> float:
    """Cosine of the two sentences' counts."""
    vectors = [np.zeros(2**features.bits) for _ in range(2)]
    for vector, text in zip(vectors, (first, second), strict=True):
        ids, counts = extract(text, features)
        vector[ids] = counts
    return float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("비밀번호 변경 해줘", "비밀번호변경해줘"),
        ("ＣＡＲＤ１２ lost", "card12  LOST"),
        ("ｶｰﾄﾞ", "カード"),
        ("한글", unicodedata.normalize("NFD", "한글")),
        ("card\u200b lost", "card lost"),
    ],
)
def test_what_reads_the_same_has_the_same_characters_and_jamo(first: str, second: str) -> None:
    for features in (CHARACTERS, JAMO):
        np.testing.assert_array_equal(extract(first, features)[0], extract(second, features)[0])


def test_spaces_between_latin_words_count_and_words_are_read() -> None:
    assert likeness("there in", "the rein", CHARACTERS) < 0.9
    words = Features(bits=20, characters=(0, 0), jamo=(0, 0))
    assert likeness("block my card", "card my block", words) == pytest.approx(0.6)  # three words of five n-grams
    assert likeness("block my card", "Block, my card!", words) > 0.5


def test_jamo_see_what_syllables_do_not() -> None:
    syllables = Features(bits=20, characters=(2, 3), words=(0, 0), jamo=(0, 0))
    for first, second in (("변경할게", "변경할께"), ("잊어버렸어", "잊어버려서")):
        assert likeness(first, second, JAMO) > likeness(first, second, syllables) + 0.1
    assert len(extract("only latin", JAMO)[0]) == 0


def test_ids_are_the_same_on_every_machine_and_in_every_version() -> None:
    """A package's table was made for these ids; other ones would read its rows at random."""
    ids, counts = extract("카드 lost lost", Features())
    assert ids.tolist()[:6] == PINNED_IDS
    assert (len(ids), float(counts.sum())) == PINNED_SIZES


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_ids_in_range_in_rising_order(text: str) -> None:
    features = Features(bits=12)
    ids, counts = extract(text, features)
    assert ids.dtype == np.int64
    assert counts.dtype == np.float32
    assert ((ids >= 0) & (ids < 2**12)).all()
    assert (np.diff(ids) > 0).all()
    assert (counts >= 1).all()


@pytest.mark.parametrize("text", ["", "   ", "\u200b", "\ud800", "a", "가"])
def test_nearly_nothing_is_no_error(text: str) -> None:
    ids, counts = batch([text, "hello"], Features())
    assert ids.shape == counts.shape
    np.testing.assert_array_equal(counts[0][len(extract(text, Features())[0]) :], 0)


def test_a_novel_costs_no_more_than_its_beginning() -> None:
    long = "word " * 100_000
    np.testing.assert_array_equal(extract(long, Features())[0], extract(long[:MAX_CHARACTERS], Features())[0])


def test_settings_survive_a_manifest_and_are_checked() -> None:
    features = Features(bits=13, jamo=(0, 0))
    assert Features.from_dict(features.as_dict()) == features
    for wrong in ({"bit": 3}, {"bits": 40}, {"words": [3, 1]}, {"words": 2}, {"words": ["a", "b"]}, []):
        with pytest.raises(BadInput, match="features"):
            Features.from_dict(wrong)
