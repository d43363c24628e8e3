"""Actions against a real HTTP server on this machine: signing, retries, time-outs, limits, and where none may go."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from solutions.contact_center.config import ActionConfig
from solutions.contact_center.dialogue.actions import MAX_ANSWER, ActionContext, ActionFailed, Actions

CONTEXT = ActionContext("c1", "kim", "ko", "2026-03-02T01:00:00+00:00", "haechi-1")


class Server:
    """Records every request and answers from a list of (status, headers, body), the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: list[tuple[int, Mapping[str, str], bytes]] = [(200, {}, b'{"ticket": "T1", "n": {"left": 3}}')]
        self.delay = 0.0
        self.drip = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests.append(
                    {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
                )
                time.sleep(server.delay)
                status, headers, content = server.answers[min(len(server.requests), len(server.answers)) - 1]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    for at in range(0, len(content), 1 if server.drip else 65536):
                        self.wfile.write(content[at : at + (1 if server.drip else 65536)])
                        time.sleep(0.1 if server.drip else 0)
                except OSError:
                    return  # the caller has had enough

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def action(server: Server, **http: Any) -> ActionConfig:
    return ActionConfig.model_validate(
        {"action": "a", "http": {"url": f"{server.url}/v1/do", "allow": ["127.0.0.1"], "timeout_seconds": 1, **http}}
    )


def quick(**environment: str) -> tuple[Actions, list[float]]:
    waits: list[float] = []
    return Actions(environment=environment, sleep=waits.append), waits


def test_a_post_sends_json_with_an_idempotency_key(server: Server) -> None:
    result = quick()[0].run(action(server), {"plan": "5G 스탠다드", "count": 2}, CONTEXT)
    assert result.ok
    assert result.result == {"ticket": "T1", "n": {"left": 3}}
    assert (result.status, result.attempts) == (200, 1)
    request = server.requests[0]
    assert (request["method"], request["path"]) == ("POST", "/v1/do")
    assert json.loads(request["body"]) == {"plan": "5G 스탠다드", "count": 2}
    assert request["headers"]["Idempotency-Key"] == "haechi-1"
    assert request["headers"]["Content-Type"] == "application/json"


def test_a_get_sends_its_arguments_in_the_query(server: Server) -> None:
    config = action(server, method="GET", url=f"{server.url}/find?x=1")
    assert quick()[0].run(config, {"q": "가&나 ?", "none": None}, CONTEXT).ok
    assert server.requests[0]["path"] == "/find?x=1&q=%EA%B0%80%26%EB%82%98+%3F"
    assert server.requests[0]["body"] == b""


def test_a_signed_call_can_be_verified(server: Server) -> None:
    actions, _ = quick(BOT_SECRET="s3cret")
    assert actions.run(action(server, sign="BOT_SECRET"), {"a": 1}, CONTEXT).ok
    headers, body = server.requests[0]["headers"], server.requests[0]["body"]
    signed = b"\n".join([headers["X-Haechi-Timestamp"].encode(), b"POST", b"/v1/do", b"haechi-1", body])
    digest = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert headers["X-Haechi-Signature"] == f"sha256={digest}"
    assert abs(int(headers["X-Haechi-Timestamp"]) - time.time()) < 60


def test_a_missing_secret_calls_nobody(server: Server) -> None:
    result = quick()[0].run(action(server, sign="BOT_SECRET"), {}, CONTEXT)
    assert not result.ok
    assert "BOT_SECRET" in result.error
    assert server.requests == []


def test_a_busy_server_is_tried_again_with_the_same_key_and_growing_waits(server: Server) -> None:
    server.answers = [(503, {}, b""), (500, {}, b"oops"), (200, {}, b'{"ok": 1}')]
    actions, waits = quick()
    result = actions.run(action(server, retries=2), {}, CONTEXT)
    assert result.ok
    assert result.attempts == 3
    assert {request["headers"]["Idempotency-Key"] for request in server.requests} == {"haechi-1"}
    assert len(waits) == 2
    assert 0.05 <= waits[0] <= 0.1
    assert 0.1 <= waits[1] <= 0.2


def test_a_plain_no_is_not_tried_again(server: Server) -> None:
    server.answers = [(404, {}, b"{}")]
    result = quick()[0].run(action(server, retries=3), {}, CONTEXT)
    assert (result.ok, result.status, len(server.requests)) == (False, 404, 1)


def test_retries_end(server: Server) -> None:
    server.answers = [(503, {}, b"")]
    result = quick()[0].run(action(server, retries=1), {}, CONTEXT)
    assert (result.ok, result.status, len(server.requests)) == (False, 503, 2)


def test_a_slow_server_is_given_up(server: Server) -> None:
    server.delay = 1.0
    started = time.monotonic()
    result = quick()[0].run(action(server, retries=0, timeout_seconds=0.2), {}, CONTEXT)
    assert not result.ok
    assert time.monotonic() - started < 0.9


def test_a_dripping_server_is_given_up(server: Server) -> None:
    server.drip = True
    started = time.monotonic()
    result = quick()[0].run(action(server, retries=0, timeout_seconds=0.4), {}, CONTEXT)
    assert not result.ok
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"a": "' + b"x" * MAX_ANSWER + b'"}', "larger"),
        (b"<html>", "no JSON"),
        (b"[1, 2]", "no object"),
        (b'{"a": NaN}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_answers_that_are_no_answers(server: Server, body: bytes, error: str) -> None:
    server.answers = [(200, {}, body)]
    result = quick()[0].run(action(server, retries=0), {}, CONTEXT)
    assert not result.ok
    assert error in result.error


def test_nothing_is_an_answer_too(server: Server) -> None:
    server.answers = [(204, {}, b"")]
    assert quick()[0].run(action(server), {}, CONTEXT).result == {}


def test_a_dead_server_is_an_error_not_an_exception() -> None:
    config = ActionConfig.model_validate(
        {"action": "a", "http": {"url": "http://127.0.0.1:9/x", "allow": ["127.0.0.1"], "retries": 1}}
    )
    result = quick()[0].run(config, {}, CONTEXT)
    assert not result.ok
    assert result.attempts == 2


def test_redirects_are_followed_to_allowed_hosts_only(server: Server) -> None:
    server.answers = [(307, {"Location": "/v2/do"}, b""), (200, {}, b'{"ok": 2}')]
    assert quick()[0].run(action(server), {"a": 1}, CONTEXT).result == {"ok": 2}
    assert [request["path"] for request in server.requests] == ["/v1/do", "/v2/do"]
    assert server.requests[1]["body"] == b'{"a": 1}'
    server.requests.clear()
    server.answers = [(307, {"Location": "http://169.254.169.254/latest/meta-data"}, b"")]
    result = quick()[0].run(action(server, retries=3), {}, CONTEXT)
    assert not result.ok
    assert "169.254.169.254" in result.error
    assert len(server.requests) == 1
    server.requests.clear()
    server.answers = [(307, {"Location": "/again"}, b"")]
    assert "redirects" in quick()[0].run(action(server, retries=0), {}, CONTEXT).error
    assert len(server.requests) == 4


def test_a_name_that_leads_to_a_private_address_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    real = socket.getaddrinfo

    def poisoned(host: str, port: int, **more: Any) -> Any:
        return real("127.0.0.1" if host == "crm.example.com" else host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", poisoned)
    port = server.url.rpartition(":")[2]
    config = action(server, url=f"http://crm.example.com:{port}/x", allow=["crm.example.com"])
    result = quick()[0].run(config, {}, CONTEXT)
    assert not result.ok
    assert "private" in result.error
    assert server.requests == []


def test_functions_are_called_by_name_and_never_break_a_conversation() -> None:
    def adds(arguments: Mapping[str, Any], context: ActionContext) -> Mapping[str, Any]:
        return {"sum": arguments["a"] + 1, "for": context.customer}

    def fails(arguments: Mapping[str, Any], context: ActionContext) -> Mapping[str, Any]:
        raise ActionFailed("no such customer")

    def bad(arguments: Mapping[str, Any], context: ActionContext) -> Any:
        return {"x": object()}

    actions = Actions({"adds": adds, "fails": fails, "bad": bad})

    def run(name: str) -> Any:
        return actions.run(ActionConfig(action="a", function=name), {"a": 1}, CONTEXT)

    assert run("adds").result == {"sum": 2, "for": "kim"}
    assert (run("fails").ok, run("fails").error) == (False, "no such customer")
    assert not run("bad").ok
    assert "no function missing is registered" in run("missing").error
