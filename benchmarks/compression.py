"""`make bench`: what compression gains and costs on this machine, next to the limits the project set itself.

    .venv/bin/python -m benchmarks.compression [--data ../shared/data] [--work DIR] [--only NAME] [--json FILE]

Five packages are trained on real data by the commands that a user would give, then each is compressed by
`haechi compress`, which measures parent and result side by side in one run: size, latency on one thread, and the metric
on held-out samples. Packages already in `--work` are taken as they are, so that a run that was cut goes on. Whatever
data are missing here are named, and their figures left out. Nothing fails on a slow machine; the last column says what
the limit is. Speed-ups of int8 depend on the CPU: the limits were set where it has VNNI instructions. All of it takes
some two hours on two cores, most of them for training; `--only cookies --only minilm` takes five.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import HAECHI, ROOT, Figure, print_machine, write
from shared.compression.targets import best_here

EXAMPLES = ROOT / "examples" / "training"


@dataclass(frozen=True)
class Limits:
    """What one compression should reach."""

    smaller: float
    faster: float
    drop: float


@dataclass(frozen=True)
class Case:
    """A package to train, and how it is compressed."""

    name: str
    data: str
    """Below `--data`."""
    train: tuple[str, ...]
    """Arguments of `haechi`; `{data}` and `{package}` are put in."""
    compressions: dict[str, tuple[tuple[str, ...], Limits]] = field(default_factory=dict)
    """Label → further arguments of `haechi compress` (`{work}` is put in), and the limits."""


CASES = (
    Case(
        "cookies",
        "inspection/cookies",
        ("inspection", "train", "{data}", "-o", "{package}"),
        {"int8": ((), Limits(3.0, 1.6, 0.003))},
    ),
    Case(
        "minilm",
        "contact_center/clinc150",
        ("train", str(EXAMPLES / "minilm.yaml"), "-o", "{package}", "--set", "data.path={data}"),
        {"int8": ((), Limits(3.8, 1.8, 0.005))},
    ),
    Case(
        "lite0",
        "checkout/grocery",
        ("train", str(EXAMPLES / "grocery.yaml"), "-o", "{package}", "--set", "data.path={data}"),
        {"int8": ((), Limits(3.5, 1.7, 0.005))},
    ),
    Case(
        "teacher",
        "checkout/grocery",
        ("train", str(EXAMPLES / "grocery-coarse.yaml"), "-o", "{package}", "--set", "data.path={data}"),
    ),
    Case(
        "resnet18",
        "checkout/grocery",
        (
            *("train", str(EXAMPLES / "grocery-resnet18.yaml"), "-o", "{package}", "--set", "data.path={data}"),
            *("--set", "distill.teachers=[{work}/teacher]"),
        ),
        {
            "int8": ((), Limits(3.9, 2.8, 0.005)),
            "small": (
                (
                    *("--min-speedup", "7", "--max-bytes", "3200000", "--rungs", "student", "--epochs", "28"),
                    *("--teacher", "{work}/teacher"),
                ),
                Limits(14.0, 7.0, 0.01),
            ),
        },
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; `arguments` default to those of the process."""
    options = _options(arguments)
    print_machine()
    figures: list[Figure] = []
    with _work(options.work) as folder:
        for figure in _figures(options, folder):
            print(figure.line(), flush=True)
            figures.append(figure)
    if options.json:
        write(options.json, vars(options), figures)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="real data sets")
    parser.add_argument("--work", type=Path, help="keep packages here, and take those that are here already")
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES], help="may be repeated")
    parser.add_argument("--target", default="", help="as for `haechi compress` (default: what this CPU is)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there what is printed")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _work(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="haechi-bench-") as folder:
        yield Path(folder)


def _figures(options: argparse.Namespace, work: Path) -> Iterator[Figure]:
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        data = options.data / case.data
        if not data.is_dir():
            print(f"{case.name}: left out, {data} is not here", flush=True)
            continue
        package = work / case.name
        yield from _trained(case, data, package)
        for label, (arguments, limits) in case.compressions.items():
            report = work / f"{case.name}-{label}.json"
            command = ["compress", str(package), "-o", str(work / f"{case.name}-{label}"), "--data", str(data)]
            command += ["--target", options.target or best_here(), "--max-drop", str(limits.drop)]
            _haechi([*command, *(part.format(work=work) for part in arguments), "--json", str(report)])
            yield from _compressed(f"{case.name} {label}", json.loads(report.read_text()), limits)


def _trained(case: Case, data: Path, package: Path) -> Iterator[Figure]:
    if package.exists():
        print(f"{case.name}: {package} is here already, so it is not trained", flush=True)
        return
    start = time.perf_counter()
    _haechi([part.format(data=data, package=package, work=package.parent) for part in case.train])
    yield Figure(f"{case.name} training", time.perf_counter() - start, "s", None, f"on {data.name}")


def _compressed(name: str, report: dict[str, Any], limits: Limits) -> Iterator[Figure]:
    if report["written"] is None:
        print(f"{name}: nothing was written: {report['why']}", flush=True)
        return
    ratios, drop, before = report["ratios"], report["drop"], report["before"]
    rung = report["chosen"]["rung"]
    yield Figure(f"{name} smaller", ratios["smaller"], "times", limits.smaller, f"rung {rung}", least=True)
    low, high = ratios["faster_interval"]
    how = f"one thread, {before['latency_ms_p50']:.2f} ms before; 95 %: {low:.2f} to {high:.2f}"
    yield Figure(f"{name} faster", ratios["faster"], "times", limits.faster, how, least=True)
    how = f"{report['metric']} {before['metric']:.4f} before; 95 %: {drop['low']:+.4f} to {drop['high']:+.4f}"
    yield Figure(f"{name} drop", drop["point"], "", limits.drop, how)


def _haechi(arguments: list[str]) -> None:
    """Run a command; what it prints goes to stderr, so that stdout holds the figures alone. 1 is told in its JSON."""
    print(f"+ haechi {' '.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([HAECHI, *arguments], stdout=sys.stderr, check=False)
    if done.returncode not in (0, 1) or (done.returncode == 1 and arguments[0] != "compress"):
        raise SystemExit(f"error: haechi {arguments[0]} ended with {done.returncode}; its message is above.")


if __name__ == "__main__":
    sys.exit(main())
