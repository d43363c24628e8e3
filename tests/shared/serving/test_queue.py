"""The queue on its own: order, deadlines, batches, and workers that do not come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from shared.errors import BadInput
from shared.serving import queue as queue_module
from shared.serving.errors import Busy, DeadlinePassed
from shared.serving.metrics import Metrics
from shared.serving.queue import ModelQueue
from shared.serving.tensors import Array

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


class Model:
    """Notes what it is given; waits at a gate that a test opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seen: list[list[float]] = []

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert self.gate.wait(20)
        self.seen.append(inputs["x"].ravel().tolist())
        if (inputs["x"] < 0).any():
            raise ValueError("no negative numbers")
        return {"y": inputs["x"] * 2}


def make(run: Run, **options: int) -> tuple[ModelQueue, Metrics]:
    metrics = Metrics()
    bounds = {"max_requests": 8, "max_bytes": 1000} | options
    queue: ModelQueue = ModelQueue("m", run, lambda: None, metrics.add_model("m", "1", lambda: queue.pending), **bounds)
    queue.start(seconds=0.01)
    return queue, metrics


def row(value: float) -> dict[str, Array]:
    return {"x": np.array([[value]])}


async def begun(queue: ModelQueue) -> None:
    """Wait until the workers have taken all they can take."""
    while queue.pending or not queue.computing:
        await asyncio.sleep(0.001)


def test_urgent_jobs_overtake_and_patient_ones_fill_half() -> None:
    async def scenario() -> None:
        model = Model()
        queue, _ = make(model, max_requests=4)
        first = queue.submit(row(0), 8)
        await begun(queue)
        jobs = [queue.submit(row(1), 8, priority=3), queue.submit(row(2), 8, priority=3)]
        with pytest.raises(Busy):
            queue.submit(row(9), 8, priority=3)
        jobs += [queue.submit(row(3), 8), queue.submit(row(4), 8, priority=1)]
        model.gate.set()
        await asyncio.gather(first.outputs, *(job.outputs for job in jobs))
        assert model.seen == [[0], [4], [3], [1], [2]]
        queue.close()
        assert queue.join(5)

    asyncio.run(scenario())


def test_a_job_whose_deadline_passes_while_it_waits_is_not_computed() -> None:
    async def scenario() -> None:
        model = Model()
        queue, metrics = make(model)
        first = queue.submit(row(0), 8)
        await begun(queue)
        late = queue.submit(row(1), 8, deadline=time.perf_counter() + 0.1)
        patient = queue.submit(row(2), 8, deadline=time.perf_counter() + 60)
        with pytest.raises(Busy, match="deadline"):
            queue.submit(row(3), 8, deadline=time.perf_counter() + 0.001)
        await asyncio.sleep(0.15)
        model.gate.set()
        with pytest.raises(DeadlinePassed):
            await late.outputs
        await asyncio.gather(first.outputs, patient.outputs)
        assert model.seen == [[0], [2]]
        assert queue.bytes_held == 0
        assert b'nv_inference_request_failure{model="m",version="1",reason="REJECTED"} 2' in metrics.render()
        queue.close()

    asyncio.run(scenario())


def test_jobs_of_one_kind_that_wait_are_computed_together() -> None:
    async def scenario() -> None:
        model = Model()
        queue, metrics = make(model, max_batch=4)
        first = queue.submit(row(0), 8)
        await begun(queue)
        kinds = ["a", "a", "a", None, "b", "b"]
        jobs = [queue.submit(row(index + 1), 8, kind=kind) for index, kind in enumerate(kinds)]
        two = queue.submit({"x": np.array([[7.0], [8.0]])}, 16, 2, kind="b")
        model.gate.set()
        found = [(await job.outputs)["y"].ravel().tolist() for job in [first, *jobs, two]]
        assert found == [[0], [2], [4], [6], [8], [10], [12], [14, 16]]
        assert model.seen == [[0], [1, 2, 3], [4], [5, 6, 7, 8]]
        text = metrics.render()
        assert b'nv_inference_count{model="m",version="1"} 9' in text
        assert b'nv_inference_exec_count{model="m",version="1"} 4' in text
        assert b'nv_inference_request_success{model="m",version="1"} 8' in text
        queue.close()

    asyncio.run(scenario())


def test_one_bad_row_fails_alone() -> None:
    async def scenario() -> None:
        model = Model()
        queue, _ = make(model, max_batch=8)
        first = queue.submit(row(0), 8)
        await begun(queue)
        jobs = [queue.submit(row(value), 8, kind="a") for value in (1, -2, 3)]
        model.gate.set()
        found = await asyncio.gather(first.outputs, *(job.outputs for job in jobs), return_exceptions=True)
        assert isinstance(found[2], BadInput)
        assert [each["y"][0, 0] for each in (found[0], found[1], found[3]) if isinstance(each, dict)] == [0, 2, 6]
        assert queue.bytes_held == 0
        queue.close()

    asyncio.run(scenario())


def test_a_stuck_worker_is_replaced_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "STUCK_SECONDS", 0.05)

    async def scenario() -> None:
        stuck, model = threading.Event(), Model()
        model.gate.set()

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            if inputs["x"][0, 0] == 13:
                stuck.wait(20)
            return model(inputs)

        queue, metrics = make(run)
        never = queue.submit(row(13), 8)
        await begun(queue)
        waiting = queue.submit(row(1), 8)
        await asyncio.sleep(0.1)
        assert "more than" in queue.trouble()
        queue.mend()
        assert (await waiting.outputs)["y"] == 2
        assert queue.trouble() == ""
        assert b'haechi_model_worker_restarts{model="m",version="1"} 1' in metrics.render()
        stuck.set()
        assert (await never.outputs)["y"] == 26  # late, and still an answer
        await asyncio.sleep(0.05)
        assert sum(thread.name == "haechi-m" and thread.is_alive() for thread in threading.enumerate()) == 1
        queue.close()
        assert queue.join(5)

    asyncio.run(scenario())


def test_a_dead_worker_is_replaced() -> None:
    class Poison(BaseException):
        pass

    async def scenario() -> None:
        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            if inputs["x"][0, 0] == 13:
                raise Poison
            return dict(inputs)

        queue, metrics = make(run)
        queue.submit(row(13), 8)
        while not queue.trouble():
            await asyncio.sleep(0.005)
        assert "died" in queue.trouble()
        waiting = queue.submit(row(1), 8)
        queue.mend()
        assert (await waiting.outputs)["x"] == 1
        assert b'haechi_model_worker_restarts{model="m",version="1"} 1' in metrics.render()
        queue.close()

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        asyncio.run(scenario())
    finally:
        threading.excepthook = hook
