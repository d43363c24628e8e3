"""`haechi serve` as a user starts it: a real process, from its first start to its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from shared import settings
from shared.errors import BadInput, HaechiError
from shared.records import Records
from shared.registry import Registry
from shared.serving.commands import register
from shared.serving.keys import KEYS_FILE, KeyStore
from shared.serving.server import bind, url_of
from shared.serving.tls import Certificate
from tests.shared.packages import make_package
from tests.shared.serving.certificates import make_certificate

_PROGRAM = """
import sys, typer
from shared.errors import HaechiError
from shared.serving.commands import register
app = typer.Typer()
register(app)
try:
    app(standalone_mode=False)
except HaechiError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
except typer.TyperException as error:
    print(error.format_message(), file=sys.stderr)
    sys.exit(2)
"""


class Process:
    """A started `serve` with what it has printed so far."""

    def __init__(self, popen: subprocess.Popen[str], home: Path) -> None:
        self.popen = popen
        self.home = home
        self.out: list[str] = []
        self.err: list[str] = []
        for stream, lines in ((popen.stdout, self.out), (popen.stderr, self.err)):
            assert stream is not None
            threading.Thread(target=lines.extend, args=(stream,), daemon=True).start()

    def url(self) -> str:
        """The address, once the server is ready."""
        self.until(lambda: any("Haechi serves" in line for line in self.out))
        url = next(re.findall(r"http://\S+", line)[0] for line in self.out if "Haechi serves" in line)
        self.until(lambda: _ready(url))
        return url

    def until(self, condition: Callable[[], bool], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.popen.poll() is None, "".join(self.err)
            assert time.monotonic() < deadline, "".join(self.out + self.err)
            time.sleep(0.02)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _compute(url: str, headers: dict[str, str], steps: int) -> httpx.Response:
    tensor = {"name": "steps", "shape": [1], "datatype": "INT64", "data": [steps]}
    return httpx.post(f"{url}/v2/models/slow/infer", headers=headers, json={"inputs": [tensor]}, timeout=60)


def _metrics(url: str, key: str) -> str:
    return httpx.get(f"{url}/metrics", headers={"X-Api-Key": key}).text


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HAECHI_HOME": str(home), "HAECHI_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _started(home: Path, *arguments: object) -> Iterator[Process]:
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments), "--port", "0"]
    popen = subprocess.Popen(
        command, env=_environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        yield Process(popen, home)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(10)


def _run(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments)]
    return subprocess.run(command, env=_environment(home), capture_output=True, text=True, timeout=60, check=False)


def _invoke(*arguments: object) -> Any:
    """The command in this process, with its errors as exceptions."""
    app = typer.Typer(rich_markup_mode=None)
    register(app)
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_from_the_first_start_to_a_graceful_end(packages: Path, tmp_path: Path) -> None:
    with _started(tmp_path, "--packages", packages) as process:
        url = process.url()
        printed = "".join(process.out)
        assert "hk_" not in printed  # no lasting key goes into a service's log
        link = re.findall(r"http://\S+/login\S+", printed)[0]
        with httpx.Client(base_url=url) as browser:
            assert browser.get(link).status_code == 303
            assert browser.get("/v2").status_code == 200
        key = _run(tmp_path, "keys", "create", "boss", "--role", "admin").stdout.strip()
        assert httpx.get(f"{url}/v2", headers={"X-Api-Key": key}).status_code == 200
        created = _run(tmp_path, "--create-key", "line3:operator")  # while the server runs
        assert created.returncode == 0
        program = {"X-Api-Key": created.stdout.strip()}
        began = time.perf_counter()
        assert _compute(url, program, 200).status_code == 200
        steps = int(300 / (time.perf_counter() - began))  # about one and a half seconds of computing
        with ThreadPoolExecutor(2) as pool:
            requests = [pool.submit(_compute, url, program, steps)]
            requests.append(pool.submit(_compute, url, program, steps))
            process.until(lambda: 'pending_request_count{model="slow",version="1"} 1' in _metrics(url, key))
            process.popen.send_signal(signal.SIGTERM)  # one is computed now, one waits: admitted, therefore answered
            assert [request.result().status_code for request in requests] == [200, 200]
        assert process.popen.wait(30) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/v2/health/live")
        everything = "".join(process.err)
        assert key not in everything
        assert link.split("token=")[1] not in everything
        assert program["X-Api-Key"] not in everything
        lines = [json.loads(line) for line in process.err if line.startswith("{")]
        assert any(line.get("path") == "/v2/models/slow/infer" and line.get("who") == "line3" for line in lines)


def test_no_link_is_printed_once_there_is_an_admin_key(packages: Path, tmp_path: Path) -> None:
    key = _run(tmp_path, "--create-key", "boss:admin").stdout.strip()
    with _started(tmp_path, "--packages", packages / "picky") as process:
        url = process.url()
        assert "/login" not in "".join(process.out)
        assert httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        port = url.rsplit(":", 1)[1]
        link = _run(tmp_path, "--admin-link", "--port", port).stdout.strip()
        assert httpx.get(link).status_code == 303
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(30) == 0


def test_champions_of_the_registry_are_served_by_their_number(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    for gain in (1.0, 0.5):
        registry.add(make_package(tmp_path / f"p{gain}", gain=gain))
    registry.promote("tiny", 2)
    with _started(tmp_path, "--no-auth") as process:
        url = process.url()
        assert "warning: --no-auth" in "".join(process.err)
        assert httpx.get(f"{url}/v2/models/tiny").json()["versions"] == ["2"]
        process.popen.terminate()
        assert process.popen.wait(30) == 0


def test_alive_but_not_ready_while_nothing_is_wrong_with_an_empty_registry(tmp_path: Path) -> None:
    with _started(tmp_path) as process:
        url = process.url()
        assert "no model yet" in "".join(process.out)
        assert "haechi inspection train" in "".join(process.err)
        assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}


def test_a_package_that_fails_its_self_test_ends_the_server_with_one_sentence(tmp_path: Path) -> None:
    make_package(tmp_path / "bad", wrong_golden=True)
    ended = _run(tmp_path, "--packages", tmp_path / "bad", "--port", "0")
    assert ended.returncode == 1
    assert "self-test" in ended.stderr.splitlines()[-1]
    assert ended.stderr.splitlines()[-1].startswith("error: ")


def test_what_cannot_be_served_is_said_before_anything_starts(packages: Path, tmp_path: Path) -> None:
    model = tmp_path / "broken" / "model.onnx"
    make_package(tmp_path / "broken")
    model.write_bytes(model.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        cases: list[tuple[list[object], int, str]] = [
            (["--packages", tmp_path / "broken"], 1, "model.onnx"),
            (["--packages", tmp_path / "empty"], 2, "holds no package"),
            (["--packages", tmp_path / "missing"], 2, "no such file"),
            (["--packages", packages, "--packages", packages / "tiny.zip"], 2, "are both tiny 1.0.0"),
            (["--packages", packages, "--port", port], 2, f"port {port} on 127.0.0.1 is taken"),
            (["--no-auth", "--host", "0.0.0.0"], 2, "would let anyone in"),
            (["--host", "192.0.2.1", "--port", "0"], 2, "--host 192.0.2.1"),
            (["--host", "no such host"], 2, "--host"),
            (["--create-key", "x:boss"], 2, "role boss is unknown"),
            (["keys", "create", "x", "--role", "boss"], 2, "role boss is unknown"),
            (["--tls-cert", packages], 2, "belong together"),
            (["--tls-cert", tmp_path / "no.pem", "--tls-key", tmp_path / "no.key"], 2, "no.pem cannot be read"),
        ]
        for arguments, code, words in cases:
            with pytest.raises(HaechiError) as refused:
                _invoke(*arguments)
            assert refused.value.exit_code == code, arguments
            assert words in str(refused.value), arguments


def test_keys_are_made_listed_and_revoked() -> None:
    made = _invoke("keys", "create", "line 3").stdout.strip()
    assert made.startswith("hk_")
    _invoke("keys", "create", "boss", "--role", "admin")
    listed = _invoke("keys", "list").stdout
    assert [line.split()[1] for line in listed.splitlines()] == ["operator", "admin"]
    assert made.split("_", 2)[2] not in listed
    assert _invoke("keys", "revoke", "line 3").stdout == "Revoked 1.\n"
    assert "revoked  line 3" in _invoke("keys", "list").stdout
    with pytest.raises(BadInput, match="no valid key called line 3"):
        _invoke("keys", "revoke", "line 3")
    with pytest.raises(BadInput, match="no valid key"):
        _invoke("keys", "revoke", "")


def test_keys_expire_on_the_day_that_was_named(haechi_home: Path) -> None:
    made = _invoke("keys", "create", "visitor", "--role", "viewer", "--days", "30")
    assert "valid for 30 days" in made.stderr
    store = KeyStore(haechi_home / KEYS_FILE)
    key = store.all_keys()[0]
    assert key.expires == key.created + 30 * 86400
    store.create("late", "operator", seconds=-1)
    _invoke("--create-key", "boss:admin")
    today, last = (datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d") for t in (key.created, key.expires))
    rows = [line.split() for line in _invoke("keys", "list").stdout.splitlines()]
    assert rows[0] == [key.id, "viewer", today, last, "valid", "visitor"]
    assert rows[1][1:2] + rows[1][4:] == ["operator", "expired", "late"]
    assert rows[2][3:] == ["never", "valid", "boss"]
    for days in ("0", "-1", "1.5"):
        with pytest.raises(AssertionError):
            _invoke("keys", "create", "x", "--days", days)
    assert len(store.all_keys()) == 3


def test_who_made_and_revoked_keys_is_in_the_records(haechi_home: Path) -> None:
    token = _invoke("keys", "create", "line3", "--days", "7").stdout.strip()
    _invoke("--create-key", "line3:viewer")
    _invoke("keys", "revoke", "line3")
    with Records.open() as records:
        entries = records.audit_entries()
    assert [(entry.who, entry.action, entry.subject) for entry in entries] == [
        ("command line", "revoke_key", "line3"),
        ("command line", "create_key", "line3"),
        ("command line", "create_key", "line3"),
    ]
    assert entries[0].details == {"ended": 2}
    assert entries[2].details == {"id": token.split("_")[1], "role": "operator", "days": 7}
    assert token.split("_", 2)[2] not in str(entries)


def test_a_database_that_is_away_lets_no_key_in_and_keeps_none_alive(
    haechi_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _invoke("keys", "create", "line3")
    monkeypatch.setenv("HAECHI_DATABASE_URL", f"sqlite:///{haechi_home / 'no' / 'such' / 'folder' / 'records.db'}")
    (haechi_home / "no").write_text("a file where the folder would be")
    settings.load.cache_clear()
    with pytest.raises(HaechiError):
        _invoke("keys", "create", "line4")
    with pytest.raises(HaechiError):
        _invoke("keys", "revoke", "line3")
    assert [(key.name, key.state(time.time())) for key in KeyStore(haechi_home / KEYS_FILE).all_keys()] == [
        ("line3", "revoked")
    ]


@pytest.mark.slow
def test_options_of_a_server_with_a_certificate(packages: Path, tmp_path: Path) -> None:
    pair = make_certificate(tmp_path / "tls")
    key = _run(tmp_path, "--create-key", "line3:operator").stdout.strip()
    options = ["--packages", packages, "--tls-cert", pair.cert, "--tls-key", pair.key, "--host", "0.0.0.0"]
    options += ["--timeout-ms", 500, "--rate", 20, "--queue", 5]
    with _started(tmp_path, *options) as process, httpx.Client(verify=_trusting(pair)) as client:
        process.until(lambda: any("/login" in line for line in process.out))
        url = re.findall(r"https://\S+", "".join(process.out))[0]
        link = re.findall(r"https://\S+/login\S+", "".join(process.out))[0]
        assert link.startswith(url)
        client.base_url, client.headers = httpx.URL(url), httpx.Headers({"X-Api-Key": key})
        process.until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert "unencrypted" not in "".join(process.err)
        stats = client.get("/v2/models/slow/stats").json()["model_stats"][0]
        assert stats["haechi"]["queue_requests"] == 5
        _times_out_while_another_computes(client)
        time.sleep(1)  # the key may send again
        statuses = [_post(client, "picky", "index", 0).status_code for _ in range(40)]
        assert set(statuses) == {200, 429}
        assert statuses[:20] == [200] * 20
        process.popen.terminate()
        assert process.popen.wait(30) == 0


def _trusting(pair: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.cert))


def _post(client: httpx.Client, model: str, name: str, value: int) -> httpx.Response:
    tensor = {"name": name, "shape": [1], "datatype": "INT64", "data": [value]}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=60)


def _times_out_while_another_computes(client: httpx.Client) -> None:
    began = time.perf_counter()
    assert _post(client, "slow", "steps", 200).status_code == 200
    steps = int(600 / (time.perf_counter() - began))  # about three seconds, on one core of at least one
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.result() for answer in [pool.submit(_post, client, "slow", "steps", steps) for _ in range(8)]]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 8
    assert {answer.status_code for answer in refused} <= {429, 504}
    assert all("deadline" in answer.json()["error"] for answer in refused if answer.status_code == 504)


def test_making_a_key_loads_no_server(tmp_path: Path) -> None:
    program = (
        "import sys, typer; from shared.serving.commands import register; app = typer.Typer(); register(app)\n"
        "app(['--create-key', 'x:viewer'], standalone_mode=False)\n"
        "assert not {'fastapi', 'uvicorn', 'onnxruntime', 'numpy', 'nicegui'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], env=_environment(tmp_path), check=True, capture_output=True)


def test_help_teaches() -> None:
    text = _invoke("--help").stdout
    options = ("--packages", "--threads", "--queue", "--no-auth", "--create-key", "--timeout-ms", "--rate", "--trace")
    for words in (*options, "--tls-cert", "--tls-key", "X-Api-Key", "/v2/health/ready"):
        assert words in text


def test_urls_of_listeners() -> None:
    with bind("0.0.0.0", 0) as everywhere, bind("::1", 0) as six:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url_of(everywhere))
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+", url_of(everywhere, tls=True))
        assert re.fullmatch(r"http://\[::1\]:\d+", url_of(six))
