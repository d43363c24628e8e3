"""Pictures with boxes, polygons or keypoints marked on them, in the layouts that the field uses. No torch.

    data.yaml            as Ultralytics has it: `path`, `train`, `val`, `test` (folders, or lists in .txt), `names`, for
                         poses `kpt_shape` and `flip_idx`; labels are found by putting `labels` for `images` in the path
    images/ labels/      a folder with these two, with or without `train`, `val` (or `valid`) and `test` below them or
                         above them; names in `classes.txt`, one a line
    COCO                 a .json file, or a folder with `annotations/*.json` or `<split>/_annotations.coco.json`

A label file has a line for each thing: `class cx cy w h`, `class x1 y1 x2 y2 x3 y3 ...` (a polygon), or
`class cx cy w h` and the keypoints; numbers are shares of width and height. A picture without one, or with an empty
one, shows nothing.
Where nothing says which pictures are held out, a fifth is, by a hash of the names: the same ones each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.images import EXTENSIONS

HELD_OUT = 0.2
"""Share of the pictures that is held out where the data have no `val`."""
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUTS = "a data.yaml, a COCO .json, or a folder with images/ and labels/, or with annotations/*.json"
_ANNOTATED = "_annotations.coco.json"


@dataclass(frozen=True)
class Labelled:
    """A picture and what is on it: M things. Places are shares of width and height, 0 to 1."""

    path: Path
    classes: NDArray[np.int64]
    """[M]"""
    boxes: NDArray[np.float32]
    """[M, 4] left, top, right, bottom."""
    polygons: tuple[NDArray[np.float32], ...] = ()
    """M outlines [V, 2], or none."""
    keypoints: NDArray[np.float32] | None = None
    """[M, P, 3] x, y, and whether it is there (0: not marked)."""
    crowd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """[M] COCO's `iscrowd`: a region of many, neither trained on nor counted as missed. Empty: none is."""

    @property
    def single(self) -> NDArray[np.bool_]:
        """[M] what is no crowd."""
        return ~self.crowd if len(self.crowd) else np.ones(len(self.classes), dtype=bool)


@dataclass(frozen=True)
class BoxData:
    """A data set."""

    path: Path
    names: list[str]
    """Of the classes."""
    splits: dict[str, list[Labelled]]
    """`train` and `val`, and `test` where there is one."""
    keypoints: tuple[int, int] | None = None
    """(P, 2 or 3): how many keypoints a thing has, and with or without visibility."""
    mirrored: list[int] = field(default_factory=list)
    """[P] which keypoint each becomes in a mirror; empty: not known."""

    @property
    def held_out(self) -> list[Labelled]:
        """What a model is measured on: `val`, else `test`."""
        return self.splits.get("val") or self.splits.get("test") or []

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the training and validation pictures' names and sizes and all that is marked on them."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        for split in ("train", "val"):
            for each in self.splits.get(split, []):
                digest.update(f"{split} {each.path.name} {each.path.stat().st_size}".encode())
                for array in (each.classes, each.boxes, *each.polygons):
                    digest.update(np.ascontiguousarray(array).tobytes())
                if each.keypoints is not None:
                    digest.update(each.keypoints.tobytes())
        return digest.hexdigest()


def read_boxes(path: Path) -> BoxData:
    """Read a data set in any of the layouts above.

    Raises:
        BadInput: none of them, a file that is wrong (with its name and line), or no pictures to train on.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path} does not exist; give {_LAYOUTS}.")
    if path.suffix.lower() in (".yaml", ".yml"):
        data = _from_yaml(path)
    elif path.suffix.lower() == ".json":
        data = _from_coco(path, {_split_of(path.stem) or "": path})
    elif path.is_dir():
        data = _from_folder(path)
    else:
        raise BadInput(f"{path} is no data set of boxes; give {_LAYOUTS}.")
    if not data.splits.get("train") and not data.held_out:
        raise BadInput(f"{path} has no pictures; give {_LAYOUTS}.")
    return data


def _from_folder(path: Path) -> BoxData:
    described = sorted(path.glob("data.y*ml")) or sorted(path.glob("dataset.y*ml"))
    if described:
        return _from_yaml(described[0])
    roboflow = {_SPLITS[each.parent.name]: each for each in path.glob(f"*/{_ANNOTATED}") if each.parent.name in _SPLITS}
    if roboflow:
        return _from_coco(path, roboflow)
    annotations = {_split_of(each.stem) or "": each for each in sorted(path.glob("annotations/*.json"))}
    if annotations:
        return _from_coco(path, annotations)
    if (path / "images").is_dir():
        below = {_SPLITS[each.name]: each for each in (path / "images").iterdir() if each.name in _SPLITS}
        places = below or {"": path / "images"}
    else:
        places = {
            _SPLITS[e.name]: e / "images" for e in path.iterdir() if e.name in _SPLITS and (e / "images").is_dir()
        }
    if not places:
        raise BadInput(f"{path} is no data set of boxes; give {_LAYOUTS}.")
    splits = {split: [_yolo(each, None) for each in _pictures(place)] for split, place in places.items()}
    names = _class_names(path, splits)
    return BoxData(path, names, _with_held_out(splits))


def _class_names(path: Path, splits: Mapping[str, Sequence[Labelled]]) -> list[str]:
    for place in (path / "classes.txt", path / "labels" / "classes.txt"):
        if place.exists():
            names = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            _check_classes(splits, names, place)
            return names
    highest = max((int(each.classes.max(initial=-1)) for some in splits.values() for each in some), default=-1)
    return [str(number) for number in range(highest + 1)]


def _check_classes(splits: Mapping[str, Sequence[Labelled]], names: Sequence[str], place: Path) -> None:
    for some in splits.values():
        for each in some:
            if each.classes.max(initial=-1) >= len(names):
                raise BadInput(
                    f"{_label_file(each.path)} has the class {each.classes.max()}, and {place} names only "
                    f"{len(names)} classes, counted from 0."
                )


def _with_held_out(splits: dict[str, list[Labelled]]) -> dict[str, list[Labelled]]:
    """Pictures of no split are shared out; a training split without `val` and `test` gives some away."""
    undivided = splits.pop("", [])
    if undivided and not splits:
        splits = {"train": undivided}
    if splits.get("train") and not splits.get("val") and not splits.get("test"):
        ordered = sorted(splits["train"], key=lambda each: hashlib.sha256(each.path.name.encode()).digest())
        count = max(1, round(HELD_OUT * len(ordered))) if len(ordered) > 1 else 0
        chosen = {id(each) for each in ordered[:count]}
        return {
            "train": [each for each in splits["train"] if id(each) not in chosen],
            "val": [each for each in splits["train"] if id(each) in chosen],
        }
    return splits


def _split_of(stem: str) -> str | None:
    """The split that a name like `instances_val2017` speaks of."""
    words = "".join(letter if letter.isalpha() else " " for letter in stem.lower()).split()
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


# -- Ultralytics' data.yaml and label files -------------------------------------------------------------------------


def _from_yaml(path: Path) -> BoxData:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("names"), list | dict):
        raise BadInput(f"{path} must have `names`: a list of the classes, or a mapping of numbers to names.")
    named = raw["names"]
    names = [str(named[key]) for key in sorted(named)] if isinstance(named, dict) else [str(name) for name in named]
    shape = raw.get("kpt_shape")
    if shape is not None and not (isinstance(shape, list) and len(shape) == 2 and shape[0] > 0 and shape[1] in (2, 3)):
        raise BadInput(f"{path}: kpt_shape must be [number of keypoints, 2 or 3], such as [17, 3].")
    keypoints = (int(shape[0]), int(shape[1])) if shape else None
    mirrored = [int(index) for index in raw.get("flip_idx") or []]
    if mirrored and (keypoints is None or sorted(mirrored) != list(range(keypoints[0]))):
        raise BadInput(f"{path}: flip_idx must name each of the keypoints once.")
    splits: dict[str, list[Labelled]] = {}
    for key, split in _SPLITS.items():
        if raw.get(key) and split not in splits:
            splits[split] = [_yolo(each, keypoints) for each in _listed(path, raw.get("path"), raw[key])]
    _check_classes(splits, names, path)
    return BoxData(path, names, _with_held_out(splits), keypoints, mirrored)


def _listed(path: Path, root: Any, entry: Any) -> list[Path]:
    """The pictures that an entry `train:` or `val:` stands for."""
    base = path.parent / str(root) if root else path.parent
    if not base.exists() and root and Path(str(root)).exists():
        base = Path(str(root))
    found: list[Path] = []
    for item in entry if isinstance(entry, list) else [entry]:
        # Roboflow writes `../train/images` for what lies beside the file.
        tries = [base / str(item), base / str(item).removeprefix("../"), path.parent / str(item)]
        place = next((each for each in tries if each.exists()), None)
        if place is None:
            raise BadInput(f"{path} names {item}, which is not at {tries[0]}; correct `path` or the entry.")
        if place.is_dir():
            found += _pictures(place)
        else:
            lines = place.read_text(encoding="utf-8-sig").splitlines()
            found += [place.parent / line.strip() for line in lines if line.strip()]
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.suffix.lower() in EXTENSIONS and each.is_file())


def _label_file(picture: Path) -> Path:
    """`images/…/a.jpg` → `labels/…/a.txt`: the last folder called `images` counts."""
    parts = list(picture.parts[:-1])
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts, picture.stem + ".txt")


def _yolo(picture: Path, keypoints: tuple[int, int] | None) -> Labelled:
    """A picture with what its label file says."""
    label = _label_file(picture)
    rows: list[NDArray[np.float32]] = []
    if label.exists():
        for number, line in enumerate(label.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.strip():
                rows.append(_row(line, keypoints, f"{label} line {number}"))
    classes = np.array([row[0] for row in rows], dtype=np.int64)
    if keypoints is None and any(len(row) > 5 for row in rows):
        if any(len(row) == 5 for row in rows):
            raise BadInput(f"{label} mixes boxes and polygons; write all of them as polygons, or all as boxes.")
        polygons = tuple(row[1:].reshape(-1, 2) for row in rows)
        return Labelled(picture, classes, outline_boxes(polygons), polygons)
    middle = np.array([row[1:5] for row in rows], dtype=np.float32).reshape(-1, 4)
    boxes = np.concatenate([middle[:, :2] - middle[:, 2:] / 2, middle[:, :2] + middle[:, 2:] / 2], axis=1)
    boxes = boxes.clip(0, 1).astype(np.float32)
    if keypoints is None:
        return Labelled(picture, classes, boxes)
    marked = np.array([row[5:] for row in rows], dtype=np.float32).reshape(-1, *keypoints)
    if keypoints[1] == 2:
        there = (marked >= 0).all(axis=2, keepdims=True).astype(np.float32)
        marked = np.concatenate([marked, there], axis=2)
    return Labelled(picture, classes, boxes, keypoints=marked)


def _row(line: str, keypoints: tuple[int, int] | None, where: str) -> NDArray[np.float32]:
    try:
        row = np.array([float(word) for word in line.split()], dtype=np.float32)
    except ValueError as error:
        raise BadInput(f"{where}: {line.strip()[:60]!r} is not numbers; write `class cx cy w h`.") from error
    if keypoints is not None:
        wanted = 5 + keypoints[0] * keypoints[1]
        if len(row) != wanted:
            raise BadInput(f"{where} has {len(row)} numbers; with kpt_shape {list(keypoints)} it must have {wanted}.")
    elif len(row) != 5 and not (len(row) >= 7 and len(row) % 2 == 1):
        raise BadInput(f"{where} has {len(row)} numbers; write `class cx cy w h`, or a class and a polygon.")
    if not np.isfinite(row).all() or row[0] < 0 or row[0] % 1:
        raise BadInput(f"{where}: the class must be a whole number from 0, and the rest finite numbers.")
    places = row[1:5] if keypoints is not None else row[1:]
    if places.min() < -0.01 or places.max() > 1.01:
        raise BadInput(f"{where}: places are shares of width and height, 0 to 1, not pixels.")
    if len(row) == 5 and row[3:].min() <= 0:
        raise BadInput(f"{where}: width and height of a box must be above 0.")
    return row


def outline_boxes(polygons: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """[M, 4] the boxes around M outlines [V, 2], cut at the picture's edge."""
    boxes = [np.concatenate([each.min(axis=0), each.max(axis=0)]) for each in polygons]
    return np.array(boxes, dtype=np.float32).reshape(-1, 4).clip(0, 1)


# -- COCO -----------------------------------------------------------------------------------------------------------


def _from_coco(path: Path, files: Mapping[str, Path]) -> BoxData:
    names: list[str] = []
    splits: dict[str, list[Labelled]] = {}
    keypoints: tuple[int, int] | None = None
    mirrored: list[int] = []
    for split, file in files.items():
        raw = _read_json(file)
        categories = sorted(raw["categories"], key=lambda each: each["id"])
        found = [str(each["name"]) for each in categories]
        if names and found != names:
            raise BadInput(f"{file} has other categories than the other annotation files of {path}.")
        names = found
        points = next((each["keypoints"] for each in categories if each.get("keypoints")), None)
        if points:
            keypoints, mirrored = (len(points), 3), _mirrored(points)
        splits[split] = _coco_pictures(file, raw, [each["id"] for each in categories], len(points or []))
    return BoxData(path, names, _with_held_out(splits), keypoints, mirrored)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as JSON ({error}).") from error
    if not isinstance(raw, dict) or any(
        not isinstance(raw.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise BadInput(f"{file} is not in COCO's form; it needs the lists images, annotations and categories.")
    return raw


def _mirrored(points: Sequence[str]) -> list[int]:
    """Which keypoint each becomes in a mirror, by the words left and right in their names."""
    swapped = [
        name.replace("left", "\0").replace("right", "left").replace("\0", "right") for name in map(str.lower, points)
    ]
    lower = [name.lower() for name in points]
    return [lower.index(name) for name in swapped] if all(name in lower for name in swapped) else []


def _coco_pictures(file: Path, raw: dict[str, Any], ids: list[int], points: int) -> list[Labelled]:
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in raw["annotations"]:
        by_image.setdefault(annotation.get("image_id"), []).append(annotation)
    folder = _coco_folder(file, raw["images"])
    numbers = {identity: number for number, identity in enumerate(ids)}
    try:
        return [_coco_picture(folder, image, by_image.get(image["id"], []), numbers, points) for image in raw["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file}: an image or annotation lacks or garbles a field ({error}).") from error


def _coco_folder(file: Path, images: Sequence[Mapping[str, Any]]) -> Path:
    """Where the pictures of an annotation file lie."""
    if not images:
        return file.parent
    name = str(images[0].get("file_name"))
    stem = file.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    above = file.parent.parent
    for folder in (file.parent, file.parent / "images", above, above / "images", above / stem, above / "images" / stem):
        if (folder / name).exists():
            return folder
    raise BadInput(f"{file} names the picture {name}, which lies neither beside it nor in images/ nor in {stem}/.")


def _coco_picture(
    folder: Path,
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    numbers: Mapping[int, int],
    points: int,
) -> Labelled:
    size = np.array([image["width"], image["height"]], dtype=np.float32)
    kept = [each for each in annotations if each["bbox"][2] > 0 and each["bbox"][3] > 0]
    boxes = np.array([each["bbox"] for each in kept], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    polygons = [_coco_outline(each) for each in kept]
    keypoints = None
    if points:
        keypoints = np.array([each.get("keypoints") or [0] * 3 * points for each in kept], dtype=np.float32)
        keypoints = keypoints.reshape(-1, points, 3)
        keypoints[..., :2] /= size
    return Labelled(
        folder / str(image["file_name"]),
        np.array([numbers[each["category_id"]] for each in kept], dtype=np.int64),
        (boxes / np.tile(size, 2)).clip(0, 1).astype(np.float32),
        # A thing in several parts is the largest of them; one given as a bitmap (RLE) is its box.
        tuple(
            (outline / size if outline is not None else _corners((box / np.tile(size, 2)).astype(np.float32))).astype(
                np.float32
            )
            for outline, box in zip(polygons, boxes, strict=True)
        )
        if any(outline is not None for outline in polygons)
        else (),
        keypoints,
        np.array([bool(each.get("iscrowd")) for each in kept], dtype=bool),
    )


def _coco_outline(annotation: Mapping[str, Any]) -> NDArray[np.float32] | None:
    parts = annotation.get("segmentation")
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], list):
        return None
    outlines = [np.array(part, dtype=np.float32).reshape(-1, 2) for part in parts]
    return max(outlines, key=lambda each: float(np.prod(np.ptp(each, axis=0))))


def _corners(box: NDArray[np.float32]) -> NDArray[np.float32]:
    left, top, right, bottom = box
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float32)
