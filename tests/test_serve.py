"""`haechi serve` as it is composed: protocol, solutions' routes and console behind one door."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from shared.serving.app import create_app, state_of
from shared.serving.state import ServerOptions
from solutions.serve_commands import routers
from tests.shared.packages import make_package


def test_routes_and_console_are_there_and_ask_who_it_is(tmp_path: Path) -> None:
    app = create_app(ServerOptions([make_package(tmp_path / "tiny")]), routers=routers())
    key = state_of(app).auth.store.create("test", "viewer")
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/api/inspection/models").status_code == 401
        answer = client.get("/api/inspection/models", headers={"X-Api-Key": key})
        assert answer.status_code == 200
        assert len(answer.json()) == 1
        assert client.get("/v2", headers={"X-Api-Key": key}).status_code == 200
        page = client.get("/", headers={"Accept": "text/html"}, follow_redirects=False)
        assert page.status_code == 303
        assert page.headers["location"].startswith("/login")
