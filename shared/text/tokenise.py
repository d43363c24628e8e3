"""Sentences → token ids for a transformer, with the `tokenizers` library and the `tokenizer.json` of a package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shared.errors import BadInput

ASSET = "tokenizer.json"
_PADS = ("[PAD]", "<pad>", "<|endoftext|>")


class Tokeniser:
    """Thread-safe once made."""

    def __init__(self, content: bytes, max_length: int) -> None:
        """
        Args:
            content: of a `tokenizer.json`. Its own padding is not used: a package may say 128 where 8 tokens were said.
            max_length: tokens of a sentence, the special ones included; what comes after is cut off.

        Raises:
            BadInput: it is not a tokenizer.json, or the length leaves no room for a word.
        """
        try:
            self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise BadInput(f"{ASSET} cannot be read ({error}); take the one of the model.") from error
        self.max_length = max_length
        if max_length <= self._tokenizer.num_special_tokens_to_add(is_pair=False):
            raise BadInput(f"max_length {max_length} leaves no room for words; use 16 or more.")
        self.pad = self._pad()
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def _pad(self) -> int:
        padding = self._tokenizer.padding
        if padding:
            return int(padding["pad_id"])
        known = (self._tokenizer.token_to_id(name) for name in _PADS)
        return next((found for found in known if found is not None), 0)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each sentence, special tokens included."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([_whole(text) for text in texts])]

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Inputs for the model: `input_ids` and `attention_mask`, INT64 [N, L], filled up to the longest sentence."""
        return self.padded(self.ids(texts))

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
        """The same, for sentences that are ids already."""
        length = max([1, *map(len, rows)])
        ids = np.full((len(rows), length), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def _whole(text: str) -> str:
    """Without lone surrogates, which no tokeniser takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def alike(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of one length each, `size` at most: nothing is filled up, so nothing is computed in vain, and
    numbers do not depend on a neighbour's length."""
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    for length in sorted(by_length):
        members = by_length[length]
        for start in range(0, len(members), size):
            yield members[start : start + size]


def from_assets(assets: Mapping[str, bytes], name: str, max_length: int) -> Tokeniser:
    """The tokeniser among a package's assets.

    Raises:
        BadInput: there is none of this name.
    """
    if name not in assets:
        raise BadInput(
            f"the package's tokeniser {name} is not among its assets ({', '.join(sorted(assets)) or 'none'}); "
            f"make the package anew."
        )
    return Tokeniser(assets[name], max_length)
