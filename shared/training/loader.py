"""Batches in an order that is a function of (seed, epoch) alone, read ahead by threads.

Nothing here remembers anything: a run that is resumed, or split over processes, asks for the same batches again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.training.config import TrainConfig
from shared.training.distributed import Team
from shared.training.task import Batch, Objective

_ORDER, _SAMPLE, _COLLATE, _TORCH = range(4)
"""What a stream of random numbers is for: streams of different purposes never meet."""
Indices = NDArray[np.int64]


def stream(seed: int, purpose: int, *where: int) -> np.random.Generator:
    """Random numbers for one purpose at one place."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *where)))


def torch_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """For torch's generator (dropout) in one step of one process: with it there is no state to save."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_TORCH, epoch, step, rank))
    return int(sequence.generate_state(1, np.uint64)[0])


class Plan:
    """Which samples make up which step. A last batch of less than half the size is left out of the epoch."""

    def __init__(self, samples: int, config: TrainConfig, processes: int) -> None:
        """
        Raises:
            BadInput: there are too few samples, or too few in a batch for that many processes.
        """
        fit = config.fit
        needed = min(fit.batch_size, 2) if processes == 1 else 4 * processes
        if processes > 1 and fit.batch_size < needed:
            raise BadInput(
                f"fit.batch_size {fit.batch_size} is too small for {processes} processes; use {needed} or more."
            )
        if samples < min(needed, fit.batch_size):
            raise BadInput(f"{samples} samples are too few to train on; at least {needed} are needed.")
        self._samples, self._batch, self._accumulate, self._seed = samples, fit.batch_size, fit.accumulate, config.seed
        whole, rest = divmod(samples, fit.batch_size)
        # A last batch of one sample has no variance for a batch norm, and small ones pull too hard.
        kept = rest > 0 and (whole == 0 or rest >= max(2, (fit.batch_size + 1) // 2))
        self._batches = whole + kept
        self.steps = -(-self._batches // fit.accumulate)
        """Steps of the optimiser in an epoch."""

    def epoch(self, epoch: int) -> list[list[Indices]]:
        """For each step of an epoch (from 0) the batches whose gradients are added up."""
        order = stream(self._seed, _ORDER, epoch).permutation(self._samples)
        batches = [order[index * self._batch : (index + 1) * self._batch] for index in range(self._batches)]
        return [batches[at : at + self._accumulate] for at in range(0, self._batches, self._accumulate)]


@dataclass
class Ready:
    """This process's slice of a batch."""

    batch: Batch
    taught: Batch
    """What teachers say to it; empty without teachers."""
    size: int
    """Samples in the slice."""
    whole: int
    """Samples in the batch on all processes together."""


class Loader:
    """Reads, augments and collates by threads, at most a few batches ahead."""

    def __init__(
        self, objective: Objective, config: TrainConfig, team: Team, teach: Callable[[Batch], Batch] | None
    ) -> None:
        self._objective, self._seed, self._workers = objective, config.seed, config.fit.workers
        self._team, self._teach = team, teach

    def first(self) -> Batch:
        """The first two samples, to learn the shapes of things from."""
        samples = [self._objective.samples.sample(index, stream(self._seed, _SAMPLE, 0, index)) for index in range(2)]
        return self._objective.collate(samples, stream(self._seed, _COLLATE, 0, 0, 0))

    def steps(self, epoch: int, plan: Sequence[Sequence[Indices]], first: int) -> Generator[list[Ready], None, None]:
        """The slices of each step's batches, from step `first` on, always in the plan's order."""
        wanted = [(step, number) for step in range(first, len(plan)) for number in range(len(plan[step]))]
        made = self._ahead(wanted, lambda at: self._make(epoch, at[0], at[1], plan[at[0]][at[1]]))
        with contextlib.closing(made):
            for step in range(first, len(plan)):
                yield [next(made) for _ in plan[step]]

    def _ahead(
        self, wanted: Sequence[tuple[int, int]], make: Callable[[tuple[int, int]], Ready]
    ) -> Generator[Ready, None, None]:
        if self._workers == 0:
            yield from map(make, wanted)
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="samples")
        waiting: deque[Future[Ready]] = deque()
        try:
            for at in wanted:
                waiting.append(pool.submit(make, at))
                if len(waiting) > self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, epoch: int, step: int, number: int, indices: Indices) -> Ready:
        mine = np.array_split(indices, self._team.size)[self._team.rank]
        samples = [
            self._objective.samples.sample(int(index), stream(self._seed, _SAMPLE, epoch, int(index))) for index in mine
        ]
        batch = self._objective.collate(samples, stream(self._seed, _COLLATE, epoch, step, number))
        taught = self._teach(batch) if self._teach is not None else {}
        return Ready(batch, taught, len(mine), len(indices))
