"""Several processes train one model, and one that is lost ends the run in a way that can be gone on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from shared.training.config import TrainConfig
from tests.shared.training import toy
from tests.shared.training.processes import start, start_team

TOY = Path(toy.__file__)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _config(**fit: Any) -> TrainConfig:
    """Such that two processes can equal one: no dropout, and batch norms that do not look at the slice."""
    return toy.config(fit={"epochs": 3, "batch_norm": "frozen", **fit}, model={"dropout": 0.0})


def _run_team(config: TrainConfig, folder: Path, answer: Path, size: int = 2) -> list[dict[str, Any]]:
    team, _store = start_team(size, config, folder, answer)
    for process in team:
        process.join(240)
    assert [process.exitcode for process in team] == [0] * size
    return [json.loads(answer.with_name(f"{answer.name}.{rank}").read_text()) for rank in range(size)]


def _run_alone(config: TrainConfig, folder: Path, answer: Path) -> dict[str, Any]:
    process = start(config, folder, answer)
    process.join(240)
    assert process.exitcode == 0
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-4)
    assert [each["loss"] for each in one["history"]] == pytest.approx(
        [each["loss"] for each in other["history"]], abs=1e-4
    )
    for name, value in one["module"].items():
        assert np.allclose(value, other["module"][name], atol=1e-3), name


@pytest.mark.parametrize("fit", [{"ema": 0.9, "frozen": 1}, {"accumulate": 2, "batch_size": 9, "optimizer": "sgd"}])
def test_two_processes_give_what_one_gives(tmp_path: Path, fit: dict[str, Any]) -> None:
    """Also where the slices of a batch differ in size (9 over 2)."""
    config = _config(**fit)
    alone = _run_alone(config, tmp_path / "alone", tmp_path / "alone.json")
    lead, other = _run_team(config, tmp_path / "team", tmp_path / "team.json")
    assert lead == other
    _assert_alike(lead, alone)
    assert len((tmp_path / "team" / "metrics.jsonl").read_text().splitlines()) == 3


def test_losing_a_process_ends_the_run_and_another_number_goes_on(tmp_path: Path) -> None:
    config = _config(epochs=12, checkpoint_minutes=0)
    alone = _run_alone(config, tmp_path / "alone", tmp_path / "alone.json")
    team, _store = start_team(2, config, tmp_path / "team", tmp_path / "team.json")
    _wait_for(tmp_path / "team" / "metrics.jsonl")
    os.kill(team[1].pid, signal.SIGKILL)
    team[0].join(120)
    assert team[0].exitcode == 1
    said = json.loads((tmp_path / "team.json.0").read_text())["error"]
    assert said == (
        "process 0 of 2 cannot reach the others: one of them has ended; "
        "the run goes on from its last checkpoint with --resume."
    )
    three = _run_team(config, tmp_path / "team", tmp_path / "team.json", size=3)
    assert len(three[0]["history"]) == 12
    _assert_alike(three[0], alone)


def test_losing_the_lead_ends_the_others(tmp_path: Path) -> None:
    config = _config(epochs=12, checkpoint_minutes=0)
    team, _store = start_team(2, config, tmp_path / "team", tmp_path / "team.json")
    _wait_for(tmp_path / "team" / "metrics.jsonl")
    os.kill(team[0].pid, signal.SIGKILL)
    team[1].join(120)
    assert team[1].exitcode == 1
    assert "one of them has ended" in json.loads((tmp_path / "team.json.1").read_text())["error"]
    _run_alone(config, tmp_path / "team", tmp_path / "rest.json")


def test_what_the_lead_refuses_all_refuse(tmp_path: Path) -> None:
    _run_alone(_config(epochs=1), tmp_path / "run", tmp_path / "alone.json")
    team, _store = start_team(2, _config(epochs=2), tmp_path / "run", tmp_path / "team.json")
    for rank, process in enumerate(team):
        process.join(120)
        assert process.exitcode == 2
        assert "fit.epochs = 1 and not 2" in json.loads((tmp_path / f"team.json.{rank}").read_text())["error"]


def test_a_batch_too_small_for_the_processes_is_refused(tmp_path: Path) -> None:
    team, _store = start_team(2, _config(batch_size=6), tmp_path / "run", tmp_path / "team.json")
    for rank, process in enumerate(team):
        process.join(120)
        assert process.exitcode == 2
        assert "use 8 or more" in json.loads((tmp_path / f"team.json.{rank}").read_text())["error"]


@pytest.mark.slow
def test_torchrun_trains_a_package_and_survives_a_kill(tmp_path: Path) -> None:
    """The command of the README, with one worker killed by -9: a sentence, and --resume finishes with one process."""
    config = _config(epochs=40, checkpoint_minutes=0)
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    command = [str(TOY), "train", str(file), "-o", str(tmp_path / "package")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = tmp_path / "package.run"
    with subprocess.Popen(
        [*TORCHRUN, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _wait_for(run / "metrics.jsonl", 400)
        os.kill(_worker(process.pid, 1), signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "--resume" in errors
    assert "has ended" in errors
    assert not (tmp_path / "package").exists()
    before = len((run / "metrics.jsonl").read_text().splitlines())
    assert 1 <= before < 40
    done = subprocess.run(
        [sys.executable, *command, "--resume"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "40 epochs (all epochs)" in done.stdout
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 40
    assert (tmp_path / "package" / "manifest.json").is_file()


def _worker(parent: int, rank: int) -> int:
    """The id of torchrun's child with this rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError("torchrun has no such worker")


def _wait_for(file: Path, seconds: float = 200) -> None:
    """Until the first epoch is written down."""
    end = time.monotonic() + seconds
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.02)
