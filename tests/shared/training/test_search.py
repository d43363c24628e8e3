"""Search on real, tiny trainings: the same seed gives the same trials, killed or not; processes share their work.

Commands that run in processes of their own go through `search_runner.py`, which knows the task `toy`.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from PIL import Image

from shared.errors import BadInput, HaechiError
from shared.package import open_package
from shared.training import task as tasks
from shared.training.config import TrainConfig, read_config
from shared.training.search import Plan, best_row, make_plan, search
from shared.training.search_config import read_search
from shared.training.search_report import SearchReport, TrialRow, pareto_front, render, write_report
from shared.training.search_store import MOST_DEATHS, Store
from solutions import cli
from tests.shared.training import toy

RUNNER = Path(__file__).with_name("search_runner.py")
OVERFLOW = 1e38  # added to a picture, it makes the loss no number
SPACE = {"fit.lr": {"low": 0.001, "high": 0.1, "log": True}, "model.width": [4, 8], "fit.batch_size": [16, 32]}


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    before = dict(tasks.TASKS)
    toy.register()
    yield
    tasks.TASKS.clear()
    tasks.TASKS.update(before)


def config(count: int = 48, epochs: int = 2, seed: int = 0, **section: Any) -> TrainConfig:
    wanted = {"space": SPACE, "trials": 4, "startup": 2, "pruner": "none", **section}
    fit = {"epochs": epochs, "workers": 0, "probe": False}
    return toy.config(fit=fit, data={"count": count}, search=wanted, seed=seed)


def plan(folder: Path, **options: Any) -> Plan:
    return make_plan(config(**options), folder, "toy.yaml")


def tried(report: SearchReport) -> list[tuple[int, dict[str, Any], float | None]]:
    return [(row.index, dict(row.settings), row.accuracy) for row in report.rows]


# -- fronts ----------------------------------------------------------------------------------------------------------


def row(index: int, accuracy: float | None, latency: float | None, **more: Any) -> TrialRow:
    return TrialRow(index, index, "complete", {"fit.lr": 0.1}, "accuracy", accuracy, latency, **more)


KNOWN = [
    (0.9, 10.0),
    (0.8, 5.0),
    (0.85, 5.0),
    (0.7, 7.0),
    (0.9, 10.0),
    (0.95, 30.0),
    (0.6, 2.0),
    (0.5, 2.0),
    (0.6, 3.0),
]
FRONT = [0, 2, 4, 5, 6]  # 0 and 4 are equal; 1, 3, 7 and 8 are beaten


def test_the_front_of_a_known_set() -> None:
    rows = [row(index, *point) for index, point in enumerate(KNOWN)] + [row(9, None, None)]
    assert [each.index for each in pareto_front(rows)] == FRONT
    assert pareto_front([]) == []


def test_the_front_is_what_optuna_calls_it() -> None:
    points = np.random.default_rng(3).integers(0, 12, (60, 2)) / 10
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials([optuna.create_trial(values=[float(a), float(b)]) for a, b in points])
    ours = pareto_front([row(index, float(a), float(b)) for index, (a, b) in enumerate(points)])
    assert [each.index for each in ours] == sorted(trial.number for trial in study.best_trials)


def test_the_best_is_the_most_accurate_that_is_quick_enough() -> None:
    rows = [row(index, *point) for index, point in enumerate(KNOWN)]
    chosen = [best_row(rows, limit) for limit in (None, 10.0, 6.0, 1.0)]
    assert [each.index if each else None for each in chosen] == [5, 0, 2, None]


def report_of(rows: Sequence[TrialRow], **more: Any) -> SearchReport:
    front = [each.index for each in pareto_front(rows)]
    return SearchReport("accuracy", True, rows, front, 5, {"accuracy": {"fit.lr": 1.0}}, 9, 1, {"cpu": "x"}, **more)


def test_the_page_holds_the_picture_and_escapes_what_comes_from_outside(tmp_path: Path) -> None:
    rows = [row(index, *point) for index, point in enumerate(KNOWN)]
    bad = TrialRow(9, 9, "failed", {"fit.lr": "<script>alert(1)</script>"}, error="<b>no</b>")
    report = report_of([*rows, bad])
    page = write_report(tmp_path, report, {"package": "a&b", "metrics": {"accuracy": 0.97}}).read_text()
    assert "<script" not in page
    assert "<b>no" not in page
    assert "data:image/png;base64," in page
    assert "0.97" in page
    picture = Image.open(io.BytesIO((tmp_path / "pareto.png").read_bytes()))
    assert picture.size == (1720, 840)
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["front"] == FRONT
    assert written["rows"][5]["accuracy"] == 0.95
    assert render(report_of([row(0, 0.5, 1.0), *rows[1:]])) != page


# -- trials ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_trials(tmp_path: Path) -> None:
    said: list[int] = []
    first = search(plan(tmp_path / "a"), said=lambda row, _: said.append(row.index))
    assert said == [0, 1, 2, 3]
    assert [each.state for each in first.rows] == ["complete"] * 4
    assert len({json.dumps(settings) for _, settings, _ in tried(first)}) > 1
    turned = make_plan(config(space=dict(reversed(SPACE.items()))), tmp_path / "b", "toy.yaml")
    assert tried(search(turned)) == tried(first)  # nor does the order of the keys matter
    other = search(plan(tmp_path / "c", seed=1, trials=2))
    assert [each.settings for each in other.rows] != [each.settings for each in first.rows[:2]]
    assert first.best == max(first.rows, key=lambda each: (each.accuracy or 0, -each.index)).index
    assert not list((tmp_path / "a").rglob("*.safetensors"))  # weights of a hundred trials would fill the disk
    written = yaml.safe_load((tmp_path / "a" / "trials" / "0002" / "config.yaml").read_text())
    assert written["fit"]["lr"] == first.row(2).settings["fit.lr"]
    assert TrainConfig.model_validate(written).search == {}


def test_a_search_goes_on_to_more_trials_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    search(plan(tmp_path / "a", trials=2))
    with pytest.raises(BadInput, match="holds a search already; go on with it by --resume"):
        search(plan(tmp_path / "a", trials=4))
    again = search(plan(tmp_path / "a", trials=4), resume=True)
    assert tried(again) == tried(search(plan(tmp_path / "b", trials=4)))
    with pytest.raises(BadInput, match=r"other settings \(fit.epochs was 2 and is 3\)"):
        search(plan(tmp_path / "a", epochs=3), resume=True)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"holds thesis.txt and is no folder of a search"):
        search(plan(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_grid_is_tried_once_each(tmp_path: Path) -> None:
    space = {"model.width": [4, 8], "fit.batch_size": {"low": 16, "high": 48, "step": 16}}
    report = search(plan(tmp_path, epochs=1, space=space, sampler="grid", trials=99))
    found = {(each.settings["model.width"], each.settings["fit.batch_size"]) for each in report.rows}
    assert len(report.rows) == len(found) == 6


@pytest.mark.parametrize("sampler", ["random", "nsga2", "gp"])
def test_every_sampler_runs_and_repeats_itself(tmp_path: Path, sampler: str) -> None:
    short = {"count": 24, "epochs": 1, "trials": 3, "startup": 1, "storage": "journal"}
    reports = [search(plan(tmp_path / name, sampler=sampler, **short)) for name in "ab"]
    assert tried(reports[0]) == tried(reports[1])


def test_trials_that_do_badly_are_ended_early(tmp_path: Path) -> None:
    # Half of the trials cannot learn, and some 60 % of 3 classes is easily had by the others.
    space = {"fit.lr": [0.03, 0.00000001]}
    report = search(
        plan(tmp_path, count=60, epochs=5, space=space, pruner="median", startup=2, trials=8, sampler="random")
    )
    pruned = [each for each in report.rows if each.state == "pruned"]
    assert pruned
    assert all(each.settings["fit.lr"] == 0.00000001 and (each.epochs or 9) < 5 for each in pruned)
    assert report.best not in {each.index for each in pruned}


def test_one_failing_trial_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    space = {"data.noise": [0.1, OVERFLOW]}
    report = search(plan(tmp_path, epochs=1, space=space, sampler="grid"))
    failed = next(each for each in report.rows if each.settings["data.noise"] == OVERFLOW)
    assert failed.state == "failed"
    assert "no longer a number" in failed.error
    assert report.row(report.best or 0).state == "complete"


def test_a_search_whose_trials_all_fail_ends_and_says_why(tmp_path: Path) -> None:
    plan_ = plan(tmp_path, trials=50, space={"data.noise": [OVERFLOW, 2 * OVERFLOW]})
    with pytest.raises(HaechiError, match="all 3 trials have failed, the last with: the loss is no longer a number"):
        search(plan_)


def test_what_the_task_refuses_is_said_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the toy task has no files"):
        plan(tmp_path / "a", space={"data.path": ["there"]})
    assert not (tmp_path / "a").exists()


def test_time_is_up(tmp_path: Path) -> None:
    limited = plan(tmp_path, trials=1000, minutes=0.05)
    report = search(limited)
    assert 0 < len(report.rows) < 1000


# -- kills and company -----------------------------------------------------------------------------------------------


def write(folder: Path, config_: TrainConfig) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(config_.model_dump(mode="json", exclude_unset=True)))
    return path


def start(path: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", str(RUNNER), "search", str(path), "-o", str(output), "--no-retrain", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(done: Any, process: subprocess.Popen[str], seconds: float = 250) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it ended too early or never began: {process.communicate()}")
        time.sleep(0.02)


def result(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "result.json").read_text())
    return found


def finish(process: subprocess.Popen[str], seconds: float = 240) -> str:
    out, error = process.communicate(timeout=seconds)
    assert process.returncode == 0, error
    return out


def test_a_killed_search_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """kill -9 in the middle of the second trial: its training goes on from its checkpoint, and the rest is the same,
    also what the pruner makes of it."""
    wanted = config(count=600, epochs=4, pruner="median", startup=4)
    path, killed = write(tmp_path, wanted), tmp_path / "killed"
    process = start(path, killed)
    course = killed / "trials" / "0001" / "run" / "metrics.jsonl"
    wait_for(lambda: course.exists() and course.read_text().count("\n") >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    resumed = search(make_plan(wanted, killed, "toy.yaml"), resume=True)
    unbroken = search(make_plan(wanted, tmp_path / "unbroken", "toy.yaml"))
    assert tried(resumed) == tried(unbroken)
    assert [(each.state, each.epochs) for each in resumed.rows] == [(each.state, each.epochs) for each in unbroken.rows]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{killed / 'study.db'}")
    states = [trial.state.name for trial in study.trials if trial.user_attrs["index"] == 1]
    assert states == ["FAIL", "COMPLETE"]  # the one that died, and its repetition
    courses = [folder / "trials" / "0001" / "metrics.jsonl" for folder in (killed, tmp_path / "unbroken")]
    epochs = [[json.loads(line)["metrics"] for line in each.read_text().splitlines()] for each in courses]
    assert epochs[0] == epochs[1]


def test_the_same_command_twice_shares_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = write(tmp_path, config(count=120, epochs=2, trials=10)), tmp_path / "both"
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("TOGETHER", str(tmp_path / "meeting"))
    processes = [start(path, output), start(path, output)]
    for process in processes:
        finish(process)
    rows = result(output)["rows"]
    assert [each["index"] for each in rows] == list(range(10))  # none lost, none twice
    assert {each["state"] for each in rows} == {"complete"}
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{output / 'study.db'}")
    assert len(study.trials) == 10
    assert len({trial.user_attrs["worker"] for trial in study.trials}) == 2
    lrs = [each["settings"]["fit.lr"] for each in rows]
    assert len(set(lrs)) == 10  # two processes with one seed do not draw the same numbers


@pytest.mark.slow
def test_a_helper_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    path, output = write(tmp_path, config(count=300, epochs=3, trials=8)), tmp_path / "jobs"
    process = start(path, output, "--jobs", "2")
    wait_for((output / "trials" / "0003" / "run" / "metrics.jsonl").exists, process, 600)
    helpers = [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    spawned = [each for each in helpers if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]
    assert len(spawned) == 2
    os.kill(spawned[0], signal.SIGKILL)
    said = finish(process, 600)
    rows = result(output)["rows"]
    assert [each["index"] for each in rows] == list(range(8))
    assert {each["state"] for each in rows} == {"complete"}
    assert said.count("\ntrial ") + said.startswith("trial ") == 8
    assert (output / "journal.log").exists()
    assert not (output / "study.db").exists()


@pytest.mark.slow
def test_helpers_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    path, output = write(tmp_path, config(count=600, epochs=50, trials=50)), tmp_path / "jobs"
    process = start(path, output, "--jobs", "2")
    wait_for((output / "trials" / "0001" / "run" / "metrics.jsonl").exists, process, 600)
    helpers = [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while any(_lives(each) for each in helpers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_example_is_sound() -> None:
    path = Path(__file__).resolve().parents[3] / "examples" / "training" / "search.yaml"
    section = read_search(read_config(path), str(path))
    assert section.by_latency
    assert section.space["model.image_size"].all() == [96, 128, 160, 192, 224]


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_trial_that_keeps_killing_its_process_is_given_up(tmp_path: Path) -> None:
    """Its process has died before the search goes on, three times in a row."""
    plan_ = plan(tmp_path, trials=2)
    for _ in range(MOST_DEATHS):
        with Store.open(tmp_path, plan_.config, plan_.section, resume=True) as store:
            begun = store.next()
            assert begun is not None
            assert begun.index == 0  # the same, again
    report = search(plan_, resume=True)
    assert [(each.index, each.state) for each in report.rows] == [(0, "failed"), (1, "complete")]
    assert "its process was killed 3 times" in report.rows[0].error


def test_the_last_package_overwrites_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.txt").touch()
    path = write(tmp_path, config())
    assert cli.main(["search", str(path), "-o", str(tmp_path / "s"), "--final", str(tmp_path / "thesis")]) == 2
    assert "is no model package" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


# -- latency and the package -----------------------------------------------------------------------------------------


def test_accuracy_against_latency_and_the_best_re_trained(tmp_path: Path) -> None:
    section = {
        "objective": ["accuracy", "latency"], "space": {"model.width": [4, 96]}, "sampler": "grid", "rounds": 20,
        "final": {"fit.epochs": 3},
    }  # fmt: skip
    path = write(tmp_path, config(count=90, epochs=2, **section))
    output, final, made = tmp_path / "front", tmp_path / "best-toy", tmp_path / "made.json"
    arguments = ["search", str(path), "-o", str(output), "--final", str(final), "--json", str(made)]
    assert cli.main(arguments) == 0
    found = json.loads(made.read_text())
    small, large = sorted(found["rows"], key=lambda each: each["settings"]["model.width"])
    assert 0 < small["latency_ms"] < large["latency_ms"]
    assert small["latency_interval"][0] <= small["latency_ms"] <= small["latency_interval"][1]
    assert small["epochs"] == 2
    assert 0 < small["bytes"] < large["bytes"]
    assert small["index"] in found["front"]
    assert (output / "pareto.png").exists()
    manifest = open_package(final).manifest
    assert manifest.lineage.settings["fit"]["epochs"] == 3
    best = next(each for each in found["rows"] if each["index"] == found["best"])
    assert manifest.lineage.settings["model"]["width"] == best["settings"]["model.width"]
    assert found["final"]["metrics"]["accuracy"] == manifest.metrics["accuracy"]
    before = (final / "manifest.json").read_bytes()
    assert cli.main([*arguments, "--resume"]) == 0  # all is done: nothing is trained again
    assert (final / "manifest.json").read_bytes() == before
