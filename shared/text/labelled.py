"""Sentences with labels, from the files that people have. No torch.

    questions.csv, .tsv     columns `text` and `label`, and `split` (train, val, test) if it has splits
    questions.jsonl         the same as one JSON object in each line
    questions.json          {"train": [["how are you", "greeting"], ...], "val": ..., "test": ..., "oos_test": ...}
    a folder                train.*, val.* and test.* of these kinds, or one such file alone
    paraKQC_v1.txt          Korean questions, ten paraphrases after another; a group is a label

Splits that begin with `oos` hold sentences outside of every label; they are kept apart.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import BadInput

HOLD_OUT = 0.15
"""Share of each label that is held out for validation where the data have no split of their own."""
SPLITS = ("train", "val", "test")
_KINDS = (".json", ".jsonl", ".csv", ".tsv")
_ALSO = {"valid": "val", "validation": "val", "dev": "val"}
_PARAKQC_GROUP = 10

Pair = tuple[str, str]
"""A sentence and its label."""


@dataclass(frozen=True)
class Sentence:
    """One labelled sentence."""

    text: str
    label: int
    """Index into the labels."""


@dataclass
class LabelledTexts:
    """A data set of sentences."""

    root: Path
    labels: list[str]
    """In alphabetical order, or as the caller gave them."""
    train: list[Sentence]
    val: list[Sentence]
    test: list[Sentence]
    outside: dict[str, list[str]] = field(default_factory=dict)
    """Sentences outside of every label, by split (`train`, `val`, `test`)."""
    fingerprint: str = ""
    """SHA-256 over all sentences and labels."""

    @property
    def held_out(self) -> list[Sentence]:
        """What a model is judged on: `val`, else `test`."""
        return self.val or self.test


def read(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    hold_out: float = HOLD_OUT,
    seed: int = 0,
    known: Sequence[str] | None = None,
) -> LabelledTexts:
    """Read a data set.

    Args:
        text, label: names of the columns (CSV) or keys (JSONL).
        hold_out: where there is neither `val` nor `test`: this share of each label is taken out of `train`.
        known: the labels a package has, in its order.

    Raises:
        BadInput: nothing there that can be read; a line without text or label; a label that is not among `known`.
    """
    raw = pairs(path, text=text, label=label)
    outside = {name.removeprefix("oos").strip("_") or "test": split for name, split in raw.items() if _is_outside(name)}
    splits = {name: raw.get(name, []) for name in SPLITS}
    names = sorted({name for split in splits.values() for _, name in split})
    if not names:
        raise BadInput(f"{path} holds no labelled sentences; give columns {text} and {label}, or splits train and val.")
    labels = list(known) if known else names
    strange = next((name for name in names if name not in labels), None)
    if strange is not None:
        raise BadInput(f"{path} has the label {strange!r}, which the package does not know; give data of its labels.")
    number = {name: index for index, name in enumerate(labels)}
    found = {name: [Sentence(sentence, number[each]) for sentence, each in split] for name, split in splits.items()}
    if not found["val"] and not found["test"]:
        found["train"], found["val"] = _split(found["train"], hold_out, seed)
    digest = hashlib.sha256(json.dumps(raw, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace"))
    return LabelledTexts(
        path,
        labels,
        **found,
        outside={name: [sentence for sentence, _ in split] for name, split in outside.items()},
        fingerprint=digest.hexdigest(),
    )


def _split_name(name: str) -> str:
    return _ALSO.get(name, name)


def _is_outside(name: str) -> bool:
    return name.startswith("oos")


def pairs(path: Path, *, text: str = "text", label: str = "label") -> dict[str, list[Pair]]:
    """Sentences and labels by split, as they are written: in order, nothing held out. Splits as in `read`; those that
    begin with `oos` are outside of every label.

    Raises:
        BadInput: nothing there that can be read; a line without text or label.
    """
    return _load(path, text, label)


def _load(path: Path, text: str, label: str) -> dict[str, list[Pair]]:
    if path.is_dir():
        return _load_folder(path, text, label)
    if not path.is_file():
        raise BadInput(f"{path} is not there; give a file ({', '.join(_KINDS)}) or a folder of labelled sentences.")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8.") from error
    if path.suffix == ".json":
        return _parse_json(content, path)
    if path.name.lower().startswith("parakqc"):
        return {"train": list(_parse_parakqc(content, path))}
    if path.suffix not in _KINDS:
        raise BadInput(f"{path} is not one of {', '.join(_KINDS)}; save the sentences as one of them.")
    rows = _rows(content, path)
    return _by_split(rows, path, text, label)


def _load_folder(folder: Path, text: str, label: str) -> dict[str, list[Pair]]:
    files = sorted(each for each in folder.iterdir() if each.suffix in _KINDS or each.name.startswith("paraKQC"))
    by_split = {_split_name(each.stem): each for each in files}
    if "train" in by_split:
        loaded = {}
        for name in SPLITS:
            if name in by_split:
                inner = _load(by_split[name], text, label)
                loaded[name] = [pair for split in inner.values() for pair in split]
        return loaded
    for each in files:
        try:
            return _load(each, text, label)
        except BadInput:
            continue  # a folder may hold other JSON and CSV files beside the sentences
    raise BadInput(f"{folder} has no train.csv, no .jsonl, .json, .csv or .tsv of labelled sentences; add one.")


def _parse_json(content: str, path: Path) -> dict[str, list[Pair]]:
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise BadInput(f"{path} is not JSON ({error}).") from error
    if not isinstance(raw, dict) or not any(isinstance(value, list) for value in raw.values()):
        raise BadInput(f'{path} must be an object of splits, such as {{"train": [["how are you", "greeting"]]}}.')
    found: dict[str, list[Pair]] = {}
    for name, items in raw.items():
        split = _split_name(name)
        if split not in SPLITS and not _is_outside(split):
            continue
        for number, item in enumerate(items, 1):
            if not (isinstance(item, list) and len(item) == 2 and all(isinstance(each, str) for each in item)):
                raise BadInput(f"{path}: item {number} of {name} must be [text, label].")
            found.setdefault(split, []).append((item[0], item[1]))
    return found


def _parse_parakqc(content: str, path: Path) -> Iterator[Pair]:
    for number, line in enumerate(content.splitlines()):
        columns = line.split("\t")
        if len(columns) != 3:
            raise BadInput(f"{path}: line {number + 1} must have three columns: topic, act, sentence.")
        yield columns[2], f"{number // _PARAKQC_GROUP:04d}"


def _rows(content: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".jsonl":
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}: line {number} is not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise BadInput(f"{path}: line {number} must be an object with text and label.")
            yield number, row
        return
    delimiter = "\t" if path.suffix == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
    for row in reader:
        yield reader.line_num, row


def _by_split(
    rows: Iterator[tuple[int, Mapping[str, Any]]], path: Path, text: str, label: str
) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for number, row in rows:
        for column in (text, label):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise BadInput(f"{path}: line {number} has no {column!r}; name the columns {text!r} and {label!r}.")
        name = str(row.get("split") or "train").strip().lower()
        name = _split_name(name)
        if name not in SPLITS and not _is_outside(name):
            raise BadInput(f"{path}: line {number}: split {name!r} is not one of {', '.join(SPLITS)}.")
        found.setdefault(name, []).append((row[text], row[label].strip()))
    return found


def _split(sentences: list[Sentence], share: float, seed: int) -> tuple[list[Sentence], list[Sentence]]:
    """Train and held-out part; of each label with two sentences or more at least one is held out."""
    generator = np.random.default_rng(seed)
    labels = np.array([each.label for each in sentences])
    held = np.zeros(len(sentences), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        held[members[:count]] = True
    train = [each for each, out in zip(sentences, held, strict=True) if not out]
    return train, [each for each, out in zip(sentences, held, strict=True) if out]
