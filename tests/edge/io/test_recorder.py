"""Recordings: packets as they came, whole after any kill, cut to the picture."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import pytest

from edge.io.clips import RecordingIndex, cut_clip
from edge.io.recorder import Limits, Recorder, RecorderState, record
from edge.io.rtsp import Stamped
from edge.io.sources import open_source
from shared.errors import HaechiError
from tests.edge.io.pictures import encoded, number_of, written
from tests.edge.io.rtsp_server import RtspServer
from tests.edge.io.test_cameras import QUICK, until

START_S = 1_700_000_000.0


def pictures_of(path: Path) -> list[tuple[float, int]]:
    """(seconds into the file, number)"""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [
            (float(f.pts * stream.time_base), number_of(f.to_ndarray(format="bgr24"))) for f in container.decode(stream)
        ]
    return found


def play(recorder: Recorder, path: Path, *, start_s: float = START_S, close: bool = True) -> None:
    """Hand a file's packets to a recorder, as a connection would."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        recorder.opened(stream)
        shift_s: float | None = None
        for packet in container.demux(stream):
            if packet.size:
                stamp_s = float(packet.dts * packet.time_base)
                shift_s = start_s - stamp_s if shift_s is None else shift_s
                recorder.packet(Stamped(packet, stream, stamp_s + shift_s, stamp_s + shift_s, 0.0))
    if close:
        recorder.closed()


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mjpeg"])
def test_a_clip_is_the_same_pictures_at_the_same_times(tmp_path: Path, codec: str) -> None:
    """With reordered pictures, over several segments."""
    options = {"g": "10", "bf": "2"} if codec != "mjpeg" else {}
    film = written(tmp_path / "film.mp4", codec, frames=100, options=options)
    recorder = Recorder("gate", tmp_path / "r", limits=Limits(segment_s=0.8, min_free_bytes=0))
    play(recorder, film)
    index = RecordingIndex(tmp_path / "r")
    assert len(index.segments("gate")) >= 4
    clip = index.cut("gate", START_S + 1.3, START_S + 3.0, tmp_path / "clip.mp4")
    assert clip.start_s <= START_S + 1.3 + 0.1
    shown = pictures_of(clip.path)
    numbers = [number for _, number in shown]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    first_s = clip.start_s - shown[0][0]
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        lead_s = min(float(p.dts * p.time_base) for p in container.demux(stream) if p.size)
    for at_s, number in shown:
        assert first_s + at_s == pytest.approx(START_S + number / 25 - lead_s, abs=0.002)


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    with pytest.raises(HaechiError, match="nothing of gate was recorded"):
        cut_clip(tmp_path, "gate", 1.0, 2.0, tmp_path / "x.mp4")
    assert not (tmp_path / "x.mp4").exists()


def test_the_ring_keeps_to_bytes_and_seconds(tmp_path: Path) -> None:
    film = written(tmp_path / "film.mp4", frames=250, options={"g": "10"})
    recorder = Recorder("gate", tmp_path / "r", limits=Limits(seconds=3.0, segment_s=0.5, min_free_bytes=0))
    play(recorder, film)
    kept = RecordingIndex(tmp_path / "r").segments("gate")
    assert kept[0].end_s >= START_S + 6.5
    assert kept[-1].end_s == pytest.approx(START_S + 10, abs=0.1)
    size = sum(each.bytes for each in kept)
    smaller = Recorder("gate", tmp_path / "r", limits=Limits(bytes=size // 2, segment_s=0.5, min_free_bytes=0))
    play(smaller, film, start_s=START_S + 20)
    assert sum(path.stat().st_size for path in (tmp_path / "r" / "gate").glob("*.ts")) <= size // 2


def test_a_full_disk_pauses_is_told_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = written(tmp_path / "film.mp4", frames=100, options={"g": "10"})
    told: list[RecorderState] = []
    limits = Limits(segment_s=0.5, min_free_bytes=1000, retry_s=0.5)
    recorder = Recorder("gate", tmp_path / "r", limits=limits, on_state=told.append)
    play(recorder, film)
    room = {"free": 10}
    monkeypatch.setattr("edge.io.recorder.shutil.disk_usage", lambda _: type("Usage", (), room)())
    play(recorder, film, start_s=START_S + 10)
    assert recorder.state.disk_full
    room["free"] = 10**9
    play(recorder, film, start_s=START_S + 20)
    assert [state.disk_full for state in told] == [True, False]
    index = RecordingIndex(tmp_path / "r")
    assert index.cut("gate", START_S + 21, START_S + 23, tmp_path / "c.mp4").packets > 40


def test_a_folder_that_cannot_be_written_pauses(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("a file is in the way")
    recorder = Recorder("gate", tmp_path / "r")
    play(recorder, written(tmp_path / "film.mp4"))
    assert recorder.state.paused


def test_frames_and_recording_of_one_connection_agree(tmp_path: Path) -> None:
    recorder = Recorder("gate", tmp_path, limits=Limits(segment_s=1.0, min_free_bytes=0))
    with RtspServer(encoded(size=(320, 240))) as server, open_source("gate", server.url, packets=recorder) as source:
        frames = [frame for frame in (source.read(10) for _ in range(40)) if frame is not None]
        frame = frames[-10]
        assert frame.taken_at is not None
        at_s = frame.taken_at.timestamp()
        clip = RecordingIndex(tmp_path).cut("gate", at_s - 0.5, at_s + 0.2, tmp_path / "c.mp4")
    nearest = min(pictures_of(clip.path), key=lambda each: abs(clip.start_s + each[0] - at_s))
    assert nearest[1] == number_of(frame.image)
    assert clip.start_s + nearest[0] == pytest.approx(at_s, abs=0.01)


def test_recording_survives_the_server_and_a_new_resolution(tmp_path: Path) -> None:
    with RtspServer(encoded(size=(320, 240))) as server:
        limits = Limits(segment_s=0.5, min_free_bytes=0)
        with record("gate", server.url, tmp_path, limits=limits, patience=QUICK) as recording:
            until(lambda: recording.status.frames > 20)
            server.clip = encoded(size=(480, 272))
            seen = recording.status.frames
            until(lambda: recording.status.frames > seen + 30)
            server.stop()
            until(lambda: recording.status.state == "offline")
            server.start()
            until(lambda: recording.status.reconnects == 1)
            seen = recording.status.frames
            until(lambda: recording.status.frames > seen + 20)
    index = RecordingIndex(tmp_path)
    kept = index.segments("gate")
    clip = index.cut("gate", kept[0].start_s, kept[-1].end_s, tmp_path / "c.mp4")
    assert len(pictures_of(clip.path)) == pytest.approx(clip.packets, abs=2)


_CHILD = """
import sys, time
from pathlib import Path
from edge.io.recorder import Limits, record
with record("gate", sys.argv[1], Path(sys.argv[2]), limits=Limits(segment_s=1.0, min_free_bytes=0)) as recording:
    while True:
        print(recording.status.frames, flush=True)
        time.sleep(0.02)
"""


def test_kill_while_recording_loses_nothing_that_was_announced(tmp_path: Path) -> None:
    with RtspServer(encoded(size=(320, 240))) as server:
        command = [sys.executable, "-c", _CHILD, server.url, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        assert child.stdout is not None
        announced = 0
        while announced < 70:
            line = child.stdout.readline()
            assert line, "the recorder died"
            announced = int(line)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        index = RecordingIndex(tmp_path)
        kept = index.segments("gate")
        assert not kept[-1].finished
        clip = index.cut("gate", kept[0].start_s, kept[-1].end_s + 1, tmp_path / "c.mp4")
        assert len(pictures_of(clip.path)) >= announced
        with record("gate", server.url, tmp_path, limits=Limits(segment_s=1.0, min_free_bytes=0)) as again:
            until(lambda: again.status.frames > 5)
        assert {each.file for each in kept} <= {each.file for each in index.segments("gate") if each.finished}


def test_memory_stays_flat_over_a_day_of_segments(tmp_path: Path) -> None:
    film = written(tmp_path / "film.mp4", frames=25, options={"g": "5"})
    recorder = Recorder("gate", tmp_path / "r", limits=Limits(seconds=60, segment_s=1.0, min_free_bytes=0))
    tracemalloc.start()
    try:
        held = []
        for turn in range(300):
            play(recorder, film, start_s=START_S + turn * 300)
            if turn in (100, 299):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] < held[0] * 1.05 + 20_000
    assert len(list((tmp_path / "r" / "gate").glob("*.ts"))) < 5
