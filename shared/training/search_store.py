"""The folder of a search: what several processes share, and what is left when one of them is killed.

    lock            held while a process decides which trial comes next
    workers/ID      held (flock) by each process for as long as it lives; the kernel lets go when it dies
    config.json     the configuration that the search was begun with
    study.db        or journal.log: Optuna's storage
    trials/0004/    run folder of the trial with index 4

A trial carries the id of its process. One that is under way while its process's file is free was killed: it is marked
failed, and the same settings wait to be tried again, from the checkpoint that was left.

Trials have an *index* beside Optuna's number: a trial and its repetition after a death share one. The sampler is seeded
anew for every trial with the search's seed and the index, so that a search that was interrupted chooses what an
unbroken one would have chosen, and two processes never draw the same numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from shared import files
from shared.errors import BadInput, HaechiError
from shared.training.config import TrainConfig
from shared.training.search_config import SearchConfig

MOST_DEATHS = 3
"""A trial whose process died this often is given up: it may be what kills it."""
FAILURES = 3
"""As many failures at the start, and no success, end the search: something is wrong with all of them."""
_STUDY = "search"
_POPULATION = 10  # of nsga2; Optuna's 50 would leave a search of 50 trials random to its end
_BUDGET = ("trials", "minutes", "final", "max_latency_ms", "storage")  # may differ when a search goes on


@dataclass(frozen=True)
class Begun:
    """A trial to run."""

    trial: Any
    """`optuna.Trial`."""
    index: int
    settings: dict[str, Any]
    """By their keys with dots."""
    folder: Path
    reported: set[int]
    """Epochs that are in the study already, from a process that was killed."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for whoever has it; the kernel lets go when the process dies."""
    import fcntl  # POSIX only

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _JournalLock:
    """For `JournalFileBackend`. Optuna's own locks are files: a killed process leaves them behind, and the others wait
    for half a minute."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()

    def acquire(self) -> bool:
        self._stack.enter_context(held(self._path))
        return True

    def release(self) -> None:
        self._stack.close()


class Store:
    """One process's hold on the folder. Close it at the end (or use `with`)."""

    def __init__(self, folder: Path, config: TrainConfig, section: SearchConfig) -> None:
        self.folder = folder
        self.section = section
        self.seed = config.seed
        self._config = config
        self._worker = secrets.token_hex(8)
        self._life = contextlib.ExitStack()
        self.study: Any = None

    @classmethod
    def open(
        cls, folder: Path, config: TrainConfig, section: SearchConfig, *, resume: bool, journal: bool = False
    ) -> Store:
        """Begin a search in a folder, go on with the one in it, or join the processes that are at it.

        Args:
            resume: go on although no process is at it.
            journal: what `storage: auto` means for a new search.

        Raises:
            BadInput: the folder holds something else, a search of another configuration, or one to be resumed.
        """
        _library_is_quiet()
        store = cls(folder, config, section)
        with held(folder / "lock"):
            before = store._configuration()
            if before is None:
                store._refuse_foreign()
                files.write_json(folder / "config.json", store._identity())
            else:
                store._check(before, resume)
            store._life.enter_context(held(folder / "workers" / store._worker))
            store.study = store._open_study(journal)
        return store

    def close(self) -> None:
        """Let go; trials of this process that are still under way count as dead from now on."""
        self._life.close()
        (self.folder / "workers" / self._worker).unlink(missing_ok=True)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What must be the same for trials to be comparable."""
        raw: dict[str, Any] = json.loads(self._config.model_dump_json(exclude={"search", "track", "name", "version"}))
        raw["search"] = json.loads(self.section.model_dump_json(exclude=set(_BUDGET)))
        return raw

    def _configuration(self) -> dict[str, Any] | None:
        path = self.folder / "config.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadInput(f"{path} is damaged ({error}); remove {self.folder} and search again.") from error
        return found

    def _refuse_foreign(self) -> None:
        ours = ("lock", "workers", files.TEMPORARY_PREFIX)
        others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith(ours))
        if others:
            raise BadInput(f"{self.folder} holds {others[0]} and is no folder of a search; name an empty or new one.")

    def _check(self, before: dict[str, Any], resume: bool) -> None:
        now = self._identity()
        for section in sorted({*before, *now}):
            if before.get(section) != now.get(section):
                raise BadInput(
                    f"{self.folder} holds a search with other settings ({_first_difference(before, now)}), whose "
                    f"trials could not be compared; give its settings, or another folder."
                )
        if not resume and not any(self._alive(path.name) for path in (self.folder / "workers").glob("*")):
            raise BadInput(f"{self.folder} holds a search already; go on with it by --resume, or name another folder.")

    def _open_study(self, journal: bool) -> Any:
        database, log = self.folder / "study.db", self.folder / "journal.log"
        wanted = self.section.storage
        if not database.exists() and (log.exists() or wanted == "journal" or (wanted == "auto" and journal)):
            lock = _JournalLock(self.folder / "journal.lock")
            _drop_torn_line(log, lock)
            storage: Any = optuna.storages.JournalStorage(JournalFileBackend(str(log), lock_obj=lock))
        else:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{database}", engine_kwargs={"connect_args": {"timeout": 60}}
            )
        return optuna.create_study(
            study_name=_STUDY,
            storage=storage,
            directions=["maximize", "minimize"][: len(self.section.objective)],
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=self.seed),
            pruner=_pruner(self.section),
        )

    # -- trials ------------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All of them but those whose processes died and which are repeated (see `died`)."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if not died(trial)]

    def under_way(self) -> bool:
        """Whether any process has a trial that is not finished, or one waits to be repeated."""
        return any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in self.trials())

    def next(self) -> Begun | None:
        """The next trial, or None if there are enough.

        Raises:
            HaechiError: every trial so far has failed.
        """
        with held(self.folder / "lock"):
            self._bury()
            trials = self.trials()
            self._stop_if_all_fail(trials)
            waiting = any(trial.state is TrialState.WAITING for trial in trials)
            grid = self.section.grid() if self.section.sampler == "grid" else None
            if not waiting and len(trials) >= (self.section.trials if grid is None else self._grid_budget(len(grid))):
                return None
            index = _free_index(trials)
            if grid is not None and not waiting:
                order = np.random.default_rng(self.seed).permutation(len(grid))
                self._enqueue(grid[order[index]])
            self.study.sampler = _sampler(self.section, self.seed, index)
            # Sorted: the order in which a file names its settings must not change what is drawn.
            space = {key: self.section.space[key].distribution() for key in sorted(self.section.space)}
            trial = self.study.ask(space)
            index = trial.user_attrs.get("index", index)
            trial.set_user_attr("index", index)
            trial.set_user_attr("worker", self._worker)
            reported = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        return Begun(trial, index, self.settings(trial), self.folder / "trials" / f"{index:04d}", reported)

    def settings(self, trial: Any) -> dict[str, Any]:
        """What a trial tries, by the keys of the configuration."""
        return {
            key: entry.decode(trial.params[key]) for key, entry in self.section.space.items() if key in trial.params
        }

    def _grid_budget(self, combinations: int) -> int:
        return min(self.section.trials, combinations)

    def _enqueue(self, settings: dict[str, Any]) -> None:
        self.study.enqueue_trial({key: self.section.space[key].encode(value) for key, value in settings.items()})

    def _stop_if_all_fail(self, trials: list[FrozenTrial]) -> None:
        failed = [trial for trial in trials if trial.state is TrialState.FAIL]
        finished = sum(trial.state.is_finished() for trial in trials)
        if len(failed) >= min(FAILURES, self.section.trials) and len(failed) == finished:
            raise HaechiError(
                f"all {len(failed)} trials have failed, the last with: {failed[-1].user_attrs['error']} "
                f"Mend the configuration, and search in a new folder."
            )

    def _alive(self, worker: str) -> bool:
        import fcntl

        try:
            descriptor = os.open(self.folder / "workers" / worker, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _bury(self) -> None:
        """Mark trials of dead processes as failed, and let their settings be tried again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker is not None and (worker == self._worker or self._alive(worker)):
                continue
            self.study.tell(trial.number, state=TrialState.FAIL)
            # One that died while it was being made has nothing to repeat; a new one takes its index.
            if worker is not None and set(trial.params) == set(self.section.space):
                self._repeat(trial)
        for path in (self.folder / "workers").glob("*"):
            if path.name != self._worker and not self._alive(path.name):
                path.unlink(missing_ok=True)

    def _repeat(self, trial: FrozenTrial) -> None:
        deaths = trial.user_attrs.get("deaths", 0) + 1
        attributes = {"index": trial.user_attrs["index"], "deaths": deaths}
        given_up = deaths >= MOST_DEATHS
        if given_up:
            attributes["error"] = f"its process was killed {deaths} times (out of memory, perhaps)."
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.FAIL if given_up else TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attributes,
                intermediate_values=trial.intermediate_values,
            )
        )

    def wait(self, seconds: float = 1.0) -> None:
        """Let the others get on."""
        time.sleep(seconds)


def died(trial: FrozenTrial) -> bool:
    """Whether the process of a trial was killed; its settings are those of a later trial with the same index."""
    return trial.state is TrialState.FAIL and "error" not in trial.user_attrs


def _free_index(trials: list[FrozenTrial]) -> int:
    taken = {trial.user_attrs.get("index") for trial in trials}
    return next(index for index in range(len(trials) + 1) if index not in taken)


def _sampler(section: SearchConfig, seed: int, index: int) -> Any:
    own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    samplers = optuna.samplers
    if section.sampler == "tpe":
        # constant_liar: others' unfinished trials count as bad, so that processes do not crowd around one point.
        return samplers.TPESampler(
            n_startup_trials=section.startup,
            multivariate=not section.by_latency,
            constant_liar=True,
            seed=own,
        )
    if section.sampler == "gp":
        return samplers.GPSampler(n_startup_trials=section.startup, seed=own)
    if section.sampler == "nsga2":
        return samplers.NSGAIISampler(population_size=_POPULATION, seed=own)
    return samplers.RandomSampler(seed=own)


def _pruner(section: SearchConfig) -> Any:
    if section.pruning == "hyperband":
        return optuna.pruners.HyperbandPruner()
    if section.pruning == "median":
        # Epochs count from 1; the first, mostly warm-up, says too little.
        return optuna.pruners.MedianPruner(n_startup_trials=max(section.startup // 2, 1), n_warmup_steps=2)
    return optuna.pruners.NopPruner()


def _first_difference(before: Any, now: Any, key: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                return _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    return f"{key} was {json.dumps(before, ensure_ascii=False)} and is {json.dumps(now, ensure_ascii=False)}"


def _drop_torn_line(log: Path, lock: _JournalLock) -> None:
    """A machine that lost power may have left half a line, which would spoil the next one."""
    lock.acquire()
    try:
        if log.exists():
            content = log.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(log, whole)
    finally:
        lock.release()


def _library_is_quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
