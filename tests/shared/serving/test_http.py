"""The connection itself: raw bytes on a socket, cut where nobody would cut them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from shared.serving.limits import Limits
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def request(served: Served, body: bytes, *extra: str, path: str = "/v2/models/picky/infer", key: str = "") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {served.address}", f"X-Api-Key: {key or served.keys['operator']}"]
    lines += [f"Content-Length: {len(body)}", *extra]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def index(*values: int) -> bytes:
    tensor = {"name": "index", "shape": [len(values)], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


def binary(*values: int) -> tuple[bytes, str]:
    data = np.array(values, "<i8").tobytes()
    tensor = {"name": "index", "shape": [len(values)], "datatype": "INT64"}
    tensor["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + data, f"Inference-Header-Content-Length: {len(head)}"


class Answers:
    """Reads answers one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.rest = b""

    def next(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers["content-length"])
        while len(self.rest) < size:
            self._more()
        body, self.rest = self.rest[:size], self.rest[size:]
        return int(first.split()[1]), headers, body

    def _more(self) -> None:
        data = self.connection.recv(65536)
        assert data, f"closed after {self.rest[:200]!r}"
        self.rest += data

    def closed(self) -> bool:
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True


def values(body: bytes) -> list[float]:
    found: list[float] = json.loads(body)["outputs"][0]["data"]
    return found


def test_a_request_in_single_bytes_is_a_request(served: Served) -> None:
    body, length = binary(2, 3)
    with connected(served) as connection:
        for byte in request(served, body, length):
            connection.sendall(bytes([byte]))
        status, headers, content = Answers(connection).next()
    assert (status, values(content)) == (200, [3.0, 4.0])
    assert headers["x-content-type-options"] == "nosniff"
    assert len(headers["x-request-id"]) == 32


def test_both_lanes_share_a_connection_in_order(served: Served) -> None:
    """Inference, metadata, inference with a query string (not ours), and all of it in one packet."""
    body = index(1)
    key = served.keys["operator"]
    metadata = f"GET /v2/models/picky HTTP/1.1\r\nHost: {served.address}\r\nX-Api-Key: {key}\r\n\r\n".encode()
    with connected(served) as connection:
        answers = Answers(connection)
        for _ in range(3):
            connection.sendall(request(served, body))
            assert values(answers.next()[2]) == [2.0]
            connection.sendall(metadata)
            assert json.loads(answers.next()[2])["name"] == "picky"
        slow = request(served, body, path="/v2/models/picky/infer?a=b")
        packet = request(served, index(0)) + metadata + request(served, index(2)) + slow + request(served, index(3))
        connection.sendall(packet)
        found = [answers.next() for _ in range(5)]
    assert [status for status, _, _ in found] == [200] * 5
    assert values(found[0][2]) == [1.0]
    assert json.loads(found[1][2])["name"] == "picky"
    assert [values(content) for _, _, content in found[2:]] == [[3.0], [2.0], [4.0]]


def test_chunked_bodies_and_expectations_go_the_other_way(served: Served) -> None:
    body = index(1)
    head = request(served, b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    with connected(served) as connection:
        answers = Answers(connection)
        connection.sendall(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert values(answers.next()[2]) == [2.0]
        connection.sendall(request(served, body))
        assert values(answers.next()[2]) == [2.0]
    with connected(served) as connection:
        whole = request(served, body, "Expect: 100-continue")
        connection.sendall(whole[: -len(body)])
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert values(Answers(connection).next()[2]) == [2.0]


@pytest.mark.parametrize(
    "line",
    ["Content-Length: 5", "Transfer-Encoding: chunked", "X-A : 1", " folded: 1", "X-\x00: 1", "Content-Length: +5"],
)
def test_a_request_that_could_be_read_in_two_ways_is_refused(served: Served, line: str) -> None:
    """Request smuggling lives on heads that two programs cut differently."""
    body = index(1)
    with connected(served) as connection:
        connection.sendall(request(served, body, line))
        status, _, _ = Answers(connection).next()
    assert status == 400


def test_a_refused_body_is_thrown_away_and_the_connection_goes_on(serve: Serve) -> None:
    with serve(limits=Limits(max_upload_bytes=2_000_000)) as served, connected(served) as connection:
        answers = Answers(connection)
        connection.sendall(request(served, b"x" * 1_000_000, path="/v2/models/nobody/infer"))
        assert answers.next()[0] == 404
        connection.sendall(request(served, b"x" * 1_000_000, "Inference-Header-Content-Length: 5", key="hk_wrong"))
        assert answers.next()[0] == 401
        connection.sendall(request(served, b"x" * 3_000_000, "Inference-Header-Content-Length: 5"))
        assert answers.next()[0] == 413
        connection.sendall(request(served, index(1)))
        assert values(answers.next()[2]) == [2.0]
        assert served.state.budget.held == 0


def test_a_body_too_large_to_throw_away_ends_the_connection(served: Served) -> None:
    with connected(served) as connection:
        head = request(served, b"", "Inference-Header-Content-Length: 5").replace(b"th: 0\r\n", b"th: 999999999999\r\n")
        connection.sendall(head)
        answers = Answers(connection)
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (413, "close")
        assert answers.closed()


def test_a_large_body_is_refused_with_words_and_not_with_a_reset(serve: Serve) -> None:
    with serve(limits=Limits(max_upload_bytes=1_000_000)) as served, connected(served) as connection:
        connection.sendall(request(served, b"x" * 20_000_000, "Inference-Header-Content-Length: 5"))
        status, headers, content = Answers(connection).next()
        assert (status, headers["connection"]) == (413, "close")
        assert "1000000 bytes" in json.loads(content)["error"]


def test_a_client_that_does_not_read_is_not_computed_for(serve: Serve, packages: Path) -> None:
    """Thousands of requests in one go: answers pile up to the high-water mark, and no further."""
    with serve() as served, connected(served) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = index(*[1] * 4000)
        packet = request(served, body) * 2000
        connection.settimeout(1.5)
        with pytest.raises(TimeoutError):
            connection.sendall(packet)
        counted = served.metric("nv_inference_request_success", model="picky")
        time.sleep(0.5)
        assert served.metric("nv_inference_request_success", model="picky") == counted < 2000
        with connected(served) as other:
            other.sendall(request(served, index(1)))
            assert values(Answers(other).next()[2]) == [2.0]


def test_close_is_heeded(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(request(served, index(1), "Connection: close"))
        answers = Answers(connection)
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (200, "close")
        assert answers.closed()


def test_a_client_that_falls_silent_is_given_up(serve: Serve) -> None:
    with serve(limits=Limits(body_pause_seconds=0.5)) as served, connected(served) as connection:
        connection.sendall(request(served, index(1))[:-5])
        answers = Answers(connection)
        status, headers, content = answers.next()
        assert (status, headers["connection"]) == (408, "close")
        assert "silent" in json.loads(content)["error"]
        assert answers.closed()
        assert served.state.budget.held == 0


def test_a_head_that_never_ends_is_not_kept(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(b"POST /v2/models/picky/infer HTTP/1.1\r\n" + b"X-Pad: " + b"a" * 32 * 1024)
        assert connection.recv(100).startswith(b"HTTP/1.1 431")


def test_a_deadline_that_cannot_be_met_is_refused_at_the_door(served: Served) -> None:
    steps = {"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [4000]}]}
    with connected(served) as busy, connected(served) as connection:
        slow = "/v2/models/slow/infer"
        busy.sendall(request(served, json.dumps(steps).encode(), path=slow))
        queue = served.state.models["slow"].queue
        deadline = time.monotonic() + 10
        while not queue.computing:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        answers = Answers(connection)
        body = json.dumps({"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [1]}]}).encode()
        connection.sendall(request(served, body, "X-Timeout-Ms: 60000", path=slow))
        waiting = request(served, body, "X-Timeout-Ms: 1", path=slow)
        with connected(served) as hurried:
            hurried.sendall(waiting)
            status, headers, content = Answers(hurried).next()
        assert status == 429, content
        assert "deadline" in json.loads(content)["error"]
        assert int(headers["retry-after"]) >= 1
        with connected(served) as wrong:
            wrong.sendall(request(served, body, "X-Timeout-Ms: soon", path=slow))
            assert Answers(wrong).next()[0] == 400
        assert answers.next()[0] == 200
        assert Answers(busy).next()[0] == 200
