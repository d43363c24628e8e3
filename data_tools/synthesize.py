"""A synthetic data set: photographs of one machined steel part, good and defective, with masks, in the MVTec AD layout.

Every picture has its own random state, made from the seed, its folder and its number. The same seed therefore gives the
same bytes whatever the number of threads, and a larger set begins with the pictures of a smaller one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_tools.defects import PAINTERS, Field, Mask, defect_on, foreground
from data_tools.parts import PARTS, Part, Pose, draw_part, photograph
from shared.errors import BadInput
from shared.files import new_folder
from shared.images import Rgb, encode_png

__all__ = ["KINDS", "PAINTERS", "Made", "defect_on", "foreground", "picture", "synthesize"]

KINDS = ("scratch", "dent", "stain", "missing_hole")
"""The defects of the data set, one folder each below `test/`."""

_FOLDERS = ("train/good", "test/good", *(f"test/{kind}" for kind in KINDS))
# What the painters take for an even surface is polished steel here: its bevels and holes make them paint too boldly.
_STRENGTHS = {"scratch": (0.6, 1.0), "dent": (0.65, 1.1), "stain": (0.4, 0.8)}


@dataclass(frozen=True)
class Made:
    """What `synthesize` wrote: pictures for each folder."""

    root: Path
    part: str
    seed: int
    size: int
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "part": self.part,
            "seed": self.seed,
            "size": self.size,
            "images": sum(self.counts.values()),
            "counts": self.counts,
        }


def picture(part: Part, kind: str | None, rng: np.random.Generator, size: int = 256) -> tuple[Rgb, Mask]:
    """One photograph of a part.

    Args:
        part: `data_tools.parts.FLANGE` or `BRACKET`.
        kind: one of `KINDS`, or None for a good part.
        rng: the only source of chance; it must be able to spawn, as `numpy.random.default_rng` gives it.
        size: pixels on each side.

    Returns:
        uint8 [size, size, 3] RGB, and the mask bool [size, size] of the defect, empty for a good part.
    """
    # Separate sources of chance: the same state with and without a defect gives the same part in the same light.
    of_part, of_defect, of_camera = rng.spawn(3)
    pose = Pose.draw(of_part)
    missing = int(of_defect.choice(part.may_miss)) if kind == "missing_hole" else None
    scene, metal = draw_part(part, of_part, size, pose, missing)
    mask = np.zeros(scene.shape[:2], dtype=bool)
    if missing is not None:
        hole = part.holes[missing]
        x, y = pose.to_picture(hole.x, hole.y)
        middle = (round((x + 1) * size * 16), round((y + 1) * size * 16))
        disc = cv2.circle(mask.astype(np.uint8), middle, round((hole.radius + 0.025) * size * 16), 1, -1, shift=4)
        mask = disc > 0
    elif kind is not None:
        scene, mask = _damage(scene, metal, kind, of_defect)
    covered = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return photograph(scene, of_camera), covered > 0.3


def _damage(scene: Field, metal: Field, kind: str, rng: np.random.Generator) -> tuple[Field, Mask]:
    """Paint a defect on the metal only: what falls into a hole or beside the part is not there."""
    clean = np.rint(scene).astype(np.uint8)
    solid = metal > 0.5
    while True:
        painted, mask, _ = defect_on(clean, rng, kind, float(rng.uniform(*_STRENGTHS[kind])))
        on_metal = mask & solid
        if on_metal.sum() >= max(24, 0.7 * mask.sum()):
            break
    damaged = scene + (painted.astype(np.float32) - clean) * metal[..., None]
    return damaged, on_metal


def synthesize(
    destination: Path | str,
    *,
    good: int = 60,
    bad: int = 40,
    test_good: int | None = None,
    seed: int = 0,
    size: int = 256,
    part: str = "flange",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    replace: bool = False,
) -> Made:
    """Write a data set of photographs of one kind of part; the folder appears complete or not at all.

    Args:
        destination: the folder to make.
        good: pictures in `train/good`.
        bad: pictures of defective parts in `test/`, spread evenly over `KINDS`.
        test_good: pictures in `test/good`; None means a third of `good`, at least 8.
        seed: the same seed gives the same pictures.
        size: pixels on each side, 64 to 2048.
        part: one of `data_tools.parts.PARTS`.
        threads: drawing threads; None means one for each core, at most eight.
        progress: called with (pictures made, pictures in all).
        replace: put the data set in the place of an existing folder.

    Raises:
        BadInput: a number out of range or an unknown part.
        HaechiError: the folder exists already, or cannot be written.
    """
    if part not in PARTS:
        raise BadInput(f"part {part} is not known; choose one of {', '.join(PARTS)}.")
    if not 64 <= size <= 2048:
        raise BadInput(f"size {size} is out of range; choose 64 to 2048 pixels.")
    if good < 0 or bad < 0 or seed < 0 or (test_good is not None and test_good < 0):
        raise BadInput("good, bad and seed are counts; give 0 or more.")
    held = max(8, good // 3) if test_good is None else test_good
    share = [bad // len(KINDS) + (index < bad % len(KINDS)) for index in range(len(KINDS))]
    counts = dict(zip(_FOLDERS, [good, held, *share], strict=True))
    jobs = [(folder, number) for folder, count in counts.items() for number in range(count)]
    workers = threads or min(
        8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with new_folder(destination, replace=replace) as root, ThreadPoolExecutor(max_workers=workers) as pool:
        done = pool.map(lambda job: _write(root, PARTS[part], job[0], job[1], seed, size), jobs)
        for number, _ in enumerate(done, start=1):
            if progress is not None:
                progress(number, len(jobs))
    return Made(Path(destination), part, seed, size, {folder: count for folder, count in counts.items() if count})


def _write(root: Path, part: Part, folder: str, number: int, seed: int, size: int) -> None:
    rng = np.random.default_rng([seed, _FOLDERS.index(folder), number])
    kind = folder.removeprefix("test/")
    image, mask = picture(part, kind if kind in KINDS else None, rng, size)
    # Plain writes: the folder as a whole is made durable and renamed at the end.
    file = root / folder / f"{number:03d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_png(image))
    if kind in KINDS:
        truth = root / "ground_truth" / kind / f"{number:03d}_mask.png"
        truth.parent.mkdir(parents=True, exist_ok=True)
        truth.write_bytes(encode_png(mask.astype(np.uint8) * 255))
