"""`haechi bench serve`: what it counts is what happened, on both sides; what goes wrong is told by kind."""

from __future__ import annotations

import datetime
import json
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared import bench_serve_load, bench_serve_processes
from shared.bench_serve import errors_of
from shared.bench_serve_load import Address, Load, Request, post
from shared.bench_serve_payload import Payload, Tensor, make, parse_shapes
from shared.bench_serve_server import parse_url
from shared.errors import BadInput
from shared.serving.limits import Limits
from solutions import cli
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]
TINY = {
    "inputs": [
        {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        {"name": "pixel_threshold", "datatype": "FP32", "shape": [1]},
    ]
}


def _command(served: Served, *arguments: str, role: str | None = "operator") -> int:
    key = ["--key", served.keys[role]] if role else []
    return cli.main(["bench", "serve", served.url, "--concurrency", "1,4", "--seconds", "0.3", *key, *arguments])


def _steps(count: int) -> Payload:
    content = np.array([count], dtype="<i8").tobytes()
    return Payload((Tensor("steps", "INT64", (1,), content),), batch=1, fixed=True)


def _load(served: Served, model: str, payload: Payload, concurrency: int, **options: Any) -> Load:
    address = parse_url(served.url)
    request = payload.request(address, f"/v2/models/{model}/infer", served.headers(), None)
    return bench_serve_load.run(address, request, concurrency, options.pop("seconds", 10.0), **options)


def test_the_command_counts_what_the_server_counts(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    before = served.metric("nv_inference_request_success", model="tiny")
    assert _command(served, "--model", "tiny", "--shape", "image=1,32,24,3", "--json", str(file)) == 0
    rose = served.metric("nv_inference_request_success", model="tiny") - before
    found = json.loads(file.read_text())
    assert found["payload"]["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [1, 32, 24, 3]}
    assert found["payload"]["bytes"] == 32 * 24 * 3 + 4
    assert [run["concurrency"] for run in found["runs"]] == [1, 4]
    for run in found["runs"]:
        assert run["accepted"] == run["sent"] == run["server_success"] > 0
        assert set(run["errors"].values()) == {0}
        assert 0 < run["p50_ms"] <= run["p90_ms"] <= run["p95_ms"] <= run["p99_ms"] <= run["max_ms"]
        assert run["requests_per_s"] == pytest.approx(run["accepted"] / 0.3, rel=0.2, abs=20)
        assert run["client_cpu_ms_per_request"] > 0
        assert run["cpu_ms_per_request"] is None  # the server runs in this very process
    assert rose > sum(run["accepted"] for run in found["runs"])  # the warm-up is not among them
    assert found["model_ms"] > 0
    assert found["runs"][0]["efficiency"] == pytest.approx(
        found["runs"][0]["requests_per_s"] * found["model_ms"] / 1000 / found["cores"]
    )
    assert re.search(r"^ +4 +\d+\.\d ", capsys.readouterr().out, re.MULTILINE)


def test_a_bounded_number_of_requests_is_counted_one_by_one(served: Served) -> None:
    payload = make({"inputs": [{"name": "index", "datatype": "INT64", "shape": [-1]}]}, batch=3)
    before = {
        name: served.metric(name, model="picky") for name in ("nv_inference_request_success", "nv_inference_count")
    }
    load = _load(served, "picky", payload, 5, requests=57)
    assert load.sent == load.answered == load.statuses[200] == len(load.accepted) == 57
    assert served.metric("nv_inference_request_success", model="picky") - before["nv_inference_request_success"] == 57
    assert served.metric("nv_inference_count", model="picky") - before["nv_inference_count"] == 3 * 57
    assert (load.wrong_ids, load.broken, load.unanswered) == (0, 0, 0)


def test_refusals_of_a_full_queue_are_told_apart_and_counted_on_both_sides(serve: Serve) -> None:
    with serve(limits=Limits(queue_requests=1)) as served:
        label = {"model": "slow", "version": "1"}
        load = _load(served, "slow", _steps(300), 8, seconds=1.0)
        assert load.statuses[429] > 0 < load.statuses[200]
        assert load.sent == load.statuses[429] + load.statuses[200]
        assert len(load.refused) == load.statuses[429]
        assert errors_of(load) == {
            "429": load.statuses[429],
            **dict.fromkeys(("503", "504", "other", "broken", "unanswered", "wrong_id"), 0),
        }
        assert "slow" in load.words[429]
        assert served.metric("nv_inference_request_success", **label) == load.statuses[200]
        assert served.metric("nv_inference_request_failure", reason="REJECTED", **label) == load.statuses[429]


def test_requests_leave_at_the_pace_that_was_asked_for(served: Served) -> None:
    load = _load(served, "slow", _steps(1), 4, seconds=1.0, rate=50)
    assert load.sent + load.unsent in range(40, 52)
    assert load.sent == load.statuses[200]
    crowded = _load(served, "slow", _steps(300), 1, seconds=0.5, rate=1000)
    assert crowded.unsent > 0 < crowded.sent


@pytest.mark.parametrize(
    ("arguments", "role", "words"),
    [
        (("--model", "none"), "operator", "--model none: model none is unknown"),
        (("--model", "tiny"), None, "asks for a key; make one with `haechi serve --create-key"),
        (("--model", "tiny", "--key", "hk_wrong"), None, "does not know this key"),
        (("--model", "tiny"), "viewer", "role operator"),
        (("--model", "tiny", "--version", "9"), "operator", "no version 9"),
        (("--model", "tiny", "--shape", "image=1,2"), "operator", "--shape image=1,2 does not fit"),
        (("--model", "picky", "--image", "nowhere.jpg"), "operator", "the model takes no picture"),
        (("--model", "tiny", "--image", "nowhere.jpg"), "operator", "nowhere.jpg cannot be read"),
        (("--model", "tiny", "--concurrency", "1,x"), "operator", "--concurrency 1,x must be numbers"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(
    served: Served, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], role: str | None, words: str
) -> None:
    assert _command(served, *arguments, role=role) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_no_server_is_an_error_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert cli.main(["bench", "serve", "http://127.0.0.1:9", "--model", "tiny"]) == 1
    assert "no server can be reached at 127.0.0.1:9" in capsys.readouterr().err
    assert cli.main(["bench", "serve", "ftp://here", "--model", "tiny"]) == 2
    assert time.monotonic() - started < 5


# -- servers that misbehave ------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer: Callable[[BaseHTTPRequestHandler], None]

    def do_POST(self) -> None:
        type(self).answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _server(
    answer: Callable[[BaseHTTPRequestHandler], None], context: ssl.SSLContext | None = None
) -> Iterator[Address]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"answer": staticmethod(answer)}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Address("localhost" if context else "127.0.0.1", server.server_port, tls=context is not None)
    finally:
        server.shutdown()
        server.server_close()


def _answer(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _request(address: Address, size: int = 0) -> Request:
    body = b'{"id": "0000000000000000"}' + bytes(size)
    return post(address, "/", {}, body, id_at=8, json_size=26)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    return handler.rfile.read(int(handler.headers["Content-Length"]))


def test_an_answer_to_another_request_is_noticed() -> None:
    with _server(lambda handler: _answer(handler, 200, _body(handler)[:26])) as address:
        load = bench_serve_load.run(address, _request(address), 2, 5, requests=10)
    assert (load.statuses[200], load.wrong_ids) == (10, 0)

    def always_the_same(handler: BaseHTTPRequestHandler) -> None:
        _body(handler)
        _answer(handler, 200, b'{"id": "0000000000000000"}')

    with _server(always_the_same) as address:
        load = bench_serve_load.run(address, _request(address), 2, 5, requests=10)
    assert (load.statuses[200], load.wrong_ids) == (10, 10)


def test_statuses_and_long_answers_are_read_to_their_end() -> None:
    turns = iter(range(100))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sent, turn = _body(handler), next(turns)
        if turn % 2:
            _answer(handler, 418, b'{"error": "no\\ntea"}')
        else:
            _answer(handler, 200, bytes(300_000) + sent[:26])

    with _server(answer) as address:
        load = bench_serve_load.run(address, _request(address), 1, 5, requests=8)
    assert dict(load.statuses) == {200: 4, 418: 4}
    assert load.words == {418: "no tea"}
    assert errors_of(load)["other"] == 4
    assert load.wrong_ids == 0


def test_broken_connections_are_counted_and_made_anew() -> None:
    turns = iter(range(1000))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sent = _body(handler)
        if next(turns) % 3 == 2:
            handler.close_connection = True
            handler.connection.close()
        else:
            _answer(handler, 200, sent)

    with _server(answer) as address:
        load = bench_serve_load.run(address, _request(address), 1, 10, requests=9)
    assert (load.sent, load.statuses[200], load.broken) == (9, 6, 3)


def test_a_server_that_says_close_is_no_broken_connection() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        _answer(handler, 200, _body(handler), {"Connection": "close"})

    with _server(answer) as address:
        load = bench_serve_load.run(address, _request(address), 2, 10, requests=20)
    assert (load.sent, load.statuses[200], load.broken) == (20, 20, 0)


def test_a_refusal_before_the_body_was_read_is_taken() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        _answer(handler, 429, b'{"error": "later."}')
        _body(handler)  # reads on, as servers do that keep the connection

    with _server(answer) as address:
        load = bench_serve_load.run(address, _request(address, 8_000_000), 2, 10, requests=6)
    assert (load.sent, load.statuses[429], len(load.refused), load.broken) == (6, 6, 6, 0)


def test_a_server_that_falls_silent_does_not_hold_the_measurement_up() -> None:
    gate = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _body(handler)
        gate.wait(20)

    started = time.monotonic()
    with _server(answer) as address:
        load = bench_serve_load.run(address, _request(address), 3, 0.2, drain=0.3)
        gate.set()
    assert load.unanswered == load.sent == 3
    assert time.monotonic() - started < 5


def test_https_is_measured_where_its_certificate_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    with _server(lambda handler: _answer(handler, 200, _body(handler)), context) as address:
        with pytest.raises(Exception, match="certificate verify failed"):
            bench_serve_load.run(address, _request(address), 1, 5, requests=1)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        load = bench_serve_load.run(address, _request(address, 500_000), 3, 10, requests=12)
    assert (load.statuses[200], load.wrong_ids, load.broken) == (12, 0, 0)


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_open_extents_get_sensible_values_and_settings_keep_theirs() -> None:
    payload = make(TINY, batch=2)
    assert [tensor.shape for tensor in payload.tensors] == [(2, 480, 640, 3), (1,)]
    assert payload.size == 2 * 480 * 640 * 3 + 4
    assert not payload.fixed
    planes = {"inputs": [{"name": "x", "datatype": "FP16", "shape": [-1, 3, 224, 224]}]}
    assert make(planes).tensors[0].shape == (1, 3, 224, 224)
    assert make(planes).fixed
    assert make(planes, seed=1).tensors[0].content == make(planes, seed=1).tensors[0].content
    assert make(planes, seed=1).tensors[0].content != make(planes, seed=2).tensors[0].content
    with pytest.raises(BadInput, match="takes 1 at a time"):
        make({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]}, batch=2)
    assert parse_shapes(["a=b=1,2"]) == {"a=b": (1, 2)}
    for wrong in ("image", "=1", "image=", "image=0", "image=1,-1"):
        with pytest.raises(BadInput, match="must be written like"):
            parse_shapes([wrong])


def test_an_image_takes_the_place_of_the_picture(tmp_path: Path) -> None:
    file = tmp_path / "part.jpg"
    file.write_bytes(b"not decoded here")
    image, threshold = make(TINY, batch=2, image=file).tensors
    assert (image.datatype, image.shape) == ("BYTES", (2,))
    assert image.content == 2 * (b"\x10\x00\x00\x00" + b"not decoded here")
    assert threshold.datatype == "FP32"


# -- what it costs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def busy_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process whose child listens on a port too, and computes whenever it is connected to."""
    code = """
import os, socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
pid = os.fork()
while True:
    connection, _ = listener.accept() if pid == 0 else (time.sleep(60), None)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    connection.close()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        for name in (bench_serve_processes.usage([process.pid]) or _nothing()).names:
            subprocess.run(["kill", re.findall(r"pid (\d+)", name)[0]], check=False)
        process.wait(10)


def _nothing() -> bench_serve_processes.Usage:
    return bench_serve_processes.Usage(0.0, 0, ())


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_the_processes_behind_a_port_are_found_with_their_children(
    busy_server: tuple[subprocess.Popen[str], int],
) -> None:
    import socket

    process, port = busy_server
    found = bench_serve_processes.of_port(port)
    assert process.pid in found
    before = bench_serve_processes.usage(found)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.recv(1) == b""  # closed once it has computed
        assert bench_serve_processes.is_here(connection.family, connection.getpeername())
    after = bench_serve_processes.usage(found)
    assert before is not None
    assert after is not None
    assert 0.25 <= after.cpu_seconds - before.cpu_seconds <= 0.45
    assert after.rss_bytes > 5e6
    assert len(after.names) == 2
    assert not bench_serve_processes.is_here(socket.AF_INET, ("192.0.2.1", 80))  # an address that is nobody's
    with socket.create_server(("127.0.0.1", 0)) as ours:
        assert bench_serve_processes.of_port(ours.getsockname()[1]) == []
