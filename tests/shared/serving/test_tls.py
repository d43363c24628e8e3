"""HTTPS with a certificate of its own: what is refused at the start, what travels, and what browsers are told."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import APIRouter, WebSocket

from shared.errors import BadInput
from shared.serving.auth import COOKIE, SECURE_COOKIE
from shared.serving.console import ConsolePage, console_for
from shared.serving.state import ServerState
from shared.serving.tls import Certificate
from tests.shared.serving.certificates import make_certificate
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]

_INFER = json.dumps({"inputs": [{"name": "index", "shape": [2], "datatype": "INT64", "data": [0, 3]}]})
_INFER_PATH = "/v2/models/picky/infer"


def _routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    return router


def _page(state: ServerState) -> ConsolePage:
    return ConsolePage("/", ("시작", "Start"), lambda visit: None)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls") / "pair")


@pytest.fixture(scope="module")
def served(serve: Serve, certificate: Certificate) -> Iterator[Served]:
    with serve(tls=certificate, routers=[_routes, console_for([_page])]) as running:
        yield running


@pytest.fixture
def client(served: Served, certificate: Certificate) -> Iterator[httpx.Client]:
    """Trusts the server's certificate and no other."""
    trusting = ssl.create_default_context(cafile=str(certificate.cert))
    with httpx.Client(base_url=served.url, verify=trusting, timeout=30) as made:
        yield made


def _signed_in(client: httpx.Client, served: Served, role: str = "admin") -> httpx.Client:
    assert client.post("/login", data={"key": served.keys[role]}).status_code == 303
    return client


def test_both_lanes_answer_over_tls(served: Served, client: httpx.Client) -> None:
    assert served.url.startswith("https://127.0.0.1:")
    headers = served.headers()
    plain = client.post(_INFER_PATH, content=_INFER, headers=headers)
    assert plain.json()["outputs"][0]["data"] == [1, 4]
    chunked = client.post(_INFER_PATH, content=iter([_INFER[:20].encode(), _INFER[20:].encode()]), headers=headers)
    assert chunked.json() == plain.json()
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_a_large_binary_tensor_arrives_whole(served: Served, client: httpx.Client) -> None:
    """Larger than TLS records and the connection's buffers."""
    values = np.arange(1_000_000, dtype="<f4").reshape(1000, 1000)
    tensor = {"name": "in_fp32", "shape": [1000, 1000], "datatype": "FP32"}
    others = [
        {"name": spec.name, "shape": [0, 0], "datatype": spec.datatype, "parameters": {"binary_data_size": 0}}
        for spec in served.state.models["echo"].manifest.inputs
        if spec.name != "in_fp32"
    ]
    first = tensor | {"parameters": {"binary_data_size": values.nbytes}}
    wanted = [{"name": "out_fp32", "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": [first, *others], "outputs": wanted}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    answer = client.post("/v2/models/echo/infer", content=header + values.tobytes(), headers=served.headers() | length)
    assert answer.status_code == 200, answer.text[:300]
    described = int(answer.headers["inference-header-content-length"])
    assert np.array_equal(np.frombuffer(answer.content[described:], "<f4").reshape(1000, 1000), values)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_unencrypted_and_outdated_connections_are_not_served(served: Served, certificate: Certificate) -> None:
    host, port = served.url.removeprefix("https://").split(":")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{host}:{port}/v2/health/live")
    for version, works in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = ssl.create_default_context(cafile=str(certificate.cert))
        context.set_ciphers("ALL:@SECLEVEL=0")  # else this side alone would refuse TLS 1.1
        context.minimum_version = context.maximum_version = version
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            if works:
                with context.wrap_socket(plain, server_hostname=host) as encrypted:
                    assert encrypted.version() == "TLSv1.2"
            else:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(plain, server_hostname=host)


def test_the_cookie_never_leaves_unencrypted(served: Served, client: httpx.Client) -> None:
    answer = client.post("/login", data={"key": served.keys["viewer"]})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{SECURE_COOKIE}=hs_")
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= attributes
    assert not any(attribute.startswith("domain") for attribute in attributes)
    assert client.get("/v2").status_code == 200
    token = client.cookies[SECURE_COOKIE]
    client.cookies.clear()
    # Under the name that an unencrypted page could set, a session counts for nothing here.
    assert client.get("/v2", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401
    assert client.get("/v2", headers={"Cookie": f"{SECURE_COOKIE}={token}"}).status_code == 200


def test_signing_out_takes_the_cookie_back(served: Served, client: httpx.Client) -> None:
    link = served.server.console_link()
    assert link.startswith("https://")
    assert client.get(link).status_code == 303
    assert SECURE_COOKIE in client.cookies
    assert client.post("/logout").status_code == 303
    assert SECURE_COOKIE not in client.cookies


def test_pages_of_other_origins_cannot_write(served: Served, client: httpx.Client) -> None:
    browser = _signed_in(client, served)
    own = served.url
    for headers in (
        {"Origin": own.replace("https", "http")},  # the same address unencrypted, where anyone may have answered
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": own, "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = browser.post("/v2/repository/index", headers=headers)
        assert answer.status_code == 403, headers
        assert "another site" in answer.json()["error"]
        assert browser.post(_INFER_PATH, content=_INFER, headers=headers).status_code == 403, headers
    for headers in ({"Origin": own}, {"Origin": own, "Sec-Fetch-Site": "same-origin"}):
        assert browser.post("/v2/repository/index", headers=headers).status_code == 200
        assert browser.post(_INFER_PATH, content=_INFER, headers=headers).status_code == 200


def test_other_sites_may_not_read(served: Served, client: httpx.Client) -> None:
    browser = _signed_in(client, served)
    polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    for path in ("/v2", "/metrics", "/login", "/", polling, "/nowhere"):
        for headers in ({"Origin": "https://evil.example"}, {"Origin": served.url, "Sec-Fetch-Site": "same-origin"}):
            answers = [
                browser.get(path, headers=headers),
                browser.options(path, headers=headers | {"Access-Control-Request-Method": "POST"}),
            ]
            for answer in answers:
                assert not [name for name in answer.headers if name.startswith("access-control")], path
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_only_our_pages_talk_with_the_console(served: Served, client: httpx.Client, certificate: Certificate) -> None:
    """Long-polling is the console's WebSocket by other means; a page on another port of this host counts as foreign."""
    browser = _signed_in(client, served)
    polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    for headers in ({"Origin": "https://127.0.0.1:1"}, {"Sec-Fetch-Site": "same-site"}):
        assert browser.get(polling, headers=headers).status_code == 403
    answer = browser.get(polling, headers={"Origin": served.url, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert '"sid"' in answer.text
    from websockets.sync.client import connect

    address = served.url.replace("https", "wss") + polling.replace("polling", "websocket")
    cookie = {"Cookie": f"{SECURE_COOKIE}={browser.cookies[SECURE_COOKIE]}"}
    trusting = ssl.create_default_context(cafile=str(certificate.cert))
    with connect(address, ssl=trusting, additional_headers=cookie, origin=served.url) as live:  # type: ignore[arg-type]
        assert '"sid"' in str(live.recv(timeout=5))


def test_websockets_ask_for_the_origin(served: Served, client: httpx.Client, certificate: Certificate) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    _signed_in(client, served)
    url = served.url.replace("https", "wss") + "/live"
    cookie = {"Cookie": f"{SECURE_COOKIE}={client.cookies[SECURE_COOKIE]}"}
    trusting = ssl.create_default_context(cafile=str(certificate.cert))
    for origin in ("https://evil.example", served.url.replace("https", "http"), "https://127.0.0.1:1"):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, ssl=trusting, additional_headers=cookie, origin=origin)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
    with connect(url, ssl=trusting, additional_headers=cookie, origin=served.url) as live:  # type: ignore[arg-type]
        assert live.recv(timeout=5) == "hello"


def test_what_cannot_be_shown_is_refused_in_one_sentence(tmp_path: Path) -> None:
    pair, other = make_certificate(tmp_path / "a"), make_certificate(tmp_path / "b")
    old = make_certificate(tmp_path / "old", starts=-40)
    early = make_certificate(tmp_path / "early", starts=2)
    locked = make_certificate(tmp_path / "locked", password=b"secret")
    (tmp_path / "text").write_text("not a certificate")
    cases: list[tuple[Path | None, Path | None, str]] = [
        (pair.cert, None, "belong together"),
        (None, pair.key, "belong together"),
        (tmp_path / "missing.pem", pair.key, r"--tls-cert .*missing.pem cannot be read: No such file"),
        (pair.cert, tmp_path / "missing.key", r"--tls-key .*missing.key cannot be read"),
        (pair.cert, tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "text", pair.key, "holds no PEM certificate"),
        (pair.key, pair.key, "holds no PEM certificate"),
        (pair.cert, pair.cert, "holds no PEM private key"),
        (pair.cert, other.key, "is not the key of"),
        (old.cert, old.key, r"expired on \d{4}-\d\d-\d\d; renew it"),
        (early.cert, early.key, "is valid from"),
        (locked.cert, locked.key, "is encrypted"),
    ]
    for cert, key, words in cases:
        with pytest.raises(BadInput, match=words) as refused:
            Certificate.of(cert, key)
        assert "\n" not in str(refused.value)
    assert Certificate.of(None, None) is None
    assert Certificate.of(pair.cert, pair.key) == pair
