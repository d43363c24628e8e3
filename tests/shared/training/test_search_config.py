"""The search section: what is wrong is said with the key and the nearest known one; values come back as they were."""

from __future__ import annotations

import re
from typing import Any

import pytest

from shared.errors import BadInput
from shared.training.config import TrainConfig
from shared.training.search_config import Choices, Range, SearchConfig, read_search, with_settings

LR = {"fit.lr": {"low": 0.001, "high": 0.1, "log": True}}


def config(**search: Any) -> TrainConfig:
    return TrainConfig(task="toy", data={"count": 9}, model={"width": 8}, search=search)


def section(**search: Any) -> SearchConfig:
    return read_search(config(**search), "a.yaml")


def test_a_whole_section() -> None:
    space = {**LR, "fit.batch_size": [16, 32], "model.width": {"low": 4, "high": 16, "step": 4}, "augment.flip": [True]}
    found = section(space=space, objective=["accuracy", "latency"], trials=7, final={"fit.epochs": 9})
    assert found.by_latency
    assert found.pruning == "none"
    assert section(space=LR, objective="accuracy").pruning == "median"
    assert found.space["fit.batch_size"] == Choices(choices=[16, 32])
    assert found.space["model.width"].all() == [4, 8, 12, 16]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({}, "a.yaml has no search section"),
        ({"space": {}}, "a.yaml: search: space"),
        ({"space": LR, "spice": LR}, r"unknown key spice; did you mean space\?$"),
        ({"space": {"fit.lrr": [0.1]}}, r"search.space: unknown key fit.lrr; did you mean lr\?"),
        ({"space": {"fitt.lr": [0.1]}}, r"unknown key fitt; did you mean fit\?"),
        ({"space": {"fit.batch_size": [16, 0]}}, "fit.batch_size: .*greater than or equal to 1"),
        ({"space": {"fit.batch_size": {"low": 0.5, "high": 3}}}, "fit.batch_size: .*valid integer"),
        ({"space": {"fit.lr": {"low": -1.0, "high": 1.0}}}, "fit.lr: .*greater than 0"),
        ({"space": {"fit.optimizer": ["adamw", "adam"]}}, "fit.optimizer"),
        ({"space": {"fit": [1]}}, "fit is a section"),
        ({"space": {"seed": [1, 2]}}, "seed cannot be searched"),
        ({"space": {"search.trials": [1, 2]}}, "search.trials cannot be searched"),
        ({"space": {"fit.lr": {"low": 0.1, "high": 0.01}}}, r"low \(0.1\) must be less than high"),
        ({"space": {"fit.lr": {"low": 0.0, "high": 0.01, "log": True}}}, "log needs a low above 0"),
        ({"space": {"fit.lr": {"low": 0.1, "high": 0.2, "logg": True}}}, r"unknown key logg; did you mean log\?"),
        ({"space": {"fit.lr": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}}}, "log and step exclude"),
        ({"space": {"fit.epochs": {"low": 1, "high": 9, "step": 0.5}}}, "must be whole"),
        ({"space": {"fit.lr": 0.1}}, "fit.lr must be a range"),
        ({"space": {"fit.lr": [0.1, 0.1]}}, "twice"),
        ({"space": LR, "objective": ["latency"]}, "objective must be accuracy or"),
        ({"space": LR, "objective": "speed"}, "objective"),
        ({"space": LR, "objective": ["accuracy", "latency"], "pruner": "median"}, "pruner must be none"),
        ({"space": LR, "max_latency_ms": 3}, "max_latency_ms needs"),
        ({"space": LR, "sampler": "grid"}, "grid needs a step for fit.lr"),
        ({"space": LR, "sampler": "cmaes"}, "sampler"),
        ({"space": LR, "final": {"fit.epoch": 3}}, r"search.final: unknown key fit.epoch; did you mean epochs\?"),
    ],
)
def test_what_is_wrong_is_named(search: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        section(**search)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert str(caught.value).startswith("a.yaml")
    assert "the file" not in str(caught.value)


@pytest.mark.parametrize("choices", [[1, True, 1.0, "1"], [None, "none", []], [{"crop": 0.4}, {"crop": 0.5, "a": [1]}]])
def test_choices_of_any_kind_come_back_as_they_were(choices: list[Any]) -> None:
    entry = Choices(choices=choices)
    for choice in choices:
        kept = entry.encode(choice)
        assert kept in entry.distribution().choices
        back = entry.decode(kept)
        assert back == choice
        assert type(back) is type(choice)


def test_ranges_give_whole_numbers_between_whole_ends_only() -> None:
    whole, real = Range(low=1, high=8, log=True), Range(low=0.0, high=1.0, step=0.25)
    assert type(whole.distribution()).__name__ == "IntDistribution"
    assert type(real.distribution()).__name__ == "FloatDistribution"
    assert real.all() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert Range(low=0.1, high=1.0).all() is None
    assert Range(low=0, high=2).all() == [0, 1, 2]


def test_settings_are_put_in_their_place() -> None:
    before = config(space=LR)
    after = with_settings(before, {"fit.lr": 0.5, "model.depth": 3, "augment.policy.crop": 0.1}, "a.yaml")
    assert after.fit.lr == 0.5
    assert after.model == {"width": 8, "depth": 3}
    assert after.augment == {"policy": {"crop": 0.1}}
    assert before.model == {"width": 8}
