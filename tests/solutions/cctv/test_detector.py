"""The detector of all cameras: regions merged, low scores kept, threads apart, real networks and the built-in one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.detectors.foreign import Import, import_detector
from shared.errors import BadInput
from solutions.cctv.detector import Detector, merge
from tests.shared.detectors.networks import constant_network, yolox_answer

LABELS = ("person", "car")
CELL = (0.5, 0.5, 1.0, 1.0, 1.0, 0.9, 0.0)
FAINT = (0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.3)
BARELY = (0.5, 0.5, 0.5, 0.5, 0.1, 0.0, 0.3)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds in whatever it is shown a person around (12, 12), faintly a car around (44, 12), and a thing at 0.03."""
    folder = tmp_path_factory.mktemp("detector")
    answer = yolox_answer(64, {9: CELL, 13: FAINT, 45: BARELY}, 2)
    network = constant_network(folder / "net.onnx", {"output": answer})
    import_detector(network, folder / "package", Import(head="yolox", labels=LABELS, name="tried"))
    return folder / "package"


def picture(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), dtype=np.uint8)


def rows(*found: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(found, dtype=np.float32).reshape(-1, 6)


def test_whole_pictures_of_several_cameras_in_one_call(package: Path) -> None:
    detector = Detector.load(package, 1)
    small, large = detector.detect([picture(), picture(128, 128)])
    assert small.data["class_name"].tolist() == ["person", "car"]
    assert small.class_id is not None
    assert small.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(large.xyxy, small.xyxy * 2, atol=1e-3)
    assert detector.milliseconds > 0
    assert detector.runs == 2


def test_faint_things_are_given_for_the_tracker_and_hopeless_ones_are_not(package: Path) -> None:
    detector = Detector.load(package, 1)
    (found,) = detector.detect([picture()])
    np.testing.assert_allclose(found.confidence, [0.9, 0.15], atol=1e-5)
    assert detector.min_score == 0.3


def test_regions_come_back_to_their_place(package: Path) -> None:
    detector = Detector.load(package, 1)
    image = picture(300, 400)
    (whole,), (part,) = detector.detect([picture()]), detector.detect([image], [[(200.0, 100.0, 264.0, 164.0)]])
    np.testing.assert_allclose(part.xyxy, whole.xyxy + np.array([200, 100, 200, 100]), atol=1e-3)


def test_none_is_the_whole_and_an_empty_list_is_nothing(package: Path) -> None:
    detector = Detector.load(package, 1)
    whole, nothing, outside = detector.detect([picture()] * 3, [None, [], [(500.0, 500.0, 600.0, 600.0)]])
    assert len(whole) == 2
    assert len(nothing) == len(outside) == 0
    assert detector.runs == 1
    assert nothing.xyxy.shape == (0, 4)
    assert nothing.data["class_name"].shape == (0,)


def test_what_two_regions_saw_counts_once(package: Path) -> None:
    detector = Detector.load(package, 1)
    (found,) = detector.detect([picture(200, 200)], [[(10.0, 10.0, 74.0, 74.0), (11.0, 10.0, 75.0, 74.0)]])
    assert found.data["class_name"].tolist() == ["person", "car"]


def test_many_threads_get_what_one_gets(package: Path) -> None:
    detector = Detector.load(package, 1)
    images = [picture(64 + 8 * index, 64) for index in range(16)]
    alone = [detector.detect([image])[0].xyxy for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: detector.detect([image])[0].xyxy, images))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert detector.runs == 32


def test_bad_pictures_and_packages_are_refused(package: Path, tmp_path: Path) -> None:
    detector = Detector.load(package, 1)
    with pytest.raises(BadInput, match="uint8"):
        detector.detect([picture().astype(np.float32)])
    with pytest.raises(BadInput, match="give both for each"):
        detector.detect([picture()], [])
    with pytest.raises(BadInput, match="nowhere"):
        Detector.load(tmp_path / "nowhere")


def test_the_built_in_detector_needs_no_package() -> None:
    for name in (None, "pedestrian-ssdlite"):
        detector = Detector.load(name, 1)
        assert detector.labels == ("person",)
        assert detector.side == 300
        assert detector.smallest > 60
        (found,) = detector.detect([picture(90, 120)])
        assert not (found.confidence >= detector.min_score).any()


SIZE = (400, 200)
LEFT, RIGHT = (0.0, 0.0, 220.0, 200.0), (180.0, 0.0, 400.0, 200.0)
REGIONS = np.array([LEFT, RIGHT], dtype=np.float32)


def test_a_box_cut_by_a_border_gives_way_to_the_whole_one_even_if_it_is_surer() -> None:
    found = rows((150, 20, 220, 180, 0.95, 0), (182, 20, 290, 180, 0.6, 0), (185, 22, 219, 178, 0.97, 0))
    kept = merge(found, np.array([0, 1, 0]), REGIONS, SIZE)
    assert kept[:, :4].tolist()[0] == [182, 20, 290, 180]
    assert [185, 22, 219, 178] not in kept[:, :4].tolist()


def test_two_halves_become_one() -> None:
    found = rows((100, 50, 220, 150, 0.7, 1), (180, 52, 300, 149, 0.8, 1))
    kept = merge(found, np.array([0, 1]), REGIONS, SIZE)
    np.testing.assert_allclose(kept, [[100, 50, 300, 150, 0.8, 1]])


def test_neighbours_that_are_whole_stay_two() -> None:
    found = rows((100, 50, 190, 150, 0.7, 0), (195, 50, 280, 150, 0.8, 0))
    assert len(merge(found, np.array([0, 1]), REGIONS, SIZE)) == 2


def test_what_one_region_says_is_not_thinned_again() -> None:
    found = rows((100, 50, 190, 150, 0.7, 0), (105, 50, 195, 150, 0.8, 1))
    assert len(merge(found, np.array([0, 0]), REGIONS, SIZE)) == 2


def test_the_border_of_the_picture_cuts_nothing() -> None:
    found = rows((0, 0, 60, 200, 0.7, 0), (0, 0, 59, 90, 0.9, 0))
    assert len(merge(found, np.array([0, 1]), np.array([LEFT, (0, 0, 230, 200)], dtype=np.float32), SIZE)) == 2
