"""`haechi search`: train with many settings, and keep the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from shared.training.search_report import SearchReport, TrialRow

_SHOWN = 10


def search(
    config: Path = typer.Argument(metavar="CONFIG", help="The YAML of a training, with a search section."),
    output: Path | None = typer.Option(
        None, "--output", "-o", metavar="DIR", help="Folder of the search (default: CONFIG without .yaml, .search)."
    ),
    trials: int | None = typer.Option(None, "--trials", min=1, help="In all, by all processes together."),
    minutes: float | None = typer.Option(None, "--minutes", min=0.01, help="Begin no trial later than this."),
    jobs: int = typer.Option(1, "--jobs", min=1, max=64, help="Processes that try settings at once."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the search in DIR."),
    seed: int | None = typer.Option(None, "--seed", min=0, help="Of the search and of every training."),
    overrides: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Change a setting, as in `train`."),
    final: Path | None = typer.Option(
        None, "--final", metavar="PACKAGE", help="Where the best is re-trained to (default: DIR/best)."
    ),
    retrain: bool = typer.Option(True, "--retrain/--no-retrain", help="Re-train the best trial into a package."),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON."),
) -> None:
    """Search a training's settings, by accuracy or by accuracy against latency on this machine.

    The search section of CONFIG says what may vary. Killed at any time, it goes on with --resume; the same command
    started again while it runs helps it. DIR/report.html shows the trials, the Pareto front and what mattered; each
    trial's settings are in DIR/trials, ready for `haechi train`.
    """
    from shared import files
    from shared.training import search as searching
    from shared.training.config import read_config
    from shared.training.search_report import write_report

    changes = [*overrides, *_section(trials=trials, minutes=minutes)]
    if seed is not None:
        changes.append(f"seed={seed}")
    folder = output if output is not None else config.with_suffix(".search")
    place = final if final is not None else folder / "best"
    if retrain:
        searching.check_place(place)
    plan = searching.make_plan(read_config(config, changes), folder, str(config))
    report = searching.search(plan, jobs=jobs, resume=resume, said=_say)
    write_report(folder, report)  # what was found is kept, whatever comes of the last training
    made: dict[str, Any] | None = None
    if retrain:
        made = searching.retrain(plan, report, place)
    page = write_report(folder, report, made)
    if json_file is not None:
        files.write_json(json_file, report.as_dict() | {"final": made})
    _print(report, made, page)


def _section(**given: float | None) -> list[str]:
    return [f"search.{name}={value}" for name, value in given.items() if value is not None]


def _say(row: TrialRow, report: SearchReport) -> None:
    from shared.training.search_report import shown

    figures = row.state if row.accuracy is None else f"{report.metric} {row.accuracy:.4f}"
    if row.latency_ms is not None:
        figures += f"  {row.latency_ms:.3g} ms"
    settings = "  ".join(f"{key} {shown(value)}" for key, value in row.settings.items())
    mark = "  (best so far)" if row.index == report.best else ""
    typer.echo(f"trial {row.index:<4} {figures}  {settings}{mark}{'  ' + row.error if row.error else ''}")


def _print(report: SearchReport, made: dict[str, Any] | None, page: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shared.training.search_report import cells, columns, ranked

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 180  # a log or a pipe has no width to fold to
    if report.by_latency:
        title = "Pareto front"
        rows = sorted((report.row(index) for index in report.front), key=lambda row: row.latency_ms or 0.0)
    else:
        title = "Best trials"
        rows = ranked(report)[:_SHOWN]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns(report):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*cells(report, row))
    console.print(table)
    for name, shares in report.importances.items():
        console.print(f"for {name} mattered: " + ", ".join(f"{key} {100 * each:.0f} %" for key, each in shares.items()))
    if made is not None:
        value = made["metrics"].get(report.metric)
        reached = "" if value is None else f", {report.metric} {value:.4f}"
        console.print(f"trial {made['trial']} re-trained: {made['package']}{reached}")
    console.print(f"report: {page}")
