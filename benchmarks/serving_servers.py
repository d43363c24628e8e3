"""Starting and stopping the servers that `benchmarks.serving` compares, each as its users start it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.figures import HAECHI, ROOT
from shared.bench_serve import Bench
from shared.bench_serve_load import Address, Request, post
from shared.bench_serve_payload import Payload, make
from shared.bench_serve_server import Server, parse_url
from shared.errors import HaechiError
from shared.manifest import Manifest

T = TypeVar("T")

Array = np.ndarray
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_POLL = 0.1
_FILES = ("serving_fastapi.py", "serving_litserve.py")
_BINARY = {"Content-Type": "application/octet-stream"}


@dataclass
class Running:
    """A server that is ready."""

    address: Address
    request: Request
    """What is sent to it: the model's input."""
    jpeg: Request | None
    """The same with a picture file, where the server takes one."""
    process: int
    """Its first process; the others are that one's children."""
    success: Callable[[], int | None] | None
    """Its own count of answers."""
    ask: Callable[[], tuple[int, bytes]]
    """Status and body of one `request`."""


@dataclass(frozen=True)
class Work:
    """What a server serves and is asked."""

    folder: Path
    """For logs, home folders and copies."""
    package: Path
    manifest: Manifest
    jpeg: Path
    workers: int
    ours: Sequence[str]
    """Further options of `haechi serve`."""
    python: Path
    """Of the environment that holds the others."""

    @property
    def payload(self) -> Payload:
        """One random input."""
        return make(self._metadata)

    @property
    def picture(self) -> Payload:
        """The picture file."""
        return make(self._metadata, image=self.jpeg)

    @property
    def input(self) -> Array:
        """The tensor in `payload`."""
        tensor = self.payload.tensors[0]
        return np.frombuffer(tensor.content, np.float32).reshape(tensor.shape)

    @property
    def _metadata(self) -> Mapping[str, object]:
        return {"inputs": [spec.model_dump() for spec in self.manifest.inputs]}


Start = Callable[[Work], contextlib.AbstractContextManager[Running]]


@contextlib.contextmanager
def haechi(work: Work) -> Iterator[Running]:
    """`haechi serve`, with keys, in a home of its own."""
    home = work.folder / "home"
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("HAECHI_", "OMP_"))}
    settings["HAECHI_HOME"] = str(home)
    made = subprocess.run(
        [HAECHI, "serve", "--create-key", "bench:operator"], env=settings, capture_output=True, text=True, check=True
    )
    key = made.stdout.strip()
    command = [str(HAECHI), "serve", "--packages", str(work.package), "--port", "0", *work.ours]
    with _process(command, settings, work.folder / "haechi.log") as (process, log):
        url = _wait(process, log, lambda: re.search(r" at (http://\S+)", log.read_text(encoding="utf-8")))[1]
        server = Server(parse_url(url), key)
        _wait(process, log, lambda: _status(server.address, "/v2/health/ready") == 200)
        name = work.manifest.name
        bench, pictures = Bench(server, name, "", work.payload), Bench(server, name, "", work.picture)
        path, (body, json_size, _) = f"{server.path(name, '')}/infer", work.payload.body()
        headers = {"Inference-Header-Content-Length": str(json_size), **_BINARY}
        yield Running(
            server.address,
            bench.request,
            pictures.request,
            process.pid,
            bench.success,
            lambda: server.request("POST", path, body, headers),
        )


@contextlib.contextmanager
def fastapi(work: Work) -> Iterator[Running]:
    """uvicorn with a worker for each core."""
    app = _app(work)
    port = _free_port()
    command = [str(work.python), "-m", "uvicorn", "serving_fastapi:app", "--app-dir", str(app)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(work.workers), "--log-level", "warning"]
    settings = {**os.environ, "MODEL": str(work.package / "model.onnx")}
    with _process(command, settings, work.folder / "fastapi.log") as (process, log):
        address = Address("127.0.0.1", port)
        seen: set[bytes] = set()

        def all_answer() -> bool:
            with contextlib.suppress(HaechiError):
                seen.add(Server(address, "").request("GET", "/health")[1])
            return len(seen) >= work.workers

        _wait(process, log, all_answer)
        jpeg = post(address, "/predict_jpeg", {"Content-Type": "image/jpeg"}, work.jpeg.read_bytes())
        yield _plain(address, work, process.pid, jpeg)


@contextlib.contextmanager
def litserve(work: Work) -> Iterator[Running]:
    """LitServe with a worker and an HTTP process for each core."""
    app = _app(work)
    port = _free_port()
    model = str(work.package / "model.onnx")
    command = [str(work.python), str(app / "serving_litserve.py"), model, str(port), str(work.workers)]
    with _process(command, dict(os.environ), work.folder / "litserve.log") as (process, log):
        address = Address("127.0.0.1", port)
        _wait(process, log, lambda: _status(address, "/health") == 200)
        yield _plain(address, work, process.pid, None)


def _plain(address: Address, work: Work, process: int, jpeg: Request | None) -> Running:
    """A server that takes the tensor's bytes as they are."""
    body = work.payload.tensors[0].content
    server = Server(address, "")
    ask = lambda: server.request("POST", "/predict", body, _BINARY)  # noqa: E731
    return Running(address, post(address, "/predict", _BINARY, body), jpeg, process, None, ask)


def _app(work: Work) -> Path:
    """A folder with the others' code and nothing else that Python could find there."""
    app = work.folder / "app"
    app.mkdir(exist_ok=True)
    for name in _FILES:
        shutil.copy(ROOT / "benchmarks" / name, app)
    return app


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def _process(
    command: Sequence[str], settings: Mapping[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process in a group of its own, its output in a file; ended with all its children."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=settings, stdout=file, stderr=file, start_new_session=True)
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind is in its group
        process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(_POLL)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    raise HaechiError(f"{log.stem} did not start; the end of {log}: {' | '.join(said)}")


def _status(address: Address, path: str) -> int:
    try:
        return Server(address, "").request("GET", path)[0]
    except HaechiError:
        return 0
