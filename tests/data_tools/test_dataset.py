"""Data folders as people really hand them over."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_tools.dataset import scan
from shared.errors import BadInput
from shared.images import encode_jpeg, encode_png
from solutions.cli import main

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "inspection"


def photo(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A textured picture; each number gives another."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(40, 220, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def put(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        path.write_bytes(encode_jpeg(image))
    elif path.suffix.lower() == ".png":
        path.write_bytes(encode_png(image))
    else:
        path.write_bytes(cv2.imencode(path.suffix.lower(), image[..., ::-1])[1].tobytes())
    return path


def mask(width: int = 96, height: int = 64) -> np.ndarray:
    drawn = np.zeros((height, width), np.uint8)
    drawn[10:20, 30:50] = 255
    return drawn


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    for number in range(12):
        put(root / f"train/good/{number:03d}.png", photo(number))
    for number in range(4):
        put(root / f"test/good/{number:03d}.png", photo(100 + number))
        put(root / f"test/scratch/{number:03d}.png", photo(200 + number))
        put(root / f"ground_truth/scratch/{number:03d}_mask.png", mask())
    return root


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "flat"
    for number in range(11):
        put(root / f"good/{number:03d}.jpg", photo(number))
    return root


def reasons(root: Path, **options) -> dict[str, str]:
    report = scan(root, **options)
    return {report.relative(path): reason for path, reason in report.left_out}


def test_mvtec_layout(mvtec):
    report = scan(mvtec)
    assert report.layout == "mvtec"
    assert report.counts == {"test/good": 4, "test/scratch": 4, "train/good": 12}
    assert report.sizes == {"96×64": 20}
    assert not report.left_out
    assert not report.warnings
    assert len(report.train_good) == 12
    assert len(report.test_good) == 4
    assert all(item.mask is not None and item.mask.name == f"{item.path.stem}_mask.png" for item in report.bad)
    assert [item.name for item in report.items] == sorted(item.name for item in report.items)


def test_flat_layouts(flat):
    assert scan(flat).layout == "good"
    assert scan(flat).counts == {"train/good": 11}
    put(flat / "bad/x.jpg", photo(500))
    put(flat / "bad/y.jpg", photo(501))
    put(flat / "ground_truth/bad/x.png", mask())
    report = scan(flat)
    assert report.layout == "good_bad"
    assert [(item.path.name, item.label, item.split, item.mask is not None) for item in report.bad] == [
        ("x.jpg", "bad", "test", True),
        ("y.jpg", "bad", "test", False),
    ]
    assert any("1 of 2 bad pictures have no mask" in sentence for sentence in report.warnings)


def test_every_format_depth_and_extension(tmp_path):
    good = tmp_path / "good"
    for number, extension in enumerate(
        [".png", ".PNG", ".jpg", ".JPG", ".JPEG", ".bmp", ".BMP", ".tif", ".TIFF", ".tiff"]
    ):
        put(good / f"part{number}{extension}", photo(number))
    good.joinpath("deep.png").write_bytes(cv2.imencode(".png", photo(50)[..., 0].astype(np.uint16) * 257)[1].tobytes())
    good.joinpath("grey.png").write_bytes(encode_png(photo(51)[..., 0]))
    good.joinpath("alpha.png").write_bytes(
        cv2.imencode(".png", np.dstack([photo(52), np.full((64, 96), 255, np.uint8)]))[1].tobytes()
    )
    report = scan(tmp_path)
    assert not report.left_out
    assert report.counts == {"train/good": 13}


@pytest.mark.parametrize("name", ["000.png", "000_mask.bmp", "000_mask.PNG", "000.tif"])
def test_masks_by_other_names(mvtec, name):
    (mvtec / "ground_truth/scratch/000_mask.png").unlink()
    target = mvtec / "ground_truth/scratch" / name
    put(target, np.dstack([mask()] * 3))
    found = next(item.mask for item in scan(mvtec).items if item.name == "test/scratch/000.png")
    assert found == target.resolve()


def test_broken_files_are_left_out_by_name(mvtec):
    good = mvtec / "train/good"
    whole = encode_jpeg(photo(900, 400, 300))
    (good / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (good / "empty.png").write_bytes(b"")
    (good / "notes.png").write_bytes(b"not a picture at all")
    (good / "black.png").write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    rng = np.random.default_rng(0)
    (good / "cap_on.png").write_bytes(encode_png(rng.integers(3, 6, (64, 96, 3)).astype(np.uint8)))
    put(good / "tiny.png", photo(901, 20, 16))
    put(good / "huge.png", photo(902, 960, 640))
    put(good / "strip.png", photo(903, 200, 50))
    (good / "readme.txt").write_text("hello")
    (good / "phone.webp").write_bytes(b"RIFF")
    found = {Path(name).name: reason for name, reason in reasons(mvtec).items()}
    assert "truncated" in found.pop("cut.jpg")
    assert "0 bytes" in found.pop("empty.png")
    assert "not a PNG" in found.pop("notes.png")
    assert "near-empty" in found.pop("black.png")
    assert "near-empty" in found.pop("cap_on.png")
    assert "20×16" in found.pop("tiny.png")
    assert "oddly sized: 960×640" in found.pop("huge.png")
    assert "oddly sized: 200×50" in found.pop("strip.png")
    assert "not a picture" in found.pop("readme.txt")
    assert "convert it" in found.pop("phone.webp")
    assert not found
    assert scan(mvtec).counts["train/good"] == 12


def test_uniform_products_are_not_near_empty(tmp_path):
    for number in range(12):
        noise = np.random.default_rng(number).normal(200, 1.2, (64, 96, 1))
        put(tmp_path / f"good/{number}.png", np.repeat(np.rint(noise), 3, axis=2).astype(np.uint8))
    assert scan(tmp_path).counts == {"train/good": 12}


def test_mixed_sizes_are_kept(tmp_path):
    for number in range(12):
        scale = 1 + 5 * (number % 3)
        put(tmp_path / f"good/{number}.png", photo(number, 48 * scale, 40 * scale))
    report = scan(tmp_path)
    assert report.counts == {"train/good": 12}
    assert any("mixed" in sentence for sentence in report.warnings)


def test_duplicates_by_pixels_not_by_bytes(mvtec):
    put(mvtec / "train/good/copy.png", photo(3))
    put(mvtec / "train/good/copy.bmp", photo(3))
    put(mvtec / "test/scratch/again.png", photo(201))
    found = reasons(mvtec)
    assert found == {
        "train/good/copy.bmp": "duplicate of train/good/003.png",
        "train/good/copy.png": "duplicate of train/good/003.png",
        "test/scratch/again.png": "duplicate of test/scratch/001.png",
    }


def test_a_leak_goes_from_train_and_stays_in_test(mvtec):
    put(mvtec / "test/good/leak.png", photo(5))
    report = scan(mvtec)
    assert reasons(mvtec) == {"train/good/005.png": "leak: the same picture as test/good/leak.png in test"}
    assert report.counts["test/good"] == 5
    assert report.counts["train/good"] == 11


def test_one_picture_with_two_labels_is_not_trusted(mvtec, flat):
    put(mvtec / "test/good/x.png", photo(202))
    found = reasons(mvtec)
    assert set(found) == {"test/good/x.png", "test/scratch/002.png"}
    assert all("another label" in reason for reason in found.values())
    put(flat / "bad/x.jpg", photo(2))
    assert set(reasons(flat)) == {"good/002.jpg", "bad/x.jpg"}


def test_unusable_masks_leave_the_picture(mvtec):
    truth = mvtec / "ground_truth/scratch"
    (truth / "000_mask.png").write_bytes(b"broken")
    put(truth / "001_mask.png", np.zeros((64, 96), np.uint8))
    put(truth / "002_mask.png", mask(64, 96))
    put(truth / "003_mask.png", cv2.resize(mask(), (48, 32), interpolation=cv2.INTER_NEAREST))
    put(truth / "other_mask.png", mask())
    report = scan(mvtec)
    assert [item.mask is not None for item in report.bad] == [False, False, False, True]
    found = [reason for _, reason in report.left_out]
    assert any("mask unusable" in reason for reason in found)
    assert any("all black" in reason for reason in found)
    assert any("another shape" in reason for reason in found)
    assert any("belong to no picture" in sentence and "other_mask.png" in sentence for sentence in report.warnings)


def test_hidden_files_and_links(mvtec, tmp_path):
    good = mvtec / "train/good"
    put(good / ".hidden.png", photo(1))
    (good / "Thumbs.db").write_bytes(b"x")
    outside = put(tmp_path / "elsewhere/secret.png", photo(77))
    (good / "out.png").symlink_to(outside)
    (good / "folder").symlink_to(outside.parent)
    (good / "gone.png").symlink_to(good / "nowhere.png")
    (good / "loop.png").symlink_to(good / "loop.png")
    (good / "inside.png").symlink_to(mvtec / "test/good/000.png")
    found = reasons(mvtec)
    assert "out of the data folder" in found.pop("train/good/out.png")
    assert "not followed" in found.pop("train/good/folder")
    assert "does not exist" in found.pop("train/good/gone.png")
    assert "link" in found.pop("train/good/loop.png")
    assert "leak" in found.pop("train/good/inside.png")
    assert not found
    assert any("2 hidden" in sentence for sentence in scan(mvtec).warnings)


def test_sub_folders_of_a_label_are_read(mvtec):
    put(mvtec / "train/good/line2/000.png", photo(60))
    put(mvtec / "test/scratch/line2/000.png", photo(61))
    put(mvtec / "ground_truth/scratch/line2/000_mask.png", mask())
    report = scan(mvtec)
    assert report.counts == {"test/good": 4, "test/scratch": 5, "train/good": 13}
    assert all(item.mask is not None for item in report.bad)


def test_bad_parts_in_train_are_never_taken_for_good(mvtec):
    put(mvtec / "train/dent/000.png", photo(70))
    assert "good parts alone" in reasons(mvtec)["train/dent/000.png"]
    assert scan(mvtec).counts["train/good"] == 12


def test_too_few_says_how_many(flat):
    for number in range(3):
        (flat / f"good/{number:03d}.jpg").unlink()
    (flat / "good/003.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"has 7 usable pictures of good parts, 10 are needed: add 3 more .*003\.jpg"):
        scan(flat)
    assert len(scan(flat, need_good=7).items) == 7


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ([""], r"holds 2 pictures directly; move those of good parts into .*good"),
        (["OK", "NG"], r"has a folder OK; rename it to good"),
        (["bottle/train/good"], r"one level too high; did you mean .*bottle"),
        (["bad"], r"has only bad; training is from good parts"),
        (["train"], r"train holds 2 pictures directly; move those of good parts into .*train.*good"),
        (["cats", "dogs"], r"has the folders cats, dogs; expected is train/good"),
    ],
)
def test_a_wrong_layout_gets_a_helpful_sentence(tmp_path, folders, sentence):
    for index, folder in enumerate(folders):
        put(tmp_path / folder / "a.png", photo(2 * index))
        put(tmp_path / folder / "b.png", photo(2 * index + 1))
    with pytest.raises(BadInput, match=sentence):
        scan(tmp_path)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        scan(tmp_path / "nothing")
    with pytest.raises(BadInput, match="is empty"):
        scan(tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        scan(put(tmp_path / "x.png", photo(1)))


def test_upper_case_folder_names(flat):
    (flat / "good").rename(flat / "Good")
    assert scan(flat).counts == {"train/good": 11}


def test_fingerprint_depends_on_the_content_alone(mvtec, tmp_path):
    first = scan(mvtec).fingerprint
    moved = tmp_path / "somewhere" / "else"
    moved.mkdir(parents=True)
    for file in sorted(mvtec.rglob("*.png"), reverse=True):  # another order of creation, another place, other times
        target = moved / file.relative_to(mvtec)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        os.utime(target, (0, 0))
    assert scan(moved).fingerprint == first
    assert scan(moved, threads=1).fingerprint == first
    (moved / "train/good/broken.png").write_bytes(b"")
    assert scan(moved).fingerprint == first
    put(moved / "ground_truth/scratch/000_mask.png", 255 - mask())
    assert scan(moved).fingerprint != first


@pytest.mark.parametrize("change", ["pixels", "name", "label", "one more"])
def test_fingerprint_changes_with_what_matters(mvtec, change):
    first = scan(mvtec).fingerprint
    picture = mvtec / "test/scratch/000.png"
    if change == "pixels":
        put(picture, photo(999))
    elif change == "name":
        picture.rename(picture.with_name("0000.png"))
    elif change == "label":
        (mvtec / "test/scratch").rename(mvtec / "test/dent")
    else:
        put(mvtec / "train/good/more.png", photo(998))
    assert scan(mvtec).fingerprint != first


def test_large_photographs_that_differ_are_no_duplicates(tmp_path):
    for number in range(4):
        put(tmp_path / f"good/{number}.jpg", photo(number, 2000, 1500))
    put(tmp_path / "good/twin.jpg", photo(2, 2000, 1500))
    report = scan(tmp_path, need_good=1)
    assert report.sizes == {"2000×1500": 4}
    assert [reason for _, reason in report.left_out] == ["duplicate of good/2.jpg"]


def test_names_that_are_not_utf_8(flat):
    """Korean names from an old Windows machine arrive as EUC-KR bytes."""
    raw = os.fsencode(flat / "good") + b"/" + "불량".encode("euc-kr")
    try:
        Path(os.fsdecode(raw + b".jpg")).write_bytes(encode_jpeg(photo(300)))
        Path(os.fsdecode(raw + b"2.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    report = scan(flat)
    assert len(report.items) == 12
    assert len(report.left_out) == 1
    json.dumps(report.to_dict(), ensure_ascii=False).encode("utf-8")


def test_progress_counts_to_the_end(flat):
    calls: list[tuple[int, int]] = []
    scan(flat, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 11) for done in range(1, 12)]


def test_command_prints_and_writes_the_report(mvtec, tmp_path, capsys):
    (mvtec / "train/good/[red]odd.png").write_bytes(b"")
    assert main(["data", "validate", str(mvtec), "--json", str(tmp_path / "report.json")]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert written["counts"] == {"test/good": 4, "test/scratch": 4, "train/good": 12}
    assert written["fingerprint"] in shown
    assert written["fingerprint"] == scan(mvtec).fingerprint
    assert written["left_out"][0]["file"] == "train/good/[red]odd.png"
    assert "[red]odd.png" in shown


def test_command_fails_with_code_2_on_a_wrong_folder(tmp_path, capsys):
    assert main(["data", "validate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no photographs at {REAL}")
def test_real_photographs():
    cookies = scan(REAL / "cookies")
    assert cookies.counts == {"test/broken": 40, "test/good": 14, "train/good": 31}
    assert sum(item.mask is not None for item in cookies.bad) == 32
    assert cookies.warnings == [
        "8 of 40 broken pictures have no mask; they count for the image metrics, not for the pixel metrics."
    ]
    assert not cookies.left_out
    ballscrew = scan(REAL / "ballscrew")
    assert ballscrew.counts == {"test/good": 158, "test/pitting": 150, "train/good": 236}
    assert not ballscrew.left_out


def test_sizes_that_vary_are_kept_and_pictures_to_be_judged_always(mvtec):
    rng = np.random.default_rng(4)
    for index, (width, height) in enumerate([(150, 100), (110, 150), (240, 110), (130, 130)]):
        noise = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(mvtec / f"train/good/cut{index}.png"), noise)
    cv2.imwrite(str(mvtec / "test/good/black.png"), np.zeros((90, 90, 3), np.uint8))
    cv2.imwrite(str(mvtec / "test/good/strip.png"), rng.integers(0, 255, (40, 600, 3), dtype=np.uint8))
    report = scan(mvtec, need_good=0)
    names = {item.name for item in report.items}
    assert {f"train/good/cut{index}.png" for index in range(4)} <= names
    assert {"test/good/black.png", "test/good/strip.png"} <= names
