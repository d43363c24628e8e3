"""Teachers that find boxes: what is added to the labels, and what is not. The teachers are packages whose answers are
known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import BadInput
from shared.images import EXTENSIONS
from shared.labelled_boxes import Labelled
from shared.manifest import Lineage, Manifest, TensorSpec
from shared.package import Golden, write_package
from shared.training.detector_graph import Head, compose
from shared.training.export import Session
from shared.training.pseudo_labels import BoxTeachers, unlabelled
from tests.shared.training.test_detector_graph import network, rows

SIDE = 64
Row = tuple[float, float, float, float, float, float]
"""A box in a picture of 64×64 and the scores of the two classes."""


def teacher(path: Path, labels: list[str], *found: Row) -> Path:
    """A package that finds the same boxes in every picture."""
    model = compose(network({"predictions": rows(*found)}), Head(SIDE, 20, 2, detections=10))
    inputs = {"image": np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)}
    outputs = {"boxes": ("FP32", [-1, 10, 4]), "scores": ("FP32", [-1, 10]), "classes": ("INT64", [-1, 10])}
    manifest = Manifest(
        name="teacher",
        version="1",
        task="detection",
        inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
        outputs=[TensorSpec(name=name, datatype=kind, shape=shape) for name, (kind, shape) in outputs.items()],
        labels=labels,
        lineage=Lineage(data_fingerprint="x", code_revision="x", seed=0, created="2026-01-01T00:00:00+00:00"),
    )
    write_package(path, manifest, model, Golden(inputs, Session(model, 1).run(inputs)))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    return path


def test_sure_boxes_are_added_under_the_students_numbers(tmp_path: Path, picture: Path) -> None:
    path = teacher(
        tmp_path / "t", ["disc", "cat"], (0, 0, 16, 32, 0.9, 0), (40, 40, 60, 60, 0.4, 0), (0, 40, 16, 60, 0, 0.9)
    )
    (one,) = BoxTeachers([path], ["square", "disc"], 0.5).label(unlabelled(picture.parent, EXTENSIONS))
    assert one.classes.tolist() == [1]  # the second is unsure, and the student knows no cats
    np.testing.assert_allclose(one.boxes, [[0, 0, 0.25, 0.5]], atol=1e-5)
    assert one.single.all()


def test_where_a_person_has_labelled_nothing_is_added(tmp_path: Path, picture: Path) -> None:
    path = teacher(tmp_path / "t", ["square", "disc"], (0, 0, 16, 16, 0.9, 0), (40, 40, 60, 60, 0.8, 0))
    labelled = Labelled(picture, np.array([1]), np.array([[0, 0, 0.25, 0.24]], dtype=np.float32))
    (one,) = BoxTeachers([path], ["square", "disc"], 0.5).label([labelled])
    assert one.classes.tolist() == [1, 0]
    np.testing.assert_allclose(one.boxes[0], [0, 0, 0.25, 0.24])
    np.testing.assert_allclose(one.boxes[1] * SIDE, [40, 40, 60, 60], atol=1e-3)


def test_of_several_teachers_more_than_half_must_agree(tmp_path: Path, picture: Path) -> None:
    labels = ["square", "disc"]
    found: list[Row] = [(0, 0, 16, 16, 0.7, 0), (40, 40, 60, 60, 0.8, 0)]
    paths = [
        teacher(tmp_path / "a", labels, *found),
        teacher(tmp_path / "b", labels, (0, 0, 16, 17, 0.9, 0)),
        teacher(tmp_path / "c", labels, (0, 0, 16, 16, 0, 0.9)),  # the same place, another class
    ]
    (one,) = BoxTeachers(paths, labels, 0.5).label(unlabelled(picture.parent, EXTENSIONS))
    assert one.classes.tolist() == [0]
    np.testing.assert_allclose(one.boxes[0] * SIDE, [0, 0, 16, 17], atol=1e-3)  # the surer one's


def test_a_teacher_of_other_things_and_a_folder_without_pictures(tmp_path: Path) -> None:
    path = teacher(tmp_path / "t", ["cat", "dog"], (0, 0, 16, 16, 0.9, 0))
    with pytest.raises(BadInput, match="none of the classes"):
        BoxTeachers([path], ["square"], 0.5)
    with pytest.raises(BadInput, match=r"distill\.teachers"):
        BoxTeachers([tmp_path / "missing"], ["square"], 0.5)
    with pytest.raises(BadInput, match="has no pictures"):
        unlabelled(tmp_path / "t", frozenset({".png"}))
