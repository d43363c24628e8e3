"""Verbs of `haechi bot`: train and evaluate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from solutions.contact_center.config import Bot, Model
    from solutions.contact_center.training import Material, Trained

RecipeName = Literal["auto", "light", "encoder", "fine-tuned"]

_JSON = typer.Option(None, "--json", metavar="FILE", help="Write there what is printed, as JSON.")
_SEED = typer.Option(0, "--seed", min=0, help="Of every random step.")
_TRAIN = typer.Option(None, "--train", metavar="FILE", help="A table with the columns text and intent to train from.")
_RECIPE = typer.Option(None, "--recipe", help="auto, light, encoder or fine-tuned; default: the bot's, else auto.")
_THREADS = typer.Option(1, "--threads", min=1, help="That one message may use.")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(train)
    app.command()(evaluate)


def train(
    bot: Path | None = typer.Argument(None, metavar="[BOT]", help="The bot's folder."),
    output: Path = typer.Option(..., "-o", "--output", metavar="PACKAGE", help="Where to write the package."),
    table: Path | None = _TRAIN,
    recipe: RecipeName | None = _RECIPE,
    seed: int = _SEED,
    sign: Path | None = typer.Option(None, "--sign", metavar="KEY", help="Private key to sign the package with."),
    json_file: Path | None = _JSON,
) -> None:
    """Make a package of a bot's folder, or of a table: seconds on a laptop."""
    from shared.files import write_json
    from shared.training.packaging import check_places, run_folder
    from solutions.contact_center.training import train as run

    check_places(output, run_folder(output), resume=True)
    material, read = _material(bot, table)
    trained = run(material, output, bot=read, model=_model(read, recipe), seed=seed, signing_key=sign)
    _print_trained(trained)
    if json_file is not None:
        write_json(json_file, _trained_dict(trained))


def evaluate(
    places: list[Path] = typer.Argument(
        ..., metavar="[PACKAGE] DATA", help="The package, and the table to judge it on."
    ),
    table: Path | None = _TRAIN,
    recipe: RecipeName | None = _RECIPE,
    retrieval: bool = typer.Option(
        False, "--retrieval", help="DATA holds groups of paraphrases: how well are they found?"
    ),
    robustness: bool = typer.Option(False, "--robustness", help="Judge distorted text as well."),
    threads: int = _THREADS,
    seed: int = _SEED,
    json_file: Path | None = _JSON,
) -> None:
    """Judge a package, or what training on a table gives, on a table with the columns text and intent.

    `oos` in the column intent marks what is out of scope. With --train FILE the model is trained first and thrown away.
    """
    from shared.files import write_json

    if retrieval:
        found: dict[str, Any] = _retrieval(places)
    elif table is not None:
        if len(places) != 1:
            raise BadInput("with --train FILE give DATA alone; without it PACKAGE and DATA.")
        with tempfile.TemporaryDirectory() as folder:
            found = _trained_and_judged(table, places[0], recipe, Path(folder, "package"), threads, seed, robustness)
    else:
        if len(places) != 2:
            raise BadInput("give PACKAGE and DATA, or --train FILE and DATA.")
        found = _judged(places[0], places[1], threads, seed, robustness)
    _print_figures(found)
    if json_file is not None:
        write_json(json_file, found)


def _material(bot: Path | None, table: Path | None) -> tuple[Material, Bot | None]:
    from solutions.contact_center import tables
    from solutions.contact_center.config import load
    from solutions.contact_center.training import from_bot, from_table

    if (bot is None) == (table is None):
        raise BadInput("give a bot's folder, or --train FILE for a table; one of them.")
    if bot is not None:
        read = load(bot)
        return from_bot(read), read
    assert table is not None
    return from_table(tables.read(table, "train")), None


def _model(bot: Bot | None, recipe: RecipeName | None) -> Model:
    from solutions.contact_center.config import Model

    model = bot.settings.model if bot is not None else Model()
    return model if recipe is None else model.model_copy(update={"recipe": recipe})


def _trained_and_judged(
    table: Path, data: Path, recipe: RecipeName | None, package: Path, threads: int, seed: int, robust: bool
) -> dict[str, Any]:
    from solutions.contact_center.training import train as run

    material, _ = _material(None, table)
    trained = run(material, package, model=_model(None, recipe), seed=seed)
    _print_trained(trained)
    return _judged(package, data, threads, seed, robust) | {"train_seconds": trained.seconds}


def _judged(package: Path, data: Path, threads: int, seed: int, robust: bool) -> dict[str, Any]:
    from shared.registry import locate
    from solutions.contact_center import evaluation, perturbations, tables
    from solutions.contact_center.understanding import Understander

    place = locate(str(package))
    understander = Understander.load(place, threads=threads)
    table = tables.read(data, "test")
    found: dict[str, Any] = dict(evaluation.evaluate(understander, table))
    told = understander.classifier.manifest.metrics.get("train_seconds")
    found |= {
        "train_seconds": told,
        "package_bytes": evaluation.package_bytes(Path(understander.classifier.package.path)),
    }
    if robust:
        found["robustness"] = evaluation.robustness(understander, table, perturbations.of(table.texts, seed))
    return found


def _retrieval(places: list[Path]) -> dict[str, Any]:
    from shared.text import labelled
    from solutions.contact_center import evaluation

    if len(places) != 1:
        raise BadInput("with --retrieval give DATA alone: sentences with the label of their group.")
    rows = [pair for pairs in labelled.pairs(places[0]).values() for pair in pairs]
    return dict(evaluation.retrieval([text for text, _ in rows], [group for _, group in rows]))


# -- what is printed ----------------------------------------------------------------------------------------------


def _trained_dict(trained: Trained) -> dict[str, Any]:
    return {
        "package": str(trained.path),
        "name": trained.manifest.name,
        "recipe": next(row.recipe.name for row in trained.candidates if row.chosen),
        "candidates": [
            {
                "recipe": row.recipe.name,
                "accuracy": row.accuracy,
                "milliseconds_p99": row.milliseconds,
                "chosen": row.chosen,
            }
            for row in trained.candidates
        ],
        "metrics": trained.manifest.metrics,
        "thresholds": {name: each.value for name, each in trained.manifest.thresholds.items()},
        "train_seconds": trained.seconds,
        "package_bytes": trained.bytes,
    }


def _print_trained(trained: Trained) -> None:
    for row in trained.candidates:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:7.1%}"
        mark = "*" if row.chosen else " "
        typer.echo(
            f"{mark} {row.recipe.name:<12} {accuracy:>7} {row.milliseconds:6.1f} ms  {row.recipe.says}", err=True
        )
    limits = ", ".join(f"{name} {each.value:.2f}" for name, each in trained.manifest.thresholds.items())
    typer.echo(f"thresholds: {limits}", err=True)
    typer.echo(f"{trained.path}: {trained.bytes / 1e6:.1f} MB, trained in {trained.seconds:.0f} s", err=True)


def _print_figures(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if name == "robustness":
            for row in value:
                typer.echo(
                    f"{row['perturbation']:<28} {row['accuracy']:.4f}   changes {row['changed']:.0%} of the texts"
                )
        else:
            typer.echo(f"{name:<28} {'-' if value is None else f'{value:.4f}' if isinstance(value, float) else value}")
