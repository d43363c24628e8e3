"""A folder of photographs as a data set: which pictures are usable, what each is, and one fingerprint for all of them.

Three layouts are known:

* `mvtec`: `train/good`, `test/good`, `test/<defect>`, and masks `ground_truth/<defect>/<stem>_mask.png` (or
  `<stem>.png`, or another picture format);
* `good_bad`: `good/` and `bad/` (masks, if any, in `ground_truth/bad`);
* `good`: `good/` alone.

A picture that cannot be trusted is left out and named with its reason; nothing is moved or changed. Left out are files
that do not decode, pictures of which the same pixels occur twice, pictures with almost no content, and pictures of a
size unlike the rest. The same pixels in train and test are a leak, which makes every metric too good: the train one
goes.
The fingerprint covers names, labels and bytes of what is kept. It does not depend on where the folder lies, nor on the
order in which the file system lists it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_tools import layout as layouts
from data_tools.checks import Looked, look_at, odd_ones, repeated
from shared.errors import BadInput

Layout = Literal["mvtec", "good_bad", "good"]
Progress = Callable[[int, int], None]

GOOD = "good"
NEEDED_GOOD = 10
"""Pictures of good parts below which no training starts: fewer leave none to hold out for a threshold."""


class LeftOut(NamedTuple):
    """A file that is not used. `path` is absolute, `reason` one phrase for a person."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Item:
    """One usable picture. `name` is its path below the data folder with `/`; `size` is (width, height) in pixels."""

    path: Path
    split: Literal["train", "test"]
    label: str
    mask: Path | None = None
    name: str = ""
    size: tuple[int, int] = (0, 0)
    sha256: str = ""

    @property
    def is_good(self) -> bool:
        return self.label == GOOD


@dataclass(frozen=True)
class DatasetReport:
    """What `scan` found. `warnings` are sentences about the set as a whole; `left_out` names files."""

    root: Path
    layout: Layout
    items: list[Item]
    left_out: list[LeftOut]
    fingerprint: str
    warnings: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Pictures for each `split/label`, in order of name."""
        return dict(sorted(Counter(f"{item.split}/{item.label}" for item in self.items).items()))

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures for each size `width×height`, the most frequent first."""
        counted = Counter(f"{item.size[0]}×{item.size[1]}" for item in self.items)
        return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))

    @property
    def train_good(self) -> list[Item]:
        return [item for item in self.items if item.split == "train" and item.is_good]

    @property
    def test_good(self) -> list[Item]:
        return [item for item in self.items if item.split == "test" and item.is_good]

    @property
    def bad(self) -> list[Item]:
        """Every picture of a defective part; such pictures are always in `test`."""
        return [item for item in self.items if not item.is_good]

    def relative(self, path: Path) -> str:
        """`path` as it lies below the data folder, with `/`."""
        return layouts.relative_name(self.root, path)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: counts, sizes, fingerprint, warnings, and every file left out with its reason."""
        return {
            "root": layouts.printable(str(self.root)),
            "layout": self.layout,
            "images": len(self.items),
            "counts": self.counts,
            "masks": sum(item.mask is not None for item in self.items),
            "sizes": self.sizes,
            "fingerprint": self.fingerprint,
            "warnings": self.warnings,
            "left_out": [{"file": self.relative(path), "reason": reason} for path, reason in self.left_out],
        }


def scan(
    root: Path | str, *, need_good: int = NEEDED_GOOD, threads: int | None = None, progress: Progress | None = None
) -> DatasetReport:
    """Look at every picture below `root` and say what can be used.

    Args:
        root: the data folder.
        need_good: usable pictures of good parts for training that must remain; 0 for a set that is only judged.
        threads: decoding threads; None means one for each core, at most eight.
        progress: called with (pictures looked at, pictures in all).

    Raises:
        BadInput: no folder, no known layout, or too few good pictures, with what to do about it.
    """
    found = layouts.find(Path(root))
    looked = look_at(found.candidates, threads, progress)
    left_out = [LeftOut(path, reason) for path, reason in found.left_out]
    left_out += [LeftOut(one.candidate.path, one.problem) for one in looked if one.problem]
    usable = [one for one in looked if not one.problem]
    warnings = list(found.warnings)
    odd, remarks = odd_ones(usable)
    warnings += remarks
    usable = _without(usable, odd, left_out)
    usable = _without(usable, repeated(usable), left_out)
    items = [_item(one, left_out) for one in usable]
    warnings += _about_masks(items) + _orphan_masks(found)
    left_out.sort()
    report = DatasetReport(found.root, found.layout, items, left_out, _fingerprint(items), warnings)
    _enough(report, need_good)
    return report


def _without(looked: list[Looked], reasons: dict[str, str], left_out: list[LeftOut]) -> list[Looked]:
    left_out += [
        LeftOut(one.candidate.path, reasons[one.candidate.name]) for one in looked if one.candidate.name in reasons
    ]
    return [one for one in looked if one.candidate.name not in reasons]


def _item(one: Looked, left_out: list[LeftOut]) -> Item:
    candidate = one.candidate
    if candidate.mask is not None and one.mask_problem:
        left_out.append(LeftOut(candidate.mask, f"{one.mask_problem}; {candidate.name} counts as without a mask"))
    mask = None if one.mask_problem else candidate.mask
    return Item(candidate.path, candidate.split, candidate.label, mask, candidate.name, one.size, one.sha256)


def _about_masks(items: list[Item]) -> list[str]:
    sentences = []
    for label in sorted({item.label for item in items if not item.is_good}):
        with_mask = [item.mask is not None for item in items if item.label == label]
        if any(with_mask) and not all(with_mask):
            missing = with_mask.count(False)
            sentences.append(
                f"{missing} of {len(with_mask)} {label} pictures have no mask; "
                "they count for the image metrics, not for the pixel metrics."
            )
    return sentences


def _orphan_masks(found: layouts.Found) -> list[str]:
    if not found.masks_without_picture:
        return []
    count = len(found.masks_without_picture)
    first = layouts.relative_name(found.root, found.masks_without_picture[0])
    return [f"{count} mask(s) in ground_truth belong to no picture, the first {first}; they are ignored."]


def _fingerprint(items: list[Item]) -> str:
    """SHA-256 over names, splits, labels, and SHA-256 of picture and mask, in order of name."""
    digest = hashlib.sha256(b"haechi-dataset-1\n")
    for item in sorted(items, key=lambda item: item.name):
        mask = hashlib.sha256(item.mask.read_bytes()).hexdigest() if item.mask is not None else "-"
        name = unicodedata.normalize("NFC", item.name)
        digest.update(f"{item.split}\0{item.label}\0{name}\0{item.sha256}\0{mask}\n".encode())
    return digest.hexdigest()


def _enough(report: DatasetReport, need_good: int) -> None:
    have = len(report.train_good)
    if have >= need_good:
        return
    folder = report.root / ("train/good" if report.layout == "mvtec" else "good")
    sentence = f"{folder} has {have} usable pictures of good parts, {need_good} are needed: add {need_good - have} more"
    if report.left_out:
        path, reason = report.left_out[0]
        sentence += f" ({len(report.left_out)} left out, the first {report.relative(path)}: {reason})"
    raise BadInput(sentence + ".")
