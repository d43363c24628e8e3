"""Traces of real requests to a real server, as a collector gets them over OTLP."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra tracing is not installed")

from shared.errors import BadInput
from shared.serving import tracing
from tests.shared.serving.collector import Collector, collecting
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]

_ROUTE = "POST /v2/models/{model}/infer"
_TRACE, _PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def _infer(name: str, *values: int) -> bytes:
    tensor = {"name": name, "shape": [len(values)], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(serve: Serve, collector: Collector) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        with serve(grpc="127.0.0.1:0") as served:
            yield served


def test_a_request_its_wait_and_its_computing(traced: Served, collector: Collector) -> None:
    before = time.time_ns()
    with traced.client() as client:
        answer = client.post(
            "/v2/models/picky/infer?secret=1", content=_infer("index", 0, 1), headers={"X-Request-Id": "part-1"}
        )
        assert answer.status_code == 200
        plain = client.post("/v2/models/picky/infer", content=_infer("index", 0), headers={"X-Request-Id": "part-2"})
        assert plain.status_code == 200
    for identity in ("part-1", "part-2"):  # through uvicorn, because of its query, and through the fast lane
        request = collector.wait_for(_ROUTE, haechi__request_id=identity)[0]
        assert request.parent == ""
        assert not request.failed
        assert request.resource["service.name"] == "haechi"
        assert request.resource["deployment.environment"] == "test"
        assert request.attributes == {
            "http.request.method": "POST",
            "url.path": "/v2/models/picky/infer",
            "http.route": "/v2/models/{model}/infer",
            "http.response.status_code": 200,
            "haechi.request_id": identity,
            "haechi.model.name": "picky",
            "haechi.model.version": "1",
        }
        inside = [span for span in collector.spans if span.parent == request.id]
        queue, compute = sorted(inside, key=lambda span: span.start)
        assert (queue.name, compute.name) == ("queue", "compute")
        assert {span.trace_id for span in inside} == {request.trace_id}
        assert compute.attributes["haechi.model.name"] == "picky"
        assert compute.attributes["haechi.batch.requests"] == 1
        assert before <= request.start <= queue.start <= queue.end == compute.start < compute.end <= request.end
        assert request.end <= time.time_ns()


@pytest.mark.parametrize("path", ["/v2/models/picky/infer", "/v2/models/picky/versions/1/infer?"])
def test_the_clients_trace_goes_on(traced: Served, collector: Collector, path: str) -> None:
    identity = f"child-{len(path)}"
    headers = {"traceparent": f"00-{_TRACE}-{_PARENT}-01", "X-Request-Id": identity}
    with traced.client() as client:
        assert client.post(path, content=_infer("index", 0), headers=headers).status_code == 200
    route = "POST /v2/models/{model}/versions/{version}/infer" if "versions" in path else _ROUTE
    request = collector.wait_for(route, haechi__request_id=identity)[0]
    assert (request.trace_id, request.parent) == (_TRACE, _PARENT)


def test_a_client_that_samples_nothing_and_nonsense_are_heeded(traced: Served, collector: Collector) -> None:
    with traced.client() as client:
        for identity, parent in (("unsampled", f"00-{_TRACE}-{_PARENT}-00"), ("nonsense", "00-xyz"), ("é", "é")):
            headers = [(b"traceparent", parent.encode()), (b"x-request-id", identity.encode())]
            assert client.post("/v2/models/picky/infer", content=_infer("index", 0), headers=headers).status_code == 200
    assert collector.wait_for(_ROUTE, haechi__request_id="nonsense")[0].parent == ""
    assert not collector.named(_ROUTE, haechi__request_id="unsampled")


def test_refusals_and_failures_are_told_too(traced: Served, collector: Collector) -> None:
    cases = [
        ("/v2/models/picky/infer", _infer("index", 99), 400),  # computed, and wrong
        ("/v2/models/picky/infer", b"{", 400),
        ("/v2/models/nothing/infer", _infer("index", 0), 404),
        ("/v2/models/picky/infer?", b"{", 400),
    ]
    with traced.client() as client:
        for number, (path, body, status) in enumerate(cases):
            identity = {"X-Request-Id": f"wrong-{number}"}
            assert client.post(path, content=body, headers=identity).status_code == status
            span = collector.wait_for(_ROUTE, haechi__request_id=f"wrong-{number}")[0]
            assert span.attributes["http.response.status_code"] == status
            assert not span.failed  # the client's mistakes are no errors of the server's
            inside = [each.name for each in collector.spans if each.parent == span.id]
            assert sorted(inside) == (["compute", "queue"] if number == 0 else [])
        key = {"X-Api-Key": "hk_wrong_key", "X-Request-Id": "stranger"}
        assert client.post("/v2/models/picky/infer", content=b"{}", headers=key).status_code == 401
    collector.wait_for(_ROUTE, haechi__request_id="stranger")
    told = json.dumps([span.attributes for span in collector.spans])
    assert "hk_" not in told
    assert "secret" not in told


def test_each_request_has_its_own_wait(traced: Served, collector: Collector) -> None:
    with ThreadPoolExecutor(4) as pool, traced.client() as client:
        requests = [
            pool.submit(
                client.post,
                "/v2/models/slow/infer",
                content=_infer("steps", 100),
                headers={"X-Request-Id": f"slow-{number}"},
            )
            for number in range(4)
        ]
        assert [request.result().status_code for request in requests] == [200] * 4
    seen = [collector.wait_for(_ROUTE, haechi__request_id=f"slow-{number}")[0] for number in range(4)]
    parts = {span.id: [each for each in collector.spans if each.parent == span.id] for span in seen}
    assert [len(each) for each in parts.values()] == [2] * 4
    computing = sorted((s.start, s.end) for each in parts.values() for s in each if s.name == "compute")
    for (_, end), (start, _) in itertools.pairwise(computing):
        assert end <= start + 1_000_000  # there is one worker, and the clock's rounding


def test_probes_are_not_traced(traced: Served, collector: Collector) -> None:
    with traced.client("viewer") as client:
        for path in ("/v2/health/ready", "/v2/health/live", "/metrics"):
            assert client.get(path).status_code == 200
        assert client.get("/v2/models/picky", headers={"X-Request-Id": "after-probes"}).status_code == 200
    collector.wait_for("GET /v2/models/{model}", haechi__request_id="after-probes")
    assert not [span for span in collector.spans if "health" in span.name or "metrics" in span.name]


def test_grpc_calls_are_traced(traced: Served, collector: Collector) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    tensor = triton.InferInput("index", [2], "INT64")
    tensor.set_data_from_numpy(np.array([0, 1]))
    headers = {"x-api-key": traced.keys["operator"], "traceparent": f"00-{_TRACE}-{_PARENT}-01", "x-request-id": "call"}
    with triton.InferenceServerClient(f"127.0.0.1:{traced.state.grpc_port}") as client:
        client.infer("picky", [tensor], headers=headers)
    span = collector.wait_for("GRPC /inference.GRPCInferenceService/ModelInfer", haechi__request_id="call")[0]
    assert (span.trace_id, span.parent) == (_TRACE, _PARENT)
    assert span.attributes["rpc.method"] == "ModelInfer"
    assert sorted(each.name for each in collector.spans if each.parent == span.id) == ["compute", "queue"]


def test_what_has_not_left_yet_leaves_at_the_end(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "line 3")
    with serve() as served, served.client() as client:
        identity = {"X-Request-Id": "last"}
        assert client.post("/v2/models/picky/infer", content=_infer("index", 0), headers=identity).status_code == 200
    assert collector.named(_ROUTE, haechi__request_id="last")[0].resource["service.name"] == "line 3"


def test_a_collector_that_is_away_costs_nothing_but_the_traces(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with serve(trace=True) as served, served.client() as client:
            for _ in range(5):
                answer = client.post("/v2/models/picky/infer", content=_infer("index", 0))
                assert answer.status_code == 200
            began = time.monotonic()
    assert time.monotonic() - began < tracing.CLOSE_SECONDS + 10


def test_nothing_is_imported_while_traces_are_off(packages: object, serve: Serve) -> None:
    with serve() as served:
        assert served.state.tracer is None
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from shared.serving.server import running\n"
        "from shared.serving.state import ServerOptions\n"
        f"with running(ServerOptions([Path({str(packages)!r}) / 'picky'])) as server:\n"
        "    server.wait_ready()\n"
        "assert 'shared.serving.tracing' in sys.modules\n"
        "found = [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_what_switches_it_on_and_what_is_wrong_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing.from_environment(wanted=False) is None
    cases: list[tuple[dict[str, str], str]] = [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is unknown here"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "not spoken here"),
    ]
    for variables, words in cases:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            assert tracing.from_environment(wanted=False) is None  # with a warning
            with pytest.raises(BadInput, match=words):
                tracing.from_environment(wanted=True)
    for name, value in (("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert tracing.from_environment(wanted=True) is None
    for name, value in (("OTEL_TRACES_EXPORTER", "console"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            tracer = tracing.from_environment(wanted=False)
            assert tracer is not None
            tracer.close()
