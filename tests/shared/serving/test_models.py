"""Which models a server has, and when it says that it is ready."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.errors import BadInput, HaechiError, PackageRefused
from shared.registry import Registry
from shared.serving import discover
from shared.serving.app import create_app, state_of
from shared.serving.errors import NotFound, Unavailable
from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.shared.packages import make_package
from tests.shared.serving.models import slow_package
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]


def test_alive_at_once_and_ready_only_after_the_golden_samples(serve: Serve, tmp_path: Path) -> None:
    slow_package(tmp_path / "slow", golden_steps=3000)  # a second or more, three times over
    body = json.dumps({"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [1]}]})
    with serve(packages=[tmp_path], ready=False) as served, served.client() as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "loading" in client.get("/v2/models/slow/ready").json()["error"]
        assert client.get("/v2/models/slow").status_code == 200  # what it is, is known already
        refused = client.post("/v2/models/slow/infer", content=body)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        with pytest.raises(Unavailable):
            _ = served.state.models["slow"].model
        served.server.wait_ready()
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.post("/v2/models/slow/infer", content=body).status_code == 200


def test_a_model_that_fails_its_self_test_never_becomes_ready(serve: Serve, packages: Path, tmp_path: Path) -> None:
    make_package(tmp_path / "bad", name="bad", wrong_golden=True)
    with serve(packages=[tmp_path / "bad", packages / "picky"], ready=False) as served, served.client() as client:
        with pytest.raises(PackageRefused, match="self-test"):
            served.server.wait_ready()
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert "self-test" in client.get("/v2/models/bad/ready").json()["error"]
        assert "error" not in client.get("/v2/health/ready").json() or "bad" not in client.get("/v2/health/ready").text


def test_a_dead_worker_is_not_ready(serve: Serve, packages: Path) -> None:
    with serve(packages=[packages / "picky"]) as served, served.client() as client:
        served.state.models["picky"].queue.close()
        assert served.state.models["picky"].queue.join(5)
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/models/picky/ready").status_code == 503


def test_a_draining_server_is_alive_and_takes_nothing_new(serve: Serve, packages: Path) -> None:
    with serve(packages=[packages / "picky"]) as served, served.client() as client:
        served.state.draining = True
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        answer = client.post("/v2/models/picky/infer", content=b"{}")
        assert answer.status_code == 503
        assert "another" in answer.json()["error"]
        # Refused before its body was read: the client can still send it all, and its connection stays usable.
        assert client.post("/v2/models/picky/infer", content=bytes(8_000_000)).status_code == 503
        served.state.draining = False
        assert client.get("/v2/models/picky").status_code == 200
        assert served.metric("haechi_http_body_bytes_in_flight") == 0


def test_versions_side_by_side_and_the_newest_by_default(serve: Serve, tmp_path: Path) -> None:
    for version, gain in (("1.9.0", 0.25), ("1.10.0", 0.5), ("1.10.0-rc1", 0.75)):
        make_package(tmp_path / f"v{version}", version=version, gain=gain)
    (tmp_path / ".tmp-half").mkdir()
    (tmp_path / ".tmp-half" / "manifest.json").write_text("{")
    (tmp_path / "notes.txt").write_text("no package")
    with serve(packages=[tmp_path]) as served, served.client() as client:
        assert set(client.get("/v2/models/tiny").json()["versions"]) == {"1.9.0", "1.10.0", "1.10.0-rc1"}

        def score(path: str) -> float:
            image = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [255] * 3}
            threshold = {"name": "pixel_threshold", "shape": [1], "datatype": "FP32", "data": [1]}
            answer = client.post(f"/v2/models/tiny{path}/infer", content=json.dumps({"inputs": [image, threshold]}))
            return float(answer.json()["outputs"][0]["data"][0])

        assert score("/versions/1.9.0") == pytest.approx(0.25, abs=1e-5)
        assert score("/versions/1.10.0") == pytest.approx(0.5, abs=1e-5)
        assert served.state.models["tiny"].version != "1.9.0"
        assert served.state.find("tiny", "1.9.0").version == "1.9.0"
        with pytest.raises(NotFound):
            served.state.find("tiny", "2")
        assert [model.name for model in served.state.of_task("inspection")] == ["tiny"]


def test_packages_named_outright_answer_before_the_champions(
    make_settings: Callable[[], Settings], packages: Path, tmp_path: Path
) -> None:
    settings = make_settings()
    registry = Registry(settings.registry)
    registry.add(make_package(tmp_path / "stored", gain=0.5), alias="champion")
    registry.add(make_package(tmp_path / "challenger", gain=0.25))
    only = state_of(create_app(ServerOptions(), settings))
    assert {name: served.version for name, served in only.models.items()} == {"tiny": "1"}
    both = state_of(create_app(ServerOptions([packages / "tiny.zip"], registry=True), settings))
    assert list(both.versions["tiny"]) == ["1", "1.0.0"]
    assert both.models["tiny"].version == "1.0.0"
    without = state_of(create_app(ServerOptions([packages / "picky"]), settings))
    assert list(without.models) == ["picky"]
    for state in (only, both, without):
        state.records.close()


def test_a_place_without_packages_is_an_error(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "holds no package"), (tmp_path / "x", "no such file"), (tmp_path / "f", "neither")):
        if path.name == "f":
            path.write_text("")
        with pytest.raises(BadInput, match=words):
            discover.find_packages(path)


def test_infer_without_http_checks_its_inputs(served: Served) -> None:
    """What a solution's routes call; each call comes from an event loop of its own here, which a queue must bear."""
    model = served.state.models["picky"]

    async def twice() -> list[float]:
        results = await asyncio.gather(*(model.infer({"index": np.array([i])}) for i in (0, 3)))
        return [float(result["value"][0]) for result in results]

    assert asyncio.run(twice()) == [1.0, 4.0]
    with pytest.raises(BadInput, match="index"):
        asyncio.run(model.infer({"index": np.array([0.5])}))
    with pytest.raises(BadInput, match="no input other"):
        asyncio.run(model.infer({"other": np.array([1])}))


def test_a_cancelled_call_leaves_nothing_behind(served: Served) -> None:
    model = served.state.models["slow"]

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await model.infer({"steps": np.array([2000])})
        await model.infer({"steps": np.array([1])})

    asyncio.run(scenario())
    assert model.queue.pending == 0
    assert model.queue.bytes_held == 0


def test_running_ends_its_server_and_frees_its_port(make_settings: Callable[[], Settings], packages: Path) -> None:
    with running(ServerOptions([packages / "picky"], threads=1), make_settings()) as server:
        server.wait_ready()
        url, port = server.url, int(server.url.rsplit(":", 1)[1])
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/v2/health/live")
    with running(ServerOptions([packages / "picky"], threads=1), make_settings(), port=port) as server:
        assert server.url == url
        with pytest.raises(HaechiError, match="taken"), running(port=port):
            pass
