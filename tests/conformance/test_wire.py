"""The REST face over bare sockets: what clients in other languages send, to the byte."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from typing import Any

import numpy as np
import pytest

from tests.conformance.conftest import need
from tests.conformance.target import Target, arrays_for

Metadata = dict[str, Any]


@contextmanager
def _connected(target: Target) -> Iterator[socket.socket]:
    host, port = target.http.rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=30) as connection:
        yield connection


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    response = HTTPResponse(connection)
    response.begin()
    body = response.read()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, body


def _head(target: Target, *more: str, path: str = "infer", method: str = "POST") -> bytes:
    """A request's head as few clients write it: odd case, no Content-Type, no User-Agent."""
    lines = [f"{method} /v2/models/{target.model}/{path} HTTP/1.1", f"hOsT: {target.http}", *more]
    lines += [f"{key.title()}: {value}" for key, value in target.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def _binary(metadata: Metadata, seed: int = 0) -> tuple[bytes, bytes]:
    """The JSON part and the binary part of a request for all outputs in binary."""
    entries, raw = [], b""
    kinds = {entry["name"]: entry["datatype"] for entry in metadata["inputs"]}
    for name, array in arrays_for(metadata["inputs"], seed).items():
        content = (
            b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())
            if kinds[name] == "BYTES"
            else array.tobytes()
        )
        size = {"binary_data_size": len(content)}
        entries.append({"name": name, "datatype": kinds[name], "shape": list(array.shape), "parameters": size})
        raw += content
    header = {"inputs": entries, "parameters": {"binary_data_output": True}}
    return json.dumps(header).encode(), raw


def _lengths(header: bytes, raw: bytes) -> list[str]:
    return [f"inference-header-content-length: {len(header)}", f"CONTENT-LENGTH: {len(header) + len(raw)}"]


def _check(answer: tuple[int, dict[str, str], bytes], metadata: Metadata) -> bytes:
    """The binary part of a good answer: as long as the sizes in its JSON part say."""
    status, headers, body = answer
    assert status == 200, body[:500]
    length = int(headers["inference-header-content-length"])
    described = json.loads(body[:length])["outputs"]
    assert {entry["name"] for entry in described} == {entry["name"] for entry in metadata["outputs"]}
    assert sum(entry["parameters"]["binary_data_size"] for entry in described) == len(body) - length
    return body[length:]


@pytest.fixture(autouse=True)
def _binary_tensors(extensions: set[str]) -> None:
    need(extensions, "binary_tensor_data")


def test_pieces_of_any_size_and_one_connection(target: Target, metadata: Metadata) -> None:
    header, raw = _binary(metadata)
    request = _head(target, *_lengths(header, raw)) + header + raw
    generator = np.random.default_rng(0)
    answers = []
    with _connected(target) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for round_ in range(4):
            at = 0
            while at < len(request):
                step = int(generator.integers(1, 400)) if round_ else len(request)
                connection.sendall(request[at : at + step])
                at += step
                if generator.random() < 0.1:
                    time.sleep(0.002)
            answers.append(_check(_answer(connection), metadata))
    assert len(set(answers)) == 1


def test_chunked_bodies(target: Target, metadata: Metadata) -> None:
    header, raw = _binary(metadata)
    body, length = header + raw, _lengths(header, raw)[0]
    with _connected(target) as connection:
        connection.sendall(_head(target, length, "Transfer-Encoding: chunked"))
        for at in range(0, len(body), 777):
            piece = body[at : at + 777]
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        _check(_answer(connection), metadata)


def test_a_client_that_asks_before_it_sends(target: Target, metadata: Metadata) -> None:
    """`Expect: 100-continue`, as curl sends it with long bodies; a server may be silent until the body has come."""
    header, raw = _binary(metadata)
    with _connected(target) as connection:
        connection.sendall(_head(target, *_lengths(header, raw), "Expect: 100-continue"))
        connection.settimeout(1)
        with suppress(TimeoutError):
            connection.recv(1, socket.MSG_PEEK)
        connection.settimeout(30)
        connection.sendall(header + raw)
        _check(_answer(connection), metadata)  # http.client passes over "100 Continue"


def test_a_refused_request_leaves_the_connection_usable(target: Target, metadata: Metadata) -> None:
    header, raw = _binary(metadata)
    bad: list[tuple[bytes, bytes, list[str]]] = [
        (b"{", b"", ["Content-Length: 1"]),
        (header, raw, [f"Inference-Header-Content-Length: {10**9}", f"Content-Length: {len(header) + len(raw)}"]),
        (header, raw, [f"Inference-Header-Content-Length: {len(header) - 1}", f"Content-Length: {len(header + raw)}"]),
        (header, raw[:-1], _lengths(header, raw[:-1])),
        (header, raw + b"!", _lengths(header, raw + b"!")),
        (b'{"inputs": []}', b"", ["Content-Length: 14"]),
        (b"[]", b"", ["Content-Length: 2"]),
        (b"", b"", ["Content-Length: 0"]),
    ]
    with _connected(target) as connection:
        for first, second, lengths in bad:
            connection.sendall(_head(target, *lengths) + first + second)
            status, _, body = _answer(connection)
            assert status == 400, (first[:100], body[:300])
            assert isinstance(json.loads(body)["error"], str)
            connection.sendall(_head(target, *_lengths(header, raw)) + header + raw)
            _check(_answer(connection), metadata)


def test_other_methods_and_broken_requests(target: Target, metadata: Metadata) -> None:
    with _connected(target) as connection:
        connection.sendall(_head(target, path="ready", method="GET"))
        assert _answer(connection)[0] == 200
        connection.sendall(_head(target, path="infer", method="GET"))
        assert _answer(connection)[0] in (400, 404, 405)
    for nonsense in (b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"POST /v2 HTTP/9.9\r\n\r\n"):
        with _connected(target) as connection:
            connection.sendall(nonsense)
            answer = connection.recv(4096)
            assert not answer or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 505")
    header, raw = _binary(metadata)
    with _connected(target) as connection:  # gone in the middle of its body
        connection.sendall(_head(target, *_lengths(header, raw)) + header[:10])
    with _connected(target) as connection:
        connection.sendall(_head(target, *_lengths(header, raw)) + header + raw)
        _check(_answer(connection), metadata)
