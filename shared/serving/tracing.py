"""OpenTelemetry traces: a span for each request, and in it one for its wait in the queue and one for its computing.

An extra (`pip install 'haechi[tracing]'`), and off unless asked for: by `--trace`, or by the standard variables of the
environment that name where traces go (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) or how
(`OTEL_TRACES_EXPORTER`: `otlp`, which is OTLP over HTTP, `console` or `none`). OpenTelemetry reads the others itself:
`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`, `OTEL_EXPORTER_OTLP_HEADERS` and so on.

A client's `traceparent` (https://www.w3.org/TR/trace-context/) makes its span the parent. Spans carry the model, its
version, the status and the request id, by which the access log is found; never a key, a query or a tensor. While it is
off, OpenTelemetry's SDK is not imported, and a request costs a comparison with None at each place that could tell a
trace.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shared.errors import BadInput
from shared.log import get_logger
from shared.serving.auth import PROBE_PATHS, Headers

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

QUIET_PATHS = PROBE_PATHS | {"/metrics"}
"""Asked every few seconds by machines: not traced."""
CLOSE_SECONDS = 3.0
"""How long a stopping server waits for the last spans to leave."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_INFER = "/v2/models/{model}/infer"
_INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"

_current: ContextVar[Trace | None] = ContextVar("haechi_trace", default=None)
_log = get_logger(__name__)


def current() -> Trace | None:
    """The trace of the request that this code works for, if there is one."""
    return _current.get()


def infer_route(path: str) -> str:
    """Which of the two routes for inference `path` is of."""
    return _INFER_VERSION if "/versions/" in path else _INFER


class Trace:
    """One request. `computed` may be called from any thread, the rest belongs to the event loop."""

    __slots__ = ("_after_1970", "_computed", "_ended", "_span", "_tracer")

    def __init__(self, tracer: Any, parent: Any, started: float) -> None:
        from opentelemetry.trace import SpanKind

        self._tracer = tracer
        self._after_1970 = time.time_ns() - time.perf_counter_ns()
        self._span = tracer.start_span("request", parent, SpanKind.SERVER, start_time=self._at(started))
        self._computed: list[tuple[str, str, int, float, float, float]] = []
        self._ended = False

    def enter(self) -> None:
        """Make it the current one of the task that is running, and of those it begins."""
        _current.set(self)

    def computed(self, model: str, version: str, requests: int, submitted: float, began: float, ended: float) -> None:
        """A worker has computed this request; times by `time.perf_counter()`.

        Args:
            requests: that were computed together, this one among them.
        """
        if not self._ended:  # else its client has gone, and it has been told already
            self._computed.append((model, version, requests, submitted, began, ended))

    def end(self, method: str, route: str, path: str, status: int, request_id: str) -> None:
        """The answer has been written. `method` is GRPC for calls, whose path names the call."""
        from opentelemetry.trace import Status, StatusCode

        self._ended = True
        span = self._span
        span.update_name(f"{method} {route}" if route else method)
        if method == "GRPC":
            span.set_attributes({"rpc.system": "grpc", "rpc.method": path.rpartition("/")[2]})
        else:
            span.set_attributes({"http.request.method": method, "url.path": path[:200], "http.route": route})
        span.set_attributes({"http.response.status_code": status, "haechi.request_id": request_id})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        for each in self._computed:
            self._tell(*each)
        span.end()

    def _tell(self, model: str, version: str, requests: int, submitted: float, began: float, ended: float) -> None:
        from opentelemetry.trace import set_span_in_context

        told = {"haechi.model.name": model, "haechi.model.version": version}
        self._span.set_attributes(told)
        inside = set_span_in_context(self._span)
        for name, start, end in (("queue", submitted, began), ("compute", began, ended)):
            span = self._tracer.start_span(name, inside, start_time=self._at(start), attributes=told)
            if name == "compute":
                span.set_attribute("haechi.batch.requests", requests)
            span.end(self._at(end))

    def _at(self, seconds: float) -> int:
        """A time by `time.perf_counter()` as nanoseconds since 1970, which OpenTelemetry counts in."""
        return round(seconds * 1e9) + self._after_1970


class Tracer:
    """Begins traces; see the module's description."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("haechi")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Headers, started: float) -> Trace:
        """The trace of a request with these headers that came at `started`, by `time.perf_counter()`."""
        given = {name: headers[name.encode()].decode("latin-1") for name in self._names(headers)}
        return Trace(self._tracer, self._propagator.extract(given) if given else None, started)

    @staticmethod
    def _names(headers: Headers) -> list[str]:
        return [name for name in ("traceparent", "tracestate") if name.encode() in headers]

    def close(self) -> None:
        """Send what has not left yet. A collector that is away holds nobody up for longer than `CLOSE_SECONDS`."""
        closing = threading.Thread(target=self._provider.shutdown, name="haechi-traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def from_environment(wanted: bool) -> Tracer | None:
    """A tracer where traces are asked for, by `wanted` or by the environment; None where they are not.

    Raises:
        BadInput: they are `wanted` and cannot be had. Asked for by the environment alone, which may be meant for other
            programs, they are left out with a warning.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if not wanted and not exporter and not any(map(os.environ.get, _ENDPOINTS)):
        return None
    problem = _problem(exporter)
    if problem and wanted:
        raise BadInput(problem)
    if problem:
        _log.warning("no_traces", reason=problem)
        return None
    return Tracer(_provider(exporter))


def _problem(exporter: str) -> str:
    """Why there can be no traces, in one sentence, or an empty string."""
    if exporter not in ("", "otlp", "console"):
        return f"OTEL_TRACES_EXPORTER={exporter[:40]} is unknown here; use otlp, console or none."
    protocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
    if not os.environ.get(protocol):
        protocol = "OTEL_EXPORTER_OTLP_PROTOCOL"
    given = os.environ.get(protocol, "").strip()
    if exporter != "console" and given not in ("", "http/protobuf"):
        return f"{protocol}={given[:40]} is not spoken here; set it to http/protobuf."
    for module in ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return "traces need the extra tracing: pip install 'haechi[tracing]'."
    return ""


def _provider(exporter: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    named = OTELResourceDetector().detect()
    provider = TracerProvider(resource=Resource({"service.name": "haechi"}).merge(named), shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter())
    )
    return provider
