"""`haechi bench serve`: put a server under load and say how fast it answers and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput, HaechiError

if TYPE_CHECKING:
    from shared.bench_serve import Bench, Run

_DEFAULT_CONCURRENCY = "1,8,32"
_MOST_CLIENTS = 4096


def serve(
    url: str = typer.Argument(metavar="URL", help="The server, such as http://127.0.0.1:8000."),
    model: str = typer.Option(..., "--model", metavar="M", help="Name of the model to ask."),
    version: str = typer.Option("", "--version", metavar="V", help="Its version (default: the one that answers)."),
    concurrency: str = typer.Option(
        _DEFAULT_CONCURRENCY, "--concurrency", metavar="N,…", help="Clients at a time; measured one after the other."
    ),
    seconds: float = typer.Option(10.0, "--seconds", min=0.1, help="How long each of them is measured."),
    rate: float | None = typer.Option(
        None, "--rate", min=0.01, help="Offer this many requests a second instead of as many as the clients can."
    ),
    batch: int = typer.Option(1, "--batch", min=1, help="Inferences in one request."),
    shape: list[str] = typer.Option(
        [], "--shape", metavar="INPUT=N,…", help="Shape of an input whose model leaves it open; may be repeated."
    ),
    image: Path | None = typer.Option(
        None, "--image", metavar="FILE", help="Send this image file, which the server decodes, instead of numbers."
    ),
    timeout_ms: float | None = typer.Option(
        None, "--timeout-ms", min=1, metavar="T", help="Want answers within T ms; the server may refuse the rest."
    ),
    key: str = typer.Option("", "--key", envvar="HAECHI_KEY", help="Key with the role operator; better as HAECHI_KEY."),
    cores: int | None = typer.Option(
        None, "--cores", min=1, help="Cores of the server (default: of this machine, if it runs here)."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the random numbers that are sent."),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON."),
) -> None:
    """How fast a server answers under load, what it refuses, and what each request costs it.

    Any server of the Open Inference Protocol v2 will do; ours needs a key:

    \b
      export HAECHI_KEY=$(haechi serve --create-key bench:operator)
      haechi serve --packages flange &
      haechi bench serve http://127.0.0.1:8000 --model flange --shape image=1,480,640,3

    Inputs are made from the model's metadata and travel as binary tensors. CPU time and memory are those of the
    server's processes where it runs on this machine; this command then takes a share of the same cores, told as
    client CPU. Efficiency is accepted inferences/s × model milliseconds ÷ cores: 1 would be a server that is free.
    """
    from shared import machine
    from shared.bench_serve_payload import make, parse_shapes
    from shared.bench_serve_server import Server, parse_url

    clients = _clients(concurrency)
    shapes = parse_shapes(shape)
    server = Server(parse_url(url), key)
    payload = make(server.metadata(model, version), batch=batch, shapes=shapes, image=image, seed=seed)
    facts = machine.facts()
    for name, value in facts.items():
        typer.echo(f"{name:<8} {value}")
    from shared.bench_serve import Bench

    bench = Bench(server, model, version, payload, timeout_ms, cores)
    runs = _measure(bench, clients, seconds, rate)
    options = {"concurrency": clients, "seconds": seconds, "rate": rate, "timeout_ms": timeout_ms, "seed": seed}
    if json_file is not None:
        from shared.files import write_json

        write_json(json_file, {"machine": facts, "options": options, **_described(bench, url, runs)})
    _print(bench, runs)
    _fail_if_nothing_was_answered(runs)


def _clients(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= _MOST_CLIENTS for word in words):
        raise BadInput(f"--concurrency {text} must be numbers from 1 to {_MOST_CLIENTS} with commas, such as 1,8,32.")
    return [int(word) for word in words]


def _measure(bench: Bench, clients: Sequence[int], seconds: float, rate: float | None) -> list[Run]:
    from shared.progress import stage

    runs = []
    with stage("warm-up", len(clients) + 1) as bar:
        bench.warm_up()
        bar.advance()
        for count in clients:
            bar.describe(f"{count} client{'s' if count > 1 else ''}, {seconds:g} s")
            runs.append(bench.run(count, seconds, rate))
            bar.advance()
    return runs


def _described(bench: Bench, url: str, runs: Sequence[Run]) -> dict[str, Any]:
    time = bench.model_time
    return {
        "url": url,
        "model": bench.model,
        "version": bench.version,
        "payload": bench.payload.as_dict(),
        "model_ms": time.milliseconds if time else None,
        "model_ms_source": time.source if time else None,
        "cores": bench.cores,
        "server_processes": list(bench.process_names),
        "runs": [run.as_dict() for run in runs],
    }


def _print(bench: Bench, runs: Sequence[Run]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shared.manifest import printable

    tensors = ", ".join(f"{printable(t.name)} {t.datatype} {list(t.shape)}" for t in bench.payload.tensors)
    typer.echo(f"sent     {tensors}: {bench.payload.size / 1e3:.1f} kB a request")
    if bench.model_time is not None:
        typer.echo(f"model    {bench.model_time.milliseconds:.3f} ms: {bench.model_time.source}")
    typer.echo(f"server   {', '.join(bench.process_names) or 'its processes cannot be seen from here'}")
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 180  # a log or a pipe has no width to fold to
    table = Table(box=box.SIMPLE_HEAD)
    kinds = [kind for kind in runs[0].errors if any(run.errors[kind] for run in runs)]
    refused = any(run.refused_p99_ms is not None for run in runs)
    titles = ["clients", "requests/s", "p50 ms", "p90", "p95", "p99", "max", *kinds]
    titles += ["refused p99 ms"] if refused else []
    for title in (*titles, "CPU ms/request", "client's", "memory MB", "efficiency"):
        table.add_column(title, justify="right")
    for run in runs:
        times = (run.p50_ms, run.p90_ms, run.p95_ms, run.p99_ms, run.max_ms)
        table.add_row(
            str(run.concurrency),
            f"{run.requests_per_s:.1f}",
            *(_number(value) for value in times),
            *(str(run.errors[kind]) for kind in kinds),
            *([_number(run.refused_p99_ms)] if refused else []),
            _number(run.cpu_ms_per_request),
            _number(run.client_cpu_ms_per_request),
            "-" if run.rss_mb_after is None else f"{run.rss_mb_before:.0f} → {run.rss_mb_after:.0f}",
            _number(run.efficiency),
        )
    console.print(table)
    for line in _remarks(runs):
        typer.echo(line)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _remarks(runs: Sequence[Run]) -> list[str]:
    """What the table cannot say."""
    lines = []
    for run in runs:
        if not run.agrees:
            lines.append(
                f"{run.concurrency} clients: {run.accepted} answers arrived, the server counts {run.server_success}; "
                "somebody else asks it as well, or answers got lost."
            )
        if run.unsent:
            lines.append(f"{run.concurrency} clients: {run.unsent} requests were due while every client was waiting.")
    said = {text: status for run in runs for status, text in run.words.items()}
    return lines + [f"{status}: {text}" for text, status in said.items()]


def _fail_if_nothing_was_answered(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.accepted == 0:
            words = next(iter(run.words.values()), "no answer came")
            raise HaechiError(f"with {run.concurrency} clients not one request succeeded: {words.rstrip('.')}.")
