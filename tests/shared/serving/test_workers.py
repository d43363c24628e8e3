"""Several processes at one address: killed, stopped, asked for metrics, and of one mind about what is served."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.shared.packages import make_package
from tests.shared.serving.models import picky_package
from tests.shared.serving.test_commands import Process, _run, _started

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

BODY = {"inputs": [{"name": "index", "shape": [1], "datatype": "INT64", "data": [3]}]}


@contextmanager
def serving(home: Path, workers: int = 2) -> Iterator[tuple[Process, str, dict[str, str]]]:
    picky_package(home / "picky")
    key = {"X-Api-Key": _run(home, "--create-key", "boss:admin").stdout.strip()}
    with _started(home, "--packages", home / "picky", "--workers", workers) as process:
        url = process.url()
        wait(lambda: len(answering(url, key)) == workers)
        yield process, url, key


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


def answering(url: str, key: dict[str, str]) -> set[str]:
    """What tells the workers apart that have answered a few requests."""
    return {httpx.get(f"{url}/v2", headers=key).headers["x-request-id"][:20] for _ in range(12)}


def infer(url: str, key: dict[str, str]) -> int:
    """The status of one inference over a connection of its own; 0: the connection broke."""
    try:
        return httpx.post(f"{url}/v2/models/picky/infer", headers=key, json=BODY, timeout=20).status_code
    except httpx.TransportError:
        return 0


def metric(url: str, key: dict[str, str], name: str) -> float:
    text = httpx.get(f"{url}/metrics", headers=key).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_metrics_are_those_of_all_workers_and_survive_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url, key):
        assert {infer(url, key) for _ in range(40)} == {200}
        wait(lambda: metric(url, key, "nv_inference_request_success") == 40)
        time.sleep(1.5)  # each worker leaves its figures every second; what came after the last time dies with it
        victim = children(process.popen.pid)[1]
        os.kill(victim, signal.SIGKILL)
        wait(lambda: metric(url, key, "haechi_process_restarts") == 1)
        wait(lambda: len(answering(url, key)) == 2)
        assert victim not in children(process.popen.pid)
        assert {infer(url, key) for _ in range(20)} == {200}
        wait(lambda: metric(url, key, "nv_inference_request_success") == 60)


@pytest.mark.slow
def test_a_killed_worker_under_load_costs_only_its_own_requests(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url, key):
        statuses: Counter[int] = Counter()
        ending = threading.Event()

        def load() -> None:
            while not ending.is_set():
                statuses[infer(url, key)] += 1

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        before = sum(statuses.values())
        os.kill(children(process.popen.pid)[0], signal.SIGKILL)
        wait(lambda: sum(statuses.values()) > before + 8)  # the other worker goes on
        wait(lambda: len(children(process.popen.pid)) == 2)
        time.sleep(2)
        ending.set()
        for thread in threads:
            thread.join(30)
    assert statuses[200] > 8
    assert set(statuses) <= {200, 0}
    assert statuses[0] <= 4, "at most one request of each client was on its way to the one that was killed"


@pytest.mark.slow
def test_the_bench_counts_what_all_workers_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url, key):
        command = [sys.executable, "-m", "solutions.cli", "bench", "serve", url, "--model", "picky", "--key"]
        command += [key["X-Api-Key"], "--concurrency", "4", "--seconds", "1", "--json", str(tmp_path / "bench.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "somebody else" not in done.stdout + done.stderr
        (run,) = json.loads((tmp_path / "bench.json").read_text())["runs"]
        assert run["server_success"] == run["accepted"] > 0


@pytest.mark.slow
def test_every_worker_unloads_and_loads(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url, key):
        assert httpx.post(f"{url}/v2/repository/models/picky/unload", headers=key, json={}).status_code == 200
        wait(lambda: {infer(url, key) for _ in range(12)} == {503})
        assert httpx.post(f"{url}/v2/repository/models/picky/load", headers=key, json={}).status_code == 200
        wait(lambda: {infer(url, key) for _ in range(12)} == {200})


@pytest.mark.slow
def test_stopping_answers_what_was_admitted_and_ends_with_0(tmp_path: Path) -> None:
    with serving(tmp_path, 3) as (process, url, key):
        assert infer(url, key) == 200
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(30) == 0


@pytest.mark.slow
def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _, _key):
        pids = children(process.popen.pid)
        process.popen.kill()
        wait(lambda: not any(_alive(pid) for pid in pids))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_package_that_cannot_be_served_is_one_sentence(tmp_path: Path) -> None:
    make_package(tmp_path / "bad", wrong_golden=True)
    with _started(tmp_path, "--packages", tmp_path / "bad", "--workers", 3) as process:
        assert process.popen.wait(40) == 1
        wait(lambda: any("self-test" in line for line in process.err))
        assert sum(line.startswith("error:") for line in process.err) == 1


@pytest.mark.slow
def test_the_console_is_at_a_port_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url, key):
        console = next(re.findall(r"http://\S+", line)[0] for line in process.out if "console is at" in line)
        answer = httpx.get(f"{url}/inspection", headers=key)
        assert answer.status_code == 307
        assert answer.headers["location"] == f"{console}/inspection"
        assert httpx.get(f"{console}/v2", headers=key).status_code == 200
        assert json.loads(httpx.get(f"{url}/v2", headers=key).text)["name"] == "haechi"
