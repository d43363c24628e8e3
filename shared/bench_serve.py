"""How fast a server answers, and what it costs: the measurement behind `haechi bench serve`.

What a server is to blame for is what it adds to the model, so beside requests a second stand its CPU time for each
request (where it runs on this machine) and its efficiency: accepted inferences/s × model milliseconds ÷ cores, which is
1 where all cores do nothing but compute the model. The load generator itself takes a share of the same cores when both
run on one machine; its CPU time is told too.
"""

from __future__ import annotations

import http.client
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shared import bench_serve_load, bench_serve_processes
from shared.bench_serve_load import REFUSALS, Address, Load, Request
from shared.bench_serve_payload import Payload
from shared.bench_serve_server import Server, Statistics
from shared.machine import usable_cores

MEASURED_BY_SERVER = "one inference on one thread, measured by the server when it loaded the model"
FROM_COUNTERS = "the server's compute_infer time over its executions, under one client"
_WARM_UP_SECONDS = 1.0
_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class ModelTime:
    """What the model itself takes."""

    milliseconds: float
    """For one inference."""
    source: str


@dataclass(frozen=True)
class Run:
    """One concurrency, measured. Times are in milliseconds, `None` where there was nothing to measure."""

    concurrency: int
    rate: float | None
    """Requests a second that were offered; None: as many as the clients could."""
    seconds: float
    sent: int
    accepted: int
    """Answers with status 200."""
    requests_per_s: float
    """Answers with status 200 within the window, a second."""
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: dict[str, int]
    """Everything else, by kind."""
    refused_p50_ms: float | None
    """How long a refusal (429, 503, 504) took to arrive."""
    refused_p99_ms: float | None
    unsent: int
    """With a rate: requests that were due while every client was waiting."""
    server_success: int | None
    """By how much the server's own counter of answered requests rose."""
    cpu_ms_per_request: float | None
    """CPU time of the server's processes over accepted requests."""
    client_cpu_ms_per_request: float | None
    """CPU time of this load generator over all answers."""
    rss_mb_before: float | None
    rss_mb_after: float | None
    efficiency: float | None
    words: dict[str, str] = field(default_factory=dict)
    """What the first answer of each other status said."""

    @property
    def agrees(self) -> bool:
        """Server and client have counted the same, as far as the server counts."""
        return self.server_success is None or self.server_success == self.accepted

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Bench:
    """A server under measurement.

    Args:
        server: where it is.
        model, version: what is asked; an empty version is the one that answers by default.
        payload: what is sent.
        timeout_ms: in which the answer is wanted; the server may refuse what it cannot do in time.
        cores: that the server may use; None: those of this machine, if it runs here.
        processes: those of the server, with their children; None: found by its port.
    """

    server: Server
    model: str
    version: str
    payload: Payload
    timeout_ms: float | None = None
    cores: int | None = None
    processes: Sequence[int] | None = None
    model_time: ModelTime | None = None

    def __post_init__(self) -> None:
        address = self.server.address
        local = bench_serve_processes.is_here(*bench_serve_load.reachable(address))
        if self.processes is None:
            self.processes = bench_serve_processes.of_port(address.port) if local else []
        if self.cores is None and local:
            self.cores = usable_cores()
        path = f"{self.server.path(self.model, self.version)}/infer"
        self.request: Request = self.payload.request(address, path, self.server.headers, self.timeout_ms)

    @property
    def process_names(self) -> tuple[str, ...]:
        """What is counted as the server's."""
        used = bench_serve_processes.usage(self.processes or [])
        return used.names if used else ()

    def warm_up(self, seconds: float = _WARM_UP_SECONDS) -> None:
        """One request that must be answered, then some more; also finds the model's time, unless it is known.

        Raises:
            HaechiError: the server cannot be reached, or refuses the first request.
        """
        body, json_size, _ = self.payload.body()
        path = f"{self.server.path(self.model, self.version)}/infer"
        headers = {"Inference-Header-Content-Length": str(json_size), "Content-Type": "application/octet-stream"}
        status, answer = self.server.request("POST", path, body, headers)
        if status != http.client.OK:
            raise self.server.refusal(status, answer, self.model)
        bench_serve_load.run(self.server.address, self.request, 1, seconds)
        if self.model_time is None:
            self.model_time = self._find_model_time()

    def run(self, concurrency: int, seconds: float, rate: float | None = None) -> Run:
        """Measure one concurrency.

        Raises:
            HaechiError: the server cannot be reached.
        """
        time = self.model_time
        return measure(
            self.server.address,
            self.request,
            concurrency,
            seconds,
            rate=rate,
            processes=self.processes or (),
            success=self.success,
            model_ms=time.milliseconds * self.payload.batch if time else None,
            cores=self.cores,
        )

    def success(self) -> int | None:
        """How many requests the server has answered by its own count."""
        found = self._statistics()
        return found.success if found else None

    def _statistics(self) -> Statistics | None:
        return self.server.statistics(self.model, self.version)

    def _find_model_time(self) -> ModelTime | None:
        """The server's own measurement, where it has one of such a payload; else its counters under one client."""
        before = self._statistics()
        if before is None:
            return None
        if before.one_thread_ms is not None and self.payload.fixed:
            return ModelTime(before.one_thread_ms, MEASURED_BY_SERVER)
        bench_serve_load.run(self.server.address, self.request, 1, _PROBE_SECONDS)
        after = self._statistics()
        if after is None or after.executions <= before.executions:
            return None
        spent = (after.compute_seconds - before.compute_seconds) / (after.executions - before.executions)
        return ModelTime(1000 * spent / self.payload.batch, FROM_COUNTERS) if spent > 0 else None


def measure(
    address: Address,
    request: Request,
    concurrency: int,
    seconds: float,
    *,
    rate: float | None = None,
    processes: Sequence[int] = (),
    success: Callable[[], int | None] | None = None,
    model_ms: float | None = None,
    cores: int | None = None,
) -> Run:
    """Put any HTTP server under load and count.

    Args:
        request: see `bench_serve_load.post`.
        processes: of the server; their children count with them.
        success: asks the server how many requests it has answered.
        model_ms: what the model takes for one request.
        cores: that the server may use.

    Raises:
        HaechiError: the server cannot be reached.
    """
    counted_before, used_before = success() if success else None, bench_serve_processes.usage(processes)
    load = bench_serve_load.run(address, request, concurrency, seconds, rate=rate)
    used_after, counted_after = bench_serve_processes.usage(processes), success() if success else None
    cpu = used_after.cpu_seconds - used_before.cpu_seconds if used_after and used_before else None
    accepted, per_second = len(load.accepted), load.in_window / load.seconds
    p50, p90, p95, p99, largest = _percentiles(load.accepted, (50, 90, 95, 99, 100))
    refused_p50, refused_p99 = _percentiles(load.refused, (50, 99))
    return Run(
        concurrency=concurrency,
        rate=rate,
        seconds=load.seconds,
        sent=load.sent,
        accepted=accepted,
        requests_per_s=per_second,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=largest,
        errors=errors_of(load),
        refused_p50_ms=refused_p50,
        refused_p99_ms=refused_p99,
        unsent=load.unsent,
        server_success=_rise(counted_before, counted_after),
        cpu_ms_per_request=1000 * cpu / accepted if cpu is not None and accepted else None,
        client_cpu_ms_per_request=1000 * load.client_cpu_seconds / load.answered if load.answered else None,
        rss_mb_before=used_before.rss_bytes / 1e6 if used_before else None,
        rss_mb_after=used_after.rss_bytes / 1e6 if used_after else None,
        efficiency=per_second * model_ms / 1000 / cores if model_ms and cores else None,
        words={"broken" if status == 0 else str(status): text for status, text in load.words.items()},
    )


def errors_of(load: Load) -> dict[str, int]:
    """Everything but answers with status 200, by kind."""
    other = sum(count for status, count in load.statuses.items() if status != http.client.OK and status not in REFUSALS)
    return {
        **{str(status): load.statuses[status] for status in sorted(REFUSALS)},
        "other": other,
        "broken": load.broken,
        "unanswered": load.unanswered,
        "wrong_id": load.wrong_ids,
    }


def _rise(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _percentiles(seconds: array[float], percents: Sequence[float]) -> list[float | None]:
    """In milliseconds."""
    if not seconds:
        return [None] * len(percents)
    found = np.percentile(np.frombuffer(seconds), percents)
    return [float(1000 * value) if math.isfinite(value) else None for value in found]
