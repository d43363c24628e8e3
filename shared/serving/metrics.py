"""Prometheus metrics: Triton's names for inference, so that its dashboards and alerts work here unchanged.

Triton's counters have no `_total` suffix, which `prometheus_client` would append; they are therefore written out here,
in the same text format, and everything else (latency histogram, process figures, a solution's own metrics registered in
`Metrics.registry`) is the library's. A failure is counted under one `reason`: REJECTED (refused at admission, or its
deadline passed before its turn), CANCELED (the client had gone), BACKEND (the model), OTHER (the request was wrong).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_COUNTERS = {
    "nv_inference_request_success": "Number of successful inference requests, all batch sizes",
    "nv_inference_count": "Number of inferences performed",
    "nv_inference_exec_count": "Number of model executions performed",
    "nv_inference_request_duration_us": "Cumulative inference request duration in microseconds",
    "nv_inference_queue_duration_us": "Cumulative inference queuing duration in microseconds",
    "nv_inference_compute_input_duration_us": "Cumulative compute input duration in microseconds",
    "nv_inference_compute_infer_duration_us": "Cumulative compute inference duration in microseconds",
    "nv_inference_compute_output_duration_us": "Cumulative inference compute output duration in microseconds",
}
_COMPUTE = tuple(name for name in _COUNTERS if name.startswith("nv_inference_compute_"))
"""In the order before, in, and after the model."""
_FAILURE = "nv_inference_request_failure"
_RESTARTS = "haechi_model_worker_restarts"
_PENDING = "nv_inference_pending_request_count"


class ModelMetrics:
    """The counters of one version of one model. Safe from several threads."""

    def __init__(self, model: str, version: str, latency: Histogram, pending: Callable[[], int]) -> None:
        self.model = model
        self.version = version
        self._sources = [pending]
        self._lock = threading.Lock()
        self._values = dict.fromkeys(_COUNTERS, 0)
        self._failures = dict.fromkeys(REASONS, 0)
        self._batches: dict[int, list[float]] = {}
        self.last_inference = 0.0
        """Seconds since 1970, UTC, of the last run; 0: there was none."""
        self.restarts = 0
        """Workers that were replaced because they were stuck or had died."""
        self.failed_seconds = 0.0
        """Of all failed requests together, since their admission."""
        self._latency = latency.labels(model, version)

    def executed(self, batches: Sequence[int], queued: float, prepared: float, computed: float, parted: float) -> None:
        """One run of the model that gave outputs.

        Args:
            batches: inferences of each request in it.
            queued: seconds that these requests waited, in all.
            prepared, computed, parted: seconds before the model, in it, and after it.
        """
        size, requests = sum(batches), len(batches)
        spent = (prepared, computed, parted)
        with self._lock:
            self._values["nv_inference_count"] += size
            self._values["nv_inference_exec_count"] += 1
            self._values["nv_inference_queue_duration_us"] += round(queued * 1e6)
            # As Triton counts: each request of a batch has spent the batch's time.
            for name, seconds in zip(_COMPUTE, spent, strict=True):
                self._values[name] += round(seconds * 1e6) * requests
            counted = self._batches.setdefault(size, [0, 0.0, 0.0, 0.0])
            counted[0] += 1
            for index, seconds in enumerate(spent, 1):
                counted[index] += seconds
            self.last_inference = time.time()

    def succeeded(self, seconds: float) -> None:
        """One request answered, so long after its admission."""
        with self._lock:
            self._values["nv_inference_request_success"] += 1
            self._values["nv_inference_request_duration_us"] += round(seconds * 1e6)
        self._latency.observe(seconds)

    def failed(self, reason: str, seconds: float = 0.0) -> None:
        """One request that got no outputs, for one of `REASONS`, so long after its admission."""
        with self._lock:
            self._failures[reason] += 1
            self.failed_seconds += seconds

    def batches(self) -> dict[int, tuple[int, float, float, float]]:
        """By the inferences in one run: how many such runs, and the seconds before, in and after the model."""
        with self._lock:
            return {size: (int(n), a, b, c) for size, (n, a, b, c) in sorted(self._batches.items())}

    def pending(self) -> int:
        """Requests that wait now."""
        return sum(source() for source in self._sources)

    def values(self) -> dict[str, int]:
        """A snapshot of the counters, failures under `nv_inference_request_failure/REASON`."""
        with self._lock:
            return self._values | {f"{_FAILURE}/{reason}": count for reason, count in self._failures.items()}


class Metrics:
    """All metrics of a server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.latency = Histogram(
            "haechi_inference_request_duration_seconds",
            "Duration of successful inference requests from admission to outputs",
            ["model", "version"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.responses = Counter(
            "haechi_http_responses", "HTTP responses by status code", ["code"], registry=self.registry
        )
        self.body_bytes = Gauge(
            "haechi_http_body_bytes_in_flight", "Bytes of request bodies held in memory", registry=self.registry
        )
        self._models: list[ModelMetrics] = []

    def add_model(self, model: str, version: str, pending: Callable[[], int]) -> ModelMetrics:
        """Begin to count for a model; `pending` gives the number of requests that wait for it now.

        A model that is loaded anew under the same version goes on with the counters that there are: Prometheus would
        take two of one name for an error.
        """
        for known in self._models:
            if (known.model, known.version) == (model, version):
                known._sources.append(pending)
                return known
        metrics = ModelMetrics(model, version, self.latency, pending)
        self._models.append(metrics)
        return metrics

    def remove_model(self, metrics: ModelMetrics, pending: Callable[[], int]) -> None:
        """Show a model no more that has ended, unless its like goes on; what `add_model` was given and gave."""
        metrics._sources.remove(pending)
        if not metrics._sources:
            self._models.remove(metrics)
            self.latency.remove(metrics.model, metrics.version)

    def render(self) -> bytes:
        """Everything in the Prometheus text format 0.0.4."""
        snapshots = [(_labels(metrics), metrics.values(), metrics.pending()) for metrics in self._models]
        lines: list[str] = []
        for name, words in _COUNTERS.items():
            lines += _family(name, words, "counter")
            lines += [f"{name}{{{labels}}} {values[name]}" for labels, values, _ in snapshots]
        lines += _family(_FAILURE, "Number of failed inference requests, all batch sizes", "counter")
        for labels, values, _ in snapshots:
            lines += [f'{_FAILURE}{{{labels},reason="{r}"}} {values[f"{_FAILURE}/{r}"]}' for r in REASONS]
        lines += _family(_PENDING, "Instantaneous number of pending requests awaiting execution per-model.", "gauge")
        lines += [f"{_PENDING}{{{labels}}} {pending}" for labels, _, pending in snapshots]
        lines += _family(_RESTARTS, "Workers replaced because they were stuck or had died", "counter")
        lines += [f"{_RESTARTS}{{{_labels(metrics)}}} {metrics.restarts}" for metrics in self._models]
        return ("\n".join(lines) + "\n").encode() + generate_latest(self.registry)


def _family(name: str, words: str, kind: str) -> list[str]:
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]


def _labels(metrics: ModelMetrics) -> str:
    return f'model="{_escape(metrics.model)}",version="{_escape(metrics.version)}"'


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
