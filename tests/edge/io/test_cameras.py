"""Live cameras against a real RTSP server that dies, stalls, sends garbage, and changes under way."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import pytest

from edge.io.rtsp import Patience
from edge.io.sources import Source, open_source
from tests.edge.io.pictures import Clip, encoded, number_of, numbered
from tests.edge.io.rtsp_server import RtspServer

QUICK = Patience(open_s=3.0, read_s=1.0, picture_s=1.5, first_wait_s=0.1, longest_wait_s=0.5)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return encoded(size=(320, 240))


@pytest.fixture
def server(clip: Clip) -> Iterator[RtspServer]:
    with RtspServer(clip) as running:
        yield running


def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait; a machine may be slow, but not for ever."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)


def frames_of(source: Source, count: int) -> list[tuple[int, float, int]]:
    """(index, time, the number in the picture)"""
    frames = [source.read(10) for _ in range(count)]
    return [(each.index, each.time_s, number_of(each.image)) for each in frames if each is not None]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pictures_and_times_are_right(codec: str) -> None:
    with RtspServer(encoded(codec, size=(320, 240))) as server, open_source("c", server.url) as source:
        got = frames_of(source, 30)
    assert len(got) == 30
    assert all(number == index % 50 for index, _, number in got)
    assert [time_s for _, time_s, _ in got] == pytest.approx([index * 0.04 for index, _, _ in got], abs=0.1)


def test_killed_and_started_again(server: RtspServer) -> None:
    with open_source("c", server.url, patience=QUICK) as source:
        before = frames_of(source, 5)
        server.stop()
        until(lambda: source.status.state == "offline")
        time.sleep(1)
        server.start()
        until(lambda: source.status.state == "live")
        after = frames_of(source, 5)
        assert source.status.reconnects == 1
    times = [time_s for _, time_s, _ in before + after]
    assert all(a < b for a, b in pairwise(times))
    assert after[-1][1] - before[-1][1] > 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stall", "garbage", "noise"])
def test_a_camera_that_goes_bad_is_offline_and_comes_back_and_touches_no_other(
    clip: Clip, server: RtspServer, mode: str
) -> None:
    with (
        RtspServer(clip) as well,
        open_source("bad", server.url, patience=QUICK) as source,
        open_source("good", well.url, patience=QUICK) as other,
    ):
        assert source.read(10)
        assert other.read(10)
        server.mode = mode  # type: ignore[assignment]
        until(lambda: source.status.state == "offline")
        assert source.status.error
        read = [other.read(5) for _ in range(20)]
        assert all(frame is not None for frame in read)
        assert other.status.state == "live"
        assert other.status.reconnects == 0
        server.mode = "play"
        until(lambda: source.status.state == "live")


def test_another_resolution_under_way(server: RtspServer) -> None:
    with open_source("c", server.url, patience=QUICK) as source:
        assert source.read(10)
        server.clip = encoded(size=(480, 272))
        until(lambda: (frame := source.read(5)) is not None and frame.image.shape == (272, 480, 3))
        assert source.status.reconnects == 0


def test_another_codec_under_way(server: RtspServer) -> None:
    with open_source("c", server.url, patience=QUICK) as source:
        assert source.read(10)
        server.clip = encoded("hevc", size=(480, 272))
        until(lambda: (frame := source.read(5)) is not None and frame.image.shape == (272, 480, 3))


@pytest.mark.parametrize("digest", [True, False])
def test_credentials_work_and_are_nowhere_shown(
    clip: Clip,
    digest: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GATE_PASSWORD", "p@ss/wörd:7")
    with RtspServer(clip, user="viewer", password="p@ss/wörd:7", digest=digest) as server:
        address = server.url.replace("//", "//viewer:${GATE_PASSWORD}@")
        with open_source("c", address, patience=QUICK) as source:
            assert source.read(10)
            server.password = "changed"
            server.stop()
            server.start()
            until(lambda: source.status.state == "offline" and "40" in (source.status.error or ""))
            said = repr(source) + str(source.address) + repr(source.address) + repr(source.status)
    out, err = capfd.readouterr()
    for text in (said, out, err, caplog.text):
        assert "p@ss" not in text
        assert "p%40ss" not in text
        assert "viewer" not in text


def test_nobody_answers(server: RtspServer) -> None:
    server.stop()
    try:
        with open_source("c", server.url, patience=QUICK) as source:
            until(lambda: source.status.state == "offline")
            assert source.read(0.1) is None
            assert not source.ended
        assert source.ended
    finally:
        server.start()


def test_lag_does_not_grow_for_a_slow_reader(server: RtspServer) -> None:
    with open_source("c", server.url) as source:
        for _ in range(6):
            frame = source.read(10)
            assert frame is not None
            assert frame.taken_at is not None
            time.sleep(0.3)
        assert source.status.dropped > 10
        latest = source.read(10)
        assert latest is not None
        assert source.status.frames - latest.index <= 3


def test_motion_jpeg_over_http() -> None:
    with MjpegServer() as port, open_source("c", f"http://127.0.0.1:{port}/", patience=QUICK) as source:
        got = frames_of(source, 5)
    assert len(got) == 5
    assert all(a < b for (_, a, _), (_, b, _) in pairwise(got))
    assert all(number == index for index, _, number in got)


class MjpegServer:
    """Motion JPEG over HTTP, as many small cameras have it."""

    def __enter__(self) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for number in range(1000):
                        data = cv2.imencode(".jpg", numbered(number, (160, 96)))[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        time.sleep(0.05)
                except OSError:
                    return

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_port

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
