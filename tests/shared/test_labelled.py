"""Labelled pictures: layouts, splits, what is left out, and the fingerprint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from shared.errors import BadInput
from shared.files import write_bytes, write_text
from shared.images import encode_png
from shared.labelled import scan
from tests.shared.labelled_pictures import CLASSES, make_folders, need_grocery, picture

CSV = """Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)
Oat-Milk,0,Milk,0
Soy-Milk,1,Milk,0
Pear,2,Pear,1
"""


def make_lists(root: Path) -> Path:
    generator = np.random.default_rng(1)
    write_text(root / "classes.csv", CSV)
    for split, count in (("train", 4), ("val", 2)):
        lines = []
        for fine, coarse in ((0, 0), (1, 0), (2, 1)):
            for number in range(count):
                name = f"{split}/a/{fine}-{number}.png"
                write_bytes(root / name, encode_png(picture(fine, generator)))
                lines.append(f"{name}, {fine}, {coarse}")
        write_text(root / f"{split}.txt", "\n".join(lines) + "\n")
    return root


def test_folders_with_a_split_of_their_own(tmp_path: Path) -> None:
    found = scan(make_folders(tmp_path))
    assert found.labels == list(CLASSES)
    assert (len(found.train), len(found.held_out), found.held_out_split) == (36, 15, "val")
    assert {picture.name.split("/")[1] for picture in found.train if picture.label == 1} == {"checks"}
    assert not found.left_out


def test_flat_folders_are_split_by_class_and_seed(tmp_path: Path) -> None:
    make_folders(tmp_path / "made", train=20, val=0)
    flat = tmp_path / "flat"
    shutil.move(tmp_path / "made" / "train", flat)
    found = scan(flat, hold_out=0.2, seed=3)
    held = [picture.label for picture in found.held_out]
    assert [held.count(label) for label in range(3)] == [4, 4, 4]
    assert not {picture.name for picture in found.train} & {picture.name for picture in found.held_out}
    assert scan(flat, hold_out=0.2, seed=3).held_out == found.held_out
    assert scan(flat, hold_out=0.2, seed=4).held_out != found.held_out


def test_test_pictures_are_used_only_where_asked_for(tmp_path: Path) -> None:
    make_folders(tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")
    trained = scan(tmp_path, hold_out=0.25)
    assert {picture.split for picture in trained.train + trained.held_out} == {"train", "val"}
    assert len(trained.train) + len(trained.held_out) == 36
    judged = scan(tmp_path, test=True)
    assert judged.held_out_split == "test"
    assert len(judged.held_out) == 15


@pytest.mark.parametrize(("kind", "labels"), [("fine", ["Oat-Milk", "Soy-Milk", "Pear"]), ("coarse", ["Milk", "Pear"])])
def test_list_files_name_fine_and_coarse_classes(tmp_path: Path, kind: str, labels: list[str]) -> None:
    found = scan(make_lists(tmp_path), labels=kind)  # type: ignore[arg-type]
    assert found.labels == labels
    assert len(found.train) == 12
    assert len(found.held_out) == 6
    pear = [picture for picture in found.train if picture.label == len(labels) - 1]
    assert {picture.name[:9] for picture in pear} == {"train/a/2"}
    assert found.coarse_of == [0, 0, 1]


def test_what_cannot_be_trusted_is_left_out_by_name(tmp_path: Path) -> None:
    make_folders(tmp_path)
    write_bytes(tmp_path / "train/bars/00.png", (tmp_path / "train/bars/00.png").read_bytes()[:300])
    shutil.copy(tmp_path / "val/bars/01.png", tmp_path / "train/bars/leak.png")
    shutil.copy(tmp_path / "train/discs/02.png", tmp_path / "train/bars/contradicts.png")
    write_text(tmp_path / "train/bars/notes.txt", "x")
    found = scan(tmp_path)
    reasons = dict(found.left_out)
    assert set(reasons) == {
        "train/bars/00.png",
        "train/bars/leak.png",
        "train/bars/contradicts.png",
        "train/discs/02.png",
        "train/bars/notes.txt",
    }
    assert "truncated" in reasons["train/bars/00.png"]
    assert reasons["train/bars/leak.png"] == "the same pixels as val/bars/01.png"
    assert "labelled otherwise in train/bars/contradicts.png" in reasons["train/discs/02.png"]
    assert len(found.held_out) == 15
    assert len(found.train) == 34


def test_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    make_folders(tmp_path / "one", train=3, val=2)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = scan(tmp_path / "one").fingerprint
    assert scan(tmp_path / "two").fingerprint == first
    (tmp_path / "two/train/bars/00.png").rename(tmp_path / "two/train/discs/moved.png")
    assert scan(tmp_path / "two").fingerprint != first


def test_a_class_without_training_pictures_is_not_learnt(tmp_path: Path) -> None:
    make_folders(tmp_path)
    shutil.rmtree(tmp_path / "train/discs")
    found = scan(tmp_path)
    assert found.labels == ["bars", "checks"]
    assert [name for name, reason in found.left_out if "no pictures to train on" in reason] == [
        f"val/discs/{number:02}.png" for number in range(5)
    ]


def test_a_model_that_knows_none_of_the_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not know \(bars, checks, discs\); its own are cat, dog"):
        scan(make_folders(tmp_path), known=["cat", "dog"])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        ({"train.txt": "a.png, x, 0\n"}, r"train\.txt, line 1: expected `path, fine id`"),
        ({"train.txt": "a.png, 3, 0\n", "classes.csv": CSV}, "no fine class with the id 3"),
        ({"train.txt": "a.png, 0, 0\n", "classes.csv": "Name,ID\n"}, "must have the columns"),
        ({"train.txt": "a.png, 0, 0\n"}, r"no picture that can be used \(a\.png: does not exist\)"),
        ({}, "holds no labelled pictures"),
    ],
)
def test_sets_that_cannot_be_read_are_said(tmp_path: Path, write: dict[str, str], said: str) -> None:
    for name, text in write.items():
        write_text(tmp_path / name, text)
    with pytest.raises(BadInput, match=said):
        scan(tmp_path)


@pytest.mark.slow
def test_groceries() -> None:
    found = scan(need_grocery(), labels="fine")
    assert (len(found.labels), len(found.train), len(found.held_out)) == (81, 2640, 296)
    assert len(scan(need_grocery(), labels="coarse").labels) == 43
