"""`haechi inspection`: train, evaluate, predict, run.

Only `train` needs the training extra; the other verbs run on the base install. What a verb prints goes to stdout, notes
about single files to stderr, and the whole result into `--json FILE`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from data_tools.dataset import DatasetReport
    from shared.images import Rgb
    from shared.records import StoredResult
    from shared.training.config import TrainConfig
    from shared.training.packaging import Trained
    from solutions.inspection.pipeline import Decision, Inspector
    from solutions.inspection.training import Anomaly

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Judge parts: learn from photographs of good ones.")

_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON.")
_THREADS = typer.Option(None, "--threads", min=1, help="Threads for inference (default: every core).")
_PACKAGE = typer.Argument(metavar="PACKAGE", help="A package folder, a zip, or a name in the registry (flange@3).")
_SHOWN = 5


@app.callback()
def _noun() -> None:
    """Judge parts: learn from photographs of good ones."""


@app.command()
def train(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder of photographs; see `haechi data validate`."),
    output: Path = typer.Option(
        ..., "--output", "-o", metavar="PACKAGE", help="Package to write: a folder, or a .zip."
    ),
    model: str = typer.Option(
        "auto", "--model", help="auto (tries all, keeps the best), patchcore, padim, discriminator, fusion."
    ),
    backbone: str = typer.Option("efficientnet-lite0", "--backbone", help="Pretrained network that sees the features."),
    image_size: int | None = typer.Option(None, "--image-size", help="Pixels a side that the model sees."),
    max_overkill: float = typer.Option(0.01, "--max-overkill", help="Share of good parts that may not pass as OK."),
    max_escape: float = typer.Option(
        0.01,
        "--max-escape",
        help="Share of defective parts that may miss NG; counts only where DATA has a bad/ folder.",
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="The same seed, data and machine give the same model."),
    name: str = typer.Option("", "--name", help="Name of the model (default: that of PACKAGE)."),
    version: str = typer.Option("1", "--version", help="Its version, for people; the registry counts its own."),
    sign: Path | None = typer.Option(None, "--sign", metavar="KEY.pem", help="Sign with this key (`package keygen`)."),
    report: Path | None = typer.Option(None, "--report", metavar="FILE", help="Also write the report there as HTML."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="Threads for training (default: every core)."),
    json_file: Path | None = _JSON,
) -> None:
    """Learn from photographs of good parts, and write a model package.

    Pictures in test/ are never looked at here. A package at PACKAGE is replaced in one step once the new one is whole.
    """
    config = _config(
        data,
        seed,
        name,
        version,
        model=model,
        backbone=backbone,
        image_size=image_size,
        max_overkill=max_overkill,
        max_escape=max_escape,
    )
    from shared.training.packaging import check_places, run_folder, train_package
    from solutions.inspection.training import Anomaly

    check_places(output, run_folder(output), resume=True)
    if sign is not None:
        from shared import signing

        signing.sign(sign, b"")  # a key that cannot be used is said before the work, not after
    found = _scan(data)
    _print_left_out(found)
    task = Anomaly(config, data=found, threads=threads)
    trained = train_package(config, output, task=task, signing_key=sign)
    if report is not None:
        _copy_report(trained.path, report)
    if json_file is not None:
        from shared.files import write_json

        write_json(json_file, trained_dict(trained, task, threads))
    _print_trained(trained, task, report)


@app.command()
def evaluate(
    package: str = _PACKAGE,
    data: Path = typer.Argument(..., metavar="DATA", help="Folder with test/good and test/<defect>, or good and bad."),
    report: Path | None = typer.Option(None, "--report", metavar="FILE", help="Also write a report there as HTML."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the intervals' resampling."),
    threads: int | None = _THREADS,
    json_file: Path | None = _JSON,
) -> None:
    """Measure a package on pictures it has not seen: AUROC, AUPRO, overkill, escape, review, latency."""
    from shared.progress import counted
    from shared.registry import locate
    from solutions.inspection.evaluation import evaluate_files

    with counted("judging") as tick:
        inspector, evaluation = evaluate_files(locate(package), data, threads, seed=seed, progress=tick)
    if report is not None:
        from solutions.inspection.report import contents_of, write_report

        write_report(report, contents_of(inspector, evaluation, inspector.model.manifest))
    if json_file is not None:
        from shared.files import write_json

        write_json(json_file, evaluation.metrics)
    _print_metrics(evaluation.metrics)
    if report is not None:
        typer.echo(f"report: {report}")


@app.command()
def predict(
    package: str = _PACKAGE,
    images: list[Path] = typer.Argument(..., metavar="IMAGE…", help="Pictures, or folders of them."),
    heatmap: Path | None = typer.Option(None, "--heatmap", metavar="DIR", help="Write heat maps with boxes there."),
    threads: int | None = _THREADS,
    json_file: Path | None = _JSON,
) -> None:
    """Judge pictures: score, verdict (OK, REVIEW or NG) and the boxes of what is wrong, in pixels of the picture.

    A picture that cannot be read is named at the end (exit code 2); the others are judged all the same.
    """
    from shared.progress import track
    from shared.registry import locate
    from solutions.inspection.pipeline import Inspector

    files, problems = pictures_of(images, heatmap)
    inspector = Inspector.load(locate(package), threads=threads)
    names = heatmap_names(files)
    results: list[dict[str, Any]] = []
    for file in track(files, "judging"):
        try:
            results.append(_predict_one(inspector, file, heatmap / names[file] if heatmap is not None else None))
        except BadInput as error:
            problems.append(str(error))
            continue
        typer.echo(_line_of(results[-1]))
    if json_file is not None:
        from shared.files import write_json

        write_json(json_file, results)
    if problems:
        many = f"{len(problems)} of {len(results) + len(problems)} could not be judged, the first: "
        raise BadInput((many if len(problems) > 1 else "") + problems[0])


@app.command()
def run(
    package: str = _PACKAGE,
    folder: Path = typer.Argument(..., metavar="FOLDER", help="Where a camera or a station drops pictures."),
    once: bool = typer.Option(False, "--once", help="Judge what is there and end."),
    interval: float = typer.Option(0.5, "--interval", min=0.05, max=3600, help="Seconds between looks at the folder."),
    threads: int | None = _THREADS,
    json_file: Path | None = typer.Option(
        None, "--json", metavar="FILE", help="Append each decision there as a line of JSON."
    ),
) -> None:
    """Judge pictures as they arrive in a folder, each once, and record every decision; the console lists them.

    Nothing in the folder is moved or changed. Ctrl-C or SIGTERM ends it after the picture at hand.
    """
    from shared import log, settings
    from shared.pictures import PictureStore
    from shared.records import Records
    from shared.registry import locate
    from solutions.inspection.pipeline import Inspector
    from solutions.inspection.watch import Folder, Station

    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; name the one in which pictures arrive.")
    log.configure()
    inspector = Inspector.load(locate(package), threads=threads)
    manifest = inspector.model.manifest
    with Records.open() as records, _stop_signals() as stop:
        station = Station(
            inspector,
            records,
            PictureStore(settings.load().home / "pictures"),
            lines=json_file,
            say=_say_decision,
            complain=lambda sentence: typer.echo(f"note: {printable(sentence)}", err=True),
        )
        typer.echo(f"{manifest.name} {manifest.version} watches {folder}", err=True)
        station.run(Folder(folder), stop, interval=interval, once=once)
    counts = ", ".join(f"{station.verdicts[verdict]} {verdict}" for verdict in ("OK", "REVIEW", "NG"))
    before = f"; {station.known} had been judged before" if station.known else ""
    typer.echo(f"{station.verdicts.total()} judged: {counts}{before}")
    if once and station.unreadable:
        raise BadInput(f"unreadable pictures in {folder}: {station.unreadable}; the notes above name them.")


# -- training --------------------------------------------------------------------------------------------------------


def _config(data: Path, seed: int, name: str, version: str, **section: Any) -> TrainConfig:
    """What `haechi train` would read from a YAML file. BadInput names the option, as the user wrote it."""
    import difflib

    from pydantic import ValidationError

    from shared.training.config import TrainConfig
    from solutions.inspection.config import MODELS, Model

    for option, value, pattern, words in (
        ("name", name, r"([a-z0-9][a-z0-9_.-]{0,63})?", "lower-case letters, digits, _ . and -"),
        ("version", version, r"[^\W_][\w.+-]{0,63}", "letters, digits, _ . + and -"),
    ):
        if not re.fullmatch(pattern, value):
            raise BadInput(f"--{option} {value!r} cannot be used; it takes {words}, 64 at most.")
    kind, known = section.pop("model"), ("auto", *MODELS)
    if kind not in known:
        nearest = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(known)}."
        raise BadInput(f"--model {kind} is unknown; {hint}")
    try:
        checked = Model(kind=kind, **section)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise BadInput(f"{option} {first['input']}: {message}.") from error
    return TrainConfig(
        task="anomaly",
        data={"path": str(data)},
        model=checked.model_dump(mode="json"),
        seed=seed,
        name=name,
        version=version,
    )


def _scan(data: Path) -> DatasetReport:
    from data_tools.dataset import scan
    from shared.progress import counted

    with counted("looking at pictures") as tick:
        return scan(data, progress=tick)


def _print_left_out(data: DatasetReport) -> None:
    counts = ", ".join(f"{count} in {name}" for name, count in data.counts.items())
    typer.echo(printable(f"{data.root}: layout {data.layout}, {counts}"), err=True)
    for sentence in data.warnings:
        typer.echo(f"note: {printable(sentence)}", err=True)
    for path, reason in data.left_out[:_SHOWN]:
        typer.echo(f"left out: {printable(data.relative(path))}: {printable(reason)}", err=True)
    if len(data.left_out) > _SHOWN:
        more = len(data.left_out) - _SHOWN
        typer.echo(f"left out: {more} more; `haechi data validate {printable(str(data.root))}` lists all", err=True)


def trained_dict(trained: Trained, task: Anomaly, threads: int | None) -> dict[str, Any]:
    """What `train --json` writes."""
    from solutions.inspection.evaluation import package_bytes

    manifest, learned = trained.manifest, task.learned
    assert manifest is not None
    assert learned is not None
    asked = {"name": task.config.name, "version": task.config.version, "threads": threads}
    value = {
        "package": str(trained.path),
        "name": manifest.name,
        "version": manifest.version,
        "model": manifest.lineage.settings.get("model"),
        "package_bytes": package_bytes(trained.path),
        "seconds": trained.seconds,
        "settings": task.model.settings(task.config.seed) | asked,
        "candidates": learned.candidates,
        "thresholds": {name: threshold.model_dump() for name, threshold in manifest.thresholds.items()},
        "promise": manifest.thresholds["review"].details.get("promise", ""),
        "table": [row.to_dict() for row in learned.table],
        "good_scores": learned.good_scores,
        "metrics": manifest.metrics,
        "notes": learned.notes,
        "data": task.data.to_dict(),
    }
    return {key: _finite(item) for key, item in value.items()}


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null says that there is no figure."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _copy_report(package: Path, destination: Path) -> None:
    from shared.files import write_bytes
    from shared.package import open_package

    write_bytes(destination, open_package(package).asset("report.html"))


def _print_trained(trained: Trained, task: Anomaly, report: Path | None) -> None:
    from solutions.inspection import tables
    from solutions.inspection.evaluation import package_bytes

    manifest, learned = trained.manifest, task.learned
    assert manifest is not None
    assert learned is not None
    tables.show(tables.candidates(learned.candidates), tables.thresholds(manifest.thresholds))
    for sentence in trained.notes:
        typer.echo(sentence)
    tables.show(tables.expected(learned.table))
    size = package_bytes(trained.path) / 1e6
    typer.echo(printable(f"{trained.path}: {size:.1f} MB, trained in {trained.seconds:.0f} s"))
    inside = trained.path / "assets" / "report.html"
    if report is not None or inside.is_file():
        typer.echo(printable(f"report: {report or inside}"))


# -- evaluation and prediction ---------------------------------------------------------------------------------------


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    from solutions.inspection import tables

    tables.show(tables.metrics(metrics))
    if metrics.get("kinds"):
        tables.show(tables.kinds(metrics["kinds"]))


def pictures_of(given: list[Path], heatmaps: Path | None) -> tuple[list[Path], list[str]]:
    """The pictures that the arguments mean, each once, and a sentence for each argument that means none.

    Raises:
        BadInput: heat maps would land among the pictures.
    """
    from shared.images import EXTENSIONS

    files: dict[Path, None] = {}
    problems = []
    for path in given:
        if not path.is_dir():
            files[path] = None
            continue
        if heatmaps is not None and heatmaps.absolute() == path.absolute():
            raise BadInput(f"--heatmap {heatmaps} is the folder of the pictures; name another one.")
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in EXTENSIONS
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and not (heatmaps is not None and file.absolute().is_relative_to(heatmaps.absolute()))
            and file.is_file()
        ]
        files.update(dict.fromkeys(inside))
        if not inside:
            problems.append(f"{path} has no pictures in it; name files, or a folder with PNG, JPEG, BMP or TIFF.")
    return list(files), problems


def heatmap_names(files: list[Path]) -> dict[Path, str]:
    """A file name for each picture's heat map; pictures of the same name get theirs numbered."""
    taken: set[str] = set()
    names = {}
    for file in files:
        stem, number = f"{file.stem}_heatmap", 1
        while (name := f"{stem}.png" if number == 1 else f"{stem}-{number}.png").lower() in taken:
            number += 1
        taken.add(name.lower())
        names[file] = name
    return names


def _predict_one(inspector: Inspector, file: Path, heatmap: Path | None) -> dict[str, Any]:
    from shared.errors import HaechiError
    from shared.files import write_bytes
    from shared.images import encode_png, read_image

    image = read_image(file)
    decision = inspector.inspect(image)
    if not math.isfinite(decision.score):
        raise HaechiError(f"{inspector.model.package.path} gave the score {decision.score} for {file}; train it again.")
    if heatmap is not None:
        write_bytes(heatmap, encode_png(_drawn(inspector, image, decision)))
    return describe(printable(str(file)), decision, heatmap)


def _drawn(inspector: Inspector, image: Rgb, decision: Decision) -> Rgb:
    from solutions.inspection.overlay import overlay

    boxes = [region.box for region in decision.regions]
    return overlay(image, decision.heatmap, boxes, inspector.thresholds)


def describe(file: str, decision: Decision, heatmap: Path | None = None) -> dict[str, Any]:
    """A decision as `predict --json` writes it; `box` is that of the strongest region."""
    regions = [{"box": list(region.box), "score": region.score, "area": region.area} for region in decision.regions]
    value = {
        "file": file,
        "score": decision.score,
        "verdict": decision.verdict,
        "regions": regions,
        "box": regions[0]["box"] if regions else None,
        "latency_ms": round(decision.latency_ms, 3),
    }
    return value if heatmap is None else value | {"heatmap": printable(str(heatmap))}


def _line_of(result: Mapping[str, Any]) -> str:
    where = "" if result["box"] is None else "  {},{} - {},{}".format(*result["box"])
    more = f" and {len(result['regions']) - 1} more" if len(result["regions"]) > 1 else ""
    return f"{result['verdict']:<6}  {result['score']:<9.4g}  {result['file']}{where}{more}"


# -- run -------------------------------------------------------------------------------------------------------------


def _say_decision(result: StoredResult) -> None:
    values = {"regions": result.regions, "box": result.regions[0]["box"] if result.regions else None}
    shown = values | {"verdict": result.verdict, "score": result.score, "file": printable(result.source)}
    typer.echo(f"{result.time.astimezone():%H:%M:%S}  {_line_of(shown)}")


@contextlib.contextmanager
def _stop_signals() -> Iterator[Any]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    import signal
    from threading import Event

    stop = Event()

    def ask(number: int, _frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def printable(text: str) -> str:
    """`text` as a terminal and a JSON file can take it: no control characters, and file names that are no UTF-8."""
    from data_tools.layout import printable as as_utf8

    return "".join(letter if letter.isprintable() else "?" for letter in as_utf8(text))
