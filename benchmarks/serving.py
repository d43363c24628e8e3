"""What serving costs beyond the model: ours, plain FastAPI + ONNX Runtime, and LitServe, in turn on the same machine.

    .venv/bin/python benchmarks/serving.py --json F [--seconds 8] [--rounds 5] [--quick] [--work FOLDER]

All serve the same MobileNetV3-small (1 ms on one thread) and are sent the same tensor by the same load generator
(`shared.bench_serve_load`), which runs on the same cores; `client_cpu_ms_per_request` tells what it takes. Each round
starts every server anew, in shuffled order; figures are medians over rounds, ratios those of the same round. The time
of the model is measured in each round too, on one thread, while no server runs.

Further parts: `jpeg` (640 × 480 JPEG files, decoded by the server), `ten_ms` (a model of 10 ms, where a server should
cost next to nothing), `overload` (64 clients on ours). It takes twelve minutes; on a machine that does something else
meanwhile its figures mean nothing. The others get an environment of their own (see `serving_environment.py`); where it
cannot be made, LitServe is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: the project's folder is not where Python looks
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np

from benchmarks import serving_environment, serving_overload, serving_servers
from benchmarks.figures import ROOT, print_machine
from benchmarks.serving_models import INPUT, MOBILENET, NAMES, OUTPUT, TEN_MS
from benchmarks.serving_servers import Running, Start, Work
from shared import machine
from shared.bench_serve import Run, measure
from shared.errors import HaechiError
from shared.files import write_json
from shared.package import open_package
from shared.runtime import load

CLIENTS = 8
SERVERS: dict[str, Start] = {
    "haechi": serving_servers.haechi,
    "fastapi": serving_servers.fastapi,
    "litserve": serving_servers.litserve,
}
KEYS = ("cpu_ms_per_request", "requests_per_s", "p50_ms", "p99_ms", "efficiency", "client_cpu_ms_per_request")
IDEAL = "p99_over_ideal"
"""p99 over what each request would take if the clients' inferences filled all cores without a gap."""
_WARM_UP_SECONDS = 2.0
_MODEL_RUNS = 300
_JPEG_SIZE = (480, 640)
_JPEG_QUALITY = 90
_TOLERANCE = 1e-3

Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; `arguments` default to those of the process."""
    options = _options(arguments)
    print_machine()
    facts = machine.facts()
    result: Figures = {"machine": facts}
    with _folder(options.work) as folder:
        environment = serving_environment.prepare(options.env)
        if environment.trouble:
            print(f"litserve: left out, {environment.trouble}", flush=True)
        _make_models(folder / "packages")
        names = [name for name in SERVERS if not (name == "litserve" and environment.trouble)]
        work = _work(folder, MOBILENET, options, environment.python)
        result |= _compared(work, names, options, jpeg=False)
        result |= {name: None for name in SERVERS if name not in names}
        result |= {f"ratio_to_{name}_c{CLIENTS}": _ratio(result, name) for name in SERVERS if name != "haechi"}
        result["jpeg"] = _jpeg(work, options)
        ten_ms = _work(folder, TEN_MS, options, environment.python)
        result["ten_ms"] = _compared(ten_ms, ["haechi"], options, jpeg=False)
        result["ten_ms"]["efficiency"] = result["ten_ms"]["haechi"]["efficiency"]
        result["overload"] = serving_overload.overload(work, 3.0 if options.quick else options.overload_seconds)
    settings = {key: str(value) for key, value in vars(options).items() if key != "json"}
    result |= {"options": settings, "versions": environment.versions, "load_after": os.getloadavg()[0]}
    _print(result)
    if options.json:
        write_json(options.json, result)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there what is printed, and each round")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="in which the servers take turns")
    parser.add_argument("--overload-seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, measures nothing")
    parser.add_argument("--work", type=Path, help="keep packages and logs here, and take packages that are here")
    parser.add_argument("--env", type=Path, help="environment of the other servers (default: one in the user's cache)")
    parser.add_argument("--workers", type=int, default=machine.usable_cores(), help="processes of the other servers")
    parser.add_argument("--ours", default="", help='more options for `haechi serve`, such as "--workers 2"')
    parser.add_argument("--seed", type=int, default=0, help="of the order in the rounds")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds = 2.0, 1
    return options


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="haechi-bench-") as folder:
        yield Path(folder)


def _make_models(folder: Path) -> None:
    if all((folder / name / "manifest.json").exists() for name in NAMES):
        return
    folder.mkdir(exist_ok=True)
    print("making the models", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.serving_models", str(folder)]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)


def _work(folder: Path, name: str, options: argparse.Namespace, python: Path) -> Work:
    package = folder / "packages" / name
    jpeg = folder / "picture.jpg"
    jpeg.write_bytes(_picture())
    return Work(folder, package, open_package(package).manifest, jpeg, options.workers, options.ours.split(), python)


def _picture() -> bytes:
    """A JPEG that is about as hard to decode as a photograph: soft shapes at every scale, and a little noise."""
    generator, (height, width) = np.random.default_rng(0), _JPEG_SIZE
    picture = np.full((height, width, 3), 128.0)
    for cells in (4, 8, 16, 32, 64):
        coarse = generator.normal(0, 160 / cells**0.5, (cells * 3 // 4, cells, 3))
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += generator.normal(0, 2, picture.shape)
    done, content = cv2.imencode(
        ".jpg", np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    assert done
    return content.tobytes()


# -- measuring -------------------------------------------------------------------------------------------------------


def _compared(work: Work, names: Sequence[str], options: argparse.Namespace, *, jpeg: bool) -> Figures:
    """The servers in turn; medians over rounds and the rounds themselves."""
    rounds: dict[str, list[Figures]] = {name: [] for name in names}
    order = random.Random(options.seed)
    expected = _expected(work)
    model_ms = []
    for turn in range(options.rounds):
        model_ms.append(_model_ms(work))
        for name in order.sample(list(names), len(names)):
            what = f"round {turn + 1}/{options.rounds}, {work.manifest.name}{', jpeg' if jpeg else ''}: {name}"
            print(what, file=sys.stderr, flush=True)
            with SERVERS[name](work) as running:
                _check(name, running, expected)
                run = _measured(running, options.seconds, model_ms[-1], jpeg=jpeg)
            rounds[name].append(run.as_dict() | {IDEAL: _over_ideal(run, model_ms[-1])})
    figures = {name: _medians(each) | {"rounds": each} for name, each in rounds.items()}
    return {"model": work.manifest.name, "model_ms": statistics.median(model_ms), **figures}


def _expected(work: Work) -> np.ndarray:
    """What the model answers, from ONNX Runtime directly."""
    return load(work.package, "cpu", 1).run({INPUT: work.input})[OUTPUT]


def _model_ms(work: Work) -> float:
    """Median milliseconds of one inference on one thread inside ONNX Runtime, while no server runs."""
    model, feed = load(work.package, "cpu", 1), {INPUT: work.input}
    times = []
    for _ in range(_MODEL_RUNS):
        started = time.perf_counter()
        model.run(feed)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _check(name: str, running: Running, expected: np.ndarray) -> None:
    """A server that answers quickly and wrongly is no server."""
    status, answer = running.ask()
    found = np.frombuffer(answer[-expected.nbytes :], np.float32) if status == 200 else np.zeros(0, np.float32)
    if found.shape != expected.ravel().shape or not np.allclose(found, expected.ravel(), atol=_TOLERANCE, rtol=1e-3):
        raise HaechiError(f"{name} answers {status} and not what the model gives; see its log.")


def _measured(running: Running, seconds: float, model_ms: float, *, jpeg: bool) -> Run:
    request = running.jpeg if jpeg else running.request
    assert request is not None
    measure(running.address, request, CLIENTS, min(_WARM_UP_SECONDS, seconds))
    run = measure(
        running.address,
        request,
        CLIENTS,
        seconds,
        processes=[running.process],
        success=running.success,
        model_ms=model_ms,
        cores=machine.usable_cores(),
    )
    if run.accepted == 0:
        raise HaechiError(f"not one request succeeded: {' '.join(run.words.values()) or 'no answer came.'}")
    if run.accepted < run.sent or not run.agrees:
        words = f"{run.accepted} of {run.sent} requests were answered, the server counts {run.server_success}."
        print(f"warning: {words} {' '.join(run.words.values())}", file=sys.stderr, flush=True)
    return run


def _over_ideal(run: Run, model_ms: float) -> float | None:
    ideal = CLIENTS * model_ms / machine.usable_cores()
    return None if run.p99_ms is None else run.p99_ms / ideal


def _medians(rounds: Sequence[Mapping[str, Any]]) -> Figures:
    found = {}
    for key in (*KEYS, IDEAL):
        values = [each[key] for each in rounds if each[key] is not None]
        found[key] = statistics.median(values) if values else None
    return found


def _ratio(result: Figures, other: str) -> float | None:
    """Requests a second of ours over the other's: the median of the rounds' ratios, so that a slow minute cancels."""
    if result[other] is None:
        return None
    pairs = zip(result["haechi"]["rounds"], result[other]["rounds"], strict=True)
    return statistics.median(ours["requests_per_s"] / theirs["requests_per_s"] for ours, theirs in pairs)


def _jpeg(work: Work, options: argparse.Namespace) -> Figures:
    """The picture files, on ours and on FastAPI; both decode at a reduced size."""
    try:
        figures = _compared(work, ["haechi", "fastapi"], options, jpeg=True)
    except HaechiError as error:
        print(f"jpeg: left out, {error}", flush=True)
        return {"trouble": str(error)}
    return figures | {"bytes": work.jpeg.stat().st_size}


# -- telling ---------------------------------------------------------------------------------------------------------


def _print(result: Figures) -> None:
    titles = ("CPU ms/request", "requests/s", "p50 ms", "p99 ms", "efficiency", "client's CPU ms", "p99/ideal")
    print(f"\n{CLIENTS} clients".ljust(28) + "".join(f"{title:>17}" for title in titles))
    for part, servers in (("", result), ("jpeg", result["jpeg"]), ("ten_ms", result["ten_ms"])):
        for name in SERVERS:
            if servers.get(name):
                cells = (servers[name][key] for key in (*KEYS, IDEAL))
                print(f"{part or MOBILENET:<14}{name:<13}" + "".join(f"{_cell(value):>17}" for value in cells))
    for name in SERVERS:
        if f"ratio_to_{name}_c{CLIENTS}" in result:
            print(f"requests/s over {name}'s: {_cell(result[f'ratio_to_{name}_c{CLIENTS}'])}")
    closed, paced = result["overload"], result["overload"]["paced"]
    print("\noverload, 64 clients".ljust(29) + f"{'at once again':>17}{'4 × the peak':>17}")
    for key, value in paced.items():
        if key != "words":
            print(f"{key:<28}{_cell(closed[key]):>17}{_cell(value):>17}")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HaechiError as error:
        sys.exit(f"error: {error}")
