"""The gate around every request: identity, limits while the body streams in, request id, headers, access log.

One plain ASGI middleware instead of a stack of wrappers, since each layer costs time on every inference. In order:

1. `X-Request-Id` is taken from the client when it is harmless, else made, and echoed.
2. The sender is identified; strangers get 401 (a browser is led to `/login`), foreign pages 403.
3. A body that announces more than the limit gets 413 at once; one that does not announce it, as soon as it exceeds it.
   Bodies of all requests share a budget (429), and a client that falls silent in mid-body is given up (408).
4. Security headers are added where the route has set none of its own. There are no CORS headers: other sites' pages
   may not read anything.
5. One line is logged, without the query string and without any header's value but the request id.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import HaechiError
from shared.log import get_logger, mask
from shared.serving.access import SECURITY_HEADERS, AccessLog, choose_id
from shared.serving.auth import PROBE_PATHS, PUBLIC_PATHS, Auth, Headers, principal_of, remember
from shared.serving.errors import ClientGone, Refusal, Unauthorized
from shared.serving.limits import Budget, Limits
from shared.serving.tracing import QUIET_PATHS, Tracer

REQUEST_ID_KEY = "haechi.request_id"
_STRANGERS_BYTES = 16 * 1024
"""Largest body that is read from someone not yet known: the login form."""
_OPEN_BYTES = 128 * 1024
"""The same below paths that are open to all: a long message, escaped."""
_NOT_CONSOLE = ("/v2", "/api/", "/metrics", "/login", "/openapi.json", "/favicon.ico")
_log = get_logger(__name__)


def request_id(connection: HTTPConnection) -> str:
    """The id under which this request is logged and recorded."""
    return str(connection.scope.get(REQUEST_ID_KEY, ""))


class Gate:
    """See the module's description."""

    def __init__(
        self, app: ASGIApp, auth: Auth, limits: Limits, budget: Budget, access: AccessLog, tracer: Tracer | None
    ) -> None:
        self.app = app
        self.tracer = tracer
        self.auth = auth
        self.limits = limits
        self.budget = budget
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        try:
            principal = None
            if self.auth.is_open(scope["path"]):
                self.auth.check_host(headers)
            else:
                principal = self.auth.identify(headers)
                if principal is None:
                    raise Unauthorized("a key is needed.")
                self.auth.check_origin("WEBSOCKET", headers, principal)
        except HaechiError as error:
            _log.info("websocket_refused", path=scope["path"], reason=str(error))
            await receive()  # the connect message, which must be taken before it is refused
            await send({"type": "websocket.close", "code": 1008})
            return
        remember(scope, principal)
        await self.app(scope, receive, send)


class _Exchange:
    """One HTTP request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate = gate
        self.scope = scope
        self.headers: Headers = dict(scope["headers"])
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._receive = receive
        self._send = send
        self._body_complete = False
        self._max_bytes = gate.limits.max_upload_bytes
        self._started = time.perf_counter()
        self._id = choose_id(self.headers)
        scope[REQUEST_ID_KEY] = self._id.decode()
        self._trace = None
        if gate.tracer is not None and scope["path"] not in QUIET_PATHS:
            self._trace = gate.tracer.begin(self.headers, self._started)

    async def run(self) -> None:
        if self._trace is not None:
            self._trace.enter()
        try:
            refusal = self._refusal()
            if refusal is None:
                await self.gate.app(self.scope, self.receive, self.send)
            else:
                await refusal(self.scope, self.receive, self.send)
        except ClientGone:
            self.status = self.status or ClientGone.status
        except Exception as error:
            _log.error("internal_error", request_id=self._id.decode(), path=self.scope["path"], exc_info=error)
            if self.status:
                raise  # the answer has begun; the server can only break the connection off
            words = f"internal error; its details are in the server's log under request {self._id.decode()}."
            await JSONResponse({"error": words}, 500)(self.scope, self.receive, self.send)
        finally:
            self.gate.budget.release(self.bytes_in)
            self._log()

    def _refusal(self) -> Response | None:
        """The answer to a request that does not get in, or None."""
        path, method = self.scope["path"], self.scope["method"]
        if path in PROBE_PATHS:
            self._max_bytes = 0
            return None
        try:
            if self.gate.auth.is_open(path):
                self.gate.auth.check_host(self.headers)
                self._max_bytes = min(self._max_bytes, _OPEN_BYTES)
            elif (led := self._identify(path, method)) is not None:
                return led
        except Refusal as error:
            return JSONResponse({"error": str(error)}, error.status, error.headers)
        except HaechiError as error:  # keys.json cannot be read: nobody gets in, and the sentence says why
            _log.error("keys_unreadable", error=str(error))
            return JSONResponse({"error": "the server cannot read its keys; see its log."}, 503)
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > self._max_bytes:
            return JSONResponse({"error": self._too_large()}, 413)
        return None

    def _identify(self, path: str, method: str) -> Response | None:
        """Note who sent this; where a browser without a session is led, None where it gets in. Raises refusals."""
        principal = self.gate.auth.identify(self.headers)
        remember(self.scope, principal)
        self.gate.auth.check_origin(method, self.headers, principal)
        if principal is not None:
            return None
        if path in PUBLIC_PATHS:
            self._max_bytes = min(self._max_bytes, _STRANGERS_BYTES)
            return None
        if method == "GET" and b"text/html" in self.headers.get(b"accept", b""):
            return RedirectResponse("/login", 303)
        raise Unauthorized("a valid key is needed: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.")

    def _too_large(self) -> str:
        return f"the body is larger than this server's limit of {self._max_bytes} bytes."

    async def receive(self) -> Message:
        """The next part of the body, within the limits. These errors pass through FastAPI as they are."""
        if self._body_complete:
            return await self._receive()  # waits for the client to go
        try:
            async with asyncio.timeout(self.gate.limits.body_pause_seconds):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the client fell silent in the middle of its body.") from None
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        if self.bytes_in + size > self._max_bytes:
            raise HTTPException(413, self._too_large())
        if size and not self.gate.budget.hold(size):
            raise HTTPException(429, "this server holds too many large bodies now.", {"retry-after": "1"})
        self.bytes_in += size
        self._body_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
            headers.append((b"x-request-id", self._id))
            message = {**message, "headers": headers}
        else:
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)

    def _log(self) -> None:
        if self._trace is not None:
            route = getattr(self.scope.get("route"), "path", "")
            path = mask(self.scope["path"])
            self._trace.end(self.scope["method"], route, path, self.status, self._id.decode())
        principal = principal_of(HTTPConnection(self.scope))
        client = self.scope.get("client")
        self.gate.access.write(
            self._id,
            self.scope["method"],
            mask(self.scope["path"]),
            self.status,
            self._started,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            client=client[0] if client else "",
            who=principal.name if principal else "",
        )


class ConsoleElsewhere:
    """Sends browsers to the port of the console, which only one worker has; see `workers.py`.

    Args:
        app: the application behind.
        port: where the console is.
        auth: knows the paths that are open to all, which are answered here.
    """

    def __init__(self, app: ASGIApp, port: int, auth: Auth) -> None:
        self.app = app
        self.port = port
        self.auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served_here = scope["type"] != "http" or scope["server"][1] == self.port or scope["method"] != "GET"
        if served_here or scope["path"].startswith(_NOT_CONSOLE) or self.auth.is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        url = URL(scope=scope).replace(port=self.port)
        await RedirectResponse(url, 307)(scope, receive, send)
