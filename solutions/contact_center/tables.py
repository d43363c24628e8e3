"""Utterances with their intents from plain tables: columns `text` and `intent`, or what `shared.text.labelled` reads.

`oos` in the column `intent` (or a split that begins with it) marks what is out of scope.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BadInput
from shared.text import labelled
from solutions.contact_center.config import OOS

COLUMNS = ("text", "intent")


@dataclass(frozen=True)
class Utterances:
    """Labelled utterances of one kind of use."""

    source: Path
    texts: list[str]
    intents: list[str]
    """`oos`: out of scope."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of them, in order."""
        content = json.dumps([self.texts, self.intents], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()


def read(path: Path, split: str) -> Utterances:
    """The utterances of a table.

    Args:
        split: `train` or `test`: which part of a file that has both; of a table without splits, all of it.

    Raises:
        BadInput: it is not there, is no table, or has a row without text or intent.
    """
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        found = _table(path)
        if found is not None:
            return found
    return _labelled(path, split)


def _table(path: Path) -> Utterances | None:
    """A CSV file with the two columns; None where it has others."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8.") from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
    names = [name.strip().casefold() for name in reader.fieldnames or []]
    if not set(COLUMNS) <= set(names):
        if "label" in names and "text" in names:
            return None
        have = ", ".join(reader.fieldnames or []) or "none"
        raise BadInput(f"{path} must have the columns text and intent in its first line; it has: {have}.")
    reader.fieldnames = names
    texts, intents = [], []
    for row in reader:
        text, intent = (row.get(column) or "" for column in COLUMNS)
        if not intent.strip():
            raise BadInput(f"{path}: line {reader.line_num} has no intent; name one, or {OOS} for out of scope.")
        texts.append(text)
        intents.append(intent.strip())
    if not texts:
        raise BadInput(f"{path} has no rows below its first line; add utterances with their intents.")
    return Utterances(path, texts, intents)


def _labelled(path: Path, split: str) -> Utterances:
    found = labelled.pairs(path)
    order = ("train",) if split == "train" else ("test", "val", "train")
    chosen = next((name for name in order if found.get(name)), None)
    if chosen is None:
        raise BadInput(f"{path} has no sentences in its split {split!r}; add some.")
    outside = [text for text, _ in found.get(f"{OOS}_{chosen}", [])]
    rows = [(text, _plain(label)) for text, label in found[chosen]] + [(text, OOS) for text in outside]
    return Utterances(path, [text for text, _ in rows], [intent for _, intent in rows])


def _plain(label: str) -> str:
    return OOS if label.casefold() in (OOS, "out_of_scope") else label


def classes(intents: Sequence[str]) -> list[str]:
    """The intents in alphabetical order, without what is out of scope."""
    return sorted(set(intents) - {OOS})
