"""Bodies that are too large, too slow or too many, and what every answer carries."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, File, Form, UploadFile
from starlette.requests import Request

from shared.serving.limits import MIB, Limits
from shared.serving.middleware import request_id
from shared.serving.state import ServerState
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]


_INFER = json.dumps({"inputs": [{"name": "index", "shape": [1], "datatype": "INT64", "data": [0]}]}).encode()


def _routes(state: ServerState) -> APIRouter:
    router = APIRouter(dependencies=[Depends(state.require("viewer"))])

    @router.post("/upload")
    async def upload(file: Annotated[UploadFile, File()], count: Annotated[int, Form()] = 0) -> dict[str, int]:
        return {"bytes": len(await file.read()), "count": count}

    @router.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError("the secret is 42")

    @router.get("/id")
    async def identity(request: Request) -> str:
        return request_id(request)

    return router


@pytest.fixture(scope="module")
def small(serve: Serve) -> Iterator[Served]:
    """A server that takes bodies of 1 MiB, 3 MiB at once, and JSON of 64 KiB."""
    limits = Limits(max_upload_bytes=MIB, max_bytes_in_flight=3 * MIB, max_json_bytes=64 * 1024, body_pause_seconds=0.5)
    with serve(limits=limits, routers=[_routes]) as served:
        yield served


def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(small: Served) -> None:
    with _connection(small, "/v2/models/tiny/infer", f"Content-Length: {MIB + 1}") as connection:
        assert _status(connection) == 413


def test_an_unannounced_body_is_cut_at_the_limit(small: Served) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 65536

    with small.client() as client:
        assert client.post("/v2/models/tiny/infer", content=chunks()).status_code == 413
        assert client.get("/v2").status_code == 200


def test_a_multipart_file_over_the_limit_is_413(small: Served) -> None:
    with small.client() as client:
        assert client.post("/upload", files={"file": b"x" * (MIB - 1000)}).json() == {"bytes": MIB - 1000, "count": 0}
        answer = client.post("/upload", files={"file": b"x" * MIB})
        assert answer.status_code == 413
        assert "limit" in answer.json()["error"]


def test_a_lie_about_the_length_changes_nothing(small: Served) -> None:
    body = b"x" * (MIB + 100_000)
    with _connection(small, "/v2/models/tiny/infer", "Transfer-Encoding: chunked\r\nX-Length: 5") as connection:
        for start in range(0, len(body), 65536):
            part = body[start : start + 65536]
            try:
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            except OSError:
                break  # the server has answered and closed already
        assert _status(connection) == 413


def test_json_is_bounded_more_tightly_than_binary(small: Served) -> None:
    data = [0] * 40_000
    image = {"name": "image", "shape": [1, 100, 100, 3], "datatype": "UINT8", "data": data}
    with small.client() as client:
        answer = client.post("/v2/models/tiny/infer", content=json.dumps({"inputs": [image]}))
    assert answer.status_code == 413
    assert "binary" in answer.json()["error"]


def test_a_body_that_unpacks_out_of_proportion_is_refused(serve: Serve, packages: Path) -> None:
    limits = Limits(free_unpacking=MIB, max_unpacking=100, max_upload_bytes=8 * MIB)
    path, headers = "/v2/models/picky/infer", {"Content-Encoding": "gzip"}
    with serve(limits=limits, packages=[packages / "picky"]) as served, served.client() as client:
        for size, status, words in (
            (MIB - 1000, 200, ""),  # small enough to be as empty as it likes
            (4 * MIB, 413, "send it uncompressed"),
            (20 * MIB, 413, "send it uncompressed"),
        ):
            body = gzip.compress(_INFER + b" " * size)
            answer = client.post(path, content=body, headers=headers)
            assert (answer.status_code, words in answer.text) == (status, True), size
        noise = random.Random(1).randbytes(3 * MIB // 2).hex().encode()  # 3 MiB that shrink to half
        named = _INFER.replace(b'{"inputs"', b'{"id": "' + noise + b'", "inputs"')
        assert client.post(path, content=gzip.compress(named), headers=headers).status_code == 200


def test_strings_are_counted_before_they_are_made(serve: Serve, packages: Path) -> None:
    with serve(packages=[packages / "echo"]) as served, served.client() as client:
        count = 4_000_000
        tensor = {"name": "in_bytes", "shape": [1, count], "datatype": "BYTES"}
        header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 4 * count}}]}).encode()
        began = time.perf_counter()
        answer = client.post(
            "/v2/models/echo/infer",
            content=header + bytes(4 * count),
            headers={"Inference-Header-Content-Length": str(len(header))},
        )
        assert answer.status_code == 413
        assert "over the limit of 65536" in answer.json()["error"]
        assert time.perf_counter() - began < 5  # reading them would take some six seconds, and nobody else be served
        answer = client.post("/v2/models/echo/infer", json={"inputs": [tensor | {"data": []}]})
        assert answer.status_code == 413


def test_a_client_that_falls_silent_is_given_up(small: Served) -> None:
    with _connection(small, "/v2/models/tiny/infer", "Content-Length: 100") as connection:
        connection.sendall(b"x" * 10)
        assert _status(connection) == 408


def test_all_bodies_together_are_bounded(small: Served) -> None:
    held = []
    try:
        for _ in range(3):
            connection = _connection(small, "/v2/models/tiny/infer", f"Content-Length: {MIB}")
            connection.sendall(b"x" * (MIB - 10))
            held.append(connection)
        _until(lambda: small.metric("haechi_http_body_bytes_in_flight") > 2.9 * MIB)
        with small.client() as client:
            answer = client.post("/upload", files={"file": b"x" * (MIB // 2)})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
    finally:
        for connection in held:
            connection.close()
    _until(lambda: small.metric("haechi_http_body_bytes_in_flight") == 0)
    with small.client() as client:
        assert client.post("/upload", files={"file": b"x" * (MIB // 2)}).status_code == 200


def test_a_crash_tells_the_client_nothing_but_its_number(small: Served) -> None:
    with small.client() as client:
        answer = client.get("/crash", headers={"X-Request-Id": "part-5"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "part-5" in answer.json()["error"]
        assert client.get("/v2").status_code == 200


def test_wrong_fields_are_one_sentence(small: Served) -> None:
    with small.client() as client:
        answer = client.post("/upload", files={"other": b"x"}, data={"count": "many"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("body.file")


def test_request_ids_are_echoed_or_made(small: Served) -> None:
    with small.client() as client:
        answer = client.get("/id", headers={"X-Request-Id": "line3:part.7_a-b"})
        assert answer.json() == answer.headers["x-request-id"] == "line3:part.7_a-b"
        made = {client.get("/id").json() for _ in range(3)}
        assert len(made) == 3
        for evil in ("a b", "<x>", "x" * 65, "é".encode()):
            answer = client.get("/id", headers=[(b"X-Request-Id", evil if isinstance(evil, bytes) else evil.encode())])
            assert answer.json() == answer.headers["x-request-id"]
            assert len(answer.json()) == 32


def test_every_answer_carries_the_security_headers(small: Served) -> None:
    with small.client("admin") as client, small.client(None) as stranger:
        answers = [
            client.get("/v2"),
            client.get("/nowhere"),
            client.get("/crash"),
            client.post("/v2/models/tiny/infer", content=b"{"),
            stranger.get("/v2"),
            stranger.get("/login"),
            stranger.get("/v2/health/live"),
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.headers["x-request-id"]) == 32
        assert "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_access_log_has_the_request_and_no_secret(small: Served, capfd: pytest.CaptureFixture[str]) -> None:
    key = small.keys["viewer"]
    with small.client("viewer") as client:
        client.get(f"/id?token={key}", headers={"X-Request-Id": "logged-1", "Cookie": f"haechi_session={key}"})
    read: list[str] = []

    def logged() -> bool:
        read.append(capfd.readouterr().err)
        return "logged-1" in "".join(read)

    _until(logged)
    text = "".join(read)
    line = next(json.loads(line) for line in text.splitlines() if "haechi.access" in line and "logged-1" in line)
    assert (line["method"], line["path"], line["status"], line["who"]) == ("GET", "/id", 200, "test viewer")
    assert line["milliseconds"] >= 0
    access = "\n".join(line for line in text.splitlines() if "haechi.access" in line)
    assert key not in access
    assert key.split("_", 2)[2] not in access


def _connection(served: Served, path: str, *headers: str) -> socket.socket:
    host, port = served.address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    lines = [f"POST {path} HTTP/1.1", f"Host: {served.address}", f"X-Api-Key: {served.keys['operator']}", *headers]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection


def _status(connection: socket.socket) -> int:
    return int(connection.recv(4096).split()[1])


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
