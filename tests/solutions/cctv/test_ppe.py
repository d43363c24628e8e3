"""Helmet and vest by colour: a real worker who wears both, and the same pictures with the colours taken away."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.io.frames import Bgr, Frame
from solutions.cctv import config
from solutions.cctv.rules.ppe import PpeRunner, meaning_of
from solutions.cctv.scene import Scene, Signal, Track, View
from tests.solutions.cctv.figures import CLIPS

BOX = (88.0, 50.0, 154.0, 214.0)
"""Where the worker stands in the clip's last two seconds."""


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


def signals(pictures: list[Bgr], box: tuple[float, float, float, float] = BOX, fps: float = 10) -> list[Signal]:
    size = (pictures[0].shape[1], pictures[0].shape[0])
    runner = PpeRunner(config.PpeMissing(type="ppe_missing"), View.of(config.Camera(source="x"), size))
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
    ("label", "meaning"),
    [
        ("helmet", ("helmet", True)),
        ("NO-Hardhat", ("helmet", False)),
        ("head", ("helmet", False)),
        ("no_vest", ("vest", False)),
        ("Safety Vest", ("vest", True)),
        ("person", None),
    ],
)
def test_labels_of_detectors(label: str, meaning: tuple[str, bool] | None) -> None:
    assert meaning_of(label) == meaning
