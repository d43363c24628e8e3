"""Sinks against real receivers: an HTTP server, a mail server, an MQTT broker, files; and what waits meanwhile."""

from __future__ import annotations

import email
import hashlib
import hmac
import json
import queue
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.outbox import Outbox
from shared.errors import BadInput
from solutions.cctv.config import EmailSink, LinesSink, Site, WebhookSink
from solutions.cctv.sinks.dispatcher import LONGEST_S, Dispatcher, backoff_s
from solutions.cctv.sinks.lines import Lines
from solutions.cctv.sinks.mail import Mail
from solutions.cctv.sinks.opening import open_sinks
from solutions.cctv.sinks.post import Later, NotSent, Post, Refused
from solutions.cctv.sinks.webhook import Webhook
from tests.solutions.cctv.told import EVENT, PATIENCE_S, ZERO, eventually, message, post


class Hook(ThreadingHTTPServer):
    """A web server that keeps what it gets and answers as told."""

    def __init__(self, port: int = 0) -> None:
        got: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.got, self.answers, self.location = got, [200], ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.put((self.path, dict(self.headers), body))
                status = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.stop()


def test_a_post_waits_as_json_and_comes_back() -> None:
    given_ = Post.of(message(), ZERO, Path("/x/clean.jpg"))
    back = Post.read(given_.body)
    assert back == given_
    assert back.line["time"] == "2026-03-02T10:00:00.000+00:00"
    assert (back.line["message"], back.line["id"], back.line["rule"]) == ("start", EVENT.id, "night")
    assert b"clean.jpg" not in back.json
    assert {post("start").key, post("end").key} == {f"{EVENT.id}.start", f"{EVENT.id}.end"}
    assert post("update").key == post("update").key != post("update", why={"a": 1}).key
    with pytest.raises(Refused):
        Post.read(b"{}")


@given(tries=st.integers(0, 10_000), dice=st.floats(0, 1))
def test_waits_double_up_to_the_longest(tries: int, dice: float) -> None:
    wait = backoff_s(tries, dice)
    assert 0.5 <= wait <= LONGEST_S
    assert wait >= min(LONGEST_S, 2.0 ** min(tries, 20)) / 2


# -- files -----------------------------------------------------------------------------------------------------------


def test_lines_are_whole(tmp_path: Path) -> None:
    sink = Lines(LinesSink(type="jsonl", path="deep/events.jsonl"), tmp_path)
    for kind in ("start", "end"):
        sink.send(post(kind))
    lines = (tmp_path / "deep" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["start", "end"]


@given(data=st.data())
def test_a_torn_line_is_mended(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("lines") / "e.jsonl"
    sink = Lines(LinesSink(type="jsonl", path=str(path)))
    sink.send(post())
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole + whole[:cut])
    sink.send(post("end"))
    kinds = [json.loads(line)["message"] for line in path.read_bytes().splitlines()]
    assert kinds == ["start", *(["start"] if cut >= len(whole) - 1 else []), "end"]


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSent):
        Lines(LinesSink(type="jsonl", path=str(tmp_path / "file" / "x"))).send(post())
    with pytest.raises(NotSent):
        Lines(LinesSink(type="jsonl", path="/dev/full")).send(post())


# -- webhooks --------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    sink = Webhook(WebhookSink(type="webhook", url=hook.url, secret="${HOOK_SECRET}"))
    sink.send(post())
    path, headers, body = hook.got.get(timeout=PATIENCE_S)
    assert path == "/hook"
    assert json.loads(body)["id"] == EVENT.id
    stamp = headers["X-Haechi-Timestamp"]
    expected = hmac.new(b"s3cret", stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Haechi-Signature"] == f"sha256={expected}"
    assert abs(int(stamp) - time.time()) < 3600
    assert headers["Idempotency-Key"] == f"{EVENT.id}.start"
    sink.close()


@pytest.mark.parametrize(
    ("status", "failure"),
    [(400, Refused), (422, Refused), (401, NotSent), (404, NotSent), (500, NotSent), (302, NotSent), (307, NotSent)],
)
def test_answers_say_whether_to_try_again(hook: Hook, status: int, failure: type[Exception]) -> None:
    other = Hook()
    hook.answers, hook.location = [status], other.url
    sink = Webhook(WebhookSink(type="webhook", url=hook.url))
    with pytest.raises(failure, match=str(status)):
        sink.send(post())
    assert other.got.empty(), "whoever answers may not say where events go"
    other.stop()


def test_a_webhook_that_is_silent_or_gone_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotSent) as told:
            Webhook(WebhookSink(type="webhook", url=f"http://u:pass@127.0.0.1:{port}/tok", timeout_s=0.2)).send(post())
        assert "pass" not in str(told.value)
        assert "tok" not in str(told.value)
    with pytest.raises(NotSent):
        Webhook(WebhookSink(type="webhook", url=f"http://127.0.0.1:{port}/")).send(post())


@pytest.mark.parametrize("url", ["file:///etc/passwd", "nothing", "http://", "${NO_SUCH_VARIABLE}"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        Webhook(WebhookSink(type="webhook", url=url))


# -- the dispatcher --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_sink_that_is_down_loses_nothing_and_delays_no_other(tmp_path: Path) -> None:
    first = Hook()
    port, url = first.server_port, first.url
    first.stop()
    sinks = {
        "hook": Webhook(WebhookSink(type="webhook", url=url, timeout_s=1)),
        "lines": Lines(LinesSink(type="jsonl", path=str(tmp_path / "e.jsonl"))),
    }
    ids = [f"e{number}" for number in range(6)]
    with Outbox(tmp_path / "o.db") as outbox, Dispatcher(outbox, sinks) as sends:
        for name in ids:
            sends.tell(post(id=name))
        eventually(
            lambda: (tmp_path / "e.jsonl").exists() and len((tmp_path / "e.jsonl").read_text().splitlines()) == 6
        )
        eventually(lambda: "hook" in sends.failing)
        assert outbox.standing("hook").waiting == 6
        second = Hook(port)
        second.answers = [500, 200, 503, 200]
        eventually(lambda: outbox.standing("hook").waiting == 0)
        eventually(lambda: not sends.failing)
    second.stop()
    got = [json.loads(second.got.get_nowait()[2])["id"] for _ in range(second.got.qsize())]
    assert list(dict.fromkeys(got)) == ids, "in their order, none lost"
    assert len(got) == 8, "two were answered with an error, and sent again"


@pytest.mark.usefixtures("quick")
def test_what_waits_is_sent_by_the_next_process_and_what_is_refused_lets_others_pass(
    tmp_path: Path, hook: Hook
) -> None:
    sinks = {"hook": Webhook(WebhookSink(type="webhook", url=hook.url))}
    with Outbox(tmp_path / "o.db") as outbox:
        stopped = Dispatcher(outbox, sinks)
        stopped.tell(post(id="bad"))
        stopped.tell(post(id="good"))
    hook.answers = [422, 200]
    again = {"hook": Webhook(WebhookSink(type="webhook", url=hook.url))}
    with Outbox(tmp_path / "o.db") as outbox, Dispatcher(outbox, again):
        eventually(lambda: outbox.standing("hook").waiting == 0)
        assert outbox.standing("hook").refused == 1
    got = [json.loads(hook.got.get_nowait()[2])["id"] for _ in range(hook.got.qsize())]
    assert got == ["bad", "good"]


# -- mail ------------------------------------------------------------------------------------------------------------


class Mailbox(socketserver.ThreadingTCPServer):
    """As much of RFC 5321 as a client needs."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answer = "250 OK"
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, line: str) -> None:
                self.wfile.write(line.encode() + b"\r\n")

            def handle(self) -> None:
                self.say("220 test")
                while command := self.rfile.readline().decode().strip().upper():
                    if command == "DATA":
                        self.say("354 go on")
                        lines = []
                        while (line := self.rfile.readline()) != b".\r\n":
                            lines.append(line.removeprefix(b"."))
                        outer.mails.append(
                            email.message_from_bytes(b"".join(lines), policy=email.policy.default)  # type: ignore[arg-type]
                        )
                        self.say("250 OK")
                    elif command == "QUIT":
                        self.say("221 bye")
                        return
                    else:
                        self.say(outer.answer if command.startswith("RCPT") else "250 OK")

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def sink(self, **more: Any) -> Mail:
        port = self.server_address[1]
        config = EmailSink(
            type="email", host="127.0.0.1", port=port, sender="h@example.org", to=("a@example.org",), starttls=False
        )
        return Mail(config, **more)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    server = Mailbox()
    yield server
    server.shutdown()
    server.server_close()


def test_a_mail_says_what_happened_and_brings_the_picture(mailbox: Mailbox, tmp_path: Path) -> None:
    (tmp_path / "s.jpg").write_bytes(b"\xff\xd8 jpeg")
    told = Post.of(message(zone="대문\r\nBcc: x@example.org"), ZERO, tmp_path / "s.jpg")
    sink = mailbox.sink()
    assert sink.wants(told)
    sink.send(told)
    (mail,) = mailbox.mails
    assert mail["Subject"] == "[warning] intrusion gate 대문 Bcc: x@example.org"
    assert mail["Bcc"] is None
    parts = list(mail.walk())
    assert "camera: gate" in parts[1].get_content()
    assert next(mail.iter_attachments()).get_content() == b"\xff\xd8 jpeg"
    sink.send(Post.of(message(), ZERO, tmp_path / "gone.jpg"))
    assert len(mailbox.mails) == 2


def test_mails_are_for_starts_of_what_is_severe_enough_and_bounded(mailbox: Mailbox) -> None:
    sink = mailbox.sink(burst=2, every_s=60)
    wanted = [
        sink.wants(post(kind, severity=rank)) for kind in ("start", "end") for rank in ("info", "warning", "critical")
    ]
    assert wanted == [False, True, True, False, False, False]
    sink.send(post())
    sink.send(post())
    with pytest.raises(Later) as told:
        sink.send(post())
    assert 0 < told.value.wait_s <= 60
    assert len(mailbox.mails) == 2


def test_a_mail_server_that_will_not_have_it(mailbox: Mailbox) -> None:
    mailbox.answer = "550 nobody here"
    with pytest.raises(Refused, match="550"):
        mailbox.sink().send(post())
    mailbox.answer = "451 later"
    with pytest.raises(NotSent):
        mailbox.sink().send(post())
    starttls = EmailSink(
        type="email", host="127.0.0.1", port=mailbox.server_address[1], sender="h@e.org", to=("a@e.org",)
    )
    with pytest.raises(NotSent):
        Mail(starttls).send(post())
    assert not mailbox.mails, "nothing goes in the clear where it was to be hidden"


# -- the site file ---------------------------------------------------------------------------------------------------


def test_a_site_names_its_sinks(tmp_path: Path) -> None:
    lines, hook = {"type": "jsonl", "path": "e.jsonl"}, {"type": "webhook", "url": "https://example.org/token"}
    site = Site.model_validate({"cameras": {"gate": {"source": "x"}}, "sinks": [lines, hook, lines]})
    opened = open_sinks(site, tmp_path)
    assert next(iter(opened)) == "jsonl e.jsonl"
    assert list(opened) == list(open_sinks(site, tmp_path)), "names outlive a restart"
    assert not [name for name in opened if "token" in name], "names are logged"
    opened["jsonl e.jsonl"].send(post())
    assert (tmp_path / "e.jsonl").exists()
    for sink in opened.values():
        sink.close()
    bad = Site.model_validate({"cameras": {"gate": {"source": "x"}}, "sinks": [{"type": "mqtt", "prefix": "a/#"}]})
    with pytest.raises(BadInput, match="prefix"):
        open_sinks(bad)
