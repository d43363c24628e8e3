"""A real server on a free port, with real packages, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from shared.runtime import default_threads
from shared.serving.limits import Limits
from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.shared.packages import make_package
from tests.shared.serving.models import echo_package, picky_package, slow_package
from tests.shared.serving.served import Served


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages: tiny (inspection), echo, slow, picky; one of them zipped."""
    folder = tmp_path_factory.mktemp("packages")
    make_package(folder / "tiny.zip")
    echo_package(folder / "echo")
    slow_package(folder / "slow")
    picky_package(folder / "picky")
    return folder


@pytest.fixture(scope="session")
def make_settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    def make() -> Settings:
        home = tmp_path_factory.mktemp("home")
        return Settings(home=home, database_url=f"sqlite:///{home / 'records.db'}", threads=1)

    return make


@pytest.fixture(scope="session")
def serve(packages: Path, make_settings: Callable[[], Settings]) -> Callable[..., AbstractContextManager[Served]]:
    """Starts a server of its own for a test that changes or fills one."""
    from contextlib import contextmanager

    @contextmanager
    def start(limits: Limits | None = None, ready: bool = True, **options: Any) -> Iterator[Served]:
        routers = options.pop("routers", ())
        options.setdefault("packages", [packages])
        # All cores for one inference: then there is one worker, and a test knows who is next.
        options.setdefault("threads", default_threads())
        chosen = ServerOptions(limits=limits or Limits(), **options)
        with running(chosen, make_settings(), routers=routers) as server:
            if ready:
                server.wait_ready()
            yield Served(server)

    return start


@pytest.fixture(scope="session")
def served(serve: Callable[..., AbstractContextManager[Served]]) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    with serve() as running_server:
        yield running_server
