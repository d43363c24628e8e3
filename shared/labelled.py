"""Labelled pictures as a data set: which can be used, what each shows, what is trained on and what is held out.

Two layouts are known:

* list files: `train.txt` and `val.txt` (`test.txt`) with a line `path, fine id, coarse id` for each picture, the path
  from the folder that holds them; `classes.csv` gives the ids their names. Labels are the `fine` or the `coarse` ones.
* folders: `train/<class>/…`, `val/<class>/…` (`test/…`), or `<class>/…` alone. Labels are the names of the folders.

Where there is no `val`, a share of each class is drawn from the training pictures by the seed; the same pictures, share
and seed give the same split anywhere. `test` is read only where it is asked for, and never to train or to choose.

A picture that cannot be trusted is left out and named with its reason; nothing is moved or changed. Left out are files
that do not decode and pictures whose pixels occur twice: of a pair in training and held-out pictures the one to train
on goes, since a picture that was trained on makes every metric too good; of a pair with different labels both go.
The fingerprint covers names, labels, splits and bytes of what is kept, not where the folder lies.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.images import EXTENSIONS, decode_reduced, read_file
from shared.manifest import printable
from shared.progress import track

Labels = Literal["auto", "folder", "fine", "coarse"]
SPLITS = ("train", "val", "test")
_REDUCED_SIDE = 256
_SHOWN = 3


class LeftOut(NamedTuple):
    """A file that is not used. `name` is its path below the data folder, `reason` one phrase for a person."""

    name: str
    reason: str


class Picture(NamedTuple):
    """One usable picture. `label` is an index into the set's labels; `name` its path below the data folder with `/`."""

    path: Path
    name: str
    label: int
    split: str
    sha256: str


@dataclass(frozen=True)
class LabelledSet:
    """What `scan` found."""

    root: Path
    kind: str
    """Of the labels: `folder`, `fine` or `coarse`."""
    labels: list[str]
    train: list[Picture]
    held_out: list[Picture]
    """To validate on, or to evaluate: of the split `held_out_split`."""
    held_out_split: str
    left_out: list[LeftOut]
    fingerprint: str
    coarse_of: list[int] = field(default_factory=list)
    """For each fine id its coarse one, where list files tell; else empty."""
    fine: list[str] = field(default_factory=list)
    """Names of the fine labels, by id; empty where there are none."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: counts, fingerprint, and every file left out with its reason."""
        return {
            "root": printable(str(self.root)),
            "labels": self.labels,
            "train": len(self.train),
            self.held_out_split: len(self.held_out),
            "counts": {self.labels[label]: count for label, count in sorted(_counted(self.train).items())},
            "fingerprint": self.fingerprint,
            "left_out": [{"file": name, "reason": reason} for name, reason in self.left_out],
        }


class _Entry(NamedTuple):
    """A picture as the layout names it."""

    split: str
    name: str
    label: str


@dataclass
class _Layout:
    kind: str
    entries: list[_Entry]
    labels: list[str]
    left_out: list[LeftOut] = field(default_factory=list)
    coarse_of: list[int] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)


def scan(
    root: Path | str,
    *,
    labels: Labels = "auto",
    hold_out: float = 0.15,
    seed: int = 0,
    known: Sequence[str] | None = None,
    test: bool = False,
    threads: int | None = None,
) -> LabelledSet:
    """Look at every picture below `root`, with progress.

    Args:
        labels: which labels to take; `auto` takes the fine ones of list files, else the folders' names.
        hold_out: share of each class that is held out where there is no `val`, 0 to below 1; at least one of a class
            that has two.
        seed: of that split.
        known: the labels, in their order, of a model that is to be evaluated. Default: those that have pictures.
        test: evaluate on `test` where there is no `val`, before drawing anything from `train`.
        threads: that decode; None means one for each core.

    Raises:
        BadInput: no folder, no known layout, no such labels, none of the pictures usable, or (`known`) labels that the
            model does not have; with what to do about it.
    """
    root = Path(root)
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder; give the one that holds the labelled pictures.")
    layout = _from_lists(root, labels) if _has_lists(root, labels) else _from_folders(root)
    has = {entry.split for entry in layout.entries}
    wanted = "val" if "val" in has or not (test and "test" in has) else "test"
    layout.entries = [entry for entry in layout.entries if entry.split in ("train", wanted)]
    names = list(known) if known is not None else _trained(layout)
    if known is not None:
        _check_known(layout, known, root)
    index = {label: number for number, label in enumerate(names)}
    left_out = list(layout.left_out)
    pictures = _usable(root, layout.entries, index, left_out, threads)
    if wanted not in has:
        pictures = _split(pictures, hold_out, seed)
        wanted = "val"
    train = [picture for picture in pictures if picture.split == "train"]
    held_out = [picture for picture in pictures if picture.split == wanted]
    if not pictures:
        shown = f" ({left_out[0].name}: {left_out[0].reason})" if left_out else ""
        raise BadInput(f"{root} has no picture that can be used{shown}; see the file formats in the README.")
    return LabelledSet(
        root,
        layout.kind,
        names,
        train,
        held_out,
        wanted,
        left_out,
        _fingerprint(pictures, names),
        layout.coarse_of,
        layout.fine,
    )


# -- the two layouts -------------------------------------------------------------------------------------------------


def _has_lists(root: Path, labels: Labels) -> bool:
    has = (root / "train.txt").is_file()
    if labels in ("fine", "coarse") and not has:
        raise BadInput(f"{root} has no train.txt, and so no {labels} labels; write `labels: folder`.")
    return has and labels != "folder"


def _from_lists(root: Path, labels: Labels) -> _Layout:
    kind = "coarse" if labels == "coarse" else "fine"
    column = 2 if kind == "coarse" else 1
    rows = {split: _list(root, split, column) for split in SPLITS}
    ids = [int(row[column]) for split in rows.values() for row in split]
    fine, coarse, coarse_of = _classes(root)
    names = coarse if kind == "coarse" else fine
    if not names:
        names = [str(number) for number in range(max(ids, default=-1) + 1)]
    if ids and max(ids) >= len(names):
        raise BadInput(f"{root / 'classes.csv'} has no {kind} class with the id {max(ids)}, which the lists use.")
    entries = [
        _Entry(split, row[0].replace("\\", "/"), names[int(row[column])]) for split in rows for row in rows[split]
    ]
    return _Layout(kind, entries, names, coarse_of=coarse_of, fine=fine)


def _list(root: Path, split: str, column: int) -> list[list[str]]:
    """The lines of `<split>.txt`, of which `column` is a number; none if there is no such file."""
    path = root / f"{split}.txt"
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(read_file(path).decode("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        row = [cell.strip() for cell in line.split(",")]
        if len(row) <= column or not row[column].isdecimal():
            raise BadInput(
                f"{path}, line {number}: expected `path, fine id{', coarse id' if column == 2 else ''}` with ids "
                f"from 0, not {printable(line)[:80]!r}."
            )
        rows.append(row)
    return rows


def _classes(root: Path) -> tuple[list[str], list[str], list[int]]:
    """Names of the fine and of the coarse classes by id, and the coarse id of each fine one, from `classes.csv`."""
    path = root / "classes.csv"
    if not path.is_file():
        return [], [], []
    rows = list(csv.reader(read_file(path).decode("utf-8-sig", errors="replace").splitlines()))
    header = [re.sub(r"\(.*\)", "", cell).strip().lower() for cell in rows[0]] if rows else []
    try:
        columns = [header.index(name) for name in ("class name", "class id", "coarse class name", "coarse class id")]
    except ValueError:
        raise BadInput(
            f"{path} must have the columns Class Name, Class ID, Coarse Class Name and Coarse Class ID."
        ) from None
    fine: dict[int, str] = {}
    coarse: dict[int, str] = {}
    parent: dict[int, int] = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            name, index, coarse_name, coarse_index = (row[column].strip() for column in columns)
            fine[int(index)], coarse[int(coarse_index)] = name, coarse_name
            parent[int(index)] = int(coarse_index)
        except (ValueError, IndexError):
            raise BadInput(f"{path}, line {number}: a class needs names and whole-numbered ids.") from None
    for kind, names in (("fine", fine), ("coarse", coarse)):
        if sorted(names) != list(range(len(names))):
            raise BadInput(f"{path}: the {kind} ids must run from 0 without a gap.")
    return _by_id(fine), _distinct(_by_id(coarse)), [parent[number] for number in range(len(fine))]


def _by_id(names: dict[int, str]) -> list[str]:
    return [names[number] for number in range(len(names))]


def _distinct(names: list[str]) -> list[str]:
    """Two classes of one name keep their ids apart."""
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} ({number})" if name in twice else name for number, name in enumerate(names)]


def _from_folders(root: Path) -> _Layout:
    kind = "folder"
    splits = [split for split in SPLITS if (root / split).is_dir()]
    if "train" not in splits and any((root / split).is_dir() for split in ("val", "test")):
        raise BadInput(f"{root} has no train folder; put the pictures in train/<class>/.")
    places = [(split, root / split) for split in splits] or [("train", root)]
    entries, left_out = [], []
    for split, place in places:
        for folder in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")):
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(root).as_posix()
                if path.suffix.lower() in EXTENSIONS and path.is_file():
                    entries.append(_Entry(split, name, folder.name))
                elif path.is_file() and not path.name.startswith("."):
                    left_out.append(LeftOut(name, "not a picture by its name"))
    if not entries:
        raise BadInput(f"{root} holds no labelled pictures; use train/<class>/picture.jpg, or lists (train.txt).")
    return _Layout(kind, entries, sorted({entry.label for entry in entries}), left_out)


def _trained(layout: _Layout) -> list[str]:
    """The labels that have pictures to train on, in the layout's order: what was never seen cannot be learnt."""
    seen = {entry.label for entry in layout.entries if entry.split == "train"}
    return [label for label in layout.labels if label in seen]


def _check_known(layout: _Layout, known: Sequence[str], root: Path) -> None:
    used = {entry.label for entry in layout.entries}
    strange = sorted(used - set(known))
    if len(strange) == len(used):
        raise BadInput(
            f"{root} is labelled with classes that the package does not know ({_some(strange)}); its own are "
            f"{_some(known)}."
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown


# -- what can be used ------------------------------------------------------------------------------------------------


class _Looked(NamedTuple):
    """What one file is like. `problem` is why it cannot be used, "" if it can."""

    problem: str
    sha256: str = ""
    pixels: str = ""


def _usable(
    root: Path, entries: Sequence[_Entry], index: dict[str, int], left_out: list[LeftOut], threads: int | None
) -> list[Picture]:
    """The pictures that decode, have a known label and occur once; the others go to `left_out`."""
    from shared.runtime import default_threads

    with ThreadPoolExecutor(threads or default_threads()) as pool:
        looked = list(track(pool.map(_look_at, (root / entry.name for entry in entries)), "pictures", len(entries)))
    found: list[tuple[Picture, str]] = []
    for entry, look in zip(entries, looked, strict=True):
        if entry.label not in index:
            reason = f"its class {printable(entry.label)} has no pictures to train on"
        else:
            reason = look.problem
        if reason:
            left_out.append(LeftOut(printable(entry.name), reason))
        else:
            path = root / entry.name
            found.append((Picture(path, entry.name, index[entry.label], entry.split, look.sha256), look.pixels))
    return _once(found, left_out)


def _look_at(path: Path) -> _Looked:
    try:
        status = path.stat()
    except OSError:
        return _Looked("does not exist")
    return _looked(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=200_000)
def _looked(path: Path, size: int, changed: int) -> _Looked:  # noqa: ARG001 (size and time make the cache's key)
    """Remembered, since a search opens the same set for each of its trials."""
    try:
        data = read_file(path)
        picture, true_size = decode_reduced(data, path.name, _REDUCED_SIDE)
    except BadInput as error:
        return _Looked(printable(str(error)).removeprefix(f"{printable(path.name)} ").removesuffix("."))
    pixels = hashlib.sha256(f"{true_size}:".encode() + picture.tobytes()).hexdigest()
    return _Looked("", hashlib.sha256(data).hexdigest(), pixels)


def _once(found: Iterable[tuple[Picture, str]], left_out: list[LeftOut]) -> list[Picture]:
    """Each picture once; see the module."""
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture, pixels in found:
        groups[pixels].append(picture)
    kept: list[Picture] = []
    for same in groups.values():
        first, *others = sorted(same, key=lambda picture: (picture.split == "train", picture.name))
        if len({picture.label for picture in same}) > 1:
            for picture in same:
                other = next(each for each in same if each.label != picture.label)
                reason = f"the same pixels are labelled otherwise in {printable(other.name)}"
                left_out.append(LeftOut(printable(picture.name), reason))
            continue
        kept.append(first)
        left_out += [LeftOut(printable(each.name), f"the same pixels as {printable(first.name)}") for each in others]
    return sorted(kept, key=lambda picture: (picture.split, picture.name))


def _split(pictures: Sequence[Picture], hold_out: float, seed: int) -> list[Picture]:
    """Move a share of each class to `val`: drawn by the seed, among the pictures in order of name."""
    generator = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for number, picture in enumerate(pictures):
        members[picture.label].append(number)
    chosen: set[int] = set()
    for label in sorted(members):
        size = len(members[label])
        count = min(max(1, round(hold_out * size)), size - 1) if hold_out > 0 else 0
        chosen |= set(generator.permutation(members[label])[:count].tolist())
    return [each._replace(split="val") if number in chosen else each for number, each in enumerate(pictures)]


def labels_of(pictures: Sequence[Picture]) -> NDArray[np.int64]:
    """Their labels [N]."""
    return np.array([picture.label for picture in pictures], dtype=np.int64)


def _counted(pictures: Iterable[Picture]) -> Counter[int]:
    return Counter(picture.label for picture in pictures)


def _fingerprint(pictures: Sequence[Picture], labels: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for picture in sorted(pictures, key=lambda each: (each.split, each.name)):
        digest.update(f"{picture.split}\0{picture.name}\0{labels[picture.label]}\0{picture.sha256}\n".encode())
    return digest.hexdigest()
