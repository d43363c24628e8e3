"""Hidden is hidden: whatever was there before, the picture that is left is the same."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import HaechiError
from solutions.cctv.config import Privacy
from solutions.cctv.privacy import (
    NEAR_S,
    UNKNOWN_S,
    Persons,
    by_role,
    hide,
    hide_all,
    hide_clip,
    mask_clip,
    mask_private,
)
from tests.solutions.cctv.pictures import SIZE, picture

BOX = (100.0, 60.0, 140.0, 140.0)


def square(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def test_private_areas_are_black_and_the_picture_given_stays() -> None:
    image = picture()
    before = image.copy()
    masked = mask_private(image, [square(100, 60, 140, 140), square(120, 100, 200, 160)])
    assert not masked[60:140, 100:140].any()
    assert not masked[101:159, 121:199].any(), "where two overlap, there is no hole"
    assert (masked[:59] == before[:59]).all()
    assert (image == before).all()
    assert mask_private(image, []) is image


@given(points=st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=3, max_size=8))
def test_any_polygon_can_be_painted(points: list[tuple[float, float]]) -> None:
    masked = mask_private(picture(), [np.array(points, np.float32)])
    assert masked.shape == (SIZE[1], SIZE[0], 3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), how=st.sampled_from(["blur", "pixelate"]))
def test_what_is_left_of_a_person_is_a_few_numbers(seed: int, how: Any) -> None:
    """Two persons whose cells have the same mean cannot be told apart: nothing finer is left to recover."""
    noise = np.random.default_rng(seed).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    image = np.full((300, 300, 3), 90, np.uint8)
    image[50:250, 50:250] = noise
    left = hide(image, [(50, 50, 250, 250)], how)
    assert (left[:20] == image[:20]).all()
    if how == "pixelate":
        assert len(np.unique(left[50:250, 50:250].reshape(-1, 3), axis=0)) <= 49
    fine = left[60:240, 60:240].astype(int)
    assert np.abs(np.diff(fine, axis=1)).mean() < 3 < np.abs(np.diff(noise.astype(int), axis=1)).mean()


def test_faces_alone_leave_the_body() -> None:
    image = picture()
    left = hide(image, [BOX], "pixelate", "faces")
    assert (left[90:140, 100:140] == image[90:140, 100:140]).all()
    assert np.ptp(left[62:80, 104:108]) < np.ptp(image[62:80, 104:108])


@pytest.mark.parametrize("how", ["blur", "pixelate"])
def test_all_of_a_picture(how: Any) -> None:
    left = hide_all(picture(), how)
    assert left.shape == picture().shape
    assert np.abs(np.diff(left.astype(int), axis=1)).mean() < 2


def test_who_is_not_known_is_hidden_with_everything() -> None:
    image, hidden = picture(), Privacy(hide="persons")
    relative = (BOX[0] / SIZE[0], BOX[1] / SIZE[1], BOX[2] / SIZE[0], BOX[3] / SIZE[1])
    assert (by_role(image, None, hidden) == hide_all(image, "pixelate")).all()
    assert (by_role(image, [relative], hidden) == hide(image, [BOX], "pixelate")).all()
    assert (by_role(image, [], hidden) == image).all()
    assert by_role(image, None, Privacy()) is image


@given(times=st.lists(st.floats(0, 100), min_size=0, max_size=20, unique=True).map(sorted), moment=st.floats(-10, 110))
def test_persons_around_a_moment(times: list[float], moment: float) -> None:
    boxes = [((float(number), 0.0, 1.0, 1.0),) for number in range(len(times))]
    found = Persons(tuple(times), tuple(boxes)).around(moment)
    nearest = min((abs(time - moment) for time in times), default=np.inf)
    assert (found is None) == (nearest > UNKNOWN_S)
    for number, time in enumerate(times):
        if abs(time - moment) <= NEAR_S - 1e-9:
            assert found is not None
            assert (float(number), 0.0, 1.0, 1.0) in found


def clip(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Half a second apart, then a quarter: its times must stay."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p"
        for tick in (0, 12, 25, 31, 37):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture()[: size[1], : size[0]]), format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(float(frame.time or 0.0), frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize("size", [SIZE, (319, 179)])
def test_a_hidden_clip_keeps_its_times(tmp_path: Path, size: tuple[int, int]) -> None:
    source = clip(tmp_path / "a.mp4", size)
    relative = (BOX[0] / size[0], BOX[1] / size[1], BOX[2] / size[0], BOX[3] / size[1])
    persons = Persons((1000.0, 1001.5), ((relative,), (relative,)))
    hide_clip(source, tmp_path / "b.mp4", persons, 1000.0, Privacy(hide="persons"))
    before, after = shown(source), shown(tmp_path / "b.mp4")
    gaps = [np.diff([time for time, _ in one]) for one in (before, after)]
    assert np.allclose(*gaps, atol=0.002)
    for (_, one), (_, other) in zip(before, after, strict=True):
        inside = np.s_[70:130, 110:130]
        assert np.abs(np.diff(other[inside].astype(int), axis=1)).mean() < 4
        assert np.abs(np.diff(one[inside].astype(int), axis=1)).mean() > 40
        assert np.abs(other[:50, :200].astype(int) - one[:50, :200]).mean() < 4


def test_a_clip_may_be_masked_in_its_place(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    mask_clip(path, path, [[(0.25, 0.25), (0.5, 0.25), (0.5, 0.9), (0.25, 0.9)]])
    assert all(image[60:140, 100:140].max() < 30 for _, image in shown(path))
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(HaechiError, match=r"a\.mp4"):
        mask_clip(tmp_path / "a.mp4", tmp_path / "b.mp4", [])
    assert not (tmp_path / "b.mp4").exists()
    with pytest.raises(HaechiError):
        mask_clip(tmp_path / "none.mp4", tmp_path / "b.mp4", [])
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]
