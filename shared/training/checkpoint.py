"""What a run keeps so that it can be killed at any time and go on as if nothing had happened.

    run.json                the settings; `--resume` with others is an error
    checkpoint/             replaced as a whole, in one step
      state.json            where the run is, what it found so far, how long metrics.jsonl was
      weights.safetensors   the network and what is trained beside it
      average.safetensors   the moving average, where there is one
      optimizer.safetensors
    best-7.safetensors      the weights that were best, as state.json names them
    metrics.jsonl           a line for each epoch

Nothing is pickled. Order and randomness need no saving: they are functions of the seed and of where the run is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from shared import files
from shared.errors import BadInput, HaechiError
from shared.training.config import TrainConfig

RUN = "run.json"
METRICS = "metrics.jsonl"
_CHECKPOINT = "checkpoint"
_FILES = ("weights.safetensors", "average.safetensors", "optimizer.safetensors")
_FORMAT = 1
_FREE = ("fit.workers", "fit.checkpoint_minutes", "track", "search", "name", "version")
"""Settings that do not change what is learned, and may differ when a run goes on."""


@dataclass
class State:
    """Where a run is, between two steps of the optimiser."""

    epoch: int = 0
    """Epochs that are done and validated."""
    step: int = 0
    """Steps done in the epoch under way."""
    loss: float = 0.0
    """Sum over the samples of that epoch so far, of all processes, and their number."""
    samples: int = 0
    epoch_seconds: float = 0.0
    best: float | None = None
    best_file: str = ""
    best_metrics: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    """Epochs since then."""
    probe: dict[str, float] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics_bytes: int = 0
    """Length of metrics.jsonl; what is behind it belongs to epochs that will be run again."""
    scaler: dict[str, float] = field(default_factory=dict)
    """Of fp16's loss scaling."""
    mlflow: str = ""
    """Id of the run there."""
    seconds: float = 0.0
    stopped: str = ""
    """Why the run ended; empty while it has not."""


@dataclass
class Tensors:
    """The tensors of a checkpoint."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def prepare(folder: Path, config: TrainConfig, *, resume: bool) -> None:
    """Begin a run in `folder`, or make sure that it is this configuration's that goes on there.

    `resume` where nothing is begins anew: a run may have been killed before it wrote anything.

    Raises:
        BadInput: there is a run and `resume` is not set, or it has other settings; the sentence names the first.
    """
    settings = config.model_dump(mode="json")
    path = folder / RUN
    if not path.exists():
        if (folder / _CHECKPOINT).exists():
            raise BadInput(f"{folder} holds a checkpoint without {RUN}; choose another folder for the run.")
        files.write_json(path, settings)
        return
    if not resume:
        raise BadInput(f"{folder} holds a run already; go on with --resume, or choose another folder with --run.")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HaechiError(f"{path} cannot be read ({error}); start the run anew in another folder.") from error
    for key, was, now in _differences(before, settings):
        if not any(key == free or key.startswith(free + ".") for free in _FREE):
            raise BadInput(
                f"the run in {folder} was begun with {key} = {was} and not {now}; "
                f"set it back to go on, or start anew in another folder with --run."
            )


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif before != now:
        yield key, json.dumps(before), json.dumps(now)


def save(folder: Path, state: State, tensors: Tensors) -> None:
    """Put a new checkpoint in the place of the old one, in one step; then forget weights that are no longer best.

    Raises:
        HaechiError: the disk is full; the old checkpoint is still there.
    """
    with files.new_folder(folder / _CHECKPOINT, replace=True) as new:
        for name, content in zip(_FILES, (tensors.weights, tensors.average, tensors.optimizer), strict=True):
            save_file(plain(content), new / name)
        value = {"format": _FORMAT, **dataclasses.asdict(state)}
        (new / "state.json").write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
    for old in folder.glob("best-*.safetensors"):
        if old.name != state.best_file:
            with contextlib.suppress(OSError):
                old.unlink()


def load(folder: Path) -> tuple[State, Tensors] | None:
    """The checkpoint in a run's folder, or None if it has none yet.

    Raises:
        HaechiError: it is damaged, or a newer Haechi's.
    """
    path = folder / _CHECKPOINT
    if not path.exists():
        return None
    try:
        value = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if value.pop("format") != _FORMAT:
            raise ValueError("it is of another version of Haechi")
        state = State(**value)
        found = [load_file(path / name) for name in _FILES]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise HaechiError(
            f"the checkpoint {path} cannot be used ({error}); start the run anew in another folder."
        ) from error
    return state, Tensors(*found)


def save_best(folder: Path, epoch: int, weights: Mapping[str, Tensor]) -> str:
    """Keep the weights of this epoch (from 1); returns the file's name, for `State.best_file`.

    Under a name of its own: until the next checkpoint says so, the weights that were best before still are.
    """
    name = f"best-{epoch}.safetensors"
    files.write_bytes(folder / name, to_bytes(plain(weights)))
    return name


def load_best(folder: Path, name: str) -> dict[str, Tensor]:
    """The best weights.

    Raises:
        HaechiError: they cannot be read.
    """
    try:
        found: dict[str, Tensor] = load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise HaechiError(f"{folder / name} cannot be read ({error}); start the run anew.") from error
    return found


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, none sharing memory with another, as safetensors wants them."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        kept[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(kept[name].untyped_storage().data_ptr())
    return kept


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as `<number of the parameter>.<name>`; its settings come from the configuration."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser its state back, each tensor laid out in memory as its parameter is.

    The layout matters: the same sum in another order of memory may differ in the last bit.
    """
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        # The count of steps lives on the CPU; `clone`, because it is counted up in place and must not be the file's.
        like = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
        optimizer.state[parameter][name] = value.clone() if name == "step" else like.copy_(value)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
