"""`haechi cctv run` and `replay` on a clip that is drawn here: somebody walks through a zone and over a line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import av
import numpy as np
import pytest

from shared import settings
from shared.records import Records
from solutions.cctv.archive import Search
from solutions.cctv.config import load
from solutions.cctv.scene import Event
from solutions.cctv.service import Service
from solutions.cctv.store import KeptArchive
from solutions.cli import main

FPS, SECONDS, WIDTH, HEIGHT = 12, 8, 320, 240
SITE = """
name: yard
sinks: [{{type: jsonl, path: "{lines}"}}]
cameras:
  yard:
    source: {source}
    zones: {{right: [[0.55, 0], [1, 0], [1, 1], [0.55, 1]]}}
    rules:
      - {{type: camera_health, within_s: 2}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAECHI_HOME", str(tmp_path / "home"))
    return tmp_path


def film(path: Path, *, dark_from_s: float | None = None) -> Path:
    """Noise over a textured wall; from a moment on the light is out."""
    generator = np.random.default_rng(0)
    wall = generator.integers(60, 200, (HEIGHT // 8, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FPS * SECONDS):
            image = wall + generator.normal(0, 3, wall.shape)
            if dark_from_s is not None and number / FPS >= dark_from_s:
                image = image * 0.03
            frame = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def site(folder: Path, source: Path | str) -> Path:
    path = folder / "site.yaml"
    path.write_text(SITE.format(source=source, lines=folder / "sink.jsonl"), encoding="utf-8")
    return path


def test_a_run_writes_events_figures_records_and_the_site(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = site(home, film(home / "yard.mp4", dark_from_s=3.0))
    events, figures = home / "events.jsonl", home / "run.json"
    assert main(["cctv", "run", str(path), "--until-end", "--events", str(events), "--json", str(figures)]) == 0
    (line,) = [json.loads(each) for each in events.read_text().splitlines()]
    assert (line["type"], line["camera"], line["zone"]) == ("camera_dark", "yard", None)
    assert line["start_s"] == pytest.approx(3.0, abs=0.6)
    assert {"id", "clip", "end_s", "direction", "track_ids", "severity", "why"} <= line.keys()
    told = json.loads(figures.read_text())
    keys = {"frames", "fps", "dropped", "detector_ms", "association_ms", "peak_rss_mb", "events"}
    assert keys <= told.keys()
    assert (told["frames"], told["events"], told["dropped"]) == (FPS * SECONDS, 1, 0)
    archive = KeptArchive(Records.open(), settings.load().home / "cctv" / "evidence")
    (kept,) = archive.search(Search(), 10)[0]
    assert (kept.id, kept.type, kept.camera) == (line["id"], "camera_dark", "yard")
    assert archive.snapshot(kept.id, None) is not None
    assert json.loads((settings.load().home / "cctv" / "current.json").read_text())["site"] == str(path)
    assert len((home / "sink.jsonl").read_text().splitlines()) == 2
    assert "camera_dark" in capsys.readouterr().out


def test_a_quiet_picture_costs_the_detector_little(home: Path) -> None:
    path = site(home, film(home / "yard.mp4"))
    with Service(load(path), site_file=path, keep=False) as service:
        summary = service.run(until_end=True)
    assert not summary.lines
    assert summary.detector_runs <= FPS * SECONDS / 3


def test_a_camera_that_does_not_answer_is_an_event_and_stops_no_other(home: Path) -> None:
    clip = film(home / "clip.mp4")
    path = site(home, "rtsp://viewer:secret@127.0.0.1:9/none")
    text = path.read_text() + f"  clip:\n    source: {clip}\n"
    path.write_text(text)
    with Service(load(path), site_file=path) as service:
        started = time.monotonic()
        told: list[Event] = []
        while (not told or service.summary.looked_at < FPS * SECONDS) and time.monotonic() - started < 60:
            service.step()
            told = [event for event in service.open_events("yard") if event.type == "camera_offline"] or told
        assert told
        assert "secret" not in json.dumps(told[0].as_line())
        assert service.summary.looked_at == FPS * SECONDS


def test_replay_tells_and_draws(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = film(home / "yard.mp4", dark_from_s=3.0)
    path, drawn, report = site(home, clip), home / "drawn.mp4", home / "replay.json"
    assert main(["cctv", "replay", str(clip), str(path), "-o", str(drawn), "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert [event["type"] for event in told["events"]] == ["camera_dark"]
    assert len(told["frames"]) == FPS * SECONDS
    assert any(frame["detector_asked"] for frame in told["frames"])
    with av.open(str(drawn)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FPS * SECONDS
    assert "camera_dark" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "missing.yaml"], "missing.yaml"),
        (["judge", "missing.mp4", "truth.json"], "truth.json"),
        (["replay", "missing.mp4", "site.yaml", "--camera", "gate"], "--camera must be one of"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(home)
    site(home, "clip.mp4")
    assert main(["cctv", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_sinks_that_cannot_be_used_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = site(home, film(home / "yard.mp4"))
    path.write_text(path.read_text().replace("type: jsonl, path", "type: webhook, url"))  # no address of the web
    assert main(["cctv", "run", str(path), "--until-end"]) == 2
    assert "url" in capsys.readouterr().err
