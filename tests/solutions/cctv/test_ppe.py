"""Helmet and vest by colour: a real worker who wears both, and the same pictures with the colours taken away."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.io.frames import Bgr, Frame
from shared.detectors.builtin import person_detector
from shared.errors import BadInput
from solutions.cctv import config
from solutions.cctv.rules.ppe import PpeRunner
from solutions.cctv.rules.wearing import meanings_of
from solutions.cctv.scene import Scene, Signal, Track, View
from tests.solutions.cctv.figures import CLIPS

BOX = (88.0, 50.0, 154.0, 214.0)
"""Where the worker stands in the clip's last two seconds."""
COLOURS = config.PpeMissing(type="ppe_missing")


@pytest.fixture(scope="module")
def pictures() -> list[Bgr]:
    path = CLIPS / "intel_sample_videos" / "worker-zone-detection.gif"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    capture = cv2.VideoCapture(str(path))
    read = [capture.read() for _ in range(71)]
    return [image.astype(np.uint8, copy=False) for there, image in read if there][48:]


def greyed(image: Bgr, top: float, bottom: float) -> Bgr:
    """Without colour, and dark, between two shares of the person's height."""
    image = image.copy()
    height = BOX[3] - BOX[1]
    part = image[int(BOX[1] + top * height) : int(BOX[1] + bottom * height), int(BOX[0]) : int(BOX[2])]
    part[:] = (cv2.cvtColor(part, cv2.COLOR_BGR2GRAY) * 0.4).astype(np.uint8)[:, :, None]
    return image


def signals(
    pictures: list[Bgr],
    box: tuple[float, float, float, float] = BOX,
    fps: float = 10,
    rule: config.PpeMissing = COLOURS,
) -> list[Signal]:
    size = (pictures[0].shape[1], pictures[0].shape[0])
    runner = PpeRunner(rule, View.of(config.Camera(source="x"), size))
    found = []
    for index, image in enumerate(pictures):
        now = index / fps
        track = Track(7, "person", box, 0.9, 0.0, now)
        found += runner.update(Scene(Frame("c", index, now, image), size, (track,)))
    return found


def test_who_wears_both_is_left_alone(pictures: list[Bgr]) -> None:
    assert signals(pictures) == []


@pytest.mark.parametrize("fps", [25, 10, 5])
def test_a_missing_helmet_is_told_after_a_vote(pictures: list[Bgr], fps: float) -> None:
    bare = [greyed(image, 0, 0.18) for image in pictures] * 2
    found = signals(bare, fps=fps)
    assert found
    assert all(signal.why["missing"] == ["helmet"] for signal in found)
    assert found[0].subject == 7
    assert found[0].since_s < 1.0


def test_a_missing_vest_is_told(pictures: list[Bgr]) -> None:
    found = signals([greyed(image, 0.16, 0.6) for image in pictures])
    assert found
    assert found[-1].why["missing"] == ["vest"]


def test_a_single_bad_look_is_outvoted(pictures: list[Bgr]) -> None:
    assert signals([greyed(image, 0, 0.6) if n % 8 == 0 else image for n, image in enumerate(pictures)]) == []


def test_of_small_and_cut_persons_nothing_is_said(pictures: list[Bgr]) -> None:
    bare = [greyed(image, 0, 0.6) for image in pictures]
    assert signals(bare, (100.0, 60.0, 118.0, 110.0)) == []
    assert signals([image[:180] for image in bare]) == []


@pytest.mark.parametrize(
    ("label", "meanings"),
    [
        ("helmet", {"helmet": True}),
        ("NO-Hardhat", {"helmet": False}),
        ("Hard hat", {"helmet": True}),
        ("head", {"helmet": False}),
        ("no_vest", {"vest": False}),
        ("without vest", {"vest": False}),
        ("Safety Vest", {"vest": True}),
        ("vest missing", {"vest": False}),
        ("helmet_no_vest", {"helmet": True, "vest": False}),
        ("no helmet no vest", {"helmet": False, "vest": False}),
        ("helmet vest", {"helmet": True, "vest": True}),
        ("person", {}),
        ("", {}),
    ],
)
def test_labels_are_understood(label: str, meanings: dict[str, bool]) -> None:
    assert meanings_of(label) == meanings


def person_of(image: Bgr) -> Bgr:
    side = int(0.1 * (BOX[3] - BOX[1]))
    return image[int(BOX[1]) - side : int(BOX[3]) + side, int(BOX[0]) - side : int(BOX[2]) + side]


@pytest.mark.slow
def test_a_trained_classifier_of_persons_decides(pictures: list[Bgr], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from shared.training.config import TrainConfig, parse
    from shared.training.packaging import train_package

    data = tmp_path / "data"
    looks = {"helmet": pictures, "no_helmet": [greyed(image, 0, 0.18) for image in pictures]}
    for part, step in (("train", slice(0, None, 2)), ("val", slice(1, None, 2))):
        for label, images in looks.items():
            folder = data / part / label
            folder.mkdir(parents=True)
            for number, image in enumerate(images[step]):
                cv2.imwrite(str(folder / f"{number}.png"), person_of(image))
    raw = {
        "task": "image-classification",
        "data": {"path": str(data)},
        "model": {"backbone": "efficientnet-lite0", "image_size": 96, "freeze": 4},
        "fit": {"epochs": 3, "workers": 0, "batch_norm": "frozen", "batch_size": 8},
    }
    package = train_package(parse(TrainConfig, raw, "test"), tmp_path / "package").path
    rule = config.PpeMissing(type="ppe_missing", package=str(package), required=("helmet",))
    assert signals(pictures, rule=rule) == []
    found = signals([greyed(image, 0, 0.18) for image in pictures] * 2, rule=rule)
    assert found
    assert found[0].why["missing"] == ["helmet"]
    assert found[0].why["method"] == str(package)


def test_a_package_that_knows_no_helmets_is_refused() -> None:
    rule = config.PpeMissing(type="ppe_missing", package=str(person_detector().path))
    with pytest.raises(BadInput, match="neither helmets nor vests"):
        PpeRunner(rule, View.of(config.Camera(source="x"), (480, 270)))
