"""Files and folders: every frame in order, at the times that the file gives."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import cv2
import pytest

from edge.io.sources import open_source
from shared.errors import BadInput
from tests.edge.io.pictures import number_of, numbered, written

CCTV = Path(__file__).resolve().parents[4] / "shared" / "data" / "cctv"
TRUTHS = sorted((CCTV / "truth").glob("*.json"))

KINDS = [("mp4", "libx264"), ("mkv", "libx265"), ("avi", "mjpeg"), ("avi", "mpeg4")]


@pytest.mark.skipif(not TRUTHS, reason="the sample clips of shared/data/cctv are not on this machine")
@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.stem)
def test_times_of_the_sample_clips_are_those_of_their_truth(truth: Path) -> None:
    told = json.loads(truth.read_text(encoding="utf-8"))
    with open_source("c", str(CCTV / told["clip"])) as source:
        times = [(frame.index, frame.time_s, frame.image.shape) for frame in source]
    assert [index for index, _, _ in times] == list(range(told["frames"]))
    assert max(abs(time_s - index / told["fps"]) for index, time_s, _ in times) < 1 / told["fps"]
    assert times[0][2] == (told["size"][1], told["size"][0], 3)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx265"), ("avi", "mjpeg"), ("avi", "mpeg4")]
)
def test_every_frame_in_order(tmp_path: Path, suffix: str, codec: str) -> None:
    with open_source("c", str(written(tmp_path / f"clip.{suffix}", codec))) as source:
        got = [(frame.index, number_of(frame.image), frame.time_s) for frame in source]
        assert source.ended
        assert source.status.state == "ended"
    assert [(index, number) for index, number, _ in got] == [(each, each) for each in range(50)]
    assert [time_s for _, _, time_s in got] == pytest.approx([each / 25 for each in range(50)], abs=0.002)


@pytest.mark.parametrize("fps", [5.0, 10.0, 24.0, 25.0, 60.0])
def test_a_rate_is_kept_by_time(tmp_path: Path, fps: float) -> None:
    with open_source("c", str(written(tmp_path / "clip.mp4")), fps=fps) as source:
        times = [frame.time_s for frame in source]
    assert len(times) == pytest.approx(min(fps, 25) * 2, abs=1)
    assert all(int(a * fps + 1e-3) < int(b * fps + 1e-3) for a, b in itertools.pairwise(times))


def test_uneven_stamps_are_kept(tmp_path: Path) -> None:
    stamps = [0, 40, 80, 500, 540, 3000, 3010, 3020, 9000, 9040]
    with open_source("c", str(written(tmp_path / "v.mkv", frames=10, stamps=stamps))) as source:
        assert [frame.time_s for frame in source] == pytest.approx([each / 1000 for each in stamps], abs=0.002)


def test_a_file_that_was_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    whole = written(tmp_path / "v.mkv", frames=100)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with open_source("c", str(whole)) as source:
        frames = list(source)
    assert 10 < len(frames) < 100
    assert all(a.time_s < b.time_s for a, b in itertools.pairwise(frames))


def test_folder_in_natural_order_with_a_broken_picture(tmp_path: Path) -> None:
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), numbered(number, (160, 96)))
    (tmp_path / "frame5.png").write_bytes(b"no picture")
    with open_source("c", str(tmp_path), fps=4) as source:
        got = [(number_of(frame.image), frame.time_s) for frame in source]
        assert source.status.bad_packets == 1
    assert got == [(each, each / 4) for each in range(12) if each != 5]


def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = bytearray(cv2.imencode(".png", numbered(1, (16, 16)))[1].tobytes())
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    (tmp_path / "0.png").write_bytes(header)
    cv2.imwrite(str(tmp_path / "1.png"), numbered(1, (160, 96)))
    with open_source("c", str(tmp_path)) as source:
        assert [frame.image.shape for frame in source] == [(96, 160, 3)]


def test_pictures_are_read_only_and_reduced_on_request(tmp_path: Path) -> None:
    with open_source("c", str(written(tmp_path / "v.mp4", frames=3)), max_side=80) as source:
        frame = source.read(5)
    assert frame is not None
    assert frame.image.shape == (48, 80, 3)
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0, 0] = 0


def test_a_live_file_drops_for_a_slow_reader_and_a_file_does_not(tmp_path: Path) -> None:
    path = str(written(tmp_path / "v.mp4", frames=40))
    with open_source("c", path, live=True) as source:
        first = source.read(5)
        time.sleep(0.5)
        second = source.read(5)
        assert first is not None
        assert second is not None
        assert second.taken_at is not None
        assert second.index - first.index >= 5
        assert source.status.dropped >= second.index - first.index - 1


@pytest.mark.parametrize(
    "source", ["missing.mp4", "ftp://host/x", "usb:x", "rtsp://", "${HAECHI_NO_SUCH}", "rtsp://h:99999/"]
)
def test_what_cannot_be_opened_is_said_in_a_sentence(source: str) -> None:
    with pytest.raises(BadInput, match=r"source .+"):
        open_source("c", source)


def test_no_video_and_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read as a video"):
        open_source("c", str(tmp_path / "x.mp4"))
    with pytest.raises(BadInput, match="holds no pictures"):
        open_source("c", str(tmp_path))
