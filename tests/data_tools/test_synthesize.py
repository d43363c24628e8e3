"""The synthetic parts and the painted defects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_tools.dataset import scan
from data_tools.parts import BRACKET, FLANGE
from data_tools.synthesize import KINDS, PAINTERS, defect_on, foreground, picture, synthesize
from shared.errors import BadInput, HaechiError
from shared.images import read_image, read_mask
from solutions.cli import main


def hashes(root: Path) -> dict[str, str]:
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_a_data_set_in_the_mvtec_layout(tmp_path):
    made = synthesize(tmp_path / "set", good=10, bad=6, seed=4, size=128)
    report = scan(tmp_path / "set")
    assert made.counts == report.counts | {}
    assert report.counts == {
        "test/dent": 2,
        "test/good": 8,
        "test/missing_hole": 1,
        "test/scratch": 2,
        "test/stain": 1,
        "train/good": 10,
    }
    assert not report.left_out
    assert all(item.mask is not None for item in report.bad)
    for item in report.bad:
        assert read_image(item.path).shape == (128, 128, 3)
        assert 4 <= read_mask(item.mask).sum() < 0.2 * 128 * 128


def test_same_seed_same_bytes_whatever_the_threads(tmp_path):
    synthesize(tmp_path / "a", good=4, bad=4, test_good=2, seed=9, size=96, threads=1)
    synthesize(tmp_path / "b", good=4, bad=4, test_good=2, seed=9, size=96, threads=3)
    synthesize(tmp_path / "c", good=4, bad=4, test_good=2, seed=10, size=96)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert not set(hashes(tmp_path / "a").values()) & set(hashes(tmp_path / "c").values())


def test_a_larger_set_begins_with_the_smaller(tmp_path):
    synthesize(tmp_path / "small", good=2, bad=4, test_good=1, size=64)
    synthesize(tmp_path / "large", good=3, bad=8, test_good=2, size=64)
    assert hashes(tmp_path / "small").items() <= hashes(tmp_path / "large").items()


@pytest.mark.parametrize("part", [FLANGE, BRACKET], ids=lambda part: part.name)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_picture_differs(part, kind):
    for seed in range(4):
        damaged, mask = picture(part, kind, np.random.default_rng(seed), 256)
        assert mask.any()
        good, none = picture(part, None, np.random.default_rng(seed), 256)
        assert not none.any()
        change = np.abs(damaged.astype(int) - good).max(axis=2)
        assert change[mask].mean() > 4
        far = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
        assert change[far].mean() < 0.2  # chamfers and shadows of a missing hole reach a little further than the mask


def test_good_parts_vary_a_little_and_only_a_little():
    first, second = (picture(FLANGE, None, np.random.default_rng(seed))[0].astype(float) for seed in (1, 2))
    difference = np.abs(first - second).mean()
    assert 1 < difference < 25


def surfaces() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.normal(70, 60, (300, 300)).astype(np.float32), (0, 0), 2)
    tile = np.repeat(np.clip(texture, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    toy = np.full((200, 260, 3), 235, np.uint8)
    cv2.ellipse(toy, (130, 100), (70, 55), 20, 0, 360, (200, 60, 40), -1)
    toy = np.clip(toy + rng.normal(0, 2, toy.shape), 0, 255).astype(np.uint8)
    return {
        "textured grey tile": tile,
        "toy on white": toy,
        "nearly black": np.clip(rng.normal(8, 3, (160, 120, 3)), 0, 255).astype(np.uint8),
        "white": np.full((100, 140, 3), 254, np.uint8),
        "one colour": np.full((64, 64, 3), (90, 120, 60), np.uint8),
        "smallest": rng.integers(0, 255, (32, 32, 3), dtype=np.uint8),
        "wide": rng.integers(100, 140, (40, 900, 3), dtype=np.uint8),
        "large": cv2.resize(tile, (1500, 1100)),
    }


@pytest.mark.parametrize("surface", surfaces())
@pytest.mark.parametrize("kind", PAINTERS)
def test_every_defect_on_every_surface(surface, kind):
    image = surfaces()[surface]
    before = image.copy()
    for seed in range(3):
        out, mask, drawn = defect_on(image, np.random.default_rng(seed), kind)
        assert drawn == kind
        assert (out.dtype, out.shape) == (np.uint8, image.shape)
        assert (mask.dtype, mask.shape) == (bool, image.shape[:2])
        assert mask.any()
        assert mask.mean() < 0.5
        change = np.abs(out.astype(int) - image).max(axis=2)
        assert change[mask].mean() >= 2
        assert change[mask].mean() > 4 * change[~mask].mean()
    assert np.array_equal(image, before)


def test_grey_pictures_get_grey_defects():
    image = surfaces()["textured grey tile"]
    for seed in range(40):
        out, _, kind = defect_on(image, np.random.default_rng(seed))
        assert np.abs(out.astype(int) - out[..., :1]).max() <= 1, kind


def test_defects_lie_on_the_part_where_the_background_is_even():
    image = surfaces()["toy on white"]
    part, found = foreground(image)
    assert found
    assert not foreground(surfaces()["textured grey tile"])[1]
    near = cv2.dilate(part.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    for seed in range(60):
        _, mask, kind = defect_on(image, np.random.default_rng(seed))
        assert (mask & near).sum() > 0.6 * mask.sum(), kind


def test_defects_are_reproducible_and_varied_in_kind_and_size():
    image = surfaces()["textured grey tile"]
    kinds, widths = set(), []
    for seed in range(80):
        out, mask, kind = defect_on(image, np.random.default_rng(seed))
        again = defect_on(image, np.random.default_rng(seed))
        assert np.array_equal(out, again[0])
        assert np.array_equal(mask, again[1])
        kinds.add(kind)
        _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
        widths.append(max(width, height) / 300)
    assert kinds == set(PAINTERS)
    assert min(widths) < 0.04
    assert 0.2 < max(widths) < 0.75


def test_stronger_defects_differ_more():
    image = surfaces()["textured grey tile"]

    def change(strength: float) -> float:
        changes = []
        for seed in range(25):
            out, mask, _ = defect_on(image, np.random.default_rng(seed), "stain", strength)
            changes.append(np.abs(out.astype(int) - image)[mask].mean())
        return float(np.mean(changes))

    assert change(0.4) < change(1.0) < change(2.0)


def test_unknown_kind():
    with pytest.raises(ValueError, match="scratch"):
        defect_on(surfaces()["white"], np.random.default_rng(0), "curse")


@pytest.mark.parametrize("options", [{"part": "cog"}, {"size": 16}, {"good": -1}, {"seed": -1}])
def test_wrong_options(tmp_path, options):
    with pytest.raises(BadInput):
        synthesize(tmp_path / "set", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_overwritten_unless_asked(tmp_path):
    synthesize(tmp_path / "set", good=1, bad=0, test_good=0, size=64)
    with pytest.raises(HaechiError, match="exists"):
        synthesize(tmp_path / "set", good=2, bad=0, test_good=0, size=64)
    synthesize(tmp_path / "set", good=2, bad=0, test_good=0, size=64, replace=True)
    assert len(hashes(tmp_path / "set")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_command(tmp_path, capsys):
    out = tmp_path / "set"
    code = main(
        ["data", "synthesize", str(out), "--good", "3", "--bad", "4", "--size", "64", "--json", str(tmp_path / "j")]
    )
    assert code == 0
    written = json.loads((tmp_path / "j").read_text())
    assert written["images"] == 3 + 8 + 4
    assert "train/good" in capsys.readouterr().out
    assert main(["data", "synthesize", str(out), "--size", "64"]) == 1
    assert "exists" in capsys.readouterr().err
