"""Tokens and the inputs of a package."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import BadInput
from shared.text.features import Features
from shared.text.inputs import TextInputs, gathered
from shared.text.tokenise import Tokeniser, alike
from tests.shared.packages import make_manifest
from tests.shared.text.sentences import tokenizer_json

CONTENT = tokenizer_json().encode()
TEXTS = ["block my card at once", "card", "", "카드 해지해 주세요", "when does the shop open"]


def test_a_batch_is_as_long_as_its_longest_sentence_and_no_longer_than_allowed() -> None:
    tokens = Tokeniser(CONTENT, 6)
    inputs = tokens(["card", "block my card at once please", ""])
    assert inputs["input_ids"].shape == (3, 6)
    assert inputs["attention_mask"].sum(axis=1).tolist() == [3, 6, 2]
    assert inputs["input_ids"][0, 3:].tolist() == [tokens.pad] * 3
    assert inputs["input_ids"][1, -1] == 3  # cut, with its [SEP] still there
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


def test_broken_text_is_read_as_unknown() -> None:
    assert Tokeniser(CONTENT, 8)(["\ud800 card"])["attention_mask"].sum() >= 3


def test_what_is_no_tokeniser_is_refused() -> None:
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read"):
        Tokeniser(b"{}", 8)
    with pytest.raises(BadInput, match="leaves no room"):
        Tokeniser(CONTENT, 2)


def test_batches_of_one_length_hold_every_index_once() -> None:
    batches = list(alike([3, 1, 3, 3, 2], 2))
    assert sorted(index for rows in batches for index in rows) == [0, 1, 2, 3, 4]
    assert [0, 2] in batches
    assert all(len(rows) <= 2 for rows in batches)


@pytest.mark.parametrize("ngrams", [None, Features(bits=10)])
@pytest.mark.parametrize("tokens", [None, Tokeniser(CONTENT, 16)])
def test_inputs_of_a_package_by_its_manifest(ngrams: Features | None, tokens: Tokeniser | None) -> None:
    reader = TextInputs(tokens, ngrams)
    manifest = make_manifest().model_copy(update={"preprocessing": reader.preprocessing(), "inputs": reader.specs()})
    if tokens is None and ngrams is None:
        with pytest.raises(BadInput, match="does not take sentences"):
            TextInputs.of(manifest, {})
        return
    again = TextInputs.of(manifest, {"tokenizer.json": CONTENT})
    inputs = again(TEXTS)
    assert list(inputs) == [spec.name for spec in manifest.inputs]
    for spec in manifest.inputs:
        assert spec.mismatch(inputs[spec.name]) is None
    # In batches of like length the rows come out as one by one, without what fills up.
    counts = gathered(
        ((rows, next(iter(batch.values())).astype(bool).sum(axis=1)) for rows, batch in again.batches(TEXTS, 2)), 5
    )
    single = [int(next(iter(again([text]).values())).astype(bool).sum()) for text in TEXTS]
    assert counts.tolist() == single


def test_a_missing_tokeniser_is_named() -> None:
    reader = TextInputs(Tokeniser(CONTENT, 16), None)
    manifest = make_manifest().model_copy(update={"preprocessing": reader.preprocessing()})
    with pytest.raises(BadInput, match=r"tokenizer\.json is not among its assets \(none\)"):
        TextInputs.of(manifest, {})
