"""`make bench`: what inspection costs on this machine, next to the limits the project set itself.

    .venv/bin/python -m benchmarks.inspection [--images 300] [--model auto] [--json FILE]

Each figure is taken the way a user meets it: training and start-up as processes of their own, memory as the largest
resident set of the training process and its children, inference through `solutions.inspection.pipeline`. Nothing fails
on a slow machine; the last column says what the limit is. Figures without the CPU they were taken on mean nothing, so
its model and vector extensions are printed first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import HAECHI, ROOT, Figure, print_machine, write

MIB = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; `arguments` default to those of the process."""
    options = _options(arguments)
    print_machine()
    figures: list[Figure] = []

    def show(*new: Figure) -> None:
        for figure in new:
            figures.append(figure)
            print(figure.line(), flush=True)

    with tempfile.TemporaryDirectory(prefix="haechi-bench-") as folder:
        work = Path(folder)
        show(_start_up(options.repeat))
        data = _data(work / "parts", options)
        package = work / "package"
        show(*_training(data, package, options))
        show(_package_size(package))
        show(*_inference(package, data, options))
        if not options.no_install:
            show(*_base_install(work / "base"))
    if options.json:
        write(options.json, vars(options), figures)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=300, help="pictures of good parts to train on")
    parser.add_argument("--size", type=int, default=256, help="their width and height, and the image tested")
    parser.add_argument("--model", default="auto", help="as for `haechi inspection train`")
    parser.add_argument("--threads", type=int, default=2, help="for inference")
    parser.add_argument("--repeat", type=int, default=200, help="inferences; a tenth as many starts of the command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="train on this data set instead of a made one")
    parser.add_argument("--no-install", action="store_true", help="leave out the base install, which needs a registry")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there what is printed")
    return parser.parse_args(arguments)


def _start_up(repeat: int) -> Figure:
    seconds = []
    for _ in range(max(repeat // 10, 3)):
        start = time.perf_counter()
        subprocess.run([HAECHI, "--help"], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    return Figure("haechi --help", statistics.median(seconds), "s", 0.5, f"median of {len(seconds)} starts")


def _data(folder: Path, options: argparse.Namespace) -> Path:
    if options.data:
        return Path(options.data)
    from data_tools.synthesize import synthesize

    synthesize(folder, seed=options.seed, good=options.images, bad=20, test_good=20, size=options.size)
    return folder


def _training(data: Path, package: Path, options: argparse.Namespace) -> list[Figure]:
    command = [HAECHI, "inspection", "train", data, "-o", package, "--model", options.model, "--seed", options.seed]
    seconds, peak = _measured([str(part) for part in command])
    how = f"{data}" if options.data else f"{options.images} pictures of {options.size}x{options.size}"
    return [
        Figure("training", seconds, "s", 90, f"--model {options.model}, {how}"),
        Figure("training, peak memory", peak / 1024, "GiB", 2.5, "largest resident set of the process"),
    ]


def _measured(command: list[str]) -> tuple[float, float]:
    """Run a command; seconds of wall time and its peak resident set in MiB (its reaped children's, if larger)."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"error: {' '.join(command)} ended with {child.returncode}; its message is above.")
    per_mib = MIB if sys.platform == "darwin" else 1024  # Linux counts in KiB, macOS in bytes
    return seconds, usage.ru_maxrss / per_mib


def _package_size(package: Path) -> Figure:
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    return Figure("package", size / MIB, "MiB", 40)


def _inference(package: Path, data: Path, options: argparse.Namespace) -> list[Figure]:
    import cv2
    import numpy as np

    from shared.images import read_image
    from solutions.inspection.pipeline import Inspector

    inspector = Inspector.load(package, threads=options.threads)
    picture = next(file for file in sorted((data / "test").rglob("*")) if file.is_file())
    resized = cv2.resize(read_image(picture), (options.size, options.size), interpolation=cv2.INTER_AREA)
    image = resized.astype(np.uint8, copy=False)  # it is already; OpenCV's types do not say so
    for _ in range(10):
        inspector.inspect(image)
    milliseconds = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        inspector.inspect(image)
        milliseconds.append(1000 * (time.perf_counter() - start))
    how = f"{options.threads} threads, one {options.size}x{options.size} picture, {options.repeat} times"
    quantiles = statistics.quantiles(milliseconds, n=100)
    return [
        Figure("inference, p50", quantiles[49], "ms", 30, how),
        Figure("inference, p95", quantiles[94], "ms", None, "the same"),
    ]


def _base_install(folder: Path) -> list[Figure]:
    """`pip install .` into an empty environment, from a copy: a build leaves its folders beside the sources."""
    sources = folder.with_name("sources")
    sources.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", sources], input=archive, check=True)
    subprocess.run([sys._base_executable, "-m", "venv", folder], check=True)  # type: ignore[attr-defined]
    start = time.perf_counter()
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(sources)], check=True)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return [
        Figure("base install", size / 1e9, "GB", 1.1, "without torch"),
        Figure("base install, time", seconds, "s", None, "download included"),
    ]


if __name__ == "__main__":
    sys.exit(main())
