"""What all tests share: a home folder of their own, and an honest skip where a service or a browser is missing."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import settings

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(autouse=True)
def haechi_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty `HAECHI_HOME` for each test, so that none sees another's records, or the user's."""
    for name in list(os.environ):
        if name.startswith("HAECHI_"):
            monkeypatch.delenv(name)
    home = tmp_path / "haechi-home"
    monkeypatch.setenv("HAECHI_HOME", str(home))
    settings.load.cache_clear()
    yield home
    settings.load.cache_clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and not any(shutil.which(name) for name in BROWSERS):
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    if item.get_closest_marker("services") and not _postgres_answers():
        pytest.skip("no PostgreSQL answers on 127.0.0.1:5432 or the PGHOST and PGPORT given")


def _postgres_answers() -> bool:
    host = os.environ.get("PGHOST", "127.0.0.1")
    port = int(os.environ.get("PGPORT", "5432"))
    if host.startswith("/"):
        return Path(host, f".s.PGSQL.{port}").exists()
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow test may take as long as training on a busy machine takes; the usual limit is for hangs of the others."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))
