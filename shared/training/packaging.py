"""A configuration becomes a model package: train, export, measure, write. For tasks of the engine and for those with a
loop of their own alike, wherever they live: no other module writes the package of a training."""

from __future__ import annotations

import os
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.archive import is_zip_name
from shared.errors import BadInput
from shared.files import TEMPORARY_PREFIX
from shared.lineage import code_revision
from shared.manifest import Lineage, Manifest
from shared.package import Golden, write_package
from shared.training import distributed, engine
from shared.training.config import Distill, TrainConfig
from shared.training.export import Session
from shared.training.task import Exported, OwnLoop, Task, make_task

PROBE = "probe_"
ALONE = "student_alone_"
"""Before the names of metrics: of the linear probe, and of the student that had no teachers."""
_ALONE_FOLDER = "alone"


@dataclass
class Trained:
    """What `train_package` made."""

    path: Path
    metric: str
    """The headline among `metrics`."""
    metrics: dict[str, float]
    """On the validation split, with `export_difference`: the largest relative one between network and package."""
    manifest: Manifest | None
    """As it was written; None in the processes of torchrun that wrote nothing."""
    probe: dict[str, float] | None
    """Of the linear probe on frozen features."""
    alone: dict[str, float] | None
    """Of the same student without teachers, where `distill.compare` asked for it."""
    result: engine.Result | None
    """Of the engine; None for a task with its own loop."""
    folder: Path
    """The run's."""
    seconds: float
    """Of training, over all resumed parts, and of export."""
    notes: list[str] = field(default_factory=list)
    """What the task wants read; see `Exported.notes`."""


def train_package(
    config: TrainConfig,
    destination: Path,
    *,
    task: Task | OwnLoop | None = None,
    folder: Path | None = None,
    resume: bool = False,
    signing_key: Path | None = None,
    report: engine.Report | None = None,
) -> Trained:
    """Train as `config` says and write the package in one step, in the place of one that is there.

    Args:
        task: where the caller has made it already, of the same `config`, and wants to ask it more afterwards.
        folder: of the run; default `<destination>.run` beside the package. It stays, for a look at the course and for
            `resume`.
        resume: go on with the run that is there.
        report: as in `engine.fit`.

    Raises:
        BadInput: the configuration, the data, a teacher or the folder cannot be used.
        HaechiError: training or export failed.
    """
    folder = run_folder(destination) if folder is None else folder
    started = time.monotonic()
    task = make_task(config) if task is None else task
    if isinstance(task, OwnLoop):
        return _train_own(task, config, destination, folder, signing_key, resume=resume)
    result = engine.fit(task, config, folder, resume=resume, report=report)
    alone = _alone(config, folder, resume=resume) if config.distill.compare else None
    metrics = dict(result.metrics)
    for prefix, others in ((PROBE, result.probe), (ALONE, alone)):
        metrics |= {f"{prefix}{name}": value for name, value in (others or {}).items()}
    manifest, notes = None, []
    if distributed.rank() == 0:
        exported = task.export(result.module)
        manifest, notes = _write(task, exported, metrics, config, destination, signing_key), exported.notes
        metrics = manifest.metrics
    seconds = max(result.seconds, time.monotonic() - started)
    return Trained(destination, task.metric, metrics, manifest, result.probe, alone, result, folder, seconds, notes)


def run_folder(destination: Path) -> Path:
    """Where the run of a package is kept unless told otherwise."""
    return destination.with_name(destination.name + ".run")


def check_places(destination: Path, folder: Path, *, resume: bool, option: str = "-o") -> None:
    """Make sure, before hours of work, that nothing gets lost: neither what they make, nor what is there.

    Args:
        option: by which the user gave `destination`, for messages.

    Raises:
        BadInput: `destination` cannot be written, or is something other than a package; or `folder` holds files and
            `resume` is not set.
    """
    above = next(place for place in destination.absolute().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise BadInput(f"{option} {destination}: {above} is not a folder that can be written; choose another place.")
    if destination.exists() and not _expendable(destination):
        raise BadInput(f"{option} {destination} exists and is no model package; choose another name, or remove it.")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--run {folder} is not a folder; choose another one.")
    if resume or not folder.is_dir():
        return
    if any(not path.name.startswith(TEMPORARY_PREFIX) for path in folder.iterdir()):
        raise BadInput(
            f"the run's folder {folder} is not empty; go on with --resume, or choose another folder with --run."
        )


def _expendable(path: Path) -> bool:
    if path.is_dir():
        return (path / "manifest.json").is_file() or not any(path.iterdir())
    if not is_zip_name(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "manifest.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _train_own(
    task: OwnLoop, config: TrainConfig, destination: Path, folder: Path, signing_key: Path | None, *, resume: bool
) -> Trained:
    if distributed.launched():
        raise BadInput(f"task {config.task} trains in one process only; start it without torchrun.")
    started = time.monotonic()
    exported, metrics = task.train(folder, resume=resume)
    manifest = _write(task, exported, metrics, config, destination, signing_key)
    seconds = time.monotonic() - started
    return Trained(
        destination, task.metric, manifest.metrics, manifest, None, None, None, folder, seconds, exported.notes
    )


def _alone(config: TrainConfig, folder: Path, *, resume: bool) -> dict[str, float]:
    """The same student from the same start and on the same batches, with nobody to teach it."""
    config = config.model_copy(update={"distill": Distill()})
    task = make_task(config)
    assert isinstance(task, Task)
    return engine.fit(task, config, folder / _ALONE_FOLDER, resume=resume).metrics


def _write(
    task: Task | OwnLoop,
    exported: Exported,
    metrics: Mapping[str, float],
    config: TrainConfig,
    destination: Path,
    signing_key: Path | None,
) -> Manifest:
    """Write the package; returns its manifest, without the hashes of the files."""
    manifest = Manifest(
        name=config.name or package_name(destination),
        version=config.version,
        task=exported.task,
        description=exported.description,
        inputs=exported.inputs,
        outputs=exported.outputs,
        preprocessing=exported.preprocessing,
        labels=exported.labels,
        thresholds=exported.thresholds,
        metrics={**metrics, "export_difference": exported.parity},
        metric=task.metric,
        evaluator=exported.evaluator,
        lineage=_lineage(task, config, exported.settings),
        weights=task.licences,
    )
    assets = {**exported.assets, **(exported.report(manifest) if exported.report is not None else {})}
    answers = Session(exported.model, 1).run(exported.golden_inputs)
    golden = Golden(exported.golden_inputs, {spec.name: answers[spec.name] for spec in exported.outputs})
    write_package(
        destination,
        manifest,
        exported.model,
        golden,
        assets,
        signing_key=signing_key,
        replace=destination.exists(),
    )
    return manifest


def _lineage(task: Task | OwnLoop, config: TrainConfig, settings: dict[str, Any] | None) -> Lineage:
    if settings is None:
        settings = config.model_dump(mode="json", exclude={"name", "version", "seed"})
    return Lineage(
        data_fingerprint=task.data_fingerprint,
        code_revision=code_revision(),
        seed=config.seed,
        settings=settings,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def package_name(destination: Path) -> str:
    """A package name made from where it is written: `Runs/Fruit 2.zip` → `fruit-2`."""
    name = re.sub(r"[^a-z0-9_.-]+", "-", destination.name.lower().removesuffix(".zip").removesuffix(".haechi"))
    return name.strip("-._")[:64] or "model"
