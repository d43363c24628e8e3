"""The training loop on a small task: what it learns, at what rates, when it stops, and what it leaves behind."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.errors import BadInput, HaechiError
from shared.training.engine import Result, fit
from shared.training.loader import Loader, Plan
from shared.training.schedule import Schedule
from tests.shared.training import toy


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAECHI_QUIET", "1")


def trained(folder: Path, **sections: object) -> Result:
    config = toy.config(**sections)
    return fit(toy.Toy(config), config, folder)


def test_learns_and_gives_the_best_epochs_weights(tmp_path: Path) -> None:
    config = toy.config(fit={"epochs": 6})
    task = toy.Toy(config)
    result = fit(task, config, tmp_path / "run")
    assert result.metrics["accuracy"] > 0.9
    assert result.metrics["accuracy"] == max(each["metrics"]["accuracy"] for each in result.history)
    assert not result.module.training
    assert next(result.module.parameters()).device.type == "cpu"
    with torch.no_grad():
        assert task.validate(result.module, "cpu") == pytest.approx(result.metrics, rel=1e-5)
    assert result.epochs == 6
    assert result.stopped == "all epochs"
    assert [each["epoch"] for each in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_the_same_seed_gives_the_same_weights_whatever_the_threads(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path / str(number), fit={"epochs": 2, "workers": workers}, seed=seed)
        for number, (workers, seed) in enumerate([(0, 1), (3, 1), (3, 2)])
    ]
    one, other, third = (torch.cat([p.flatten() for p in run.module.parameters()]) for run in runs)
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_metrics_go_to_json_lines_and_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = trained(tmp_path / "run", fit={"epochs": 2}, track={"tensorboard": True})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    values = [event.value for event in board.Scalars("validation/accuracy")]
    assert values == pytest.approx([each["metrics"]["accuracy"] for each in result.history])
    assert [event.step for event in board.Scalars("loss")] == [6, 12]


def test_nothing_in_the_runs_folder_is_pickled(tmp_path: Path) -> None:
    trained(tmp_path / "run", fit={"epochs": 1, "ema": 0.9})
    kinds = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jsonl"}


def test_the_probe_comes_first_and_is_reported(tmp_path: Path) -> None:
    assert trained(tmp_path / "with", fit={"epochs": 1}).probe is not None
    assert trained(tmp_path / "without", fit={"epochs": 1, "probe": False}).probe is None


class _Worsening(toy.Toy):
    """Its validation gets worse from the third epoch on."""

    asked = 0

    def validate(self, module: torch.nn.Module, device: object) -> dict[str, float]:
        self.asked += 1
        assert not module.training
        return {"accuracy": [0.5, 0.7, 0.6, 0.6, 0.6, 0.9][self.asked - 1]}


def test_stops_when_validation_gets_no_better(tmp_path: Path) -> None:
    config = toy.config(fit={"epochs": 6, "patience": 3, "probe": False})
    result = fit(_Worsening(config), config, tmp_path / "run")
    assert (result.epochs, result.stopped, result.metrics) == (5, "no better for 3 epochs", {"accuracy": 0.7})
    best = [path.name for path in (tmp_path / "run").glob("best-*")]
    assert best == ["best-2.safetensors"]


def test_report_may_end_the_run(tmp_path: Path) -> None:
    class Pruned(Exception):
        pass

    said: list[int] = []

    def report(epoch: int, metrics: dict[str, float]) -> None:
        assert "accuracy" in metrics
        said.append(epoch)
        if epoch == 2:
            raise Pruned

    config = toy.config(fit={"epochs": 5})
    with pytest.raises(Pruned):
        fit(toy.Toy(config), config, tmp_path / "run", report=report)
    assert said == [1, 2]
    assert not any(thread.name.startswith("samples") for thread in threading.enumerate())


# -- what learns, and how fast ---------------------------------------------------------------------------------------


def _state(module: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if name.startswith(prefix)}


@pytest.mark.parametrize("frozen", [1, 0])
def test_frozen_layers_and_their_statistics_stay_as_they_were(tmp_path: Path, frozen: int) -> None:
    config = toy.config(fit={"epochs": 1, "frozen": frozen})
    torch.manual_seed(config.seed)
    before = toy.Toy(config).build()
    after = fit(toy.Toy(config), config, tmp_path / "run").module
    same = [torch.equal(value, after.state_dict()[name]) for name, value in _state(before, "stem.").items()]
    assert all(same) == bool(frozen)
    assert not torch.equal(before.get_submodule("head").weight, after.get_submodule("head").weight)


def test_frozen_batch_norm_keeps_statistics_but_learns(tmp_path: Path) -> None:
    result = trained(tmp_path / "run", fit={"epochs": 2, "batch_norm": "frozen"})
    norm = result.module.get_submodule("stem.1")
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert not torch.equal(norm.weight, torch.ones(8))


def test_deeper_layers_learn_more_slowly(tmp_path: Path) -> None:
    """One step of plain SGD moves a weight by its rate times its gradient, and decay tells the rates apart."""
    moved = {}
    for decay in (1.0, 0.1):
        settings = {"epochs": 1, "batch_size": 90, "optimizer": "sgd", "warmup": 0, "clip": 0, "lr": 0.1}
        config = toy.config(fit={**settings, "backbone_lr": 0.5, "layer_decay": decay}, model={"dropout": 0.0})
        torch.manual_seed(config.seed)
        before = toy.Toy(config).build()
        after = fit(toy.Toy(config), config, tmp_path / str(decay)).module
        for name in ("stem.0.weight", "deep.0.weight"):
            moved[name, decay] = float((after.state_dict()[name] - before.state_dict()[name]).norm())
    assert moved["stem.0.weight", 0.1] == pytest.approx(0.1 * moved["stem.0.weight", 1.0], rel=0.01)
    assert moved["deep.0.weight", 0.1] == pytest.approx(moved["deep.0.weight", 1.0], rel=0.01)


def test_schedule_warms_up_and_falls_to_nothing() -> None:
    fit_ = toy.config(fit={"epochs": 10, "warmup": 2, "frozen": 3}).fit
    schedule = Schedule(fit_, 10)
    head = [schedule.factor(step, head=True) for step in range(100)]
    assert head[:3] == pytest.approx([0.05, 0.1, 0.15])
    assert max(head) == pytest.approx(1.0)
    assert head.index(max(head)) in (19, 20)
    assert all(a >= b for a, b in itertools.pairwise(head[20:]))
    assert head[-1] < 0.01
    backbone = [schedule.factor(step, head=False) for step in range(100)]
    assert backbone[29] == 0.0
    assert 0 < backbone[30] < 0.1  # it warms up of its own when it joins
    assert backbone[55] == head[55]


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch_norm": "frozen"}
    model = {"dropout": 0.0}
    whole = trained(tmp_path / "whole", fit={**settings, "batch_size": 30}, model=model)
    parts = trained(tmp_path / "parts", fit={**settings, "batch_size": 10, "accumulate": 3}, model=model)
    assert len(whole.history) == 2
    for one, other in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_clipping_bounds_a_step(tmp_path: Path) -> None:
    """Of SGD without momentum's past: the first step is rate × gradient (× 1.9 for Nesterov), and no decay."""
    settings = {
        "epochs": 1,
        "batch_size": 90,
        "optimizer": "sgd",
        "warmup": 0,
        "lr": 1.0,
        "weight_decay": 0,
        "clip": 0.01,
    }
    config = toy.config(fit={**settings, "probe": False})
    torch.manual_seed(config.seed)
    before = toy.Toy(config).build()
    after = fit(toy.Toy(config), config, tmp_path / "run").module
    squares = [
        float((a - b).detach().square().sum()) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert 0 < sum(squares) ** 0.5 <= 0.0191


def test_average_of_the_weights_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", fit={"epochs": 3})
    config = toy.config(fit={"epochs": 3, "ema": 0.999})
    task = toy.Toy(config)
    averaged = fit(task, config, tmp_path / "averaged")
    assert [each["loss"] for each in plain.history] == [each["loss"] for each in averaged.history]
    assert plain.metrics != averaged.metrics
    with torch.no_grad():
        assert task.validate(averaged.module, "cpu") == pytest.approx(averaged.metrics, rel=1e-5)
    one, other = plain.module.get_submodule("stem.1"), averaged.module.get_submodule("stem.1")
    assert not torch.equal(one.running_mean, other.running_mean)  # buffers are averaged too
    assert averaged.module.get_submodule("stem.1").num_batches_tracked > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_too(tmp_path: Path, precision: str) -> None:
    result = trained(tmp_path / "run", fit={"epochs": 6, "precision": precision})
    assert result.metrics["accuracy"] > 0.9
    assert next(result.module.parameters()).dtype == torch.float32
    state = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert bool(state["scaler"]) == (precision == "fp16")


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    with pytest.raises(HaechiError, match=r"no longer a number in epoch 1; lower fit\.lr"):
        trained(tmp_path / "run", data={"noise": float("inf")})


def test_a_reader_that_fails_ends_the_run(tmp_path: Path) -> None:
    class Broken(toy.ToySamples):
        def sample(self, index: int, generator: np.random.Generator) -> dict[str, object]:
            raise HaechiError("photos/17.jpg cannot be read.")

    config = toy.config()
    task = toy.Toy(config)
    task.samples = Broken(90, 0.1)
    with pytest.raises(HaechiError, match=r"photos/17\.jpg"):
        fit(task, config, tmp_path / "run")
    assert not any(thread.name.startswith("samples") for thread in threading.enumerate())


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta"])
def test_unusable_devices_are_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(BadInput, match=r"fit\.device"):
        trained(tmp_path / "run", fit={"device": device})
    assert not (tmp_path / "run").exists()


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="1 samples are too few"):
        trained(tmp_path / "run", data={"count": 1})


# -- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "batch", "sizes"),
    [(20, 8, [8, 8, 4]), (19, 8, [8, 8]), (5, 8, [5]), (16, 8, [8, 8]), (5, 2, [2, 2]), (3, 1, [1, 1, 1])],
)
def test_a_small_last_batch_is_left_out(samples: int, batch: int, sizes: list[int]) -> None:
    plan = Plan(samples, toy.config(fit={"batch_size": batch}), 1)
    steps = plan.epoch(0)
    assert [len(each) for step in steps for each in step] == sizes
    assert len({int(index) for step in steps for each in step for index in each}) == sum(sizes)


def test_order_changes_with_the_epoch_and_the_seed() -> None:
    def first(epoch: int, seed: int) -> list[int]:
        return list(Plan(90, toy.config(seed=seed), 1).epoch(epoch)[0][0])

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(1, 0)
    assert first(0, 0) != first(0, 1)


def test_reading_ahead_is_bounded() -> None:
    config = toy.config(fit={"workers": 2, "batch_size": 10})
    task, team = toy.Toy(config), _alone()
    plan = Plan(90, config, 1)
    steps = Loader(task, config, team, None).steps(0, plan.epoch(0), 0)
    next(steps)
    threading.Event().wait(0.2)
    assert isinstance(task.samples, toy.ToySamples)
    assert len(task.samples.read) <= 40  # one given out, two in work, one waiting
    steps.close()


def _alone():  # type: ignore[no-untyped-def]
    from shared.training.distributed import Team

    return Team(0, 1, None)
