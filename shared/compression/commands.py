"""`haechi compress`: a package becomes a smaller and faster one, with a certificate of what that cost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.compression.ladder import Climbed, Options, Step

_RUNGS = "clean, weights, fp16, dynamic, int8, int8-without, prune, student, qat"


def compress(
    package: str = typer.Argument(metavar="PACKAGE", help="A package folder, a zip, or a name in the registry."),
    output: Path = typer.Option(..., "--output", "-o", metavar="PACKAGE", help="Package to write: a folder or a .zip."),
    target: str = typer.Option(..., "--target", help="x86-vnni, x86, arm64, cuda or tensorrt."),
    data: Path = typer.Option(
        ..., "--data", metavar="DATA", help="Data set: its training split calibrates, the held-out one judges."
    ),
    max_drop: float = typer.Option(
        0.005, "--max-drop", min=0.0, max=1.0, help="How much the package's own metric may fall (0.005: half a point)."
    ),
    max_latency_ms: float | None = typer.Option(None, "--max-latency-ms", help="Median milliseconds for one sample."),
    max_bytes: int | None = typer.Option(None, "--max-bytes", min=1, help="Size of the whole package."),
    min_speedup: float | None = typer.Option(None, "--min-speedup", help="Times as fast as the parent."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads of a call while measuring."),
    samples: int = typer.Option(64, "--samples", min=1, help="Samples to calibrate with."),
    epochs: int = typer.Option(20, "--epochs", min=1, help="Of learning, for the rungs that train."),
    teacher: list[str] = typer.Option(
        [],
        "--teacher",
        metavar="PACKAGE",
        help="Teaches in the rungs prune and student (default: PACKAGE); repeatable.",
    ),
    rungs: str = typer.Option("", "--rungs", help=f"Only these, in the ladder's order: {_RUNGS}."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of calibration samples, resampling and learning."),
    sign: Path | None = typer.Option(None, "--sign", metavar="KEY.pem", help="Sign with this key (`package keygen`)."),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Also write the certificate there."),
) -> None:
    """Make a package smaller and faster, and prove what that cost.

    A ladder is climbed down, rung by rung, until the budget is met: graph clean-up, constants stored in fewer bits,
    float16 (GPU), int8 (dynamic for transformers, else static with three ways of calibrating), int8 without the worst
    layers, pruning, a narrower student, training for int8. The budget is --max-drop and whatever must be reached:
    --max-latency-ms, --max-bytes, --min-speedup. With nothing to reach, the first int8 (GPU: float16) model wins that
    holds the drop and is smaller and faster than its parent, and no rung that trains is tried.

    A pruned or narrower network learns to answer as PACKAGE does, or as the mean of the packages that --teacher names:
    those of the same labels that know them better make it better than PACKAGE alone can. Which widths are small and
    quick enough is measured before they learn.

    The drop is bounded by a paired bootstrap on the held-out samples; where they are too few for that, the measured
    value counts, with a warning. Nothing slower, and nothing that drops more, is written (exit code 1).
    """
    from shared.compression.ladder import Budget, Options
    from shared.registry import locate

    chosen = tuple(each.strip() for each in rungs.split(",") if each.strip())
    budget = Budget(max_drop, max_latency_ms, max_bytes, min_speedup)
    teachers = tuple(locate(each) for each in teacher)
    options = Options(target, budget, threads, seed, samples, epochs, chosen, teachers)
    certificate, steps = _compress(package, output, data, options, sign, json_file)
    _print(certificate, steps, output)


def _compress(
    package: str, output: Path, data: Path, options: Options, sign: Path | None, json_file: Path | None
) -> tuple[dict[str, Any], list[Step]]:
    from shared import signing
    from shared.compression.ladder import NothingHolds, climb
    from shared.files import write_json
    from shared.package import open_package
    from shared.registry import locate

    path = locate(package)
    if output.resolve() == path.resolve():
        raise BadInput(f"{output} is the package itself; give another name to --output.")
    if sign is not None:
        signing.sign(sign, b"")  # a key that cannot be used is said before the work, not after
    opened = open_package(path)
    with tempfile.TemporaryDirectory(prefix="haechi-compress-") as folder:
        try:
            climbed = climb(opened, data, options, Path(folder))
            certificate = _write(climbed, output, options, sign)
        except NothingHolds as error:
            _print_steps(error.steps)
            if json_file is not None:
                write_json(json_file, {"written": None, "why": str(error), "rungs": [s.as_dict() for s in error.steps]})
            raise
    if json_file is not None:
        write_json(json_file, {"written": str(output), **certificate})
    return certificate, climbed.steps


def _write(climbed: Climbed, output: Path, options: Options, sign: Path | None) -> dict[str, Any]:
    """Write the chosen package with its certificate, in one step."""
    from shared.compression.candidate import CERTIFICATE
    from shared.compression.certificate import certify, metrics_of, page
    from shared.package import write_package

    certificate = certify(climbed, options)
    package = climbed.chosen.package
    manifest = package.manifest.model_copy(
        update={
            "certificate": certificate,
            "metrics": metrics_of(climbed.chosen),
            "metric": climbed.chosen.evaluation.metric,
            "files": {},
            "checksum": "",
        }
    )
    assets = {name: package.asset(name) for name in package.assets}
    assets[CERTIFICATE] = page(certificate).encode()
    write_package(output, manifest, package.model, package.golden, assets, signing_key=sign, replace=output.exists())
    return certificate


def _print(certificate: dict[str, Any], steps: list[Step], output: Path) -> None:
    from shared.compression.certificate import changed

    _print_steps(steps)
    before, after, ratios, drop = (certificate[key] for key in ("before", "after", "ratios", "drop"))
    metric = certificate["metric"]
    typer.echo(
        f"\n{'':18}{'before':>14}{'after':>14}\n"
        f"{'package':18}{before['package_bytes'] / 1e6:>11.2f} MB{after['package_bytes'] / 1e6:>11.2f} MB"
        f"   {ratios['smaller']:.2f}× smaller\n"
        f"{'latency p50':18}{before['latency_ms_p50']:>11.2f} ms{after['latency_ms_p50']:>11.2f} ms"
        f"   {ratios['faster']:.2f}× faster\n"
        f"{'latency p95':18}{before['latency_ms_p95']:>11.2f} ms{after['latency_ms_p95']:>11.2f} ms\n"
        f"{'peak memory':18}{_megabytes(before)}{_megabytes(after)}\n"
        f"{metric:18}{before['metric']:>14.4f}{after['metric']:>14.4f}   drop {drop['point']:+.4f} "
        f"({drop['low']:+.4f} to {drop['high']:+.4f}, allowed {drop['allowed']:g})"
    )
    if certificate["agreement"] is not None:
        typer.echo(f"{'same answer':18}{'':14}{100 * certificate['agreement']:>12.1f} %   {changed(certificate)}")
    for warning in certificate["warnings"]:
        typer.echo(f"note: {warning}", err=True)
    typer.echo(f"\nstopped at {certificate['chosen']['rung']!r}: {certificate['chosen']['why']}\nwritten: {output}")


def _megabytes(side: dict[str, Any]) -> str:
    memory = side["peak_memory_bytes"]
    return f"{memory / 1e6:>11.1f} MB" if memory is not None else f"{'?':>14}"


def _print_steps(steps: list[Step]) -> None:
    for step in steps:
        figures = ""
        if step.measured is not None:
            size, speed = len(step.measured.package.model) / 1e6, step.measured.speed.faster
            figures = f"{size:8.2f} MB{speed:7.2f}× {step.measured.drop.point:+.4f}  "
        elif step.sketch is not None:
            figures = f"{len(step.sketch.package.model) / 1e6:8.2f} MB{step.sketch.speed.faster:7.2f}×"
        typer.echo(f"{step.rung:32}{figures:30}{step.result}: {step.why}")
