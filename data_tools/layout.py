"""Finding the pictures of a data folder: which layout it has, which file is what, and what is in the wrong place."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shared.errors import BadInput
from shared.images import EXTENSIONS

_OTHER_PICTURES = frozenset(
    {".webp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".raw", ".dng", ".cr2", ".nef", ".svg", ".pgm", ".ppm"}
)
_NAMES_FOR_GOOD = frozenset({"ok", "pass", "passed", "normal", "normals", "goods", "io"})
_NAMES_FOR_BAD = frozenset(
    {"ng", "nok", "fail", "failed", "defect", "defects", "defective", "anomaly", "anomalies", "abnormal", "nio"}
)
_CLUTTER = frozenset({"thumbs.db", "desktop.ini"})
_EXPECTED = (
    "expected is train/good (and test/<kind>, ground_truth/<kind>), or good and bad, or good alone, "
    "with the pictures in them"
)


@dataclass(frozen=True)
class Candidate:
    """A file that should be a picture. `name` is its path below the data folder with `/`."""

    path: Path
    name: str
    split: Literal["train", "test"]
    label: str
    mask: Path | None = None


@dataclass
class Found:
    """The files of a data folder before any is opened; candidates are in order of name."""

    root: Path
    layout: Literal["mvtec", "good_bad", "good"]
    candidates: list[Candidate] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    masks_without_picture: list[Path] = field(default_factory=list)
    hidden: int = 0


def relative_name(root: Path, path: Path) -> str:
    """`path` below `root` with `/`; the whole path where it lies elsewhere."""
    return printable((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def printable(name: str) -> str:
    """A file name that can be written as UTF-8: bytes that are not UTF-8 (old Korean Windows, say) become `\\xb0`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find(root: Path) -> Found:
    """Recognise the layout below `root` and list its pictures. BadInput, with the mend, where there is none."""
    if not root.exists():
        raise BadInput(f"{root} does not exist; name the folder that holds the pictures.")
    if not root.is_dir():
        raise BadInput(f"{root} is a file; name the folder that holds the pictures (unpack an archive first).")
    root = root.resolve()
    folders = _folders(root)
    if "train" in folders or ("test" in folders and "good" not in folders):
        found = _find_mvtec(root, folders)
    elif "good" in folders:
        found = _find_flat(root, folders)
    else:
        raise BadInput(_no_layout(root, folders))
    loose = [path for path in _files(root) if path.suffix.lower() in EXTENSIONS]
    if loose:
        first = loose[0].name
        found.warnings.append(
            f"{len(loose)} picture(s) directly in the data folder, the first {first}, are ignored: "
            "move them into good, bad, train/good or test/<kind>."
        )
    if found.hidden:
        found.warnings.append(f"{found.hidden} hidden file(s) are ignored.")
    found.candidates.sort(key=lambda candidate: candidate.name)
    return found


def _find_mvtec(root: Path, folders: dict[str, Path]) -> Found:
    found = Found(root, "mvtec")
    masks = _Masks(root, folders.get("ground_truth"))
    if "train" in folders:
        train = _folders(folders["train"])
        if "good" not in train and (pictures := _pictures(folders["train"])):
            good = root / "train" / "good"
            raise BadInput(
                f"{good.parent} holds {len(pictures)} pictures directly; move those of good parts into {good}."
            )
        for name, folder in train.items():
            if name == "good":
                _collect(found, folder, "train", "good", masks)
            else:
                why = "not used: training is from good parts alone (train/good); move it to test/ to be judged"
                found.left_out += [(path, why) for path in _walk(found, folder)]
        _report_loose(found, folders["train"], "train/good")
    if "test" in folders:
        for name, folder in _folders(folders["test"]).items():
            _collect(found, folder, "test", name, masks)
        _report_loose(found, folders["test"], "test/good or test/<kind of defect>")
    found.masks_without_picture = masks.unused()
    return found


def _find_flat(root: Path, folders: dict[str, Path]) -> Found:
    found = Found(root, "good_bad" if "bad" in folders else "good")
    masks = _Masks(root, folders.get("ground_truth"))
    _collect(found, folders["good"], "train", "good", masks)
    if "bad" in folders:
        _collect(found, folders["bad"], "test", "bad", masks)
    others = sorted(set(folders) - {"good", "bad", "ground_truth"})
    if others:
        found.warnings.append(
            f"the folder(s) {', '.join(others)} are ignored: only good, bad and ground_truth are read."
        )
    found.masks_without_picture = masks.unused()
    return found


def _collect(found: Found, folder: Path, split: Literal["train", "test"], label: str, masks: _Masks) -> None:
    for path in _walk(found, folder):
        extension = path.suffix.lower()
        if extension in EXTENSIONS:
            mask = masks.of(label, path.relative_to(folder)) if label != "good" else None
            found.candidates.append(Candidate(path, relative_name(found.root, path), split, label, mask))
        elif extension in _OTHER_PICTURES:
            found.left_out.append((path, f"{extension[1:].upper()} is not read; convert it to PNG, JPEG, BMP or TIFF"))
        else:
            found.left_out.append((path, "not a picture (PNG, JPEG, BMP or TIFF)"))


def _walk(found: Found, folder: Path) -> list[Path]:
    """Visible plain files below `folder`, in order of name; links that lead out of the data folder are reported."""
    files: list[Path] = []
    if folder.is_symlink() and not _inside(found.root, folder):
        found.left_out.append((folder, "a link that leads out of the data folder; copy the folder here"))
        return files

    def unreadable(error: OSError) -> None:
        found.left_out.append((Path(str(error.filename)), f"a folder that cannot be read: {error.strerror}"))

    for place, names, here in os.walk(folder, onerror=unreadable):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in [name for name in names if (Path(place) / name).is_symlink()]:
            found.left_out.append(
                (Path(place) / name, "a link to a folder, which is not followed; copy the folder here")
            )
        for name in sorted(here):
            path = Path(place) / name
            if name.startswith(".") or name.lower() in _CLUTTER:
                found.hidden += 1
            elif path.is_symlink() and not path.exists():
                found.left_out.append((path, "a link to a file that does not exist"))
            elif path.is_symlink() and not _inside(found.root, path):
                found.left_out.append((path, "a link that leads out of the data folder; copy the file here"))
            elif not path.is_file():
                found.left_out.append((path, "not a plain file"))
            else:
                files.append(path)
    return files


def _inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that points at itself
        return False


def _folders(folder: Path) -> dict[str, Path]:
    """Visible sub-folders by name; `Good` and `GOOD` count as `good` where no `good` is beside them."""
    here = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = {path.name: path for path in here}
    for path in here:
        lower = path.name.lower()
        if lower in ("good", "bad", "train", "test", "ground_truth") and lower not in names:
            names[lower] = names.pop(path.name)
    return names


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.suffix.lower() in EXTENSIONS]


def _report_loose(found: Found, folder: Path, where: str) -> None:
    found.left_out += [(path, f"lies directly in {folder.name}/; move it into {where}") for path in _pictures(folder)]


def _no_layout(root: Path, folders: dict[str, Path]) -> str:
    """The most helpful sentence about a folder of no known layout."""
    pictures = _pictures(root)
    if pictures:
        return (
            f"{root} holds {len(pictures)} pictures directly; move those of good parts into {root / 'good'} "
            f"(and of bad ones into {root / 'bad'})."
        )
    for name in folders:
        if name.lower() in _NAMES_FOR_GOOD:
            return f"{root} has a folder {name}; rename it to good (and the folder of defective parts to bad)."
    inner = [name for name, folder in folders.items() if {"train", "test", "good"} & set(_folders(folder))]
    if inner:
        return f"{root} is one level too high; did you mean {root / inner[0]}?"
    bad = [name for name in folders if name.lower() in _NAMES_FOR_BAD | {"bad"}]
    if bad:
        here = root / "good"
        return f"{root} has only {', '.join(bad)}; training is from good parts, so put pictures of them into {here}."
    seen = f"has the folders {', '.join(sorted(folders)[:5])}" if folders else "is empty"
    return f"{root} {seen}; {_EXPECTED}."


class _Masks:
    """Ground-truth masks by kind of defect and stem, each handed out once."""

    def __init__(self, root: Path, folder: Path | None) -> None:
        self._by_key: dict[tuple[str, str], Path] = {}
        self._used: set[Path] = set()
        if folder is None:
            return
        for path in sorted(folder.rglob("*")):
            below = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in below.parts)
            if (
                path.is_file()
                and len(below.parts) > 1
                and not hidden
                and path.suffix.lower() in EXTENSIONS
                and _inside(root, path)
            ):
                self._by_key[(below.parts[0].lower(), Path(*below.parts[1:]).with_suffix("").as_posix())] = path

    def of(self, label: str, below: Path) -> Path | None:
        """The mask of the picture at `below` in the folder of `label`: `<stem>_mask`, else `<stem>`."""
        stem = below.with_suffix("").as_posix()
        for key in (f"{stem}_mask", stem):
            path = self._by_key.get((label.lower(), key))
            if path is not None:
                self._used.add(path)
                return path
        return None

    def unused(self) -> list[Path]:
        return [path for (label, _), path in self._by_key.items() if path not in self._used and label != "good"]
