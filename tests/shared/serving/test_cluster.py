"""Computing on a Ray cluster: two real nodes in this machine, one of them lost under load, models swapped on them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

from shared import runtime
from shared.errors import BadInput
from shared.serving.cluster import Cluster, OnRay, most_replicas
from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.shared.packages import make_package
from tests.shared.serving.models import echo_inputs, echo_package, picky_package, slow_package
from tests.shared.serving.served import Served
from tests.shared.serving.test_commands import _run, _started
from tests.shared.serving.test_repository import _replace, _score

NODE = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024, "node_ip_address": "127.0.0.1"}
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
STEPS = 40
"""Of the slow model: some 5 ms or more."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with one CPU each, on the loopback address."""
    pytest.importorskip("ray.serve", reason="Ray is not installed: the extra cluster")
    from ray.cluster_utils import Cluster as Nodes

    found = Nodes(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    found.add_node(**NODE)
    yield found
    found.shutdown()


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Before Ray is imported: no telling its makers, no port on the network, no call without a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "5" * 64)
        yield


@contextmanager
def serving(nodes: Any, home: Path, *packages: Path, replicas: int | None = None) -> Iterator[Served]:
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'records.db'}", threads=1)
    options = ServerOptions(packages=packages, registry=False, ray=OnRay(nodes.address, replicas))
    with running(options, settings) as server:
        server.wait_ready(120)
        yield Served(server)


def wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def replicas() -> dict[str, int]:
    """Replicas that run, by application."""
    from ray import serve

    applications = serve.status().applications
    return {
        name: sum(each.replica_states.get("RUNNING", 0) for each in found.deployments.values())
        for name, found in applications.items()
        if found.status != "DELETING"
    }


class Load:
    """Clients that ask the slow model again and again and keep every answer."""

    def __init__(self, served: Served, clients: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self._served = served
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        body = {"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [STEPS]}]}
        with self._served.client() as client:
            while not self._ending.is_set():
                began = time.monotonic()
                answer = client.post("/v2/models/slow/infer", json=body, timeout=60)
                self.longest = max(self.longest, time.monotonic() - began)
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200 and answer.json()["outputs"][0]["data"] != [192.0]:
                    self.wrong.append(answer.text)

    @contextmanager
    def going(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._ending.set()
            for thread in self._threads:
                thread.join(90)
            assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    def goes_on(self, answers: int = 20) -> None:
        """Return once so many more requests have been answered 200."""
        before = self.statuses[200]
        wait(lambda: self.statuses[200] >= before + answers, 60)


def test_options_that_do_not_go_together_are_refused() -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: the extra cluster")
    assert OnRay.of(False, None, None, 4) is None
    assert OnRay.of(True, "127.0.0.1:6379", 3, 1) == OnRay("127.0.0.1:6379", 3)
    for wanted, address, workers, words in (
        (False, "auto", 1, "give --ray too"),
        (True, None, 2, "leave --workers out"),
        (True, "ray://head:10001", 1, "HOST:PORT"),
    ):
        with pytest.raises(BadInput, match=words):
            OnRay.of(wanted, address, None, workers)


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install 'haechi\[cluster\]'"):
        Cluster(OnRay())


@pytest.mark.parametrize(
    ("cpus", "threads", "most"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (8, 1, 7), (8, 4, 2), (2, 4, 1)]
)
def test_a_new_version_has_room_beside_the_old_one(cpus: int, threads: int, most: int) -> None:
    assert most_replicas(cpus, threads) == most


@pytest.mark.slow
def test_answers_and_errors_are_those_of_this_process(nodes: Any, tmp_path: Path) -> None:
    echo, picky = echo_package(tmp_path / "echo"), picky_package(tmp_path / "picky")
    inputs = echo_inputs(3, 5, seed=1)
    expected = runtime.load(echo, threads=1).run(inputs)
    with serving(nodes, tmp_path, echo, picky) as served:
        tensors = []
        for name, array in inputs.items():
            tensors.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            tensors[-1].set_data_from_numpy(array)
        answer = triton.InferenceServerClient(served.address).infer("echo", tensors, headers=served.headers())
        for name, array in expected.items():
            got = answer.as_numpy(name)
            if array.dtype.kind in "OU":
                got = np.array([word.decode() for word in got.ravel()]).reshape(got.shape)
            np.testing.assert_array_equal(got, array)

        body = {"inputs": [{"name": "index", "shape": [1], "datatype": "INT64", "data": [9]}]}
        with served.client() as client:
            refused = client.post("/v2/models/picky/infer", json=body)
        with pytest.raises(BadInput) as here:
            runtime.load(picky, threads=1).run({"index": np.array([9])})
        assert (refused.status_code, refused.json()) == (400, {"error": str(here.value)})

        assert served.metric("nv_inference_request_success", model="echo") == 1
        assert served.metric("nv_inference_request_failure", model="picky", reason="OTHER") == 1
        with served.client("viewer") as client:
            chosen = client.get("/v2/models/echo/stats").json()["model_stats"][0]["haechi"]
        assert (chosen["threads"], chosen["most_replicas"]) == (1, 2)


@pytest.mark.slow
def test_a_node_lost_under_load_costs_no_answer_and_its_capacity_returns(nodes: Any, tmp_path: Path) -> None:
    with serving(nodes, tmp_path, slow_package(tmp_path / "slow")) as served:
        load = Load(served)
        with load.going():
            wait(lambda: list(replicas().values()) == [2], 60)  # four clients are too many for one replica
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
            load.goes_on()
            wait(lambda: list(replicas().values()) == [1], 60)
            load.goes_on()
            nodes.add_node(**NODE)
            wait(lambda: list(replicas().values()) == [2], 60)
            load.goes_on()
        failed = [served.metric("nv_inference_request_failure", model="slow", reason=why) for why in REASONS]
        assert served.metric("nv_inference_request_success", model="slow") == load.statuses[200]
        assert sum(failed) == load.statuses[429] + load.statuses[503]
    assert load.wrong == []
    assert load.statuses.keys() <= {200, 429, 503}, load.statuses
    assert load.longest < 35, load.longest


@pytest.mark.slow
def test_a_replaced_package_is_deployed_anew_and_a_broken_one_changes_nothing(nodes: Any, tmp_path: Path) -> None:
    folder = make_package(tmp_path / "tiny")
    with serving(nodes, tmp_path, folder, replicas=1) as served, served.client("engineer") as client:
        first, before = _score(client), list(replicas())
        _replace(folder, gain=0.5)
        assert client.post("/v2/repository/models/tiny/load", timeout=120).status_code == 200
        assert _score(client) == pytest.approx(first / 2, rel=1e-3)
        wait(lambda: len(replicas()) == 1 and list(replicas()) != before, 30)
        now = list(replicas())

        _replace(folder, wrong_golden=True)
        answer = client.post("/v2/repository/models/tiny/load", timeout=120)
        assert answer.status_code == 400
        assert "fails its self-test" in answer.json()["error"]
        assert _score(client) == pytest.approx(first / 2, rel=1e-3)
        wait(lambda: list(replicas()) == now, 30)

        assert client.post("/v2/repository/models/tiny/unload").status_code == 200
        wait(lambda: replicas() == {}, 30)


@pytest.mark.slow
def test_what_a_killed_server_left_on_the_cluster_is_removed_by_the_next(nodes: Any, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    picky = picky_package(tmp_path / "picky")
    key = {"X-Api-Key": _run(tmp_path / "home", "--create-key", "boss:admin").stdout.strip()}
    options = ("--packages", picky, "--ray", "--ray-address", nodes.address, "--ray-replicas", 1)
    with _started(tmp_path / "home", *options) as process:
        url = process.url()
        wait(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200, 120)
        body = json.dumps({"inputs": [{"name": "index", "shape": [1], "datatype": "INT64", "data": [3]}]})
        assert httpx.post(f"{url}/v2/models/picky/infer", headers=key, content=body).json()["outputs"][0]["data"] == [4]
        os.kill(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
    with serving(nodes, tmp_path, picky, replicas=1):
        wait(lambda: len(replicas()) == 1, 30)


def replica_processes() -> list[int]:
    """Process ids of all replicas, whose processes bear their name."""
    found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _begins(path, b"ray::ServeReplica:haechi-")]
    return [int(path.parent.name) for path in found]


def _begins(path: Path, text: bytes) -> bool:
    try:
        return path.read_bytes().startswith(text)
    except OSError:  # the process has ended meanwhile
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_request_whose_replica_is_killed_is_answered_by_the_next(nodes: Any, tmp_path: Path) -> None:
    slow = slow_package(tmp_path / "slow")
    steps = np.array([20_000], np.int64)  # a second or two
    with serving(nodes, tmp_path, slow, replicas=1) as served, served.client() as client:
        answers: list[httpx.Response] = []
        body = {"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": steps.tolist()}]}
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/v2/models/slow/infer", json=body, timeout=60))
        )
        asking.start()
        time.sleep(0.3)  # it is being computed now
        (victim,) = replica_processes()
        os.kill(victim, signal.SIGKILL)
        asking.join(60)
        assert [answer.status_code for answer in answers] == [200], answers
        assert answers[0].json()["outputs"][0]["data"] == [192.0]
        assert victim not in replica_processes()
        assert served.metric("nv_inference_request_success", model="slow") == 1
