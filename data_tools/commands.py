"""`haechi data`: check data sets, and make a synthetic one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from data_tools.dataset import DatasetReport

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Check and make data sets.")

_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON.")
_SHOWN = 40


@app.callback()
def _noun() -> None:
    """Check and make data sets."""


@app.command()
def validate(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder of photographs."),
    json_file: Path | None = _JSON,
    need_good: int = typer.Option(10, "--need-good", min=0, help="Usable good pictures for training that must remain."),
) -> None:
    """Report which pictures can be used, which are left out and why, and the data set's fingerprint."""
    from data_tools.dataset import scan
    from shared.files import write_json
    from shared.progress import stage

    with stage("looking at pictures") as bar:
        report = scan(data, need_good=need_good, progress=lambda _done, _total: bar.advance())
    if json_file is not None:
        write_json(json_file, report.to_dict())
    _print(report)


def _print(report: DatasetReport) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"{report.root}: layout {report.layout}, {len(report.items)} usable pictures"))
    console.print(_counts(report))
    for sentence in report.warnings:
        console.print(Text(f"note: {sentence}", style="yellow"))
    if report.left_out:
        console.print(_left_out(report))
    console.print(Text(f"fingerprint {report.fingerprint}"))


def _counts(report: DatasetReport) -> Table:
    from rich.table import Table

    table = Table(show_edge=False)
    table.add_column("pictures")
    table.add_column("count", justify="right")
    table.add_column("masks", justify="right")
    for name, count in report.counts.items():
        masks = sum(item.mask is not None for item in report.items if f"{item.split}/{item.label}" == name)
        table.add_row(name, str(count), str(masks) if masks else "")
    sizes = [f"{size} ({count})" for size, count in list(report.sizes.items())[:4]]
    more = len(report.sizes) - len(sizes)
    table.caption = "sizes: " + ", ".join(sizes) + (f" and {more} more" if more > 0 else "")
    return table


def _left_out(report: DatasetReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{len(report.left_out)} left out", show_edge=False, title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("reason", overflow="fold")
    for path, reason in report.left_out[:_SHOWN]:
        table.add_row(Text(report.relative(path)), Text(reason))
    if len(report.left_out) > _SHOWN:
        table.add_row("…", f"and {len(report.left_out) - _SHOWN} more; --json FILE lists all")
    return table


@app.command()
def synthesize(
    out: Path = typer.Argument(..., metavar="OUT", help="Folder to make."),
    good: int = typer.Option(
        60, "--good", min=0, help="Good parts for training; a third as many for testing are added."
    ),
    bad: int = typer.Option(40, "--bad", min=0, help="Defective parts for testing, with masks."),
    seed: int = typer.Option(0, "--seed", min=0, help="The same seed gives the same pictures."),
    size: int = typer.Option(256, "--size", min=64, max=2048, help="Pixels on each side."),
    part: str = typer.Option("flange", "--part", help="flange (turned disc) or bracket (brushed plate)."),
    replace: bool = typer.Option(False, "--replace", help="Put it in the place of an existing folder."),
    json_file: Path | None = _JSON,
) -> None:
    """Make photographs of machined parts with scratches, dents, stains and missing holes, in the MVTec layout."""
    from data_tools import synthesize as made_by
    from shared.files import write_json
    from shared.progress import stage

    with stage("drawing parts") as bar:
        made = made_by.synthesize(
            out,
            good=good,
            bad=bad,
            seed=seed,
            size=size,
            part=part,
            replace=replace,
            progress=lambda _done, _total: bar.advance(),
        )
    if json_file is not None:
        write_json(json_file, made.to_dict())
    for folder, count in made.counts.items():
        typer.echo(f"{count:5d}  {folder}")
    typer.echo(f"{sum(made.counts.values()):5d}  pictures in {made.root}")
