"""`haechi train`: a YAML file becomes a model package."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput, HaechiError

if TYPE_CHECKING:
    from shared.training.config import TrainConfig
    from shared.training.packaging import Trained


def train(
    config: Path = typer.Argument(..., metavar="CONFIG", help="YAML file of the training; see above."),
    output: Path = typer.Option(
        ..., "--output", "-o", metavar="PACKAGE", help="Package to write: a folder, or a .zip."
    ),
    run: Path | None = typer.Option(
        None, "--run", metavar="DIR", help="Folder of the run: checkpoint, metrics.jsonl, tensorboard/ (PACKAGE.run)."
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in that folder, from its last checkpoint."),
    settings: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="Override a setting, such as fit.epochs=5; may be repeated."
    ),
    seed: int | None = typer.Option(None, "--seed", min=0, help="Override `seed`: the same gives the same model."),
    sign: Path | None = typer.Option(None, "--sign", metavar="KEY.pem", help="Sign with this key (`package keygen`)."),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON."),
) -> None:
    """Train a model as a YAML file says, and write a package that says how good it is.

    \b
    task: image-classification       # or embedding, text-classification, detection, anomaly, …
    data: {path: photos}             # photos/train/<label>/*.jpg and photos/val/<label>/*.jpg
    model: {backbone: efficientnet-lite0, image_size: 224}
    augment: {flip: true}
    fit:
      epochs: 20                     # the validation split chooses the best one
      batch_size: 32
      lr: 0.001                      # of the head; the backbone learns at backbone_lr times that
      frozen: 2                      # epochs at first in which only the head learns
      patience: 5                    # stop after so many epochs without a better one
    distill:                         # optional: learn from other packages as well
      teachers: [packages/large]
      logits: 0.7
      compare: true                  # train without teachers too, and show both
    seed: 0

    `data`, `model` and `augment` differ from task to task; a wrong key is answered with the right one. The test split
    is never looked at.

    A run that was interrupted or killed goes on with --resume, and ends as if nothing had happened. Several processes,
    one for each GPU say, train one model:

    \b
    torchrun --nproc-per-node 2 $(which haechi) train CONFIG -o PACKAGE
    """
    from shared.training import distributed
    from shared.training.stopping import Stopped, Stopper

    leads = distributed.rank() == 0
    again = "go on with the same command and --resume"
    with Stopper():
        try:
            _train(config, output, run, settings, seed, sign, json_file, resume=resume)
        except Stopped as stopped:
            if leads:
                told = " (torchrun sends it when another process has ended)" if distributed.launched() else ""
                why = "" if stopped.number == signal.SIGINT else f" by SIGTERM{told}"
                typer.echo(f"stopped{why}; {again}.", err=True)
            raise
        except distributed.Lost:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's comes now: not before the sentence is out
            raise
        except HaechiError as error:
            if not leads:  # the lead says it for all
                raise typer.Exit(error.exit_code) from error
            raise
        finally:
            distributed.leave()


def _train(
    path: Path,
    output: Path,
    run: Path | None,
    settings: list[str],
    seed: int | None,
    sign: Path | None,
    json_file: Path | None,
    *,
    resume: bool,
) -> None:
    from shared import files, signing
    from shared.training import distributed
    from shared.training.config import read_config
    from shared.training.packaging import check_places, run_folder, train_package

    config = read_config(path, settings)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    _check_name(config)
    folder = run_folder(output) if run is None else run
    leads = distributed.rank() == 0
    if leads:
        check_places(output, folder, resume=resume)
        if sign is not None:
            signing.sign(sign, b"")  # a key that cannot be used is said before the work, not after
        if resume and not folder.exists():
            typer.echo(f"note: there is no run in {folder} yet; it begins.", err=True)
    trained = train_package(config, output, folder=folder, resume=resume, signing_key=sign)
    if not leads:
        return
    if json_file is not None:
        files.write_json(json_file, as_dict(trained, config))
    _print(trained)


def _check_name(config: TrainConfig) -> None:
    """As the manifest wants them: hours of work must not end on a name."""
    import re

    if not re.fullmatch(r"([a-z0-9][a-z0-9_.-]{0,63})?", config.name):
        raise BadInput(f"name {config.name!r} cannot be used; it takes lower-case letters, digits, _ . and -.")
    if not re.fullmatch(r"[^\W_][\w.+-]{0,63}", config.version):
        raise BadInput(f"version {config.version!r} cannot be used; it takes letters, digits, _ . + and -.")


def as_dict(trained: Trained, config: TrainConfig) -> dict[str, Any]:
    """What `train --json` writes."""
    result = trained.result
    return {
        "package": str(trained.path),
        "run": str(trained.folder),
        "task": config.task,
        "metric": trained.metric,
        "metrics": trained.metrics,
        "probe": trained.probe,
        "student_alone": trained.alone,
        "epochs": result.epochs if result is not None else None,
        "stopped": result.stopped if result is not None else None,
        "history": result.history if result is not None else [],
        "seconds": trained.seconds,
        "notes": trained.notes,
        "config": config.model_dump(mode="json"),
    }


def _print(trained: Trained) -> None:
    from shared.manifest import printable
    from shared.progress import duration

    _print_table(trained)
    if trained.result is not None:
        best = trained.result
        typer.echo(f"{best.epochs} epochs ({best.stopped}), {duration(trained.seconds)}")
    else:
        typer.echo(f"trained in {duration(trained.seconds)}")
    for sentence in trained.notes:
        typer.echo(printable(sentence))
    typer.echo(printable(f"package: {trained.path}"))
    if trained.folder.is_dir():  # a task without epochs may leave nothing there
        typer.echo(printable(f"run: {trained.folder}"))


def _print_table(trained: Trained) -> None:
    """A line for each metric, the headline first; columns for the probe and for the student alone, where they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shared.training.packaging import ALONE, PROBE

    columns = {"probe": trained.probe, "student alone": trained.alone}
    shown = {name: found for name, found in columns.items() if found}
    shown["distilled" if trained.alone else "trained"] = trained.metrics
    names = [name for name in trained.metrics if not name.startswith((PROBE, ALONE))]
    names.sort(key=lambda name: name != trained.metric)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("on the validation split")
    for name in shown:
        table.add_column(name, justify="right")
    for name in names:
        cells = [f"{found[name]:.4g}" if name in found else "" for found in shown.values()]
        table.add_row(Text(name), *cells)
    console = Console(highlight=False)
    if not console.is_terminal:  # a log has no width: there every line stays whole
        console = Console(highlight=False, width=200)
    console.print(table)
