"""Progress in its three shapes: a bar on a (pseudo-)terminal, sparse lines in a log, nothing when quiet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap
import threading

import pytest

from shared import progress


def test_track_yields_every_item_and_says_nothing_when_it_was_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(range(5), "parts")) == [0, 1, 2, 3, 4]
    assert list(progress.track((n for n in range(3)), "parts")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_lines_with_an_estimate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    for _ in progress.track(range(4), "features"):
        pass
    shown = capsys.readouterr()
    assert shown.out == ""
    first, *_, last = shown.err.splitlines()
    assert first == "features: 1/4, 25 %, about 0 s left"
    assert last == "features: done in 0 s"


def test_a_stage_of_unknown_length_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    with progress.stage("reading") as bar:
        bar.advance(7)
        bar.describe("writing")
        bar.advance()
    assert capsys.readouterr().err.splitlines()[:2] == ["reading: 7 done", "writing: 8 done"]


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    monkeypatch.setenv("HAECHI_QUIET", "1")
    assert list(progress.track(range(3), "parts")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError), progress.stage("work", total=2):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (3720, "1 h 2 min"), (-1, "0 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_terminal_shows_nested_bars_from_two_threads() -> None:
    program = """
        import threading, time
        from shared.progress import stage, track

        def inner():
            for _ in track(range(10), "inner-bar"):
                time.sleep(0.03)

        with stage("outer-bar", total=2) as bar:
            threads = [threading.Thread(target=inner) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
                bar.advance()
        for _ in track(range(2), "second-bar"):
            time.sleep(0.15)
        print("all done")
    """
    shown, code = in_terminal(textwrap.dedent(program))
    assert code == 0, shown
    for word in ("outer-bar", "inner-bar", "second-bar", "all done"):
        assert word in shown
    assert re.search(r"[1-9]/10\b", shown)


def in_terminal(program: str) -> tuple[str, int]:
    """Run Python with stderr on a pseudo-terminal; what it wrote to either stream, and its exit code."""
    master, slave = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(slave)
    pieces: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other end is closed
                return
            pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    code = running.wait(timeout=60)
    reader.join(timeout=10)
    os.close(master)
    return b"".join(pieces).decode(), code
