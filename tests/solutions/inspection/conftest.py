"""A real server in the test's own home, with the tiny package of `served.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.solutions.inspection.served import Server, write_deviation_package

StartServer = Callable[..., "contextlib.AbstractContextManager[Server]"]


@pytest.fixture(scope="session")
def washer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, written once."""
    return write_deviation_package(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def start_server(tmp_path: Path, washer: Path) -> StartServer:
    """Start a server in this test's own home: `with start_server(packages=[…], routers=[…]) as server`."""

    @contextlib.contextmanager
    def start(**options: Any) -> Iterator[Server]:
        from solutions.inspection.routes import router_for

        home = tmp_path / "home"
        database = options.pop("database_url", f"sqlite:///{home / 'records.db'}")
        routers = options.pop("routers", (router_for,))
        options.setdefault("packages", [washer])
        settings = Settings(home=home, database_url=database, threads=1)
        with running(ServerOptions(**options), settings, routers=routers) as started:
            started.wait_ready()
            yield Server(started, home)

    return start


@pytest.fixture
def server(start_server: StartServer) -> Iterator[Server]:
    """A server with the one package and the inspection API."""
    with start_server() as started:
        yield started
