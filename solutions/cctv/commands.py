"""`haechi cctv`: run, judge, evaluate, replay, train.

What a verb prints goes to stdout, the whole result into `--json FILE`, events into `--events FILE`, a JSON line each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from solutions.cctv.evaluation import Evaluation
    from solutions.cctv.service import Summary

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Watch cameras: safety and security events.")

_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON.")
_EVENTS = typer.Option(None, "--events", metavar="FILE", help="Write each event there as a JSON line.")
_DETECTOR = typer.Option(
    None,
    "--detector",
    metavar="PACKAGE",
    help="Package that finds the objects: a path or a name in the registry. Default: the site's, else the person "
    "detector that Haechi brings. `haechi package import` makes one of YOLOX, PicoDet or YOLO.",
)
_THREADS = typer.Option(None, "--threads", min=1, help="Threads for the detector (default: every core).")
_SHOWN = 12


@app.callback()
def _noun() -> None:
    """Watch cameras: safety and security events with evidence."""


@app.command()
def run(
    site: Path = typer.Argument(..., metavar="SITE.yaml", help="Cameras, zones, rules and sinks; see the README."),
    events: Path | None = _EVENTS,
    until_end: bool = typer.Option(False, "--until-end", help="End when all sources have ended (files, folders)."),
    detector: str | None = _DETECTOR,
    threads: int | None = _THREADS,
    json_file: Path | None = _JSON,
) -> None:
    """Watch the cameras of a site until interrupted; with --until-end, until their files are through."""
    from solutions.cctv.config import load
    from solutions.cctv.service import Service

    with Service(load(site), site_file=site, detector=detector, threads=threads, events=events) as service:
        summary = service.run(until_end=until_end)
    _tell(summary)
    _write(json_file, summary.as_dict())


@app.command()
def judge(
    clip: Path = typer.Argument(..., metavar="CLIP", help="A video file."),
    truth: Path = typer.Argument(..., metavar="TRUTH.json", help="Its zones, lines, params, types and true events."),
    detector: str | None = _DETECTOR,
    threads: int | None = _THREADS,
    events: Path | None = _EVENTS,
    json_file: Path | None = _JSON,
) -> None:
    """Run a clip with every type that its truth is annotated for, at default settings, and score what was announced.

    Where the truth holds no events, they are only written.
    """
    from solutions.cctv import evaluation
    from solutions.cctv.judging import site_of
    from solutions.cctv.service import Service, size_of

    told = evaluation.read_truth(truth)
    site = site_of(told, clip, size_of(clip), detector)
    with Service(site, threads=threads, events=events, clip=told.clip, keep=False) as service:
        summary = service.run(until_end=True)
    _tell(summary)
    result = summary.as_dict()
    if "events" in told.raw:
        found = evaluation.judge([told], {told.clip: evaluation.happenings(summary.lines)})
        _show(found)
        result |= found.as_dict()
    _write(json_file, result)


@app.command()
def evaluate(
    truth: Path = typer.Argument(..., metavar="TRUTH", help="A truth file, or a folder of them."),
    predicted: Path = typer.Argument(..., metavar="PREDICTED", help="Events as JSON lines, or a folder of such files."),
    early: float = typer.Option(2.0, "--early", min=0, help="An event may be announced so many seconds too early."),
    late: float = typer.Option(10.0, "--late", min=0, help="Or so many too late."),
    json_file: Path | None = _JSON,
) -> None:
    """Precision, recall and F1 of announced events for each type, and false alarms per hour."""
    from solutions.cctv import evaluation

    truths = evaluation.read_truths(truth)
    files = sorted(predicted.glob("*.jsonl")) if predicted.is_dir() else [predicted]
    events: dict[str, list[evaluation.Happening]] = {}
    for file in files:
        for clip, found in evaluation.read_events(file).items():
            events.setdefault(clip or file.stem, []).extend(found)
    result = evaluation.judge(truths, evaluation.of_clips(truths, events), early_s=early, late_s=late)
    _show(result)
    _write(json_file, result.as_dict())


@app.command()
def replay(
    clip: Path = typer.Argument(..., metavar="CLIP", help="A video file."),
    site: Path = typer.Argument(..., metavar="SITE.yaml", help="The site whose camera the clip is of."),
    camera: str | None = typer.Option(None, "--camera", help="Which camera of the site (default: the only one)."),
    output: Path | None = typer.Option(
        None, "--output", "-o", metavar="FILE.mp4", help="Write the clip there with tracks, zones and decisions drawn."
    ),
    detector: str | None = _DETECTOR,
    threads: int | None = _THREADS,
    json_file: Path | None = _JSON,
) -> None:
    """Show what was seen and decided, frame by frame: for tuning zones and rules."""
    from solutions.cctv.config import load
    from solutions.cctv.replay import replay as play

    _write(json_file, play(clip, load(site), camera, output, detector, threads, typer.echo))


@app.command()
def train(
    dataset: Path = typer.Argument(
        ..., metavar="DATASET", help="Pictures with boxes: YOLO folders, data.yaml or COCO."
    ),
    output: Path = typer.Option(..., "--output", "-o", metavar="PACKAGE", help="Package to write."),
    base: str = typer.Option("yolo11n", "--base", help="Network to start from, by name or a .pt file."),
    scratch: bool = typer.Option(False, "--scratch", help="From random weights, where trained ones cannot be had."),
    epochs: int = typer.Option(50, "--epochs", min=1, help="Times that each picture is seen."),
    image_size: int = typer.Option(416, "--image-size", min=64, help="Pixels a side that the model sees."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of every random step."),
    json_file: Path | None = _JSON,
) -> None:
    """Fine-tune a detector on your own pictures: helmets, vests, fire, forklifts."""
    from solutions.cctv.training import train as fit

    result = fit(dataset, output, base=base, epochs=epochs, image_size=image_size, seed=seed, scratch=scratch)
    typer.echo(f"{result['package']}: {result['metric']} {result['metrics'][result['metric']]:.3f}")
    _write(json_file, result)


def _tell(summary: Summary) -> None:
    for line in summary.sentences():
        typer.echo(line)


def _show(found: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("type", "found", "missed", "false", "precision", "recall", "F1", "false/h"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for name, tally in sorted(found.types.items()):
        row = tally.as_dict()
        keys = ("tp", "fn", "fp", "precision", "recall", "f1", "false_alarms_per_hour")
        table.add_row(name, *("–" if row[key] is None else f"{row[key]:g}" for key in keys))
    Console().print(table)
    for one in found.mismatches[:_SHOWN]:
        place = one.event.zone or one.event.line or ""
        typer.echo(f"{one.kind:7} {one.event.type} {place} {one.event.direction or ''} at {one.event.start_s:.2f} s")
    if len(found.mismatches) > _SHOWN:
        typer.echo(f"and {len(found.mismatches) - _SHOWN} more, all in --json.")


def _write(json_file: Path | None, result: dict[str, Any]) -> None:
    from shared import files

    if json_file is not None:
        files.write_json(json_file, result)
