"""The paths of the Open Inference Protocol v2 with Triton's extensions, health and metrics.

What the bodies mean is in `oip.py` and `describe.py`; what changes the models, in `repository.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import metadata as distributions
from typing import Any

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from shared.errors import BadInput
from shared.serving import describe, inference, metrics, oip, openapi
from shared.serving.auth import principal_of
from shared.serving.errors import NotImplementedHere
from shared.serving.keys import Principal
from shared.serving.limits import read_body
from shared.serving.state import ServerState


def health_router(state: ServerState) -> APIRouter:
    """Liveness and readiness; open to probes that have no key, and saying nothing that needs one."""
    router = APIRouter(tags=["health"])

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The process answers. A server that loads or drains is alive: killing it would help nobody."""
        return {"live": True}

    @router.get("/v2/health/ready")
    async def ready() -> Response:
        """Every model has answered its golden samples and can be relied on; else 503."""
        trouble = state.trouble()
        if trouble:
            return JSONResponse({"ready": False, "error": "this server is not ready."}, 503)
        return JSONResponse({"ready": True})

    return router


def metrics_router(state: ServerState) -> APIRouter:
    """Prometheus metrics, for the role viewer (give the scraper a key of its own)."""
    router = APIRouter(tags=["metrics"], dependencies=[Depends(state.require("viewer"))])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def render() -> Response:
        """All metrics in Prometheus' text format."""
        return Response(state.render_metrics(), media_type=metrics.CONTENT_TYPE)

    return router


def protocol_router(state: ServerState) -> APIRouter:
    """The protocol with the extensions that this server has; those it has not are answered 501."""
    router = APIRouter()
    for factory in (_statistics_router, _model_router, _repository_router, _absent_router):
        router.include_router(factory(state))
    return router


def _model_router(state: ServerState) -> APIRouter:
    """Metadata (role viewer) and inference (role operator)."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    viewer = [Depends(state.require("viewer"))]

    @router.get("", dependencies=viewer)
    async def server() -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return oip.server_metadata(our_version())

    @router.get("/models/{model}", dependencies=viewer)
    @router.get("/models/{model}/versions/{version}", dependencies=viewer)
    async def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        """The model's inputs, outputs and versions."""
        manifest = state.find(model, version).manifest
        return oip.model_metadata(model, list(state.versions[model]), manifest.inputs, manifest.outputs)

    @router.get("/models/{model}/ready", dependencies=viewer)
    @router.get("/models/{model}/versions/{version}/ready", dependencies=viewer)
    async def ready(model: str, version: str | None = None) -> Response:
        """200 when the model answers, 503 with the reason when not."""
        served = state.find(model, version)
        trouble = "the server is stopping" if state.draining else served.trouble()
        if trouble:
            return JSONResponse({"name": model, "ready": False, "error": f"model {model}: {trouble}."}, 503)
        return JSONResponse({"name": model, "ready": True})

    @router.get("/models/{model}/config", dependencies=viewer)
    @router.get("/models/{model}/versions/{version}/config", dependencies=viewer)
    async def config(model: str, version: str | None = None) -> dict[str, Any]:
        """The model's configuration, in the words of Triton's."""
        return describe.model_config(state.find(model, version))

    @router.post("/models/{model}/infer", openapi_extra=openapi.infer("model"))
    @router.post("/models/{model}/versions/{version}/infer", openapi_extra=openapi.infer("model", "version"))
    async def infer(request: Request) -> Response:
        """One inference, JSON or binary tensors in and out."""
        return await _infer(state, request)

    return router


def _statistics_router(state: ServerState) -> APIRouter:
    """What each model has done, for the role viewer. Included before the models, whose path `/{model}` is wider."""
    router = APIRouter(prefix="/v2/models", tags=["statistics"], dependencies=[Depends(state.require("viewer"))])

    @router.get("/stats")
    async def every() -> dict[str, Any]:
        """Of every version of every model."""
        return describe.statistics(state.every_version())

    @router.get("/{model}/stats")
    async def one(model: str) -> dict[str, Any]:
        """Of every version of one model."""
        state.find(model)
        return describe.statistics(state.versions[model].values())

    @router.get("/{model}/versions/{version}/stats")
    async def version(model: str, version: str) -> dict[str, Any]:
        """Of one version of one model."""
        return describe.statistics([state.find(model, version)])

    return router


def _repository_router(state: ServerState) -> APIRouter:
    """What there is to serve (role viewer), and bringing it in and out (role engineer)."""
    router = APIRouter(prefix="/v2/repository", tags=["model repository"])
    engineer = state.require("engineer")

    @router.post(
        "/index",
        dependencies=[Depends(state.require("viewer"))],
        openapi_extra=openapi.body({"ready": {"type": "boolean"}}),
    )
    async def index(request: Request) -> list[dict[str, str]]:
        """Every model, or with `{"ready": true}` those that answer."""
        ready = (await _json_object(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise BadInput("ready must be true or false.")
        return await state.repository.index(ready)

    @router.post(
        "/models/{model}/load",
        responses={501: openapi.refusal(501)},
        openapi_extra=openapi.body({"parameters": {"type": "object"}}),
    )
    async def load(model: str, request: Request, principal: Principal = Depends(engineer)) -> dict[str, Any]:
        """Serve what the registry's champion or the package holds now; no request is lost by the change."""
        check_load_parameters((await _json_object(request)).get("parameters", {}))
        await state.repository.load(model, principal.name)
        return {}

    @router.post("/models/{model}/unload", openapi_extra=openapi.body({}))
    async def unload(model: str, request: Request, principal: Principal = Depends(engineer)) -> dict[str, Any]:
        """Refuse new requests for a model, and free it when those admitted are answered."""
        await _json_object(request)
        await state.repository.unload(model, principal.name)
        return {}

    return router


def _absent_router(state: ServerState) -> APIRouter:
    """Triton's extensions that this server does not have say so with 501, and not that a path is wrong."""
    router = APIRouter(prefix="/v2", include_in_schema=False, dependencies=[Depends(state.require("viewer"))])
    absent = {
        "/systemsharedmemory/{rest:path}": "shared memory",
        "/cudasharedmemory/{rest:path}": "shared memory",
        "/trace/setting": "trace settings",
        "/models/{model}/trace/setting": "trace settings",
        "/models/{model}/generate": "the generate extension",
        "/models/{model}/generate_stream": "the generate extension",
        "/logging": "log settings",
    }

    def refuse(words: str) -> Callable[[], Awaitable[None]]:
        async def refused() -> None:
            raise NotImplementedHere(f"this server does not have {words}.")

        return refused

    for path, words in absent.items():
        router.add_api_route(path, refuse(words), methods=["GET", "POST"])
    return router


def check_load_parameters(parameters: Any) -> None:
    """Raise `NotImplementedHere` if a request to load a model brings the model along, or another configuration."""
    if not isinstance(parameters, dict):
        raise BadInput("parameters must be an object.")
    if parameters:
        raise NotImplementedHere(
            f"load takes no {next(iter(parameters))[:40]}: put the package where the server reads it, then load it."
        )


async def _json_object(request: Request) -> dict[str, Any]:
    body = await read_body(request.receive)
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the request is not valid JSON: {str(error)[:200]}.") from None
    if not isinstance(value, dict):
        raise BadInput("the request must be a JSON object.")
    return value


async def _infer(state: ServerState, request: Request) -> Response:
    path = request.path_params
    entry = inference.admit(state, principal_of(request), path["model"], path.get("version"), request.headers.get)
    body = await read_body(request.receive)
    found = await inference.answer(entry, body, state.limits, request)
    return Response(found.content, headers=found.headers)


def our_version() -> str:
    """Of this program."""
    try:
        return distributions.version("haechi")
    except distributions.PackageNotFoundError:  # run from a checkout that was never installed
        return "0"
