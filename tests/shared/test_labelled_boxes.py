"""Boxes, polygons and keypoints in the layouts of Ultralytics, COCO and plain folders."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import BadInput
from shared.labelled_boxes import read_boxes


def picture(path: Path, height: int = 20, width: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((height, width, 3), dtype=np.uint8))


def label(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def yaml_set(root: Path, *lines: str, more: str = "") -> Path:
    for split in ("train", "val"):
        picture(root / "images" / split / "a.png")
        label(root / "labels" / split / "a.txt", *lines)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: [nut, bolt]\n{more}")
    return root / "data.yaml"


def test_a_data_yaml(tmp_path: Path) -> None:
    data = read_boxes(yaml_set(tmp_path, "1 0.5 0.5 0.2 0.4", "0 0.1 0.1 0.2 0.2"))
    assert data.names == ["nut", "bolt"]
    (one,) = data.splits["train"]
    assert one.classes.tolist() == [1, 0]
    np.testing.assert_allclose(one.boxes, [[0.4, 0.3, 0.6, 0.7], [0, 0, 0.2, 0.2]], atol=1e-6)
    assert [each.path.parent.name for each in data.held_out] == ["val"]


def test_polygons_give_boxes_too(tmp_path: Path) -> None:
    data = read_boxes(yaml_set(tmp_path, "0 0.1 0.2 0.5 0.2 0.3 0.9"))
    (one,) = data.splits["val"]
    assert one.polygons[0].shape == (3, 2)
    np.testing.assert_allclose(one.boxes, [[0.1, 0.2, 0.5, 0.9]], atol=1e-6)


def test_keypoints_without_visibility_are_there_unless_negative(tmp_path: Path) -> None:
    more = "kpt_shape: [2, 2]\nflip_idx: [1, 0]\n"
    data = read_boxes(yaml_set(tmp_path, "0 0.5 0.5 0.2 0.2 0.4 0.5 -1 -1", more=more))
    (one,) = data.splits["train"]
    assert one.keypoints is not None
    assert one.keypoints[0, :, 2].tolist() == [1, 0]
    assert (data.keypoints, data.mirrored) == ((2, 2), [1, 0])


def test_a_plain_folder_holds_out_the_same_fifth_each_time(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "images" / f"{number}.png")
        label(tmp_path / "labels" / f"{number}.txt", "2 0.5 0.5 0.5 0.5")
    data, again = read_boxes(tmp_path), read_boxes(tmp_path)
    assert {split: len(some) for split, some in data.splits.items()} == {"train": 8, "val": 2}
    assert [each.path for each in data.held_out] == [each.path for each in again.held_out]
    assert not {each.path for each in data.held_out} & {each.path for each in data.splits["train"]}
    assert data.names == ["0", "1", "2"]
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert read_boxes(tmp_path).names == ["a", "b", "c"]


def test_folders_of_splits_above_images(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "images" / "a.png")
        label(tmp_path / split / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5")
    assert {split: len(some) for split, some in read_boxes(tmp_path).splits.items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }


def coco(root: Path, split: str, *, crowd: int = 0) -> None:
    picture(root / split / "a.png")
    annotations = [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 5,
            "bbox": [4, 2, 8, 10],
            "iscrowd": 0,
            "segmentation": [[4, 2, 12, 2, 8, 12]],
        },
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": crowd, "segmentation": {}},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 0, 5], "iscrowd": 0},
    ]
    raw = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 20}],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "bolt"}, {"id": 3, "name": "nut"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(raw))


def test_coco(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        coco(tmp_path, split, crowd=1)
    data = read_boxes(tmp_path)
    assert data.names == ["nut", "bolt"]  # by id, as COCO's own numbering of classes goes
    (one,) = data.splits["train"]
    assert one.classes.tolist() == [1, 0]  # the box without a width is nothing
    np.testing.assert_allclose(one.boxes, [[0.1, 0.1, 0.3, 0.6], [0, 0, 1, 1]], atol=1e-6)
    assert one.single.tolist() == [True, False]
    assert one.path == tmp_path / "train2017" / "a.png"
    np.testing.assert_allclose(one.polygons[0], [[0.1, 0.1], [0.3, 0.1], [0.2, 0.6]], atol=1e-6)


def test_the_fingerprint_changes_with_a_label(tmp_path: Path) -> None:
    path = yaml_set(tmp_path, "1 0.5 0.5 0.2 0.4")
    before = read_boxes(path).fingerprint
    assert read_boxes(path).fingerprint == before
    label(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.4")
    assert read_boxes(path).fingerprint != before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2", "4 numbers"),
        ("0 20 5 4 4", "0 to 1"),
        ("0.5 0.5 0.5 0.2 0.2", "whole number"),
        ("nut 0.5 0.5 0.2 0.2", "not numbers"),
        ("0 0.5 0.5 0 0.2", "above 0"),
        ("0 nan 0.5 0.1 0.2", "finite"),
        ("9 0.5 0.5 0.1 0.2", "names only 2 classes"),
    ],
)
def test_a_wrong_label_is_named_with_its_file(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as raised:
        read_boxes(yaml_set(tmp_path, line))
    assert "a.txt" in str(raised.value)


def test_boxes_and_polygons_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mixes"):
        read_boxes(yaml_set(tmp_path, "0 0.5 0.5 0.2 0.2", "0 0.1 0.2 0.5 0.2 0.3 0.9"))


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match=r"data\.yaml"):
            read_boxes(path)
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: nowhere\n")
    with pytest.raises(BadInput, match="nowhere"):
        read_boxes(tmp_path)
