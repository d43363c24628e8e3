"""Trainings of the toy in processes of their own, which tests may kill; torch is imported once for all of them."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first step of an optimiser would import it, in every process anew
from torch.distributed import TCPStore

from shared.errors import HaechiError
from shared.training import distributed
from shared.training.config import TrainConfig
from shared.training.engine import Result, fit
from tests.shared.training import toy

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.shared.training.processes"])


def start(config: TrainConfig, folder: Path, answer: Path, environment: dict[str, str] | None = None) -> Any:
    """Begin, or go on with, the training in `folder`, in a process that may be killed; `answer` takes its result."""
    process = _CONTEXT.Process(target=_train, args=(config.model_dump_json(), folder, answer, environment or {}))
    process.start()
    return process


def start_team(size: int, config: TrainConfig, folder: Path, answer: Path) -> tuple[list[Any], TCPStore]:
    """The same in several processes that find one another as torchrun's do; their answers are `<answer>.<rank>`.

    The store must live as long as they do. It chooses a free port by itself.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    team = [
        start(config, folder, answer.with_name(f"{answer.name}.{rank}"), shared | {"RANK": str(rank)})
        for rank in range(size)
    ]
    return team, store


def _train(config: str, folder: Path, answer: Path, environment: dict[str, str]) -> None:
    os.environ |= environment | {"HAECHI_QUIET": "1"}
    torch.set_num_threads(1)
    parsed = TrainConfig.model_validate_json(config)
    try:
        result = fit(toy.Toy(parsed), parsed, folder, resume=True)
    except HaechiError as error:
        answer.write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        raise SystemExit(error.exit_code) from error
    answer.write_text(json.dumps(facts(result)), encoding="utf-8")
    distributed.leave()


def facts(result: Result) -> dict[str, Any]:
    """What two runs that are the same must have in common: everything but the time they took."""
    value = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    del value["seconds"]
    value["history"] = [{name: each[name] for name in each if name != "seconds"} for each in result.history]
    value["module"] = {name: tensor.tolist() for name, tensor in result.module.state_dict().items()}
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
