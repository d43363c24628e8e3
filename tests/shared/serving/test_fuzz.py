"""Bodies made to break a parser, sent to a real server: every one is answered with an error of the client's."""

from __future__ import annotations

import copy
import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.shared.serving.served import Served
from tests.shared.serving.test_commands import _run, _started

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as made:
        yield made


def _binary(header: Any, data: bytes = b"", length: str | None = None) -> tuple[bytes, dict[str, str]]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text + data, {LENGTH: str(len(text)) if length is None else length}


def _image(shape: Any = (1, 2, 2, 3), datatype: Any = "UINT8", size: Any = 12, **more: Any) -> dict[str, Any]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"name": "image", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}} | more


_THRESHOLD = {"name": "pixel_threshold", "shape": [1], "datatype": "FP32", "data": [0.5]}


def _request(**image: Any) -> dict[str, Any]:
    return {"inputs": [_image(**image), _THRESHOLD]}


_PIXELS = bytes(12)
_GOOD = _binary(_request(), _PIXELS)
_DEEP = b"[" * 100_000 + b"]" * 100_000


def _cases() -> list[tuple[bytes, dict[str, str]]]:
    cases: list[tuple[bytes, dict[str, str]]] = [
        (text, {})
        for text in (
            b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"{}", b'{"inputs": null}', b'{"inputs": {}}',
            b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": [[]]}', b'{"inputs": [{}]}', b'{"id": 5, "inputs": []}',
            b'{"inputs": [{"name": 5}]}', b'{"inputs": [{"name": "image"}]}', b'{"inputs": [{"name": "\\ud800"}]}',
            b'{"inputs": NaN}', _DEEP, b'{"inputs": ' + _DEEP + b"}", b'{"a":' * 5000 + b"1" + b"}" * 5000,
            b'{"parameters": [], "inputs": []}', b'{"outputs": 7, "inputs": []}',
        )
    ]  # fmt: skip
    for length in ("-1", "+5", "1e3", "x", "", "9" * 400, "99", "0", "٣", "3.0"):
        cases.append(_binary(_request(), _PIXELS, length.encode("utf-8").decode("latin-1")))
    for size in (-1, 0, 11, 13, 2**63, 1.5, "12", None, True, [12], {}):
        cases.append(_binary(_request(size=size), _PIXELS))
    shapes: list[Any] = [
        (1, 2, 2), (1, 2, 2, 4), (-1, 2, 2, 3), (0, 2, 2, 3), (1, 0, 0, 3), (2**62, 2**62, 2**62, 3), (2**40, 1, 1, 3),
        (1, 2**31, 2**31, 3), (1, 2, 2, 3, 1), (), (1.0, 2, 2, 3), ("1", 2, 2, 3), (True, 2, 2, 3), (None,) * 4,
        ([1], 2, 2, 3), 5, "x", {"0": 1}, None, [1] * 100_000,
    ]  # fmt: skip
    cases += [_binary(_request(shape=shape), _PIXELS) for shape in shapes]
    for datatype in ("INT8", "FP32", "BYTES", "uint8", "", None, 5, ["UINT8"], "X" * 10_000):
        cases.append(_binary(_request(datatype=datatype), _PIXELS))
    cases += [_binary(_request(), _PIXELS[:cut]) for cut in range(12)]
    cases += [_binary(_request(), _PIXELS + b"!" * more) for more in (1, 4, 1000)]
    cases.append(_binary({"inputs": [_image(), _image(), _THRESHOLD]}, _PIXELS * 2))
    cases.append(_binary(_request(parameters={"shared_memory_region": "x"}), _PIXELS))
    cases.append(_binary(_request(parameters=3), _PIXELS))
    datas: list[Any] = [
        "x", 5, {}, [], [0] * 11, [0] * 13, [256] + [0] * 11, [-1] + [0] * 11, [0.5] * 12, [True] * 12, [None] * 12,
        ["0"] * 12, [{}] * 12, [[0] * 12, 0], [2**70] + [0] * 11, [1e400] + [0] * 11, [[[[[[0] * 12]]]]] * 2,
    ]  # fmt: skip
    for data in datas:
        image = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": data}
        cases.append((json.dumps({"inputs": [image, _THRESHOLD]}).encode(), {}))
    nested: Any = [0] * 12
    for _ in range(60):
        nested = [nested]
    cases.append((json.dumps({"inputs": [_image() | {"data": nested, "parameters": {}}, _THRESHOLD]}).encode(), {}))
    for value in (b"NaN", b"Infinity", b"1e39", b"-1e39", b'"0.5"', b"null", b"true", b"[[1],[2]]", b"1e999"):
        text = json.dumps({"inputs": [_image(), _THRESHOLD | {"data": ["?"]}]}).encode().replace(b'"?"', value)
        cases.append(_binary(text, _PIXELS))
    for outputs in (1, "x", [1], [{}], [{"name": 1}], [{"name": "score"}] * 2, [{"name": "image"}], {"score": 1}):
        cases.append(_binary(_request() | {"outputs": outputs}, _PIXELS))
    for flag in ("yes", 1, None, []):
        cases.append(
            _binary(_request() | {"outputs": [{"name": "score", "parameters": {"binary_data": flag}}]}, _PIXELS)
        )
        cases.append(_binary(_request() | {"parameters": {"binary_data_output": flag}}, _PIXELS))
    return cases


def test_handmade_bodies_are_refused_with_a_sentence(client: httpx.Client, served: Served) -> None:
    cases = _cases()
    assert len(cases) > 130
    for body, headers in cases:
        answer = client.post("/v2/models/tiny/infer", content=body, headers=_latin(headers))
        assert 400 <= answer.status_code < 500 or answer.status_code == 501, (answer.status_code, body[:200], headers)
        error = answer.json()["error"]
        assert 0 < len(error) < 1000, error[:200]
    assert served.state.models["tiny"].ready


def _latin(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {key.encode(): value.encode("latin-1") for key, value in headers.items()}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00\x00", b"\x05\x00\x00\x00abcd",
        b"\x01\x00\x00\x00a" * 3, b"\x00\x00\x00\x00" * 3, b"\x01\x00\x00\x00a\x01\x00\x00",
    ],
)  # fmt: skip
def test_broken_bytes_tensors(client: httpx.Client, data: bytes) -> None:
    tensor = {"name": "in_bytes", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    body, headers = _binary({"inputs": [tensor]}, data)
    answer = client.post("/v2/models/echo/infer", content=body, headers=headers)
    assert answer.status_code == 400


def test_random_mutations_never_break_the_server(client: httpx.Client, served: Served) -> None:
    generator = random.Random(7)
    statuses = set()
    for _ in range(400):
        body, headers = _mutated(generator)
        statuses.add(client.post("/v2/models/tiny/infer", content=body, headers=headers).status_code)
    good, headers = _GOOD
    assert statuses <= {200, 400}
    assert 400 in statuses
    assert client.post("/v2/models/tiny/infer", content=good, headers=headers).status_code == 200
    assert served.metric("haechi_http_responses_total", code="400") > 0


def _mutated(generator: random.Random) -> tuple[bytes, dict[str, str]]:
    """A good binary request with a few bytes changed, and sometimes the length of its JSON part."""
    good, headers = _GOOD
    body = bytearray(good)
    for _ in range(generator.randint(1, 6)):
        where = generator.randrange(len(body))
        kind = generator.randrange(4)
        if kind == 0:
            body[where] = generator.randrange(256)
        elif kind == 1:
            del body[where : where + generator.randint(1, 20)]
        elif kind == 2:
            body[where:where] = generator.randbytes(generator.randint(1, 9))
        else:
            body[where:where] = generator.choice([b"0", b"-", b"999999999999", b"null", b"[", b'"', b"}"])
        if not body:
            body = bytearray(b"x")
    length = headers[LENGTH] if generator.random() < 0.7 else str(generator.randrange(len(body) + 3))
    return bytes(body), {LENGTH: length}


def test_random_json_values_in_every_place(client: httpx.Client) -> None:
    generator = random.Random(3)
    for _ in range(300):
        body, _ = _replaced(generator)
        answer = client.post("/v2/models/tiny/infer", content=body)
        assert answer.status_code in (200, 400), (answer.status_code, body)


def _replaced(generator: random.Random) -> tuple[bytes, dict[str, str]]:
    """A good request in JSON with a wrong value somewhere."""
    values: list[Any] = [None, True, -1, 0, 2**53, 1.5, "", "x", "UINT8", [], [1], {}, {"name": "image"}, [[]], [None]]
    whole = {"inputs": [_image() | {"data": [0] * 12, "parameters": {}}, _THRESHOLD], "outputs": [{"name": "score"}]}
    request = copy.deepcopy(whole)
    _replace_somewhere(request, generator.choice(values), generator)
    return json.dumps(request).encode(), {}


def _replace_somewhere(node: Any, value: Any, generator: random.Random) -> None:
    """Walk down at random and put `value` where the walk ends."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = generator.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or generator.random() < 0.3:
            node[key] = value
            return
        node = node[key]


def _wrong(seed: int, count: int) -> list[tuple[bytes, dict[str, str]]]:
    """So many bodies: the handmade ones, and for the rest one half broken in their bytes, the other in their JSON."""
    generator = random.Random(seed)
    bodies = _cases()
    while len(bodies) < count:
        bodies.append(_mutated(generator) if len(bodies) % 2 else _replaced(generator))
    generator.shuffle(bodies)
    return bodies


class _Wire:
    """Sends bodies byte by byte as it says, over one connection for as long as the server keeps it open."""

    def __init__(self, url: str, key: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._key = key
        self._socket: socket.socket | None = None

    def post(self, body: bytes, headers: dict[str, str], *, chunked: bool) -> tuple[int, bytes]:
        """Status and body of the answer. `chunked` bodies go another way through the server than others."""
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        lines = ["POST /v2/models/tiny/infer HTTP/1.1", "Host: x", f"X-Api-Key: {self._key}", length]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if chunked:
            cut = len(body) // 3
            parts = [part for part in (body[:cut], body[cut:]) if part]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=30)
        self._socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return self._answer(self._socket)

    def _answer(self, connection: socket.socket) -> tuple[int, bytes]:
        stream = connection.makefile("rb")
        status = int(stream.readline().split()[1])
        headers: dict[bytes, bytes] = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        content = stream.read(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return status, content

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's memory so")
def test_a_thousand_wrong_bodies_cost_a_server_nothing(packages: Path, tmp_path: Path) -> None:
    """A process of its own, whose memory is its own; both ways in."""
    key = _run(tmp_path, "--create-key", "fuzz:operator").stdout.strip()
    with _started(tmp_path, "--packages", packages / "tiny.zip") as process:
        wire = _Wire(process.url(), key)
        good, headers = _GOOD
        expected = json.loads(wire.post(good, headers, chunked=False)[1])["outputs"]
        for body, more in _wrong(seed=1, count=300):  # what is made once is made now
            for chunked in (False, True):
                wire.post(body, more, chunked=chunked)
        before = _resident_mb(process.popen.pid)
        statuses: Counter[tuple[bool, int]] = Counter()
        for body, more in _wrong(seed=2, count=1000):
            for chunked in (False, True):
                status, content = wire.post(body, more, chunked=chunked)
                statuses[chunked, status] += 1
                assert status in (200, 400, 413, 501), (status, content, body[:200], more)
                told = json.loads(content)
                assert "outputs" in told if status == 200 else 0 < len(told["error"]) < 1000
        growth = _resident_mb(process.popen.pid) - before
        for chunked in (False, True):
            assert sum(count for (way, _), count in statuses.items() if way == chunked) == 1000
            assert statuses[chunked, 400] > 500
            status, content = wire.post(good, headers, chunked=chunked)
            assert (status, json.loads(content)["outputs"]) == (200, expected)
        assert {(way, status): statuses[way, status] for way, status in statuses if way} == {
            (True, status): statuses[False, status] for way, status in statuses if not way
        }, "the two ways must not differ in what they refuse"
        wire.close()
        assert growth < 20, f"{growth:.1f} MB more"
        assert httpx.get(f"{process.url()}/v2/health/ready").status_code == 200
        assert not [line for line in process.err if "internal_error" in line or "Traceback" in line]
