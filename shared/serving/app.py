"""`create_app` puts the server together: gate, protocol, health, metrics, login, and the solutions' routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from shared import settings as settings_module
from shared.errors import BadInput, HaechiError
from shared.records import Records
from shared.serving import discover, openapi, tracing
from shared.serving.access import AccessLog
from shared.serving.auth import Auth
from shared.serving.errors import ClientGone, Refusal
from shared.serving.keys import KEYS_FILE, KeyStore
from shared.serving.login import login_router
from shared.serving.metrics import Metrics
from shared.serving.middleware import ConsoleElsewhere, Gate
from shared.serving.routes import health_router, metrics_router, protocol_router
from shared.serving.state import ServerOptions, ServerState
from shared.settings import Settings

RouterFactory = Callable[[ServerState], APIRouter]


def create_app(
    options: ServerOptions | None = None,
    settings: Settings | None = None,
    *,
    routers: Sequence[RouterFactory] = (),
    records: Records | None = None,
) -> FastAPI:
    """A server as an ASGI application; its `ServerState` is `state_of(app)`.

    Packages are opened and verified here, so that a refused one is an error before any port is bound; they are loaded
    and tested in the background once the application has started.

    Args:
        options: what to serve; default the registry's champions.
        settings: default those of this process.
        routers: each is called with the state and gives a solution's routes.
        records: the store of decisions; default the one that the settings name. Closed when the server stops.

    Raises:
        BadInput, PackageRefused: the packages cannot be found or used.
        HaechiError: the records or the keys cannot be opened.
    """
    options = options or ServerOptions()
    settings = settings or settings_module.load()
    opened = []
    if options.registry or (options.registry is None and not options.packages):
        opened += discover.champions(settings)
    opened += discover.open_all(options.packages)  # after the champions: what is named outright answers by default
    auth = Auth(KeyStore(settings.home / KEYS_FILE), enabled=options.auth, https=options.tls is not None)
    metrics = Metrics()
    tracer = tracing.from_environment(options.trace)
    state = ServerState(settings, options, auth, records or Records.open(settings.database_url), metrics)
    state.tracer = tracer
    for package, version in opened:
        state.add_model(state.make_model(package, version))
    app = FastAPI(title="Haechi", lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.haechi = state
    app.state.access = AccessLog(metrics)
    for factory in (health_router, metrics_router, protocol_router, login_router, *routers):
        app.include_router(factory(state))
    _answer_errors(app)
    openapi.complete(app, auth.is_open)
    app.add_middleware(
        Gate, auth=auth, limits=options.limits, budget=state.budget, access=app.state.access, tracer=tracer
    )
    if options.place is not None:
        app.add_middleware(ConsoleElsewhere, port=options.place.console_port, auth=auth)
    return app


def state_of(app: FastAPI) -> ServerState:
    """The state of an application made by `create_app`."""
    state = app.state.haechi
    assert isinstance(state, ServerState)
    return state


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = state_of(app)
    state.start()
    try:
        if state.options.place is not None:
            await state.repository.started.wait()  # the other workers take the connections until this one can answer
        yield
    finally:
        await state.stop()
        app.state.access.flush()


def _answer_errors(app: FastAPI) -> None:
    """Every error leaves as `{"error": sentence}`."""

    async def ours(connection: HTTPConnection, error: Exception) -> Response:
        if isinstance(connection, WebSocket):
            await connection.close(1008, str(error)[:120])
            return Response()
        if isinstance(error, ClientGone):
            raise error  # there is nobody to answer; the gate logs it
        if isinstance(error, Refusal):
            return _error(str(error), error.status, error.headers)
        return _error(str(error), 400 if isinstance(error, BadInput) else 500)

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(str(error.detail), error.status_code, dict(error.headers or {}))

    async def validation(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _error(f"{where}: {first['msg']}.", 400)

    app.add_exception_handler(HaechiError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)
