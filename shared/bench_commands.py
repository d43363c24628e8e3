"""`haechi bench`: measure packages side by side on this machine; `bench_serve_commands.py` measures servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.bench_serve_commands import serve

if TYPE_CHECKING:
    import numpy as np

    from shared.bench import Ratio, Timing
    from shared.runtime import Model

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure packages and servers on this machine.")
app.command("serve")(serve)


@app.callback()
def _noun() -> None:
    """Measure packages side by side on this machine, and servers under load."""


@dataclass(frozen=True)
class _Row:
    """What was measured of one package."""

    name: str
    model: Model
    timing: Timing
    ratio: Ratio
    memory: int | None


@app.command("model")
def model_(
    packages: list[str] = typer.Argument(metavar="PACKAGE…", help="Folders, zips or names in the registry (flange@3)."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="Threads of a call (default: every core)."),
    provider: str = typer.Option("auto", "--provider", help="Where they run: auto, cpu, cuda, tensorrt."),
    repeat: int = typer.Option(200, "--repeat", min=6, help="Rounds; every package is called in each."),
    batch: int = typer.Option(1, "--batch", min=1, help="Samples in a call."),
    data: Path | None = typer.Option(
        None, "--data", metavar="DATA", help="Run on a sample of this data set instead of the golden samples."
    ),
    memory: bool = typer.Option(True, help="Also measure peak memory, in a process of its own for each."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the order in which they take turns."),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON."),
) -> None:
    """Latency percentiles, throughput, memory and size of packages, side by side.

    The packages take turns in rounds, in shuffled order, so that a noisy machine favours none. The last column is the
    time of each over that of the first in the same round, with its 95 % interval: 0.5 is twice as fast.
    """
    from shared import machine
    from shared.bench import measure, peak_memory
    from shared.progress import track
    from shared.registry import locate
    from shared.runtime import load

    facts = machine.facts()
    for key, value in facts.items():
        typer.echo(f"{key:<8} {value}")
    names = _names(packages)
    paths = {name: locate(package) for name, package in zip(names, packages, strict=True)}
    models = {name: load(path, provider, threads) for name, path in paths.items()}
    inputs = {name: _inputs(model, data, batch) for name, model in models.items()}
    peaks: dict[str, int | None] = dict.fromkeys(names)
    if memory:
        for name in track(names, "memory"):
            peaks[name] = peak_memory(paths[name], models[name].threads, provider, inputs[name])
    timings = measure(models, inputs, repeats=repeat, warmup=max(repeat // 10, 3), seed=seed)
    first = timings[names[0]]
    rows = [_Row(name, models[name], timings[name], timings[name].ratio_to(first), peaks[name]) for name in names]
    if json_file is not None:
        from shared.files import write_json

        options = {"threads": threads, "provider": provider, "repeat": repeat, "batch": batch, "seed": seed}
        described = [_as_dict(row) for row in rows]
        write_json(json_file, {"machine": facts, "options": options, "packages": described})
    _print(rows)


def _names(packages: Sequence[str]) -> list[str]:
    """What was given, numbered where it was given twice (which is how to see the noise)."""
    names: list[str] = []
    for package in packages:
        number = sum(package == other for other in packages[: len(names)]) + 1
        names.append(package if number == 1 else f"{package} ({number})")
    return names


def _inputs(model: Model, data: Path | None, batch: int) -> Mapping[str, np.ndarray]:
    from shared.bench import golden_inputs, with_batch

    if data is None:
        return golden_inputs(model.package, batch)
    from shared.evaluation import open_data

    return with_batch(model.package, open_data(model.package, data).example(), batch)


def _as_dict(row: _Row) -> dict[str, Any]:
    package = row.model.package
    return {
        "package": row.name,
        "name": package.manifest.name,
        "version": package.manifest.version,
        "fingerprint": package.fingerprint,
        "provider": row.model.provider,
        "threads": row.model.threads,
        "bytes": package.size,
        "model_bytes": len(package.model),
        "peak_memory_bytes": row.memory,
        **row.timing.as_dict(),
        "time_to_first": {"point": row.ratio.point, "low": row.ratio.low, "high": row.ratio.high},
    }


def _print(rows: Sequence[_Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shared.manifest import printable

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 180  # a log or a pipe has no width to fold to
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("package", overflow="fold")
    table.add_column("on")
    for title in ("p50 ms", "p90", "p95", "p99", "samples/s", "memory MB", "size MB", "time to the first (95 %)"):
        table.add_column(title, justify="right")
    for row in rows:
        timing = row.timing
        table.add_row(
            printable(row.name),
            f"{row.model.provider.removesuffix('ExecutionProvider')} ×{row.model.threads}",
            *(f"{value:.2f}" for value in (timing.p50, timing.p90, timing.p95, timing.p99)),
            f"{timing.throughput:.1f}",
            "-" if row.memory is None else f"{row.memory / 1e6:.1f}",
            f"{row.model.package.size / 1e6:.2f}",
            "1" if row is rows[0] else f"{row.ratio.point:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f})",
        )
    console.print(table)
