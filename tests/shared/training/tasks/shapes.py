"""Made data sets for YOLO: red squares and blue discs on noise, in Ultralytics' layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

NAMES = ["square", "disc"]
Kind = Literal["boxes", "outlines", "keypoints"]


def shapes(root: Path, train: int, val: int, kind: Kind = "boxes", *, sides: tuple[int, int] = (64, 97)) -> Path:
    """Write `train` and `val` pictures whose sides are drawn from a range of pixels; returns the data.yaml."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            height, width = (int(side) for side in rng.integers(*sides, 2))
            image, things = _picture(rng, height, width)
            cv2.imwrite(str(root / "images" / split / f"{number:03}.png"), image[..., ::-1])
            lines = [_line(thing, height, width, kind) for thing in things]
            (root / "labels" / split / f"{number:03}.txt").write_text("\n".join(lines))
    more = "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n" if kind == "keypoints" else ""
    path = root / "data.yaml"
    path.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {json.dumps(NAMES)}\n{more}")
    return path


def classes(root: Path, train: int, val: int) -> Path:
    """`<split>/<class>/*.png`: whole pictures of one square or one disc."""
    rng = np.random.default_rng(1)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            kind = number % 2
            image = rng.integers(60, 120, (64, 80, 3), dtype=np.uint8)
            _draw(image, kind, int(rng.integers(20, 60)), int(rng.integers(20, 44)), int(rng.integers(12, 20)))
            place = root / split / NAMES[kind] / f"{number:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), image[..., ::-1])
    return root


def _picture(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    largest = min(height, width) // 4
    things: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(1, 4))):
        r = int(rng.integers(largest // 2, largest))
        x, y = int(rng.integers(r, width - r)), int(rng.integers(r, height - r))
        if all(abs(x - other[1]) >= r + other[3] or abs(y - other[2]) >= r + other[3] for other in things):
            kind = int(rng.integers(2))
            _draw(image, kind, x, y, r)
            things.append((kind, x, y, r))
    return image, things


def _draw(image: np.ndarray, kind: int, x: int, y: int, r: int) -> None:
    if kind == 0:
        cv2.rectangle(image, (x - r, y - r), (x + r, y + r), (230, 60, 40), -1)
    else:
        cv2.circle(image, (x, y), r, (40, 80, 240), -1)


def _line(thing: tuple[int, int, int, int], height: int, width: int, kind: Kind) -> str:
    number, x, y, r = thing
    size = np.array([width, height])
    if kind == "outlines":
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        round_ = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = round_ if number else np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        places = ((points * r + [x, y]) / size).clip(0, 1).ravel()
        return f"{number} " + " ".join(f"{place:.5f}" for place in places)
    line = f"{number} {x / width:.5f} {y / height:.5f} {(2 * r + 1) / width:.5f} {(2 * r + 1) / height:.5f}"
    if kind == "keypoints":
        line += f" {(x - r) / width:.5f} {y / height:.5f} 2 {(x + r) / width:.5f} {y / height:.5f} 2"
    return line
