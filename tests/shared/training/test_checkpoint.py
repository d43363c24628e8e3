"""A run may be killed at any time, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BadInput, HaechiError
from shared.training.config import TrainConfig
from shared.training.engine import Result, fit
from shared.training.stopping import Stopped
from tests.shared.training import toy
from tests.shared.training.processes import facts, start

RECIPES: dict[str, dict[str, Any]] = {
    "average, frozen first, accumulated": {
        "epochs": 4,
        "ema": 0.9,
        "frozen": 1,
        "accumulate": 2,
        "batch_size": 8,
        "workers": 2,
    },
    "momentum, patience, half precision": {
        "epochs": 4,
        "optimizer": "sgd",
        "patience": 3,
        "precision": "fp16",
        "workers": 0,
    },
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAECHI_QUIET", "1")


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: each[name] for name in each if name != "seconds"} for each in lines]


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_any_time_it_ends_the_same(tmp_path: Path, recipe: str) -> None:
    """kill -9 again and again, at times that nobody chose, until a life is long enough to end."""
    config = toy.config(fit=RECIPES[recipe] | {"checkpoint_minutes": 0.0005})
    for _ in range(2):  # the first process of all is slow to start, and the second tells how long a run takes
        began = time.perf_counter()
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        whole = start(config, tmp_path / "whole", tmp_path / "whole.json")
        whole.join(240)
        assert whole.exitcode == 0
    generator = random.Random(recipe)
    # A share of what this machine takes for the whole, so that a fast one is killed in the midst as well.
    life, deaths = (time.perf_counter() - began) / 8, 0
    while True:
        process = start(config, tmp_path / "killed", tmp_path / "killed.json")
        process.join(life * generator.uniform(0.5, 1.5))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        deaths += 1
        life *= 1.25  # so that it ends at last, also where starting alone takes long
    assert process.exitcode == 0
    assert deaths >= 2
    expected = json.loads((tmp_path / "whole.json").read_text())
    assert json.loads((tmp_path / "killed.json").read_text()) == expected
    assert _lines(tmp_path / "killed") == _lines(tmp_path / "whole") == expected["history"]


class _Interrupted(Exception):
    pass


def _fit(config: TrainConfig, folder: Path, *, resume: bool = False, end_at: int = 0, by: object = None) -> Result:
    """Train; at loss number `end_at`, in the middle of a step, raise `by` or send that signal."""
    task = toy.Toy(config)

    def at_loss(number: int) -> None:
        if number == end_at and isinstance(by, signal.Signals):
            os.kill(os.getpid(), by)
            time.sleep(0.05)
        elif number == end_at and isinstance(by, Exception):
            raise by

    task.at_loss = at_loss
    return fit(task, config, folder, resume=resume)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("end_at", [1, 8, 17, 20])
def test_goes_on_from_the_last_epoch(tmp_path: Path, recipe: str, end_at: int) -> None:
    config = toy.config(fit=RECIPES[recipe])
    expected = facts(_fit(config, tmp_path / "whole"))
    with pytest.raises(_Interrupted):
        _fit(config, tmp_path / "cut", end_at=end_at, by=_Interrupted())
    assert facts(_fit(config, tmp_path / "cut", resume=True)) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_between_two_steps(tmp_path: Path, number: signal.Signals) -> None:
    config = toy.config(fit=RECIPES["average, frozen first, accumulated"])
    expected = facts(_fit(config, tmp_path / "whole"))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped):
        _fit(config, tmp_path / "cut", end_at=16, by=number)  # an epoch has 11 losses, two in a step
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    state = json.loads((tmp_path / "cut" / "checkpoint" / "state.json").read_text())
    assert (state["epoch"], state["step"]) == (1, 3)
    assert facts(_fit(config, tmp_path / "cut", resume=True)) == expected


def test_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    config = toy.config()
    expected = _fit(config, tmp_path / "run")
    task = toy.Toy(config)
    again = fit(task, config, tmp_path / "run", resume=True)
    assert facts(again) == facts(expected)
    assert again.seconds == expected.seconds
    assert task.losses == 0


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = toy.config(fit={"epochs": 1})
    _fit(config, tmp_path / "run")
    with pytest.raises(BadInput, match=r"holds a run already; go on with --resume"):
        _fit(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"fit": {"epochs": 9}}, r"fit\.epochs = 1 and not 9"),
        ({"seed": 4}, "seed = 0 and not 4"),
        ({"model": {"width": 4}}, r"model\.width = null and not 4"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    _fit(toy.config(fit={"epochs": 1}), tmp_path / "run")
    with pytest.raises(BadInput, match=named):
        _fit(toy.config(**({"fit": {"epochs": 1}} | changed)), tmp_path / "run", resume=True)


def test_settings_that_change_nothing_may_differ(tmp_path: Path) -> None:
    _fit(toy.config(fit={"epochs": 1}), tmp_path / "run")
    other = toy.config(fit={"epochs": 1, "workers": 0, "checkpoint_minutes": 1}, name="other", version="2")
    assert _fit(other, tmp_path / "run", resume=True).epochs == 1


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_said(tmp_path: Path, file: str) -> None:
    config = toy.config(fit={"epochs": 3})
    with pytest.raises(_Interrupted):
        _fit(config, tmp_path / "run", end_at=8, by=_Interrupted())
    path = tmp_path / "run" / "checkpoint" / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(HaechiError, match=r"checkpoint .* cannot be used .*; start the run anew"):
        _fit(config, tmp_path / "run", resume=True)


def test_tensorboard_shows_no_step_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = toy.config(fit={"epochs": 4}, track={"tensorboard": True})
    for end_at in (9, 9, 8):
        with pytest.raises(_Interrupted):
            _fit(config, tmp_path / "run", resume=True, end_at=end_at, by=_Interrupted())
    result = _fit(config, tmp_path / "run", resume=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [6, 12, 18, 24]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([each["loss"] for each in result.history])
    steps = [event.step for event in board.Scalars("step/loss")]
    assert steps == sorted(set(steps))
