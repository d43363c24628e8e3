"""`haechi cctv judge` on the real clips, where they are: every event found, none false, at default settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from solutions.cli import main

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
TRUTH = DATA / "cctv" / "truth"
QUICK = ("people-detection", "person-bicycle-car-detection")
LONG = ("bottle-detection", "car-detection", "house6", "store-aisle-detection", "worker-zone-detection")
CLIPS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]


@pytest.fixture(scope="session")
def yolox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = DATA / "models" / "yolox_nano.onnx"
    if not model.exists():
        pytest.skip(f"{model.name} is not on this machine")
    pytest.importorskip("onnx", reason="importing a detector needs the extra training")
    package = tmp_path_factory.mktemp("packages") / "yolox"
    labels = str(DATA / "models" / "coco80.names")
    command = ["package", "import", str(model), "--task", "detect", "--head", "yolox", "--labels", labels]
    assert main([*command, "-o", str(package)]) == 0
    return package


def truth_of(name: str) -> tuple[Path, Path]:
    """The truth file and its clip."""
    truth = TRUTH / f"{name}.json"
    if not truth.exists():
        pytest.skip(f"{truth.name} is not on this machine")
    return truth, DATA / "cctv" / json.loads(truth.read_text())["clip"]


@pytest.mark.parametrize("name", CLIPS)
def test_every_event_is_found_and_none_is_false(name: str, yolox: Path, tmp_path: Path) -> None:
    truth, clip = truth_of(name)
    events, report = tmp_path / "events.jsonl", tmp_path / "report.json"
    command = ["cctv", "judge", str(clip), str(truth), "--detector", str(yolox)]
    assert main([*command, "--events", str(events), "--json", str(report)]) == 0
    said = json.loads(report.read_text())
    assert said["mismatches"] == []
    wanted = [each for each in json.loads(truth.read_text())["events"] if not each.get("optional")]
    assert said["tp"] == len(wanted)
    assert {"frames", "fps", "dropped", "detector_ms", "association_ms", "peak_rss_mb", "events"} <= said.keys()
    assert main(["cctv", "evaluate", str(truth), str(events), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["fn"] == 0


@pytest.mark.slow
def test_the_built_in_detector_sees_a_worker(tmp_path: Path) -> None:
    truth, clip = truth_of("worker-zone-detection")
    assert main(["cctv", "judge", str(clip), str(truth), "--json", str(tmp_path / "report.json")]) == 0
    said = json.loads((tmp_path / "report.json").read_text())
    assert (said["fp"], said["fn"]) == (0, 0)


def test_a_truth_without_events_is_only_run(tmp_path: Path) -> None:
    truth, clip = truth_of("people-detection")
    told = {name: value for name, value in json.loads(truth.read_text()).items() if name != "events"}
    (tmp_path / "truth.json").write_text(json.dumps(told))
    events = tmp_path / "events.jsonl"
    command = ["cctv", "judge", str(clip), str(tmp_path / "truth.json"), "--events", str(events)]
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 0
    assert events.exists()
    assert "tp" not in json.loads((tmp_path / "report.json").read_text())
