"""`haechi demo`: the whole path on made pictures of machined parts, from photographs to decisions over HTTP.

Everything happens in a home folder of its own (`<home>/demo`): registry, records, keys and pictures of earlier work are
neither read nor changed. Each start begins anew; what the last one made stays there to be looked at.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import secrets
import shutil
import time
import urllib.parse
import warnings
import webbrowser
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput, HaechiError

if TYPE_CHECKING:
    from data_tools.dataset import Item
    from shared.serving.server import RunningServer
    from solutions.inspection.evaluation import Evaluation

NAME = "flange"
GOOD, BAD, TEST_GOOD = 60, 40, 20
LEAST_AUROC = 0.95
"""Below this the trained model does not separate good parts from defective ones, and the demo has failed."""
_MARK = ".haechi-demo"
_SAME = 1e-3  # relative difference allowed between the score over HTTP and the one of the evaluation


@dataclass
class Outcome:
    """What the demo found; `to_dict` is what `--json` writes."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each kind of part: parts, verdicts, and the median time of a request."""
    reference: str = ""
    url: str = ""

    @property
    def separates(self) -> bool:
        """Whether the model tells good parts from defective ones."""
        return float(self.metrics["image_auroc"]) >= LEAST_AUROC

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "package": self.reference,
            "separates": self.separates,
            "metrics": self.metrics,
            "kinds": self.kinds,
            "seconds": {name: round(spent, 2) for name, spent in self.seconds.items()},
        }


def demo(
    once: bool = typer.Option(False, "--once", help="Print the result and end; exit code 1 if it is not good enough."),
    folder: Path | None = typer.Option(None, "--folder", metavar="DIR", help="Where to work (default: <home>/demo)."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the pictures and the training."),
    port: int = typer.Option(0, "--port", min=0, max=65535, help="Port of the console; 0 takes a free one."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="Threads (default: every core)."),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON."),
) -> None:
    """Walk the whole path on built-in samples.

    Makes pictures of machined parts with scratches, dents, stains and missing holes; trains on good ones; evaluates,
    packages, registers and serves; sends every test part through the server; and opens the console.
    """
    import solutions.inspection.training  # noqa: F401 (the training extra, missed before any work is done)
    from shared import log, settings

    work = (folder or settings.load().home / "demo").absolute()
    with _own_home(work):
        log.configure("WARNING" if settings.load().log_level == "INFO" else None)
        outcome = Outcome(work)
        _make_package(outcome, seed, threads)
        with _served(port, threads) as server:
            outcome.url = server.url
            _send_parts(outcome, server, seed, threads)
            _print(outcome)
            if json_file is not None:
                from shared.files import write_json

                write_json(json_file, outcome.to_dict())
            if not outcome.separates:
                raise HaechiError(
                    f"the demo's model reaches an image AUROC of {outcome.metrics['image_auroc']:.3f} and should reach "
                    f"{LEAST_AUROC}; look at {work / 'report.html'}."
                )
            if not once:
                _stay(server, work)


# -- the stages ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stage(outcome: Outcome, name: str, what: str) -> Iterator[None]:
    """Say what comes, and remember how long it took."""
    typer.echo(f"{what} …", err=True)
    start = time.perf_counter()
    yield
    outcome.seconds[name] = time.perf_counter() - start


def _make_package(outcome: Outcome, seed: int, threads: int | None) -> None:
    from data_tools.synthesize import synthesize
    from shared.registry import CHAMPION, Registry
    from shared.training.config import TrainConfig
    from shared.training.packaging import train_package
    from solutions.inspection.training import Anomaly

    parts, package = outcome.folder / "parts", outcome.folder / NAME
    with _stage(outcome, "parts", f"Drawing {GOOD + TEST_GOOD} good and {BAD} defective parts"):
        synthesize(parts, good=GOOD, bad=BAD, test_good=TEST_GOOD, seed=seed, threads=threads)
    with _stage(outcome, "training", "Training on the good ones"):
        config = TrainConfig(task="anomaly", data={"path": str(parts)}, name=NAME, seed=seed)
        train_package(config, package, task=Anomaly(config, threads=threads))
    with _stage(outcome, "registry", "Registering the package as champion"):
        version = Registry(who="haechi demo").add(package, alias=CHAMPION)
    outcome.reference = version.reference


@contextlib.contextmanager
def _served(port: int, threads: int | None) -> Iterator[RunningServer]:
    """The registry's champion on a port of this machine, with the API and the console."""
    from shared.serving.console import console_for
    from shared.serving.server import running
    from shared.serving.state import ServerOptions
    from solutions.inspection import console, routes

    # The console's library looks at every object in memory, which wakes one of torch's that is deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch")
    routers = (routes.router_for, console_for([console.page_for]))
    with running(ServerOptions(threads=threads), routers=routers, port=port) as server:
        server.wait_ready()
        yield server


def _send_parts(outcome: Outcome, server: RunningServer, seed: int, threads: int | None) -> None:
    """Judge the test parts twice: by the evaluation, and as a factory's program would, over HTTP. They must agree."""
    from shared.registry import Registry
    from solutions.inspection.evaluation import evaluate_files
    from solutions.inspection.report import contents_of, write_report

    with _stage(outcome, "evaluation", "Measuring it on parts it has not seen"):
        package = Registry().get(outcome.reference)
        inspector, evaluation = evaluate_files(package, outcome.folder / "parts", threads, seed=seed)
        write_report(outcome.folder / "report.html", contents_of(inspector, evaluation, inspector.model.manifest))
    outcome.metrics = evaluation.metrics
    with _stage(outcome, "requests", f"Sending {len(evaluation.judged)} parts through {server.url}"):
        key = server.state.auth.store.create("demo-line", "operator")
        answers = _ask(server.url, key, evaluation)
    for (item, milliseconds, answer), judged in zip(answers, evaluation.judged, strict=True):
        if not math.isclose(answer["score"], judged.score, rel_tol=_SAME, abs_tol=1e-6):
            raise HaechiError(
                f"the server gave {item.name} the score {answer['score']:.6g} and the evaluation {judged.score:.6g}; "
                "they must be the same, so one of them is broken."
            )
        kind = outcome.kinds.setdefault(item.label, {"parts": 0, "verdicts": Counter(), "milliseconds": []})
        kind["parts"] += 1
        kind["verdicts"][answer["verdict"]] += 1
        kind["milliseconds"].append(milliseconds)
    for kind in outcome.kinds.values():
        times = sorted(kind.pop("milliseconds"))
        kind |= {"verdicts": dict(kind["verdicts"]), "request_ms_p50": round(times[len(times) // 2], 1)}


def _ask(url: str, key: str, evaluation: Evaluation) -> list[tuple[Item, float, dict[str, Any]]]:
    """Each judged picture with the milliseconds its request took and the server's answer."""
    from shared.progress import track

    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    answers = []
    with contextlib.closing(connection):
        for judged in track(evaluation.judged, "parts"):
            start = time.perf_counter()
            answer = post_picture(connection, key, judged.item.path)
            answers.append((judged.item, 1000 * (time.perf_counter() - start), answer))
    return answers


def post_picture(connection: http.client.HTTPConnection, key: str, path: Path) -> dict[str, Any]:
    """Send one picture to `/api/inspection/inspect`; the decision that came back.

    Raises:
        HaechiError: the server refused it, with its sentence.
    """
    boundary = secrets.token_hex(16)
    field = f"--{boundary}\r\nContent-Disposition: form-data; name="
    name = f"{path.parent.name}-{path.name}"
    head = f'{field}"image"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    tail = f'\r\n{field}"heatmap"\r\n\r\nfalse\r\n--{boundary}--\r\n'
    body = head.encode() + path.read_bytes() + tail.encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "X-Api-Key": key}
    connection.request("POST", "/api/inspection/inspect", body, headers)
    response = connection.getresponse()
    content = json.loads(response.read())
    if response.status != http.client.OK:
        raise HaechiError(f"the server answered {response.status} to {path.name}: {content.get('error', content)}")
    return dict(content)


def _stay(server: RunningServer, work: Path) -> None:
    """Open the console and wait for Ctrl-C."""
    link = server.console_link()
    typer.echo(f"\nThe console, opened once by this link within 15 minutes:\n  {link}")
    typer.echo(f"Try a part of your own, or one of {work / 'parts' / 'test'}. Ctrl-C ends the demo.")
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(link)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


# -- its own home ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _own_home(work: Path) -> Iterator[None]:
    """Make `work` this process's home, empty: no package, key or record of the real one is touched or trusted."""
    from shared import settings

    with _claimed(work):
        cache = settings.load().cache
        if cache.is_dir():  # weights that were fetched once need not be fetched again
            (work / "cache").symlink_to(cache)
        here = {"HAECHI_HOME": str(work), "HAECHI_DATABASE_URL": None, "HAECHI_THREADS": str(settings.load().threads)}
        before = {name: os.environ.get(name) for name in here}
        _set(here)
        settings.load.cache_clear()
        try:
            yield
        finally:
            _set(before)
            settings.load.cache_clear()


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _claimed(work: Path) -> Iterator[None]:
    """Empty the folder and hold it; the mark shows that it is the demo's to empty.

    Raises:
        BadInput: there is something else in it.
        HaechiError: another demo works there, or it cannot be written.
    """
    import fcntl

    mark = work / _MARK
    if work.exists() and not mark.is_file() and (not work.is_dir() or any(work.iterdir())):
        raise BadInput(f"{work} is not empty and no demo made it; name another place with --folder.")
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HaechiError(f"{work} cannot be written: {error.strerror or error}; choose a --folder.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HaechiError(f"another demo is working in {work}; end it, or name another --folder.") from error
        for left in work.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            elif left != mark:
                left.unlink()
        yield
    finally:
        os.close(descriptor)


# -- the result ------------------------------------------------------------------------------------------------------


def _print(outcome: Outcome) -> None:
    from solutions.inspection import tables
    from solutions.inspection.figures import number

    found = outcome.metrics
    rows = []
    for label, kind in sorted(outcome.kinds.items(), key=lambda pair: (pair[0] != "good", pair[0])):
        verdicts = [str(kind["verdicts"].get(verdict, 0)) for verdict in ("OK", "REVIEW", "NG")]
        auroc = found["kinds"].get(label, {}).get("image_auroc")
        rows.append(
            [
                label.replace("_", " "),
                str(kind["parts"]),
                *verdicts,
                number(auroc, "share"),
                number(kind["request_ms_p50"], "ms"),
            ]
        )
    head = ["parts", "sent", "OK", "REVIEW", "NG", "image AUROC", "request, median"]
    typer.echo()
    tables.show(tables.table("what the server said", head, rows), tables.metrics(found))
    stages = ", ".join(f"{name} {spent:.1f} s" for name, spent in outcome.seconds.items())
    typer.echo(f"{sum(outcome.seconds.values()):.0f} s in all: {stages}")
    typer.echo(f"package {outcome.reference}, report: {outcome.folder / 'report.html'}")
