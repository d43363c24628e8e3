"""Several processes that train one model: `torchrun --nproc-per-node 2 .venv/bin/haechi train CONFIG -o PACKAGE`.

Every process holds the whole network and computes its slice of each batch; gradients are averaged (gloo on the CPU,
NCCL on GPUs). Process 0, the lead, alone validates, writes and prints, and tells the others what it found. A process
that vanishes is noticed by the others: gloo's connection breaks at once, NCCL's wait ends after `PATIENCE`, and
torchrun sends SIGTERM to those that are left. They end with one sentence, and the run goes on from its last checkpoint
with `--resume`, also with another number of processes. The run's folder must be one that all processes see.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from shared.errors import BadInput, HaechiError

_T = TypeVar("_T")

PATIENCE = datetime.timedelta(minutes=5)
"""The longest wait for another process's gradients."""
_VALIDATION = datetime.timedelta(hours=6)
"""The longest wait for the lead, which may be validating a large split."""
_SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "timeout", "socket", "peer", "store")


class Lost(HaechiError):
    """Another process of the run has ended, or cannot be reached."""


class Team:
    """The processes of a run; a team of one does nothing special."""

    def __init__(self, rank: int, size: int, control: Any) -> None:
        self.rank = rank
        """0 is the lead."""
        self.size = size
        self._control = control

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def lead(self, work: Callable[[], _T]) -> _T:
        """Let the lead alone do something whose result is JSON, and give that result to all.

        Raises:
            HaechiError: the lead's work raised one; it is raised in every process.
            Lost: the lead has ended.
        """
        if self.size == 1:
            return work()
        answer: dict[str, Any] = {}
        failure: HaechiError | None = None
        if self.leads:
            try:
                answer = {"result": work()}
            except HaechiError as error:
                failure, answer = error, {"error": str(error), "bad_input": isinstance(error, BadInput)}
        answer = self._broadcast(answer)
        if failure is not None:
            raise failure
        if "error" in answer:
            raise (BadInput if answer["bad_input"] else HaechiError)(answer["error"])
        result: _T = answer["result"]
        return result

    def total(self, values: list[float]) -> list[float]:
        """The sums over all processes, on every one of them."""
        if self.size == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64)
        self._guarded(lambda: dist.all_reduce(summed, group=self._control))
        return [float(value) for value in summed]

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with its gradients averaged over the processes; its weights become the lead's."""
        if self.size == 1:
            return module
        index = [device.index] if device.type == "cuda" else None
        # Also parameters that a loss does not reach (a pooler that nobody asks) must not stop the averaging.
        return self._guarded(
            lambda: nn.parallel.DistributedDataParallel(module, device_ids=index, find_unused_parameters=True)
        )

    def _broadcast(self, value: dict[str, Any]) -> dict[str, Any]:
        """As JSON: what processes tell one another is never unpickled."""
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        self._guarded(lambda: dist.broadcast(length, 0, group=self._control))
        if not self.leads:
            content = torch.empty(int(length), dtype=torch.uint8)
        self._guarded(lambda: dist.broadcast(content, 0, group=self._control))
        found: dict[str, Any] = json.loads(bytes(content.tolist()))
        return found

    def _guarded(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except RuntimeError as error:
            raise self.explained(error) from error.__cause__

    def explained(self, error: RuntimeError) -> Exception:
        """`Lost` if this error says that another process cannot be reached, else the error itself."""
        if self.size == 1 or not any(sign in str(error).lower() for sign in _SIGNS):
            return error
        return Lost(
            f"process {self.rank} of {self.size} cannot reach the others: one of them has ended; "
            f"the run goes on from its last checkpoint with --resume."
        )


_team: Team | None = None


def launched() -> bool:
    """Whether torchrun (or a cluster that speaks as it does) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Of this process; 0 where there is only one."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def team(device: torch.device) -> Team:
    """The processes of this run, connected at the first call.

    Raises:
        HaechiError: they did not find one another.
    """
    global _team
    if not launched():
        return Team(0, 1, None)
    if _team is None:
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=PATIENCE)
            control = dist.new_group(backend="gloo", timeout=_VALIDATION)
        except (RuntimeError, ValueError) as error:
            raise HaechiError(f"the processes of the run did not find one another: {error}") from error
        if dist.get_rank() > 0:
            os.environ["HAECHI_QUIET"] = "1"  # one process speaks
        _team = Team(dist.get_rank(), dist.get_world_size(), control)
    return _team


def leave() -> None:
    """Close the connections; nothing where there are none."""
    global _team
    if _team is not None:
        _team = None
        dist.destroy_process_group()


def choose_device(asked: str) -> torch.device:
    """`auto` is this process's GPU where there is one, else the CPU.

    Raises:
        BadInput: there is no such device here.
    """
    local = int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise BadInput(f"fit.device {asked!r} is unknown; use auto, cpu, cuda or cuda:1.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available():
        raise BadInput(f"fit.device {asked!r} cannot be used here; use auto or cpu.")
    index = device.index if device.index is not None else local
    if index >= torch.cuda.device_count():
        raise BadInput(
            f"fit.device {asked!r}: process {local} has no GPU of its own; there are {torch.cuda.device_count()}."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
