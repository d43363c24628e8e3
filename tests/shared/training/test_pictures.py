"""Augmentation: what it keeps, what it changes, and that the generator alone decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.labelled import scan
from shared.training.config import parse
from shared.training.pictures import Augment, Cache, augmented, mix, shrunk
from tests.shared.labelled_pictures import make_folders, picture

OFF = {"flip": False, "rotate": 0, "colour": 0}


def settings(**raw: Any) -> Augment:
    return parse(Augment, raw, "augment")


def photo() -> np.ndarray:
    return picture(1, np.random.default_rng(3), side=96)


def test_without_augmentation_it_is_the_picture() -> None:
    image = photo()[:, :96]
    assert np.array_equal(augmented(image, settings(**OFF), 96, 96, np.random.default_rng(0)), image)


@pytest.mark.parametrize(
    "raw",
    [
        {"crop": 0.3},
        {"zoom": [0.7, 1.4]},
        {"zoom": [1.0, 1.0]},
        {"policy": "trivial"},
        {"policy": "rand", "operations": 3, "strength": 0.9},
        {"hue": 0.2, "colour": 0.4, "blur": 1.0, "erase": 1.0, "vertical_flip": True, "rotate": 90},
    ],
)
def test_the_generator_decides_everything(raw: dict[str, Any]) -> None:
    made = [augmented(photo(), settings(**raw), 64, 96, np.random.default_rng(seed)) for seed in (*range(30), 0)]
    assert all(each.shape == (64, 64, 3) and each.dtype == np.uint8 for each in made)
    assert np.array_equal(made[0], made[-1])
    assert len({each.tobytes() for each in made}) > 20


def test_zoom_shows_things_as_large_as_validation_does() -> None:
    """A ramp of 1 a pixel, 256 wide, is seen by validation at 128 with slope 2; so must a crop of any size."""
    ramp = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (256, 1))[..., None], 3, axis=2)
    for size in (64, 96, 128):
        crop = augmented(ramp, settings(**OFF, zoom=[1.0, 1.0], stretch=1.0), size, 128, np.random.default_rng(1))
        slope = (float(crop[0, -1, 0]) - float(crop[0, 0, 0])) / (size - 1)
        assert slope == pytest.approx(2.0, abs=0.1)


def test_saturation_is_of_the_colour_and_not_of_the_brightness() -> None:
    image = np.full((32, 32, 3), (200, 100, 50), dtype=np.uint8)
    grey = [
        augmented(image, settings(**{**OFF, "colour": 0.5}), 32, 32, np.random.default_rng(seed)).mean(axis=(0, 1))
        for seed in range(20)
    ]
    assert np.ptp([each @ (0.299, 0.587, 0.114) for each in grey]) > 20  # brightness varies
    assert np.ptp([np.ptp(each) / each.mean() for each in grey]) > 0.1  # saturation as well


@pytest.mark.parametrize(("raw", "whole"), [({"mixup": 1.0}, False), ({"cutmix": 1.0}, True)])
def test_mixing_moves_targets_as_it_moves_pixels(raw: dict[str, Any], whole: bool) -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 40, 40).contiguous()
    targets = torch.eye(8)
    for seed in range(10):
        mixed, soft = mix(images, targets, settings(**raw, mix_probability=1.0), np.random.default_rng(seed))
        assert soft.sum(dim=1) == pytest.approx(torch.ones(8), abs=1e-5)
        # Picture i is the number i, so that the mean pixel is the mean class.
        assert mixed.mean(dim=(1, 2, 3)).tolist() == pytest.approx((soft @ torch.arange(8.0)).tolist(), abs=1e-3)
        assert bool((mixed == mixed.round()).all()) == whole or not whole
    same, kept = mix(images, targets, settings(**raw, mix_probability=0.0), np.random.default_rng(0))
    assert torch.equal(same, images)
    assert torch.equal(kept, targets)


def test_the_cache_keeps_no_more_than_it_may(tmp_path: Path) -> None:
    found = scan(make_folders(tmp_path, train=2, val=1))
    free, full = Cache(found.train, 32, 10**9), Cache(found.train, 32, 0)
    assert free[0].shape[0] == 37  # a little more than the 32 that are seen
    assert free[0] is free[0]
    assert full[0] is not full[0]
    assert np.array_equal(free[0], full[0])


def test_shrinking_keeps_the_shape_and_never_enlarges() -> None:
    image = np.zeros((50, 100, 3), dtype=np.uint8)
    assert shrunk(image, 25).shape == (25, 50, 3)
    assert shrunk(image, 80) is image
