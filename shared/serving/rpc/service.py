"""The calls of `inference.GRPCInferenceService`: who may make them, what they answer, and errors as gRPC has them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import json_format

from shared.errors import BadInput, HaechiError
from shared.log import get_logger
from shared.serving import describe, inference, oip, tracing
from shared.serving.access import AccessLog, choose_id
from shared.serving.auth import allow
from shared.serving.errors import Busy, Refusal
from shared.serving.keys import Principal, Role
from shared.serving.routes import check_load_parameters, our_version
from shared.serving.rpc import convert
from shared.serving.rpc.messages import SERVICE, message, methods
from shared.serving.state import ServerState

STREAM_AHEAD = 4
"""Requests of one stream that are taken while an earlier one's answer is awaited: enough to keep the workers busy, and
less than the queue in front of any model holds. What the client sends beyond them waits on its side."""
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_ROLES: dict[str, Role | None] = {
    "ServerLive": None,  # open to probes, as over HTTP
    "ServerReady": None,
    "ModelInfer": "operator",
    "ModelStreamInfer": "operator",
    "RepositoryModelLoad": "engineer",
    "RepositoryModelUnload": "engineer",
}
"""Needed for each method; viewer for those that are not here."""
_log = get_logger(__name__)


class Call:
    """One call: its context, its metadata as headers, and who makes it."""

    def __init__(self, state: ServerState, context: Any) -> None:
        self.context = context
        self.started = time.perf_counter()
        self.headers = {
            key.encode("latin-1"): value if isinstance(value, bytes) else value.encode("latin-1", "replace")
            for key, value in context.invocation_metadata() or ()
        }
        self.principal: Principal | None = None
        self._state = state

    def identify(self, role: Role | None) -> None:
        """Find out who calls.

        Raises:
            Unauthorized, Forbidden: nobody known, or without the role.
            HaechiError: the keys cannot be read.
        """
        if role is not None:
            self.principal = allow(self._state.auth.identify(self.headers), role)

    @property
    def who(self) -> str:
        return self.principal.name if self.principal else ""

    def header(self, name: str) -> str | None:
        """A value of the metadata."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")


class Service:
    """Answers the calls of one server; the methods' names are the protocol's."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self.access = AccessLog(state.metrics)
        self._readers: set[asyncio.Task[None]] = set()

    def end_streams(self) -> None:
        """Take nothing more from streams; they end when what was taken is answered."""
        for reader in list(self._readers):
            reader.cancel()

    def handlers(self) -> Any:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        made = {}
        for method in methods():
            request, response = message(method.input_type.name), message(method.output_type.name)
            wrap = grpc.stream_stream_rpc_method_handler if method.client_streaming else None
            handler = self._stream(method.name) if wrap else self._unary(method.name, getattr(self, method.name))
            made[method.name] = (wrap or grpc.unary_unary_rpc_method_handler)(
                handler, request_deserializer=request.FromString, response_serializer=response.SerializeToString
            )
        return grpc.method_handlers_generic_handler(SERVICE, made)

    async def ServerLive(self, _request: Any, _call: Call) -> Any:  # noqa: N802 (the protocol's names, here and below)
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, _request: Any, _call: Call) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=not self._state.trouble())

    async def ModelReady(self, request: Any, _call: Call) -> Any:  # noqa: N802
        """False for a model that is not there, too: so Triton answers."""
        try:
            ready = not self._state.draining and self._find(request.name, request.version).ready
        except Refusal:
            ready = False
        return message("ModelReadyResponse")(ready=ready)

    async def ServerMetadata(self, _request: Any, _call: Call) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(**oip.server_metadata(our_version()))

    async def ModelMetadata(self, request: Any, _call: Call) -> Any:  # noqa: N802
        manifest = self._find(request.name, request.version).manifest
        told = oip.model_metadata(
            request.name, list(self._state.versions[request.name]), manifest.inputs, manifest.outputs
        )
        return message("ModelMetadataResponse")(**told)

    async def ModelConfig(self, request: Any, _call: Call) -> Any:  # noqa: N802
        config = describe.model_config(self._find(request.name, request.version))
        return json_format.ParseDict({"config": config}, message("ModelConfigResponse")())

    async def ModelStatistics(self, request: Any, _call: Call) -> Any:  # noqa: N802
        state = self._state
        if not request.name:
            models = state.every_version()
        elif request.version:
            models = [state.find(request.name, request.version)]
        else:
            state.find(request.name)
            models = list(state.versions[request.name].values())
        # What only our JSON has is left out.
        told = describe.statistics(models)
        return json_format.ParseDict(told, message("ModelStatisticsResponse")(), ignore_unknown_fields=True)

    async def RepositoryIndex(self, request: Any, _call: Call) -> Any:  # noqa: N802
        return message("RepositoryIndexResponse")(models=await self._state.repository.index(request.ready))

    async def RepositoryModelLoad(self, request: Any, call: Call) -> Any:  # noqa: N802
        check_load_parameters(convert.parameters(request.parameters))
        await self._state.repository.load(request.model_name, call.who)
        return message("RepositoryModelLoadResponse")()

    async def RepositoryModelUnload(self, request: Any, call: Call) -> Any:  # noqa: N802
        await self._state.repository.unload(request.model_name, call.who)
        return message("RepositoryModelUnloadResponse")()

    async def ModelInfer(self, request: Any, call: Call) -> Any:  # noqa: N802
        """One inference. The client's deadline for the call is the request's; a call that ends leaves the queue."""
        state = self._state
        entry = inference.admit(state, call.principal, request.model_name, request.model_version or None, call.header)
        remaining = call.context.time_remaining()
        if remaining is not None:
            wanted = time.perf_counter() + remaining
            entry = dataclasses.replace(entry, deadline=min(wanted, entry.deadline or wanted))
        size = request.ByteSize()
        if not state.budget.hold(size):
            raise Busy("this server holds too many large bodies now.")
        try:
            served = entry.served
            try:
                # Raw tensors are read in microseconds; long lists of elements must not hold up the event loop.
                quick = bool(request.raw_input_contents) or size <= inference.QUICK_BYTES
                arguments = (request, served.manifest, state.limits)
                parsed = (
                    convert.read_request(*arguments)
                    if quick
                    else await asyncio.to_thread(convert.read_request, *arguments)
                )
                deadline, priority = inference.urgency(entry, parsed)
            except HaechiError:
                served.metrics.failed("OTHER")
                raise
            outputs = await served.infer(parsed.inputs, size=parsed.size, deadline=deadline, priority=priority)
        finally:
            state.budget.release(size)
        return convert.write_response(served.name, served.version, parsed, outputs)

    def _find(self, name: str, version: str) -> Any:
        return self._state.find(name, version or None)

    def _unary(self, name: str, method: Callable[[Any, Call], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            call = Call(self._state, context)
            trace = self._trace(call, call.started)
            status, sent = 499, 0  # unless it comes to an end here, the client has gone
            try:
                call.identify(_ROLES.get(name, "viewer"))
                response = await method(request, call)
                status, sent = 200, response.ByteSize()
                return response
            except Exception as error:
                status, code, words = _told(error, name)
                wait = error.headers.get("retry-after") if isinstance(error, Refusal) else None
                await context.abort(code, words, (("retry-after", wait),) if wait else ())
            finally:
                self._note(call, name, status, request.ByteSize(), sent, trace=trace)

        return answer

    def _stream(self, name: str) -> Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]]:
        """Requests of a stream are computed side by side, and answered in the order in which they came."""

        async def answer(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            call = Call(self._state, context)
            try:
                call.identify(_ROLES[name])
            except HaechiError as error:
                status, code, words = _told(error, name)
                self._note(call, name, status, 0, 0)
                await context.abort(code, words)
            answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(STREAM_AHEAD)
            reader = asyncio.create_task(self._read(requests, call, answers))
            self._readers.add(reader)
            try:
                while (task := await answers.get()) is not None:
                    yield await task
            finally:
                self._readers.discard(reader)
                reader.cancel()
                while not answers.empty():  # the client has gone
                    if (task := answers.get_nowait()) is not None:
                        task.cancel()
                await asyncio.gather(reader, return_exceptions=True)

        return answer

    async def _read(
        self, requests: AsyncIterator[Any], call: Call, answers: asyncio.Queue[asyncio.Task[Any] | None]
    ) -> None:
        try:
            async for request in requests:
                await answers.put(asyncio.create_task(self._in_stream(request, call)))
        finally:
            await answers.put(None)

    async def _in_stream(self, request: Any, call: Call) -> Any:
        """One answer of a stream; its error is part of it, and the stream goes on."""
        started, status, made = time.perf_counter(), 499, message("ModelStreamInferResponse")()
        trace = self._trace(call, started)
        try:
            made.infer_response.CopyFrom(await self.ModelInfer(request, call))
            status = 200
        except Exception as error:
            status, _, words = _told(error, "ModelStreamInfer")
            made.error_message = words
            made.infer_response.id = request.id
            made.infer_response.model_name = request.model_name
        finally:
            sizes = request.ByteSize(), made.ByteSize()
            self._note(call, "ModelStreamInfer", status, *sizes, started=started, trace=trace)
        made.infer_response.parameters["triton_final_response"].bool_param = True
        return made

    def _trace(self, call: Call, started: float) -> tracing.Trace | None:
        """Where traces are wanted, the one of the request that this task works for from here on."""
        if self._state.tracer is None:
            return None
        trace = self._state.tracer.begin(call.headers, started)
        trace.enter()
        return trace

    def _note(
        self,
        call: Call,
        name: str,
        status: int,
        received: int,
        sent: int,
        *,
        started: float | None = None,
        trace: tracing.Trace | None = None,
    ) -> None:
        identity = choose_id(call.headers)
        if trace is not None:
            trace.end("GRPC", f"/{SERVICE}/{name}", f"/{SERVICE}/{name}", status, identity.decode())
        self.access.write(
            identity,
            "GRPC",
            f"/{SERVICE}/{name}",
            status,
            started or call.started,
            bytes_in=received,
            bytes_out=sent,
            client=call.context.peer(),
            who=call.who,
        )


def _told(error: Exception, method: str) -> tuple[int, Any, str]:
    """Status as over HTTP, gRPC's code, and the sentence that the client gets."""
    if not isinstance(error, HaechiError):
        _log.error("internal_error", path=method, exc_info=error)
        return 500, grpc.StatusCode.INTERNAL, "internal error; its details are in the server's log."
    status = error.status if isinstance(error, Refusal) else 400 if isinstance(error, BadInput) else 500
    return status, _CODES.get(status, grpc.StatusCode.INTERNAL), str(error)
