"""Small labelled pictures made for a test: each class a colour and a pattern of its own, every picture different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.files import write_bytes
from shared.images import encode_png

CLASSES = ("bars", "checks", "discs")
GROCERY = Path(__file__).resolve().parents[3] / "shared" / "data" / "checkout" / "grocery"


def picture(label: int, generator: np.random.Generator, side: int = 48) -> np.ndarray:
    """uint8 [side, side + 8, 3] with a pattern of class `label` and noise."""
    y, x = np.mgrid[:side, : side + 8]
    phase, period = generator.uniform(0, 6), generator.uniform(7, 9)
    waves = (
        np.sin(x / period * 6 + phase),
        np.sin(x / 3 + phase) * np.sin(y / 3),
        np.hypot(x - 25, y - 25) % period - 4,
    )
    colours = np.array([[200, 60, 60], [60, 190, 60], [70, 70, 210]])
    image = (waves[label] > 0)[..., None] * colours[(label + generator.integers(0, 2)) % 3]
    noisy = image + generator.normal(30, 20, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def make_folders(root: Path, train: int = 12, val: int = 5, classes: int = 3) -> Path:
    """`train/<class>/` and, unless `val` is 0, `val/<class>/`."""
    generator = np.random.default_rng(5)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES[:classes]):
            for number in range(count):
                write_bytes(root / split / name / f"{number:02}.png", encode_png(picture(label, generator)))
    return root


def need_grocery() -> Path:
    if not GROCERY.is_dir():
        pytest.skip(f"no grocery photographs at {GROCERY}")
    return GROCERY
