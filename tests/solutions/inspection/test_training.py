"""Training from end to end on small made parts: photographs in, a package out that another process can judge with.

`haechi train` with `task: anomaly` and `haechi inspection train` are the same road.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_tools.dataset import DatasetReport, scan
from data_tools.synthesize import synthesize
from shared import signing
from shared.files import TEMPORARY_PREFIX
from shared.images import read_image
from shared.manifest import Manifest
from shared.package import open_package
from shared.training.config import TrainConfig, read_config
from shared.training.packaging import train_package
from shared.training.task import make_task
from solutions import cli
from solutions.inspection.config import MODELS
from solutions.inspection.evaluation import evaluate_package
from solutions.inspection.pipeline import Inspector
from solutions.inspection.training import Anomaly, Learned
from tests.shared import workers

ROOT = Path(__file__).resolve().parents[3]
HAECHI = Path(sys.executable).parent / "haechi"
QUICK = {"kind": "padim", "image_size": 128}
CLI_QUICK = ["--model", "padim", "--image-size", "128", "--threads", "1"]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 good flanges to learn from; 8 good and 8 defective ones to judge."""
    root = tmp_path_factory.mktemp("made") / "parts"
    synthesize(root, good=24, bad=8, test_good=8, size=192, seed=3)
    return root


@dataclass(frozen=True)
class Made:
    """A package, and what its training found."""

    path: Path
    manifest: Manifest
    learned: Learned


def make(data: DatasetReport, destination: Path, model: dict[str, Any], *, threads: int = 1, **more: Any) -> Made:
    config = TrainConfig(task="anomaly", data={"path": str(data.root)}, model=model, **more)
    task = Anomaly(config, data=data, threads=threads)
    trained = train_package(config, destination, task=task)
    assert trained.manifest is not None
    assert task.learned is not None
    return Made(destination, trained.manifest, task.learned)


@pytest.fixture(scope="session")
def trained(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The models compared, with a report, once for all tests here."""
    destination = tmp_path_factory.mktemp("trained") / "package"
    return make(scan(parts), destination, {"image_size": 192}, threads=2, name="flange", version="7")


@pytest.fixture(scope="session")
def quick(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One model alone, for comparison with what else is trained like this."""
    return make(scan(parts), tmp_path_factory.mktemp("quick") / "package", QUICK)


def haechi(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def score_of(package: Path, picture: Path) -> float:
    return Inspector.load(package, threads=1).inspect(read_image(picture)).score


# -- the package -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_auto_compares_all_models_and_keeps_the_best(trained: Made) -> None:
    assert [row["model"] for row in trained.learned.candidates] == list(MODELS)
    (chosen,) = [row for row in trained.learned.candidates if row["chosen"]]
    assert all(0 <= row["estimate"] <= 1 for row in trained.learned.candidates)
    others = [
        row["estimate"] for row in trained.learned.candidates if row["model"] not in ("discriminator", chosen["model"])
    ]
    assert chosen["estimate"] >= max(others) - 0.05, "within what so few parts can tell apart"
    assert trained.manifest.lineage.settings["model"] == chosen["model"]
    assert len(trained.learned.good_scores) == 24
    assert all(math.isfinite(score) for score in trained.learned.good_scores)


@pytest.mark.slow
def test_the_package_says_what_it_is_and_where_it_is_from(trained: Made, parts: Path) -> None:
    package = open_package(trained.path)
    manifest = package.manifest
    assert (manifest.name, manifest.version, manifest.task) == ("flange", "7", "inspection")
    assert manifest.lineage.data_fingerprint == scan(parts).fingerprint
    assert manifest.lineage.seed == 0
    assert manifest.lineage.settings["backbone"] == "efficientnet-lite0"
    assert manifest.lineage.settings["image_size"] == 192
    assert [weights.licence for weights in manifest.weights] == ["Apache-2.0"]
    assert manifest.metrics[manifest.metric] > 0.5
    assert package.size < 40e6
    assert package.asset("histogram.png").startswith(b"\x89PNG")
    report = package.asset("report.html").decode()
    assert all(model in report for model in MODELS)
    assert package.manifest.thresholds["review"].details["promise"] in report.replace("&#x27;", "'")


@pytest.mark.slow
def test_it_tells_good_parts_from_defective_ones(trained: Made, parts: Path) -> None:
    metrics = evaluate_package(trained.path, parts, 2)
    assert metrics["image_auroc"] >= 0.9
    assert metrics["pixel_auroc"] >= 0.8
    assert metrics["model"] == trained.manifest.lineage.settings["model"]


@pytest.mark.slow
def test_thresholds_are_set_on_scores_that_the_model_had_not_seen(trained: Made) -> None:
    thresholds = trained.manifest.thresholds
    assert thresholds["review"].value <= thresholds["ng"].value
    assert thresholds["pixel"].value < thresholds["review"].value
    details = thresholds["review"].details
    assert details["good_parts"] == 24
    assert details["overkill_bound"] > 0.1  # 24 parts promise no more
    assert "24 held-out good parts" in str(details["promise"])
    assert (
        sum(score >= thresholds["review"].value for score in trained.learned.good_scores) == details["good_parts_above"]
    )
    assert {row.name for row in trained.learned.table} >= {"review", "ng"}


@pytest.mark.slow
def test_any_size_and_any_number_of_pictures_go_through_the_graph(trained: Made, parts: Path) -> None:
    inspector = Inspector.load(trained.path, threads=1)
    image = read_image(next((parts / "test/scratch").iterdir()))
    alone = inspector.inspect(image)
    together = inspector.inspect_batch([image, image[:, ::-1].copy(), image])
    assert [together[0].score, together[2].score] == pytest.approx([alone.score] * 2, rel=1e-4)
    np.testing.assert_allclose(together[0].heatmap, alone.heatmap, rtol=1e-3, atol=1e-3)
    for width, height in ((64, 48), (700, 300)):
        decision = inspector.inspect(np.full((height, width, 3), 90, np.uint8))
        assert math.isfinite(decision.score)
        assert decision.heatmap.shape == (192, 192)
        assert all(0 <= r.box[0] < r.box[2] <= width and 0 <= r.box[1] < r.box[3] <= height for r in decision.regions)


# -- what it may look at ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_test_split_is_never_looked_at(parts: Path, quick: Made, tmp_path: Path) -> None:
    """Training gives the same numbers where the test pictures cannot even be opened."""
    data = scan(parts)
    unreadable = [dataclasses.replace(i, path=Path("/nowhere")) if i.split == "test" else i for i in data.items]
    blind = make(dataclasses.replace(data, items=unreadable), tmp_path / "blind", QUICK)
    assert blind.learned.good_scores == quick.learned.good_scores
    assert blind.manifest.thresholds == quick.manifest.thresholds
    assert open_package(tmp_path / "blind").model == open_package(quick.path).model


@pytest.mark.slow
def test_a_flat_bad_folder_sets_the_upper_threshold(parts: Path, quick: Made, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(parts / "train/good", flat / "good")
    (flat / "bad").mkdir()
    for number, picture in enumerate(sorted((parts / "test").glob("[!g]*/*.png"))):
        shutil.copy(picture, flat / "bad" / f"{number}.png")
    with_bad = make(scan(flat), tmp_path / "with", QUICK)
    assert with_bad.manifest.thresholds["review"] == quick.manifest.thresholds["review"]
    assert with_bad.manifest.thresholds["ng"].details["bad_parts"] == 8
    assert "bad_parts" not in quick.manifest.thresholds["ng"].details
    assert all(row.escape is not None for row in with_bad.learned.table)
    assert all(row.escape is None for row in quick.learned.table)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["padim", "fusion"])
def test_the_same_seed_gives_the_same_model(model: str, parts: Path, tmp_path: Path) -> None:
    data = scan(parts)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(data, tmp_path / name, {"kind": model, "image_size": 128}, threads=2, seed=seed)
    made = {name: open_package(tmp_path / name) for name in "abc"}
    thresholds = {name: package.manifest.thresholds["review"].value for name, package in made.items()}
    assert thresholds["a"] == pytest.approx(thresholds["b"], rel=1e-5)
    assert thresholds["a"] != pytest.approx(thresholds["c"], rel=1e-5)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_everything(parts: Path, tmp_path: Path, capsys: Any) -> None:
    key, out, report = tmp_path / "key.pem", tmp_path / "trained.json", tmp_path / "report.html"
    signing.make_key(key)
    (parts / "train/good/torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    try:
        code = haechi(
            "inspection", "train", parts, "-o", tmp_path / "Flange 1.zip", *CLI_QUICK, "--max-overkill", 0.05,
            "--sign", key, "--json", out, "--report", report,
        )  # fmt: skip
    finally:
        (parts / "train/good/torn.png").unlink()
    assert code == 0
    shown = capsys.readouterr()
    assert "torn.png" in shown.err
    assert "padim" in shown.out
    assert "24 held-out good parts lie above the threshold" in shown.out
    assert "expected over thresholds" in shown.out
    written = json.loads(out.read_text())
    assert written["model"] == "padim"
    assert written["name"] == "flange-1"
    assert written["package_bytes"] == (tmp_path / "Flange 1.zip").stat().st_size
    assert written["thresholds"]["review"]["details"]["asked_overkill"] == 0.05
    assert [row["model"] for row in written["candidates"]] == ["padim"]
    assert [one["file"] for one in written["data"]["left_out"]] == ["train/good/torn.png"]
    assert "<html" in report.read_text()
    assert open_package(tmp_path / "Flange 1.zip", public_keys=[tmp_path / "key.pub"]).signed_by


def test_too_few_good_parts_say_how_many_are_needed(parts: Path, tmp_path: Path, capsys: Any) -> None:
    few = tmp_path / "few"
    shutil.copytree(parts, few)
    for picture in sorted((few / "train/good").iterdir())[7:]:
        picture.unlink()
    assert haechi("inspection", "train", few, "-o", tmp_path / "p", *CLI_QUICK) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "7" in error
    assert "10 are needed" in error
    assert not (tmp_path / "p").exists()


def test_an_unknown_backbone_is_named_before_pictures_are_learned(parts: Path, tmp_path: Path, capsys: Any) -> None:
    assert haechi("inspection", "train", parts, "-o", tmp_path / "p", *CLI_QUICK, "--backbone", "efficientnet") == 2
    assert "no backbone 'efficientnet'" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


# -- the same road ---------------------------------------------------------------------------------------------------


def anomaly_yaml(file: Path, data: Path, **more: Any) -> Path:
    raw = {"task": "anomaly", "data": {"path": str(data)}, "model": QUICK, **more}
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return file


def without_when(manifest: Manifest) -> dict[str, Any]:
    """A manifest without what differs between two runs: name, moment, and the files that show moment and duration."""
    raw = manifest.model_dump(exclude={"name", "checksum"})
    raw["lineage"].pop("created")
    for file in ("assets/report.html", "assets/candidates.json"):
        raw["files"].pop(file)
    return raw


@pytest.mark.slow
def test_a_yaml_and_the_command_make_the_same_package(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HAECHI_THREADS", "1")
    data = tmp_path / "parts"
    shutil.copytree(parts, data)
    (data / "train/good/torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    config = anomaly_yaml(tmp_path / "anomaly.yaml", data, seed=4)
    out = tmp_path / "trained.json"
    assert haechi("train", config, "-o", tmp_path / "by-yaml", "--json", out) == 0
    shown = capsys.readouterr().out
    assert haechi("inspection", "train", data, "-o", tmp_path / "by-command", *CLI_QUICK, "--seed", 4) == 0
    ours, theirs = (open_package(tmp_path / name) for name in ("by-yaml", "by-command"))
    assert ours.model == theirs.model
    assert without_when(ours.manifest) == without_when(theirs.manifest)
    assert ours.manifest.thresholds["review"].value > 0
    assert ours.manifest.lineage.settings["model"] == "padim"
    assert ours.manifest.lineage.seed == 4

    written = json.loads(out.read_text())
    assert (written["task"], written["metric"]) == ("anomaly", "synthetic_auroc")
    assert written["metrics"] == ours.manifest.metrics
    assert f"{written['metrics']['synthetic_auroc']:.4g}" in shown
    assert "24 held-out good parts lie above the threshold" in written["notes"][0]
    assert written["notes"][-1] == f"1 file was left out; `haechi data validate {data}` says why."
    assert all(note in shown for note in written["notes"])
    assert not (tmp_path / "by-yaml.run").exists(), "nothing to resume is left"
    assert "run:" not in shown


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.image_sice=128", "model: unknown key image_sice; did you mean image_size?"),
        ("model.kind=padin", "model: kind: Input should be 'auto', 'patchcore', 'padim'"),
        ("model.image_size=100", "model: image_size: "),
        ("model.max_overkill=0.7", "model: max_overkill: "),
        ("model.backbone=efficientnet", "no backbone 'efficientnet'"),
        ("data.paht=x", "data: unknown key paht; did you mean path?"),
        ("data.path=/nowhere", "/nowhere"),
        ("fit.epochs=3", "fit means nothing to task anomaly, which has no epochs"),
        ("augment.flip=true", "augment means nothing to task anomaly"),
        ("distill.teachers=[packages/large]", "distill means nothing to task anomaly"),
        (
            "task=anomali",
            "detection, segmentation, pose, yolo-classification, anomaly.",
        ),
    ],
)
def test_what_a_yaml_gets_wrong_is_said_in_one_sentence(
    setting: str, said: str, parts: Path, tmp_path: Path, capsys: Any
) -> None:
    config = anomaly_yaml(tmp_path / "anomaly.yaml", parts)
    assert haechi("train", config, "-o", tmp_path / "package", "--set", setting) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in error
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("package")] == []


@pytest.mark.slow
def test_a_search_compares_models_and_sizes_by_the_estimate(parts: Path, tmp_path: Path, capsys: Any) -> None:
    space = {"model.kind": ["padim", "patchcore"], "model.image_size": [128, 160]}
    search = {"space": space, "sampler": "grid", "trials": 4, "objective": ["accuracy", "latency"], "rounds": 6}
    config = anomaly_yaml(tmp_path / "anomaly.yaml", parts, search=search)
    out = tmp_path / "search.json"
    assert haechi("search", config, "-o", tmp_path / "found", "--json", out) == 0
    result = json.loads(out.read_text())
    assert {(each["settings"]["model.kind"], each["settings"]["model.image_size"]) for each in result["rows"]} == {
        (kind, size) for kind in space["model.kind"] for size in space["model.image_size"]
    }
    assert {each["state"] for each in result["rows"]} == {"complete"}
    best = open_package(tmp_path / "found" / "best").manifest
    winner = next(each for each in result["rows"] if each["index"] == result["best"])
    assert best.lineage.settings["model"] == winner["settings"]["model.kind"]
    assert best.lineage.settings["image_size"] == winner["settings"]["model.image_size"]
    assert best.metrics["synthetic_auroc"] == winner["accuracy"]


def test_a_search_of_settings_that_mean_nothing_is_refused(parts: Path, tmp_path: Path, capsys: Any) -> None:
    config = anomaly_yaml(tmp_path / "anomaly.yaml", parts, search={"space": {"fit.lr": [0.001, 0.01]}, "trials": 2})
    assert haechi("search", config, "-o", tmp_path / "found") == 2
    assert "fit means nothing to task anomaly" in capsys.readouterr().err


def test_the_example_is_valid(parts: Path) -> None:
    config = read_config(ROOT / "examples/training/anomaly.yaml", [f"data.path={parts}"])
    assert isinstance(make_task(config), Anomaly)


# -- kill -9 ---------------------------------------------------------------------------------------------------------


def train_and_die(parts: Path, destination: Path, step: int) -> None:
    """Train, but die before the file operation number `step` beside the destination."""
    data = scan(parts)
    workers.die_before(destination.parent, step)
    make(data, destination, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [0, 4, 9])
def test_kill_9_while_the_package_is_written_leaves_the_old_one(
    step: int, parts: Path, quick: Made, tmp_path: Path
) -> None:
    destination = tmp_path / "out" / "package"
    shutil.copytree(quick.path, destination)
    before = open_package(destination).fingerprint
    process = workers.start(train_and_die, parts, destination, step)
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    assert open_package(destination).fingerprint == before
    make(scan(parts), destination, QUICK)  # a later run is not disturbed, and clears away what was left
    assert open_package(destination).fingerprint != before
    assert [path.name for path in destination.parent.iterdir()] == ["package"]


@pytest.fixture
def training(parts: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`haechi inspection train` as a process of its own, at work on `tmp_path/out/package`."""
    (tmp_path / "out").mkdir()
    command = [HAECHI, "inspection", "train", parts, "-o", tmp_path / "out" / "package", *CLI_QUICK]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "HAECHI_QUIET": "1"}
    )
    yield running
    running.kill()
    running.wait()


def test_kill_9_in_the_middle_of_training_leaves_nothing(training: subprocess.Popen[str], tmp_path: Path) -> None:
    assert training.stderr is not None
    assert "layout mvtec" in training.stderr.readline()
    time.sleep(6)  # past the imports, among the pictures or the models
    training.kill()
    if training.wait(60) == 0:  # a quick machine was done
        open_package(tmp_path / "out" / "package")
    else:
        assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(TEMPORARY_PREFIX)] == []


def test_an_interrupted_training_leaves_nothing_and_says_so(training: subprocess.Popen[str], tmp_path: Path) -> None:
    assert training.stderr is not None
    assert "layout mvtec" in training.stderr.readline()
    training.send_signal(signal.SIGINT)
    _, error = training.communicate(timeout=60)
    assert training.returncode == 130
    assert error.splitlines()[-1] == "error: interrupted."
    assert list((tmp_path / "out").iterdir()) == []
