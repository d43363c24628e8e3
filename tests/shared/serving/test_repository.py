"""Models brought in and out of a running server, by Triton's client and by the registry, with requests on their way."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from shared.registry import Registry
from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.shared.packages import make_package
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]

BODY = json.dumps(
    {
        "inputs": [
            {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [255] * 3},
            {"name": "pixel_threshold", "shape": [1], "datatype": "FP32", "data": [1]},
        ],
        "outputs": [{"name": "score"}],
    }
)


def _replace(folder: Path, **package: object) -> None:
    """A new package in place of the old one, in one rename each way, as a deployment does."""
    new = folder.with_name(f".tmp-{folder.name}")
    make_package(new, **package)  # type: ignore[arg-type]
    if folder.exists():
        folder.rename(folder.with_name(".tmp-old"))
    new.rename(folder)
    shutil.rmtree(folder.with_name(".tmp-old"), ignore_errors=True)


def _score(client: httpx.Client, version: str = "") -> float:
    answer = client.post(f"/v2/models/tiny{version}/infer", content=BODY)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


class _Hammer:
    """Clients that send request after request, and keep every answer."""

    def __init__(self, served: Served, clients: int = 4) -> None:
        self.answers: list[tuple[int, str, str]] = []
        self._served = served
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(clients)]

    def _run(self, index: int) -> None:
        with self._served.client() as client:
            while not self._stop.is_set():
                # Every other client stretches its body over the time in which models come and go.
                content = [BODY[:60].encode(), BODY[60:].encode()]
                answer = client.post("/v2/models/tiny/infer", content=_slowly(content) if index % 2 else BODY)
                told = answer.json()
                said = told.get("model_version") or told["error"]
                score = told["outputs"][0]["data"][0] if answer.status_code == 200 else -1.0
                self.answers.append((answer.status_code, said, f"{score:.2f}"))

    @contextmanager
    def going(self) -> Iterator[_Hammer]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)


def _slowly(parts: list[bytes]) -> Iterator[bytes]:
    for part in parts:
        yield part
        time.sleep(0.02)


def test_a_package_replaced_under_load_loses_no_request(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    make_package(folder, version="1", gain=0.25)
    with serve(packages=[tmp_path]) as served, served.client("engineer") as engineer:
        first = weakref.ref(served.state.models["tiny"])
        with _Hammer(served).going() as hammer:
            for step, gain in enumerate((0.5, 0.75, 1.0), 2):
                time.sleep(0.3)
                _replace(folder, version=str(step), gain=gain)
                answer = engineer.post("/v2/repository/models/tiny/load")
                assert answer.status_code == 200, answer.text
            time.sleep(2.6)  # longer than replaced models live on
        assert {status for status, _, _ in hammer.answers} == {200}
        # Each answer says rightly which version gave it, and all versions did.
        assert {(version, score) for _, version, score in hammer.answers} == {
            ("1", "0.25"), ("2", "0.50"), ("3", "0.75"), ("4", "1.00"),
        }  # fmt: skip
        assert engineer.get("/v2/models/tiny").json()["versions"] == ["4"]
        assert 'version="4"' in engineer.get("/metrics").text
        assert 'version="1"' not in engineer.get("/metrics").text
        assert len(hammer.answers) > 50
        gc.collect()
        assert first() is None, "the replaced model, its workers and its memory are gone"


def test_the_same_version_with_other_content_is_loaded_too_and_unchanged_content_is_not(
    serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    make_package(folder, gain=0.25)
    with serve(packages=[tmp_path]) as served, served.client("engineer") as client:
        before = served.state.models["tiny"]
        assert _score(client) == pytest.approx(0.25, abs=1e-5)
        assert client.post("/v2/repository/models/tiny/load", content=b'{"parameters": {}}').status_code == 200
        assert client.post("/v2/repository/models/tiny/load", content=b'{"parameters": []}').status_code == 400
        assert served.state.models["tiny"] is before
        _replace(folder, gain=0.5)
        assert client.post("/v2/repository/models/tiny/load").status_code == 200
        assert served.state.models["tiny"] is not before
        assert _score(client) == pytest.approx(0.5, abs=1e-5)
        # One version is one series in the metrics, counted on.
        assert served.metric("nv_inference_request_success", model="tiny", version="1.0.0") == 2
        assert client.get("/metrics").text.count('nv_inference_request_success{model="tiny"') == 1


def test_a_package_that_fails_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    make_package(folder, gain=0.25)
    with serve(packages=[tmp_path]) as served, served.client("engineer") as client:
        for spoil in ({"wrong_golden": True}, None):
            if spoil:
                _replace(folder, gain=0.5, **spoil)
            else:
                (folder / "model.onnx").write_bytes(b"damaged")
            answer = client.post("/v2/repository/models/tiny/load")
            assert answer.status_code == 400
            assert "tiny" in answer.json()["error"]
            assert _score(client) == pytest.approx(0.25, abs=1e-5)
            assert client.get("/v2/health/ready").status_code == 200
        shutil.rmtree(folder)
        assert client.post("/v2/repository/models/tiny/load").status_code == 404
        assert _score(client) == pytest.approx(0.25, abs=1e-5)


def test_unload_and_load_as_tritons_client_does(serve: Serve, tmp_path: Path) -> None:
    make_package(tmp_path / "a", gain=0.5)
    make_package(tmp_path / "b.zip", version="2", gain=1.0)
    with serve(packages=[tmp_path]) as served, triton.InferenceServerClient(served.address) as client:
        viewer, engineer = served.headers("viewer"), served.headers("engineer")
        rows = client.get_model_repository_index(headers=viewer)
        assert [(row["name"], row["version"], row["state"]) for row in rows] == [
            ("tiny", "1.0.0", "READY"),
            ("tiny", "2", "READY"),
        ]
        for role in ("viewer", "operator"):
            with pytest.raises(InferenceServerException, match="engineer") as caught:
                client.unload_model("tiny", headers=served.headers(role))
            assert caught.value.status() == "403"
        gone = weakref.ref(served.state.models["tiny"])
        client.unload_model("tiny", headers=engineer)
        client.unload_model("tiny", headers=engineer)  # twice is no error
        rows = client.get_model_repository_index(headers=viewer)
        assert [(row["state"], row["reason"]) for row in rows] == [("UNAVAILABLE", "unloaded")] * 2
        assert not client.is_model_ready("tiny", headers=viewer)
        assert client.is_server_ready()
        with served.client() as plain:
            for path in ("infer", "versions/2/infer"):
                refused = plain.post(f"/v2/models/tiny/{path}", content=BODY)
                assert refused.status_code == 503
                assert "unloaded" in refused.json()["error"]
            assert plain.post("/v2/repository/index", content=b'{"ready": true}').json() == []
            assert plain.post("/v2/repository/index", content=b'{"ready": 1}').status_code == 400
            assert plain.post("/v2/repository/index", content=b"[]").status_code == 400
            assert plain.post("/v2/repository/index", content=b"{").status_code == 400
        gc.collect()
        assert gone() is None, "its memory is free"
        client.load_model("tiny", headers=engineer)
        assert client.is_model_ready("tiny", "2", headers=viewer)
        with served.client() as plain:
            assert _score(plain) == pytest.approx(1.0, abs=1e-5)
            assert _score(plain, "/versions/1.0.0") == pytest.approx(0.5, abs=1e-5)
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException) as caught:
                call("nothing", headers=engineer)
            assert caught.value.status() == "404"
        entries = served.state.records.audit_entries()
        assert [(entry.who, entry.action, entry.subject) for entry in reversed(entries)][-2:] == [
            ("test engineer", "unload_model", "tiny"),
            ("test engineer", "load_model", "tiny"),
        ]


def test_a_package_that_came_later_is_listed_and_can_be_loaded(serve: Serve, tmp_path: Path) -> None:
    make_package(tmp_path / "tiny")
    with serve(packages=[tmp_path]) as served, served.client("engineer") as client:
        make_package(tmp_path / "late.zip", name="late", gain=0.5)
        (tmp_path / "broken.zip").write_bytes(b"PK no zip")
        rows = client.post("/v2/repository/index").json()
        assert {"name": "late"} in rows
        assert client.post("/v2/models/late/infer", content=BODY).status_code == 404
        assert client.post("/v2/repository/models/late/load").status_code == 200
        assert client.post("/v2/models/late/infer", content=BODY).status_code == 200


def test_unloading_answers_what_was_admitted(serve: Serve, packages: Path) -> None:
    body = json.dumps({"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [3000]}]})
    with serve(packages=[packages / "slow"]) as served, served.client("engineer") as client:
        statuses: list[int] = []

        def send() -> None:
            with served.client() as own:
                statuses.append(own.post("/v2/models/slow/infer", content=body).status_code)

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        queue = served.state.models["slow"].queue
        for _ in range(500):
            if queue.pending == 2:
                break
            time.sleep(0.01)
        assert client.post("/v2/repository/models/slow/unload").status_code == 200
        assert (queue.pending, queue.computing) == (0, 0)
        for thread in threads:
            thread.join(30)
        assert statuses == [200] * 3


def test_a_promoted_champion_is_served_without_a_word(make_settings: Callable[[], Settings], tmp_path: Path) -> None:
    settings = make_settings()
    registry = Registry(settings.registry)
    registry.add(make_package(tmp_path / "one", gain=0.25), alias="champion")
    two = registry.add(make_package(tmp_path / "two", version="2", gain=0.5))
    with running(ServerOptions(threads=1), settings) as server:
        server.wait_ready()
        served = Served(server)
        with served.client("engineer") as client, _Hammer(served, 2).going() as hammer:
            assert _score(client) == pytest.approx(0.25, abs=1e-5)
            registry.promote("tiny", two.version)
            _until(lambda: server.state.models["tiny"].version == "2")
            assert _score(client) == pytest.approx(0.5, abs=1e-5)
            registry.rollback("tiny")
            _until(lambda: server.state.models["tiny"].version == "1")
            assert _score(client) == pytest.approx(0.25, abs=1e-5)
            registry.add(make_package(tmp_path / "new", name="other", gain=1.0), alias="champion")
            _until(lambda: "other" in server.state.models)
            client.post("/v2/repository/models/other/unload")
            registry.promote("tiny", two.version)
            _until(lambda: server.state.models["tiny"].version == "2")
            assert "other" not in server.state.models  # unloaded by a person, and so it stays
        assert {status for status, _, _ in hammer.answers} == {200}
        assert any(entry.who == "registry" for entry in server.state.records.audit_entries())


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
