"""Refused at once, or answered: the bounded queue under a real server and on its own."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx
import numpy as np
import pytest

from shared.errors import BadInput
from shared.serving.errors import Busy, ModelFailed, TooLarge, Unavailable
from shared.serving.limits import Limits
from shared.serving.metrics import Metrics
from shared.serving.queue import ModelQueue
from shared.serving.tensors import Array
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="module")
def narrow(serve: Serve) -> Iterator[Served]:
    """A server on which three requests may wait."""
    with serve(limits=Limits(queue_requests=3)) as served:
        yield served


def _steps(count: int) -> bytes:
    return json.dumps({"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [count]}]}).encode()


def _index(*values: int) -> bytes:
    tensor = {"name": "index", "shape": [len(values)], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


def _long(served: Served) -> int:
    """Steps for about a second on this machine."""
    with served.client() as client:
        client.post("/v2/models/slow/infer", content=_steps(20))
        started = time.perf_counter()
        assert client.post("/v2/models/slow/infer", content=_steps(200)).status_code == 200
        return max(200, int(200 / (time.perf_counter() - started)))


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_a_full_queue_refuses_at_once_and_answers_what_it_admitted(narrow: Served) -> None:
    steps = _long(narrow)
    queue = narrow.state.models["slow"].queue
    before = narrow.metric("nv_inference_request_failure", model="slow", reason="REJECTED")
    with ThreadPoolExecutor(4) as pool, narrow.client() as client:
        first = [pool.submit(narrow_post, narrow, _steps(steps))]
        _wait_for(lambda: queue.computing > 0)
        first += [pool.submit(narrow_post, narrow, _steps(1)) for _ in range(3)]
        _wait_for(lambda: queue.pending == 3)
        assert narrow.metric("nv_inference_pending_request_count", model="slow") == 3
        refused = client.post("/v2/models/slow/infer", content=_steps(1))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "queue is full" in refused.json()["error"]
        assert not first[0].done()  # answered while the worker computes: the loop is free
        other = client.post("/v2/models/picky/infer", content=_index(1))
        assert other.status_code == 200  # another model's queue is its own
        assert client.get("/v2/health/ready").status_code == 200  # busy is not broken
        assert [future.result().status_code for future in first] == [200] * 4
        assert client.post("/v2/models/slow/infer", content=_steps(1)).status_code == 200
    assert narrow.metric("nv_inference_request_failure", model="slow", reason="REJECTED") == before + 1


def narrow_post(served: Served, body: bytes) -> httpx.Response:
    with served.client() as client:
        return client.post("/v2/models/slow/infer", content=body)


def test_the_bytes_of_a_queue_are_bounded(serve: Serve) -> None:
    with serve(limits=Limits(queue_bytes=1000)) as served, served.client() as client:
        answer = client.post("/v2/models/picky/infer", content=_index(*[1] * 200))
        assert answer.status_code == 413
        assert "1000 bytes" in answer.json()["error"]
        assert client.post("/v2/models/picky/infer", content=_index(*[1] * 100)).status_code == 200


def test_a_client_that_has_gone_is_not_computed(narrow: Served) -> None:
    steps = _long(narrow)
    queue = narrow.state.models["slow"].queue
    executed = narrow.metric("nv_inference_exec_count", model="slow")
    cancelled = narrow.metric("nv_inference_request_failure", model="slow", reason="CANCELED")
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(narrow_post, narrow, _steps(steps))
        _wait_for(lambda: queue.computing > 0)
        body = _steps(3)
        host, port = narrow.address.split(":")
        head = (
            f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: {narrow.address}\r\n"
            f"X-Api-Key: {narrow.keys['operator']}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            _wait_for(lambda: queue.pending == 1)
        _wait_for(lambda: queue.pending == 0)  # gone with its connection, while the worker is still at the first
        assert not busy.done()
        assert busy.result().status_code == 200
    assert narrow.metric("nv_inference_exec_count", model="slow") == executed + 1
    assert narrow.metric("nv_inference_request_failure", model="slow", reason="CANCELED") == cancelled + 1
    assert queue.bytes_held == 0


def test_a_poisoned_request_fails_alone(served: Served) -> None:
    with served.client() as client, ThreadPoolExecutor(4) as pool:
        bodies = [_index(index % 4) if index % 3 else _index(0, 99) for index in range(30)]
        answers = list(pool.map(lambda body: client.post("/v2/models/picky/infer", content=body), bodies))
        assert [answer.status_code for answer in answers] == [200 if index % 3 else 400 for index in range(30)]
        assert "picky" in answers[0].json()["error"]
        assert client.get("/v2/models/picky/ready").status_code == 200


def _queue(
    run: Callable[[Mapping[str, Array]], dict[str, Array]], **options: int
) -> tuple[ModelQueue, dict[str, bool]]:
    metrics = Metrics()
    golden = {"passes": True}

    def check() -> None:
        if not golden["passes"]:
            raise RuntimeError("golden samples differ")

    bounds = {"max_requests": 8, "max_bytes": 1000} | options
    queue: ModelQueue = ModelQueue("m", run, check, metrics.add_model("m", "1", lambda: queue.pending), **bounds)
    queue.start()
    return queue, golden


def test_blame_falls_on_the_model_when_its_golden_samples_fail() -> None:
    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["x"][0] < 0:
            raise ValueError("no negative numbers")
        return dict(inputs)

    async def scenario() -> None:
        queue, golden = _queue(run)
        bad, good = {"x": np.array([-1.0])}, {"x": np.array([1.0])}
        with pytest.raises(BadInput, match="no negative numbers"):
            await queue.submit(bad, 8).outputs
        assert queue.trouble() == ""
        golden["passes"] = False
        with pytest.raises(ModelFailed):
            await queue.submit(bad, 8).outputs
        assert "golden" in queue.trouble()
        golden["passes"] = True
        with pytest.raises(BadInput):
            await queue.submit(bad, 8).outputs
        assert queue.trouble() == ""
        assert (await queue.submit(good, 8).outputs)["x"] == [1.0]
        queue.close()
        assert queue.join(5)

    asyncio.run(scenario())


def test_a_closed_queue_finishes_what_it_has_and_takes_no_more() -> None:
    gate = threading.Event()

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        gate.wait(10)
        return dict(inputs)

    async def scenario() -> None:
        queue, _ = _queue(run, max_requests=2, max_bytes=100)
        jobs = [queue.submit({"x": np.array([0])}, 30)]
        while queue.pending:
            await asyncio.sleep(0.001)
        jobs += [queue.submit({"x": np.array([index])}, 30) for index in (1, 2)]
        with pytest.raises(Busy) as refused:
            queue.submit({}, 0)
        assert refused.value.retry_after >= 1
        with pytest.raises(TooLarge):
            queue.submit({}, 101)
        queue.cancel(jobs[2])
        with pytest.raises(Busy):  # 60 bytes are held, 41 more are too many
            queue.submit({}, 41)
        queue.close()
        with pytest.raises(Unavailable):
            queue.submit({}, 0)
        gate.set()
        assert [(await job.outputs)["x"][0] for job in jobs[:2]] == [0, 1]
        assert queue.join(5)
        assert queue.bytes_held == 0
        assert not jobs[2].outputs.done()

    asyncio.run(scenario())


def test_a_queue_whose_loop_has_closed_goes_on() -> None:
    gate = threading.Event()
    runs: list[int] = []

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        gate.wait(10)
        runs.append(1)
        return dict(inputs)

    queue, _ = _queue(run)

    async def abandon() -> None:
        queue.submit({}, 0)

    asyncio.run(abandon())
    gate.set()
    _wait_for(lambda: len(runs) == 1)

    async def again() -> None:
        assert await queue.submit({"x": np.array([5])}, 8).outputs == {"x": np.array([5])}

    asyncio.run(again())
    queue.close()
    assert queue.join(5)
