"""Measuring packages: the order is fair and seeded, ratios are paired, memory is the model's own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import bench, machine
from shared.errors import HaechiError
from shared.package import open_package
from shared.runtime import load
from solutions import cli
from tests.shared.packages import make_package


class Sleeper:
    """Stands in for `Model`: takes a known time, and writes down when it was called."""

    threads = 1

    def __init__(self, package: Any, name: str, calls: list[str], seconds: float = 0.0) -> None:
        self.package, self._name, self._calls, self._seconds = package, name, calls, seconds

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._calls.append(self._name)
        time.sleep(self._seconds)
        return {}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("bench") / "small")


def order(package: Any, seed: int) -> list[str]:
    calls: list[str] = []
    models: Any = {name: Sleeper(package, name, calls) for name in "abc"}
    bench.measure(models, bench.golden_inputs(package), repeats=20, warmup=0, seed=seed)
    return calls


def test_models_take_turns_in_an_order_that_is_shuffled_and_seeded(path: Path) -> None:
    package = open_package(path)
    calls = order(package, 1)
    assert calls[::2] == calls[1::2]  # one call to settle, one that counts
    rounds = [tuple(calls[start : start + 6 : 2]) for start in range(0, len(calls), 6)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 3
    assert order(package, 1) == calls
    assert order(package, 2) != calls


def test_times_are_those_of_the_calls(path: Path) -> None:
    package = open_package(path)
    models: Any = {"quick": Sleeper(package, "q", [], 0.002), "slow": Sleeper(package, "s", [], 0.008)}
    timings = bench.measure(models, bench.golden_inputs(package, 2), repeats=12, warmup=1)
    quick, slow = timings["quick"], timings["slow"]
    assert 2 <= quick.p50 <= quick.p90 <= quick.p95 <= quick.p99
    assert 8 <= slow.p50 < 100
    assert quick.batch == 2
    assert quick.throughput == pytest.approx(2 / quick.seconds.mean())
    ratio = quick.ratio_to(slow)
    assert ratio.low <= ratio.point <= ratio.high < 1
    assert ratio.faster == pytest.approx(1 / ratio.point)


def timing(seconds: Any) -> bench.Timing:
    return bench.Timing(np.asarray(seconds, dtype=np.float64), 1)


def test_a_slow_phase_of_the_machine_cancels_out() -> None:
    """Half of the rounds run on a machine four times slower; unpaired medians would be anywhere between."""
    generator = np.random.default_rng(0)
    phase = np.repeat([1.0, 4.0, 1.0, 4.0], 25)
    slow = timing(phase * generator.normal(1, 0.02, 100))
    quick = timing(0.5 * phase * generator.normal(1, 0.02, 100))
    ratio = quick.ratio_to(slow)
    assert ratio.low < 0.5 < ratio.high
    assert ratio.high - ratio.low < 0.02


@pytest.mark.parametrize("rounds", [6, 9, 20, 101])
def test_the_interval_of_a_ratio_holds_the_truth_95_times_in_100(rounds: int) -> None:
    generator = np.random.default_rng(rounds)
    held = 0
    for _ in range(400):
        ratio = timing(generator.lognormal(0, 0.5, rounds)).ratio_to(timing(np.ones(rounds)))
        held += ratio.low <= 1 <= ratio.high
    assert held >= 0.93 * 400


def test_too_few_rounds_promise_nothing() -> None:
    ratio = timing([1.0] * 5).ratio_to(timing([2.0] * 5))
    assert (ratio.point, ratio.low, ratio.high) == (0.5, 0.0, math.inf)
    assert timing([1.0] * 6).ratio_to(timing([2.0] * 6)).high == 0.5
    with pytest.raises(ValueError, match="paired"):
        timing([1.0]).ratio_to(timing([1.0, 2.0]))


def test_golden_samples_become_a_batch_of_any_size(path: Path) -> None:
    package = open_package(path)  # two golden pictures, and a threshold that has no batch dimension
    for batch in (1, 2, 5):
        inputs = bench.golden_inputs(package, batch)
        assert inputs["image"].shape[0] == batch
        assert inputs["pixel_threshold"].shape == (1,)
        assert bench.batch_of(package, inputs) == batch
    five = bench.golden_inputs(package, 5)["image"]
    np.testing.assert_array_equal(five[4], package.golden.inputs["image"][0])
    load(package, "cpu", 1).run(bench.golden_inputs(package, 3))


def test_memory_is_what_the_model_needs(path: Path, tmp_path: Path) -> None:
    """The larger heat map [6, 768, 768] is 14 MB as floats, its mask 3.5 MB; the small one is nothing."""
    ballast = np.ones(30_000_000)  # the parent's own size must not show (a forked process inherits its maximum)
    small = bench.peak_memory(path, 1, "cpu")
    large = bench.peak_memory(make_package(tmp_path / "large", size=768), 1, "cpu", batch=6)
    assert ballast.sum() > 0
    assert 0 < small < 40e6
    assert large - small > 17e6


def test_memory_says_why_it_could_not_be_measured(tmp_path: Path) -> None:
    with pytest.raises(HaechiError, match=r"memory of .*nothing.* could not be measured: .*nothing"):
        bench.peak_memory(tmp_path / "nothing", 1, "cpu")


def test_command_compares_packages(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = make_package(tmp_path / "large", size=256)
    result = tmp_path / "result.json"
    arguments = ["bench", "model", str(path), str(large), str(path), "--threads", "1", "--repeat", "30", "--batch", "2"]
    assert cli.main([*arguments, "--provider", "cpu", "--json", str(result)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cpu ")
    assert "small (2)" in shown.replace("\n", "")
    written = json.loads(result.read_text())
    assert written["machine"]["cpu"] == machine.facts()["cpu"]
    first, second, again = written["packages"]
    assert first["bytes"] == open_package(path).size
    assert first["threads"] == 1
    assert first["batch"] == 2
    assert first["provider"] == "CPUExecutionProvider"
    assert 0 < first["p50_ms"] <= first["p99_ms"]
    assert first["time_to_first"]["point"] == 1
    assert second["time_to_first"]["low"] > 1.5
    assert again["time_to_first"]["point"] < second["time_to_first"]["low"]
    assert second["peak_memory_bytes"] > first["peak_memory_bytes"] > 0


def test_machine_facts_are_of_this_machine() -> None:
    facts = machine.facts()
    assert facts["cpu"]
    assert int(facts["cores"].split(" of ")[0]) == machine.usable_cores() >= 1
    assert facts["python"]
    assert set(facts["flags"].split()) <= machine.cpu_flags() | {"unknown"}
