"""Search: train with many settings, keep what is best, by accuracy or by accuracy against latency on this machine.

`shared.training.search_config` tells what may vary, `shared.training.search_store` how processes share a folder and
survive a kill -9. Here a trial is run: an ordinary training (`engine.fit`), ended early where it does badly, and, where
latency counts, packaged and timed.

Latency is measured as in `shared.bench`, in turns with the first package of the search: what is kept is the time
relative to that one, times its milliseconds when the machine was first asked. Trials that were measured hours apart, or
while other processes trained, can so be compared.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import optuna
import torch
import yaml
from optuna.trial import TrialState

from shared import bench, files, machine
from shared.errors import BadInput, HaechiError
from shared.package import open_package, store_files
from shared.progress import stage
from shared.runtime import default_threads, load
from shared.training import engine, packaging
from shared.training.config import TrainConfig
from shared.training.search_config import SearchConfig, read_search, with_settings
from shared.training.search_report import SearchReport, TrialRow, pareto_front
from shared.training.search_store import Begun, Store, died, held
from shared.training.task import Task, make_task

_POLL = 0.5  # seconds between two looks at what other processes have done
_FINAL = "final"


@dataclass(frozen=True)
class Plan:
    """What to do; a process that helps gets the same."""

    config: TrainConfig
    section: SearchConfig
    folder: Path
    where: str
    """The file of the configuration, for messages."""
    deadline: float = math.inf
    """Seconds since the epoch, after which no trial is begun."""


def make_plan(config: TrainConfig, folder: Path, where: str) -> Plan:
    """Check everything that can be checked before the first trial.

    Raises:
        BadInput: the search section, the configuration or the data are wrong.
    """
    section = read_search(config, where)
    first = {key: entry.ends()[0] for key, entry in section.space.items()}
    make_task(with_settings(config, first | section.final, f"{where}: search"))  # the task knows its own settings
    deadline = math.inf if section.minutes is None else time.time() + 60 * section.minutes
    return Plan(config, section, folder, where, deadline)


def search(
    plan: Plan,
    *,
    jobs: int = 1,
    resume: bool = False,
    said: Callable[[TrialRow, SearchReport], None] | None = None,
) -> SearchReport:
    """Run trials until there are as many as planned, by all processes together, or time is up.

    Args:
        jobs: processes to start; 1 works in this one.
        resume: go on with the search in the folder.
        said: called for each trial that ends, whichever process ran it.

    Raises:
        BadInput: the folder holds something else.
        HaechiError: every trial failed.
    """
    with Store.open(plan.folder, plan.config, plan.section, resume=resume, journal=jobs > 1) as store:
        if plan.section.by_latency:
            _same_machine(plan.folder)
        watch = _Watch(plan, store, said)
        with stage("search", total=plan.section.trials) as bar:
            watch.bar = bar
            if jobs > 1:
                _with_helpers(plan, jobs, watch)
            _work(plan, store, watch)  # also when helpers were started: one of them may have been killed
            watch.look()
        report = collect(plan, store, at_end=True)
    if not any(row.state == "complete" for row in report.rows):
        raise HaechiError(f"no trial of {plan.folder} is complete; give it more time, and go on with it by --resume.")
    return report


class _Watch:
    """Tells of trials as they end, once each."""

    def __init__(self, plan: Plan, store: Store, said: Callable[[TrialRow, SearchReport], None] | None) -> None:
        self._plan, self._store, self._said = plan, store, said
        self._seen = {trial.number for trial in store.study.get_trials(deepcopy=False) if trial.state.is_finished()}
        self._before = len(self._seen)
        self.bar: Any = None

    def look(self) -> None:
        if self._before:
            self.bar.advance(self._before)
            self._before = 0
        trials = self._store.study.get_trials(deepcopy=False)
        new = [trial for trial in trials if trial.state.is_finished() and trial.number not in self._seen]
        if not new:
            return
        report = collect(self._plan, self._store)
        rows = {row.number: row for row in report.rows}
        for trial in new:
            self._seen.add(trial.number)
            if trial.number in rows:
                self.bar.advance()
                if self._said is not None:
                    self._said(rows[trial.number], report)


# -- several processes -----------------------------------------------------------------------------------------------


def _with_helpers(plan: Plan, jobs: int, watch: _Watch) -> None:
    """Start processes that work on the folder, and tell of what they do until they have ended."""
    context = multiprocessing.get_context("spawn")
    threads = max(default_threads() // jobs, 1)
    helpers = [context.Process(target=_help, args=(plan, threads)) for _ in range(jobs)]
    for helper in helpers:
        helper.start()
    try:
        while any(helper.is_alive() for helper in helpers):
            wait([helper.sentinel for helper in helpers if helper.is_alive()], timeout=_POLL)
            watch.look()
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()


def _help(plan: Plan, threads: int) -> None:
    """What a started process does. It ends with its parent, whatever ends that."""
    os.environ["HAECHI_QUIET"] = "1"  # one process shows progress
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        with Store.open(plan.folder, plan.config, plan.section, resume=True) as store:
            _work(plan, store, None)
    except HaechiError as error:  # the parent meets the same and says it
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


# -- trials ----------------------------------------------------------------------------------------------------------


def _work(plan: Plan, store: Store, watch: _Watch | None) -> None:
    """Run trials until there are enough and none is under way anywhere."""
    while time.time() < plan.deadline:
        begun = store.next()
        if begun is not None:
            _run(plan, store, begun)
        elif store.under_way():
            store.wait()  # should its process be killed, its trial is ours
        else:
            return
        if watch is not None:
            watch.look()


def _run(plan: Plan, store: Store, begun: Begun) -> None:
    """One trial, from its settings to its result in the study."""
    trial, start = begun.trial, time.monotonic()
    config = with_settings(plan.config, begun.settings, f"{plan.where}: search.space")
    alone = config.distill.model_copy(update={"compare": False})  # for the last training; here it would double the time
    config = config.model_copy(update={"search": {}, "distill": alone})
    shown = config.model_dump(mode="json", exclude_unset=True, exclude={"search"})
    files.write_text(begun.folder / "config.yaml", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
    try:
        values, facts = _train(plan, config, begun)
    except optuna.TrialPruned:
        trial.set_user_attr("seconds", time.monotonic() - start)
        store.study.tell(trial, state=TrialState.PRUNED)
    # Whatever a task or a library stumbles over with these settings; the next ones may be fine.
    except Exception as error:
        reason = str(error) if isinstance(error, HaechiError) else f"{type(error).__name__}: {error}."
        trial.set_user_attr("error", " ".join(reason.split())[:1000])
        store.study.tell(trial, state=TrialState.FAIL)
    else:
        for name, value in (facts | {"seconds": time.monotonic() - start}).items():
            trial.set_user_attr(name, value)
        store.study.tell(trial, values)
    _clear(begun.folder)
    if torch.cuda.is_available():  # what the trial held must be free for the next one
        gc.collect()
        torch.cuda.empty_cache()


def _train(plan: Plan, config: TrainConfig, begun: Begun) -> tuple[list[float], dict[str, Any]]:
    """Train with these settings: the objectives' values, and facts worth keeping."""
    task = make_task(config)
    name = task.metric

    def report(epoch: int, metrics: dict[str, float]) -> None:
        value = _finite(name, metrics)
        if plan.section.pruning == "none":
            return
        if epoch not in begun.reported:
            begun.reported.add(epoch)
            begun.trial.report(value, epoch)
        if epoch < config.fit.epochs and begun.trial.should_prune():
            raise optuna.TrialPruned

    run = begun.folder / "run"
    resume = run.exists()
    for line in _course(run):  # epochs that a process trained and was killed before it could report them
        report(line["epoch"], line["metrics"])
    if plan.section.by_latency:
        package = begun.folder / "package"
        shutil.rmtree(package, ignore_errors=True)
        trained = packaging.train_package(config, package, folder=run, resume=resume, report=report)
        latency, measured = measure_latency(plan, package)
        metrics = dict(trained.metrics)
        facts = {"metric": name, "metrics": metrics, **measured}
        if trained.result is not None:
            facts["epochs"] = trained.result.epochs
        return [_finite(name, metrics), latency], facts
    if isinstance(task, Task):
        result = engine.fit(task, config, run, resume=resume, report=report)
        facts = {"metric": name, "metrics": dict(result.metrics), "epochs": result.epochs}
        return [_finite(name, result.metrics)], facts
    _, metrics = task.train(run, resume=resume)
    return [_finite(name, metrics)], {"metric": name, "metrics": dict(metrics)}


def _course(run: Path) -> list[dict[str, Any]]:
    """The epochs that a run has written down; half a line at the end is none."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def _finite(name: str, metrics: dict[str, float]) -> float:
    if name not in metrics:
        raise HaechiError(f"the task reports {', '.join(metrics) or 'nothing'} and not its metric {name}.")
    if not math.isfinite(metrics[name]):
        raise HaechiError(f"the validation metric {name} is not a number; the training diverged.")
    return float(metrics[name])


def _clear(folder: Path) -> None:
    """Keep the settings and the course of a trial, not its weights: a hundred trials would fill the disk."""
    run = folder / "run"
    if (run / "metrics.jsonl").exists():
        shutil.copy(run / "metrics.jsonl", folder / "metrics.jsonl")
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(folder / "package", ignore_errors=True)


# -- latency ---------------------------------------------------------------------------------------------------------


def measure_latency(plan: Plan, package: Path) -> tuple[float, dict[str, Any]]:
    """Milliseconds a call of one sample (see above), their 95 % interval (`latency_interval`) and the `bytes` of a
    trial's package. One process measures at a time."""
    opened = open_package(package, public_keys=[])
    threads, rounds = plan.section.threads, plan.section.rounds
    with held(plan.folder / "latency.lock"):
        reference = plan.folder / "reference"
        if not reference.exists():
            store_files(reference, opened.files)
        models = {"reference": load(open_package(reference, public_keys=[]), "cpu", threads)}
        models["trial"] = load(opened, "cpu", threads, self_test=False)
        inputs = {name: bench.golden_inputs(model.package) for name, model in models.items()}
        timings = bench.measure(
            models, inputs, repeats=rounds, warmup=max(rounds // 10, 3), seed=plan.config.seed, description="latency"
        )
        kept = plan.folder / "reference.json"
        if not kept.exists():
            files.write_json(kept, {"ms": timings["reference"].p50, "cpu": machine.facts()["cpu"]})
        milliseconds = float(_read(kept)["ms"])
    ratio = timings["trial"].ratio_to(timings["reference"])
    interval = [ratio.low * milliseconds, ratio.high * milliseconds]
    return ratio.point * milliseconds, {"latency_interval": interval, "bytes": opened.size}


def _same_machine(folder: Path) -> None:
    path = folder / "reference.json"
    if not path.exists():
        return
    then, now = _read(path)["cpu"], machine.facts()["cpu"]
    if then != now:
        raise BadInput(
            f"the latencies in {folder} were measured on {then}, and this is {now}; go on there, or search anew here."
        )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that this module wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


# -- results ---------------------------------------------------------------------------------------------------------


def collect(plan: Plan, store: Store, *, at_end: bool = False) -> SearchReport:
    """What the search has found so far; what mattered only `at_end`, since that takes a second."""
    rows = [_row(plan, store, trial) for trial in store.study.get_trials(deepcopy=False) if not died(trial)]
    complete = [row for row in rows if row.state == "complete"]
    front = [row.index for row in pareto_front(complete)] if plan.section.by_latency else []
    metric = next((row.metric for row in complete if row.metric), "accuracy")
    best = best_row(complete, plan.section.max_latency_ms)
    return SearchReport(
        metric=metric,
        by_latency=plan.section.by_latency,
        rows=sorted(rows, key=lambda row: row.index),
        front=sorted(front),
        best=None if best is None else best.index,
        importances=importances(store.study, plan.section, plan.config.seed) if at_end else {},
        planned=plan.section.trials,
        threads=plan.section.threads,
        machine=machine.facts(),
    )


def _row(plan: Plan, store: Store, trial: Any) -> TrialRow:
    values = trial.values or []
    attributes = trial.user_attrs
    complete = trial.state is TrialState.COMPLETE
    return TrialRow(
        index=attributes.get("index", trial.number),
        number=trial.number,
        state={"FAIL": "failed", "RUNNING": "under way", "WAITING": "waiting"}.get(
            trial.state.name, trial.state.name.lower()
        ),
        settings=store.settings(trial),
        metric=attributes.get("metric", ""),
        accuracy=float(values[0]) if values and complete else None,
        latency_ms=float(values[1]) if complete and plan.section.by_latency else None,
        latency_interval=attributes.get("latency_interval"),
        metrics=attributes.get("metrics", {}),
        bytes=attributes.get("bytes"),
        seconds=attributes.get("seconds"),
        epochs=len(trial.intermediate_values) or attributes.get("epochs"),
        error=attributes.get("error", ""),
    )


def best_row(complete: Sequence[TrialRow], max_latency_ms: float | None = None) -> TrialRow | None:
    """The most accurate (then the quickest, then the first) of those within the limit; of all, if none is."""
    within = [row for row in complete if max_latency_ms is None or (row.latency_ms or 0.0) <= max_latency_ms]
    if not within:
        return None
    return min(within, key=lambda row: (-(row.accuracy or 0.0), row.latency_ms or 0.0, row.index))


def importances(study: Any, section: SearchConfig, seed: int) -> dict[str, dict[str, float]]:
    """Objective → setting → its share of the variance (fANOVA; Hutter et al. 2014); empty for fewer than four trials.

    With few trials these are rough.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 4 or len(section.space) < 2:
        return {}
    found: dict[str, dict[str, float]] = {}
    for place, name in enumerate(section.objective):
        if len({trial.values[place] for trial in complete}) < 2:
            continue
        shares = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed),
            target=lambda trial, place=place: trial.values[place],
        )
        found[name] = {key: float(value) for key, value in shares.items()}
    return found


def check_place(destination: Path) -> None:
    """Make sure, before hours of work, that a package can be written there. BadInput if not, or if something else is
    there."""
    packaging.check_places(destination, packaging.run_folder(destination), resume=True, option="--final")


def retrain(plan: Plan, report: SearchReport, destination: Path) -> dict[str, Any]:
    """Train the best trial's settings, with those of `final` on top, into a package; what is there already is kept.

    Returns:
        `package`, `trial` (its index), `settings` and `metrics`.

    Raises:
        HaechiError: no trial is quick enough.
    """
    row = next((row for row in report.rows if row.index == report.best), None)
    if row is None:
        quickest = min(each.latency_ms for each in report.rows if each.latency_ms is not None)
        raise HaechiError(
            f"no trial is within {plan.section.max_latency_ms:g} ms, the quickest takes {quickest:.3g} ms; "
            f"raise max_latency_ms or widen the space."
        )
    settings = {**row.settings, **plan.section.final}
    kept = plan.folder / f"{_FINAL}.json"
    wanted = {"package": str(destination), "trial": row.index, "settings": settings}
    with held(plan.folder / f"{_FINAL}.lock"):  # two commands on one folder: one trains, the other takes what it made
        before = _read(kept) if kept.exists() else {}
        if destination.exists() and {key: before.get(key) for key in wanted} == wanted:
            return before
        config = with_settings(plan.config, settings, f"{plan.where}: search").model_copy(update={"search": {}})
        run = plan.folder / f"{_FINAL}-{row.index:04d}"
        trained = packaging.train_package(config, destination, folder=run, resume=True)
        result = wanted | {"metrics": dict(trained.metrics)}
        files.write_json(kept, result)
    return result
