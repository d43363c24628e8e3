"""Keys, roles, one-time links, sessions and foreign pages, against a real server."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, Depends, WebSocket
from httpx import Response
from starlette.requests import Request

from shared.errors import BadInput, HaechiError
from shared.serving.keys import ROLES, KeyStore, Principal, parse_name_and_role
from shared.serving.state import ServerState
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]

_INFER = json.dumps({"inputs": [{"name": "index", "shape": [1], "datatype": "INT64", "data": [0]}]})


def _solution_routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.get("/")
    async def home(request: Request) -> dict[str, str]:
        person = state.auth.session_user(request)
        return {"hello": person.name if person else "nobody"}

    for role in ROLES:

        @router.post(f"/only/{role}")
        async def only(principal: Principal = Depends(state.require(role))) -> dict[str, str]:
            return {"name": principal.name, "role": principal.role}

    @router.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    @router.websocket("/live/admin", dependencies=[Depends(state.require("admin"))])
    async def live_admin(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello admin")
        await socket.close()

    return router


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> Iterator[Served]:
    with serve(routers=[_solution_routes]) as served:
        yield served


@pytest.mark.parametrize("role", [None, *ROLES])
@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("GET", "/v2/health/live", None),
        ("GET", "/v2/health/ready", None),
        ("GET", "/v2", "viewer"),
        ("GET", "/v2/models/picky", "viewer"),
        ("GET", "/v2/models/picky/ready", "viewer"),
        ("GET", "/metrics", "viewer"),
        ("GET", "/openapi.json", "viewer"),
        ("POST", "/v2/models/picky/infer", "operator"),
        ("POST", "/v2/models/picky/versions/1/infer", "operator"),
        ("POST", "/only/viewer", "viewer"),
        ("POST", "/only/operator", "operator"),
        ("POST", "/only/engineer", "engineer"),
        ("POST", "/only/admin", "admin"),
    ],
)
def test_each_role_gets_what_it_may(guarded: Served, role: str | None, method: str, path: str, needs: str) -> None:
    with guarded.client(role) as client:
        answer = client.request(method, path, content=_INFER if method == "POST" else None)
    if needs is None or (role is not None and ROLES.index(role) >= ROLES.index(needs)):  # type: ignore[arg-type]
        assert answer.status_code == 200
    else:
        assert answer.status_code == (401 if role is None else 403)
        assert set(answer.json()) == {"error"}
        assert ("www-authenticate" in answer.headers) == (role is None)


def test_both_headers_carry_a_key_and_nothing_else_does(guarded: Served) -> None:
    key = guarded.keys["viewer"]
    good: list[dict[str, str]] = [
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key}"},
        {"X-Api-Key": key},
    ]
    bad: list[dict[str, str]] = [
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"X-Api-Key": key[:-1]},
        {"X-Api-Key": key + "x"},
        {"X-Api-Key": key.replace("hk_", "hs_", 1)},
        {"X-Api-Key": ""},
        {"X-Api-Key": "hk_"},
        {"X-Api-Key": "x" * 5000},
        {"Cookie": f"haechi_session={key}"},
        {"X-Api-Key": "bad", "Authorization": f"Bearer {key}"},
    ]
    with guarded.client(None) as client:
        assert [client.get("/v2", headers=headers).status_code for headers in good] == [200] * len(good)
        assert [client.get("/v2", headers=headers).status_code for headers in bad] == [401] * len(bad)
        assert client.get(f"/v2?key={key}").status_code == 401


def test_a_paths_default_is_closed_and_browsers_are_led_to_the_login(guarded: Served) -> None:
    with guarded.client(None) as client:
        assert client.get("/").status_code == 401
        assert client.get("/nowhere").status_code == 401  # a stranger does not learn which paths exist
        answer = client.get("/", headers={"Accept": "text/html,*/*"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert client.post("/", headers={"Accept": "text/html"}).status_code == 401


def test_a_one_time_link_opens_one_session(guarded: Served) -> None:
    link = guarded.server.console_link()
    with guarded.client(None) as browser:
        assert browser.head(link).status_code == 405  # a preview does not use it up
        answer = browser.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert browser.get("/").json() == {"hello": "admin"}
        assert browser.post("/only/admin").json() == {"name": "admin", "role": "admin"}
        assert browser.get("/login").status_code == 303
        with guarded.client(None) as other:
            again = other.get(link)
            assert again.status_code == 401
            assert "used or has expired" in again.text
            assert "set-cookie" not in again.headers
        session = browser.cookies["haechi_session"]
        assert browser.post("/logout").status_code == 303
        assert "haechi_session" not in browser.cookies
        with guarded.client(None) as thief:
            thief.cookies.set("haechi_session", session)
            assert thief.get("/").status_code == 401  # ended on the server too, not only in the browser
    actions = [entry.action for entry in guarded.state.records.audit_entries(10)]
    assert "login" in actions


def test_a_link_is_won_by_one_of_many(guarded: Served) -> None:
    link = guarded.server.console_link()

    def open_it(_: int) -> Response:
        return httpx.get(link)

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(open_it, range(16)))
    assert statuses == [303] + [401] * 15


def test_a_key_in_the_form_gives_a_session_of_its_role(guarded: Served) -> None:
    with guarded.client(None) as browser:
        page = browser.get("/login")
        assert page.status_code == 200
        assert "<form" in page.text
        assert '<html lang="en">' in page.text
        korean = browser.get("/login", headers={"Accept-Language": "fr, ko-KR;q=0.9, en;q=0.8"})
        assert '<html lang="ko">' in korean.text
        assert "로그인" in korean.text
        wrong = browser.post("/login", data={"key": "hk_<b>_x"})
        assert wrong.status_code == 401
        assert "<b>" not in wrong.text
        assert browser.post("/login", data={"key": guarded.keys["operator"]}).status_code == 303
        assert browser.post("/only/operator").status_code == 200
        assert browser.post("/only/engineer").status_code == 403
        assert browser.post("/login", content=b"\xff" * 10).status_code == 400
        assert browser.post("/login", content=b"&" * 1000).status_code in (400, 401)


def test_strangers_may_send_little(guarded: Served) -> None:
    with guarded.client(None) as client:
        assert client.post("/login", content=b"key=" + b"x" * 20_000).status_code == 413


def test_foreign_pages_cannot_write_with_a_visitors_session(guarded: Served) -> None:
    with guarded.client(None) as browser:
        browser.post("/login", data={"key": guarded.keys["admin"]})
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "http://["},
            {"Origin": guarded.url + "/"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert browser.post("/only/viewer", headers=headers).status_code == 403, headers
        assert browser.post("/only/viewer", headers={"Origin": guarded.url}).status_code == 200
        assert browser.post("/only/viewer", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
        preflight = browser.options("/only/viewer", headers={"Origin": "http://evil.example"})
        assert not [name for name in preflight.headers if name.startswith("access-control")]
    with guarded.client("viewer") as program:  # a key is no cookie: no page can make a browser send it
        assert program.post("/only/viewer", headers={"Origin": "http://other.example"}).status_code == 200


def test_websockets_pass_the_same_door(guarded: Served) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = guarded.url.replace("http", "ws") + "/live"
    with connect(url, additional_headers=guarded.headers("viewer")) as socket:
        assert socket.recv(timeout=5) == "hello"
    with pytest.raises(InvalidStatus) as refused:
        connect(url)
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(url + "/admin", additional_headers=guarded.headers("engineer"))
    assert refused.value.response.status_code == 403
    with connect(url + "/admin", additional_headers=guarded.headers("admin")) as socket:
        assert socket.recv(timeout=5) == "hello admin"
    session = guarded.state.auth.store.create("someone", "viewer", kind="session", seconds=60)
    cookie = {"Cookie": f"haechi_session={session}"}
    with pytest.raises(InvalidStatus):
        connect(url, additional_headers=cookie, origin="http://evil.example")  # type: ignore[arg-type]
    with connect(url, additional_headers=cookie, origin=guarded.url) as socket:  # type: ignore[arg-type]
        assert socket.recv(timeout=5) == "hello"


def test_without_keys_only_this_machines_names_are_answered(serve: Serve) -> None:
    with serve(auth=False, routers=[_solution_routes]) as served, served.client(None) as client:
        assert client.post("/only/admin").json() == {"name": "local", "role": "admin"}
        assert client.get("/").json() == {"hello": "local"}
        assert served.server.console_link() == served.url
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil.example", "["):
            assert client.get("/v2", headers={"Host": host}).status_code == 403, host
        for host in ("localhost", "127.0.0.1", "[::1]:8000", served.address):
            assert client.get("/v2", headers={"Host": host}).status_code == 200, host
        assert client.post("/only/viewer", headers={"Origin": "http://evil.example"}).status_code == 403


def test_revoked_and_expired_keys_stop_working_in_a_running_server(guarded: Served) -> None:
    elsewhere = KeyStore(guarded.state.auth.store.path)  # as another process has it
    token = elsewhere.create("camera 5", "viewer")
    brief = elsewhere.create("visitor", "viewer", seconds=60)
    with guarded.client(None) as client:
        assert client.get("/v2", headers={"X-Api-Key": token}).status_code == 200
        assert client.get("/v2", headers={"X-Api-Key": brief}).status_code == 200
        assert elsewhere.revoke("camera 5") == 1
        assert client.get("/v2", headers={"X-Api-Key": token}).status_code == 401
        ended = elsewhere.create("late visitor", "viewer", seconds=-1)
        assert client.get("/v2", headers={"X-Api-Key": ended}).status_code == 401


def test_a_session_ends_with_the_key_it_was_begun_with(guarded: Served) -> None:
    store = guarded.state.auth.store
    brief = store.create("two keys", "viewer", seconds=60)
    other = store.create("two keys", "viewer")
    with guarded.client(None) as first, guarded.client(None) as second:
        assert first.post("/login", data={"key": brief}).status_code == 303
        assert second.post("/login", data={"key": other}).status_code == 303
        session = json.loads(store.path.read_text())["credentials"][-2]
        assert session["kind"] == "session"
        assert session["expires"] <= time.time() + 60  # no later than the key
        store.revoke(brief.split("_")[1])  # by its id: only this key's session ends
        assert first.get("/v2").status_code == 401
        assert second.get("/v2").status_code == 200
        assert first.post("/login", data={"key": brief}).status_code == 401


def test_unreadable_keys_shut_the_door(serve: Serve) -> None:
    with serve() as served, served.client() as client:
        assert client.get("/v2").status_code == 200
        served.state.auth.store.path.write_text("{")
        answer = client.get("/v2")
        assert answer.status_code == 503
        assert client.get("/v2/health/live").status_code == 200


def test_the_file_holds_hashes_and_is_private(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "home" / "keys.json")
    token = store.create("line 3", "operator")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    text = store.path.read_text()
    assert token not in text
    assert token.split("_", 2)[2] not in text  # which may have underscores of its own
    assert store.verify(token, "key") == Principal("line 3", "operator", "key", token.split("_")[1])
    assert store.verify(token, "session") is None
    assert store.redeem(token) is None
    assert [file.name for file in store.path.parent.iterdir() if file.name.startswith(".tmp-")] == []


def test_many_writers_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    tokens: list[str] = []

    def write() -> None:
        store = KeyStore(path)
        tokens.extend(store.create("x", "viewer") for _ in range(5))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = KeyStore(path)
    assert len(store.all_keys()) == len(tokens) == 30
    assert all(store.verify(token, "key") for token in tokens)


def test_ended_sessions_and_links_are_cleared_away(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    for kind in ("session", "link"):
        store.create("x", "viewer", kind=kind, seconds=-1)  # type: ignore[arg-type]
    store.create("y", "viewer")
    assert len(json.loads(store.path.read_text())["credentials"]) == 1


@pytest.mark.parametrize("text", ["", "x", ":viewer", "x:", "x:boss", "x" * 65 + ":viewer", "a\nb:viewer"])
def test_names_and_roles_are_checked(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput):
        KeyStore(tmp_path / "keys.json").create(*parse_name_and_role(text))
    assert parse_name_and_role("line:3:operator") == ("line:3", "operator")


def test_an_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HaechiError, match="could not be made"):
        KeyStore(tmp_path / "file" / "keys.json").create("x", "viewer")
    (tmp_path / "keys.json.lock").mkdir()
    with pytest.raises(HaechiError, match="could not be written"):
        KeyStore(tmp_path / "keys.json").create("x", "viewer")
