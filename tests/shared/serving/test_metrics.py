"""The metrics under Triton's names, counted over real requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager

from prometheus_client import Counter

from shared.serving.metrics import Metrics
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]


def _index(*values: int) -> str:
    tensor = {"name": "index", "shape": [len(values)], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor]})


def test_requests_are_counted_where_triton_counts_them(serve: Serve) -> None:
    with serve() as served, served.client() as client:
        label = {"model": "picky", "version": "1"}
        assert served.metric("nv_inference_count", **label) == 0  # the golden samples at the start are not counted
        for _ in range(3):
            assert client.post("/v2/models/picky/infer", content=_index(0, 1, 2)).status_code == 200
        assert client.post("/v2/models/picky/infer", content=_index(99)).status_code == 400
        assert client.post("/v2/models/picky/infer", content="{").status_code == 400
        assert served.metric("nv_inference_request_success", **label) == 3
        assert served.metric("nv_inference_count", **label) == 9
        assert served.metric("nv_inference_exec_count", **label) == 3
        assert served.metric("nv_inference_request_failure", **label, reason="OTHER") == 2
        assert served.metric("nv_inference_request_failure", **label, reason="BACKEND") == 0
        assert served.metric("nv_inference_pending_request_count", **label) == 0
        compute = served.metric("nv_inference_compute_infer_duration_us", **label)
        queued = served.metric("nv_inference_queue_duration_us", **label)
        whole = served.metric("nv_inference_request_duration_us", **label)
        assert 0 < compute + queued <= whole + 3
        histogram = "haechi_inference_request_duration_seconds"
        assert served.metric(f"{histogram}_count", **label) == 3
        assert served.metric(f"{histogram}_bucket", **label, le="+Inf") == 3
        assert abs(served.metric(f"{histogram}_sum", **label) * 1e6 - whole) < 3
        assert served.metric("nv_inference_count", model="tiny", version="1.0.0") == 0


def test_the_names_in_the_text_are_tritons_to_the_letter(serve: Serve) -> None:
    with serve() as served, served.client("viewer") as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for name, kind in (
        ("nv_inference_request_success", "counter"),
        ("nv_inference_count", "counter"),
        ("nv_inference_exec_count", "counter"),
        ("nv_inference_queue_duration_us", "counter"),
        ("nv_inference_compute_infer_duration_us", "counter"),
        ("nv_inference_pending_request_count", "gauge"),
    ):
        assert f"# TYPE {name} {kind}" in lines
        assert f'{name}{{model="slow",version="1"}} 0' in lines
    assert 'nv_inference_request_failure{model="slow",version="1",reason="REJECTED"} 0' in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


def test_a_solutions_own_metrics_are_shown_too() -> None:
    metrics = Metrics()
    Counter("haechi_parts", "Parts judged", ["verdict"], registry=metrics.registry).labels("NG").inc()
    metrics.add_model('odd"name\\', "1\n", lambda: 4)
    text = metrics.render().decode()
    assert 'haechi_parts_total{verdict="NG"} 1.0' in text
    assert 'nv_inference_pending_request_count{model="odd\\"name\\\\",version="1\\n"} 4' in text
