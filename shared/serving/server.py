"""Running the application: bind first, then load; stop cleanly; or run beside other code in a thread.

SIGTERM and SIGINT: readiness turns false, no request is admitted any more, those admitted are answered, then the
process ends with 0. A second SIGINT ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Literal

import uvicorn
from fastapi import FastAPI

from shared.errors import BadInput, HaechiError
from shared.serving.app import RouterFactory, create_app, state_of
from shared.serving.auth import LOCAL_NAMES
from shared.serving.http import Connection, sweep
from shared.serving.state import ServerOptions, ServerState
from shared.settings import Settings

_LOOP: Literal["uvloop", "asyncio"] = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
"""uvloop where it can be installed: it takes a third of the time for the same connections."""
GRACE_SECONDS = 20
"""How long a stopping server waits for connections that are still being answered."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        BadInput: the port is taken, forbidden, or the host is none of this machine's.
    """
    where = f"--host {host} --port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or error
        raise BadInput(f"{where}: {words}; give an address of this machine.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except PermissionError as error:
        listener.close()
        raise BadInput(f"{where}: this port needs the administrator's rights; choose one above 1023.") from error
    except OSError as error:
        listener.close()
        words = "is taken by another program; stop it or choose another with --port."
        raise BadInput(f"port {port} on {host} {words}" if _taken(error) else f"{where}: {error.strerror}.") from error
    return listener


def _taken(error: OSError) -> bool:
    import errno

    return error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The address to open, with a name that reaches a socket bound to every interface."""
    scheme = "https" if tls else "http"
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """True for the names and addresses that only this machine can reach."""
    return host in LOCAL_NAMES or host.startswith("127.")


class _Server(uvicorn.Server):
    """uvicorn, told what a signal means here: drain, and then end with 0 instead of dying by the signal."""

    def __init__(self, app: FastAPI) -> None:
        self.state = state_of(app)
        tls = self.state.options.tls
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,  # type: ignore[arg-type]  # buffered, which asyncio takes as well
                loop=_LOOP,
                log_config=None,
                log_level="warning",
                access_log=False,  # the gate writes its own, with ids and without secrets
                server_header=False,
                date_header=False,
                lifespan="on",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=GRACE_SECONDS,
                ssl_certfile=None if tls is None else tls.cert,  # TLS 1.2 and 1.3: Python's default
                ssl_keyfile=None if tls is None else tls.key,
            )
        )

    async def main_loop(self) -> None:
        every_second = asyncio.create_task(self._every_second())
        try:
            await super().main_loop()
        finally:
            every_second.cancel()

    async def _every_second(self) -> None:
        while True:
            sweep(self.server_state.connections, asyncio.get_running_loop().time())
            if not self.state.tick():  # nobody would stop this worker any more
                self.state.draining = self.should_exit = True
            await asyncio.sleep(1)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signal module's signature)
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self.state.draining = True


def run(app: FastAPI, *listeners: socket.socket) -> None:
    """Serve until a signal asks to stop. To be called in the main thread.

    Raises:
        HaechiError: a model could not be loaded; the server has stopped.
    """
    server = _Server(app)
    state = server.state

    def give_up(_error: HaechiError) -> None:
        server.should_exit = True

    state.on_failure = give_up
    server.run(sockets=list(listeners))
    if state.failure is not None:
        raise state.failure


class RunningServer:
    """A server in a background thread; see `running`."""

    def __init__(self, url: str, state: ServerState) -> None:
        self.url = url
        self.state = state

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Return once every model is ready.

        Raises:
            HaechiError: a model could not be loaded, or it takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while self.state.trouble():
            if self.state.failure is not None:
                raise self.state.failure
            if time.monotonic() > deadline:
                raise HaechiError(f"the server is not ready after {seconds:.0f} s: {self.state.trouble()}.")
            time.sleep(0.02)

    def console_link(self) -> str:
        """A link that opens the console in a browser; valid once."""
        return self.state.auth.one_time_link(self.url) if self.state.auth.enabled else self.url


@contextlib.contextmanager
def running(
    options: ServerOptions | None = None,
    settings: Settings | None = None,
    *,
    routers: Sequence[RouterFactory] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    configure: Callable[[FastAPI], None] | None = None,
) -> Iterator[RunningServer]:
    """A real server on a real port while the block runs, for the demo and for tests.

    Args:
        configure: called with the application before it starts.
    """
    listener = bind(host, port)
    try:
        app = create_app(options, settings, routers=routers)
    except BaseException:
        listener.close()
        raise
    if configure is not None:
        configure(app)
    server = _Server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="haechi-server", daemon=True)
    thread.start()
    try:
        yield RunningServer(url_of(listener, tls=server.state.options.tls is not None), server.state)
    finally:
        server.should_exit = True
        server.state.draining = True
        thread.join(GRACE_SECONDS + 15)
