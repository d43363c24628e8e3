"""The HTTP and WebSocket API on a real server with a real, small bot."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from shared.streams import Streams
from solutions.contact_center.dialogue.sealing import Vault
from solutions.contact_center.dialogue.store import SOLUTION
from solutions.contact_center.pipeline import BotPipeline
from solutions.contact_center.service import open_bot, stream_of
from tests.solutions.contact_center.served import API, CHAT, NAME, SITE, Server, serving


@pytest.fixture(scope="module")
def server(clinic_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(clinic_package, tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def pipeline(server: Server, clinic_package: Path) -> BotPipeline:
    """The same bot on the same store, as another server has it."""
    from shared.package import open_package

    state = server.running.state
    return open_bot(open_package(clinic_package), Streams(state.records), Vault.of_home(state.settings.home))


def begin(client: httpx.Client, **body: str) -> tuple[str, str]:
    answer = client.post(API, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["conversation"], answer.json()["token"]


def say(client: httpx.Client, conversation: str, text: str, id: str, **more: str) -> httpx.Response:
    return client.post(f"{API}/{conversation}/messages", json={"id": id, "text": text, **more})


# -- with a key -------------------------------------------------------------------------------------------------------


def test_a_conversation_from_its_greeting_to_its_transcript(server: Server) -> None:
    with server.client() as client:
        greeted = client.post(API, json={"customer": "c-17", "language": "en"})
        assert (greeted.status_code, greeted.json()["texts"]) == (201, ["Welcome."])
        conversation = greeted.json()["conversation"]
        asked = say(client, conversation, "I want to book a visit", "m1").json()
        assert asked["texts"] == ["Which doctor?"]
        assert (asked["rung"], asked["ended"], asked["handed_over"], asked["position"]) == (
            "answer",
            False,
            False,
            None,
        )
        assert say(client, conversation, "예약", "m2", language="ko").json()["texts"]
        lines = client.get(f"{API}/{conversation}").json()
        assert [line["who"] for line in lines["lines"]][:3] == ["bot", "user", "bot"]
        assert lines["mode"] == "bot"
        later = client.get(f"{API}/{conversation}", params={"after": lines["lines"][1]["seq"]}).json()
        assert later["lines"] == lines["lines"][2:]
        assert client.get("/api/contact_center/bots").json() == [{"name": NAME, "version": "1", "ready": True}]


def test_the_same_message_again_gets_the_same_answer_and_is_taken_once(server: Server) -> None:
    with server.client() as client:
        conversation, _ = begin(client)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: say(client, conversation, "예약할게요", "same").json(), range(16)))
        assert len({tuple(answer["texts"]) for answer in answers}) == 1
        assert sum(not answer["duplicate"] for answer in answers) == 1
        users = [line for line in client.get(f"{API}/{conversation}").json()["lines"] if line["who"] == "user"]
        assert len(users) == 1


def test_a_conversation_may_begin_with_a_message_under_the_callers_own_id(server: Server) -> None:
    with server.client() as client:
        assert client.get(f"{API}/call-1").status_code == 404
        assert say(client, "call-1", "예약할게요", "1", channel="voice", customer="c-1").json()["texts"]
        assert client.get(f"{API}/call-1").status_code == 200
        assert say(client, "no spaces", "예약할게요", "1").status_code == 404


def test_each_role_gets_what_it_may(server: Server) -> None:
    with server.client() as operator, server.client("viewer") as viewer, server.client(None) as stranger:
        conversation, _ = begin(operator)
        for client, status in ((viewer, 403), (stranger, 401)):
            assert client.post(API, json={}).status_code == status
            assert say(client, conversation, "x", "1").status_code == status
            assert client.get(f"{API}/{conversation}").status_code == status
        assert viewer.get("/api/contact_center/bots").status_code == 200
        assert operator.delete("/api/contact_center/customers/c-17").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "1"},
        {"id": 1, "text": "x"},
        {"id": "", "text": "x"},
        {"id": "a b", "text": "x"},
        {"id": "1", "text": 5},
        {"id": "1", "text": "x" * 20_001},
        {"id": "1", "text": "x", "language": "fr"},
        {"id": "1", "text": "x", "channel": "kakao"},
        {"id": "1", "text": "x", "other": 1},
    ],
)
def test_wrong_bodies_are_refused_with_a_sentence(server: Server, body: dict[str, object]) -> None:
    with server.client() as client:
        conversation, _ = begin(client)
        answer = client.post(f"{API}/{conversation}/messages", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].endswith(".")
    lone = b'{"id": "1", "text": "\\ud800"}'
    with server.client(**{"content-type": "application/json"}) as client:
        assert client.post(f"{API}/{conversation}/messages", content=lone).status_code == 400


@pytest.mark.parametrize("text", ["", " ", "\x00\x01\x02", "ㅋ" * 10_000, "😀" * 500, "' OR 1=1 --", "{phone}"])
def test_odd_texts_are_answered(server: Server, text: str) -> None:
    with server.client() as client:
        conversation, _ = begin(client)
        answer = say(client, conversation, text, "1")
        assert answer.status_code == 200
        assert answer.json()["texts"]


def test_personal_data_is_masked_and_deleted_on_request(server: Server) -> None:
    with server.client() as client, server.client("engineer") as engineer:
        conversation, _ = begin(client, customer="forget-me")
        say(client, conversation, "제 번호는 010-1234-5678이에요", "1")
        assert "1234-5678" not in client.get(f"{API}/{conversation}").text
        kept, _ = begin(client, customer="keep-me")
        assert engineer.delete("/api/contact_center/customers/forget-me").json() == {"conversations": 1}
        assert client.get(f"{API}/{conversation}").status_code == 404
        assert client.get(f"{API}/{kept}").status_code == 200
        assert engineer.delete("/api/contact_center/customers/forget-me").json() == {"conversations": 0}


def test_thumbs_are_kept_with_the_answer_they_are_for(server: Server) -> None:
    with server.client() as client:
        conversation, _ = begin(client)
        say(client, conversation, "예약할게요", "m1")
        for value in ("up", "up", "down"):
            body = {"message": "m1", "value": value, "note": "번호 010-1234-5678"}
            assert client.post(f"{API}/{conversation}/feedback", json=body).status_code == 204
        assert client.post(f"{API}/{conversation}/feedback", json={"message": "m9", "value": "up"}).status_code == 404
        assert client.post(f"{API}/{conversation}/feedback", json={"message": "m1", "value": "?"}).status_code == 400
        assert say(client, conversation, "김 선생님", "m2").json()["texts"]
    events = Streams(server.running.state.records).read(SOLUTION, stream_of(NAME, conversation))
    given = [event.data for event in events if event.kind == "feedback"]
    assert [(each["message"], each["value"]) for each in given] == [("m1", "up"), ("m1", "down")]
    assert "1234" not in str(given)


def test_what_is_counted(server: Server) -> None:
    with server.client() as client:
        begin(client)
        text = client.get("/metrics").text
        assert f'haechi_bot_turns_total{{bot="{NAME}",channel="rest"' in text
        assert "haechi_bot_sockets 0.0" in text


# -- strangers --------------------------------------------------------------------------------------------------------


def test_a_browser_talks_with_its_token_alone(server: Server) -> None:
    with server.client(None) as stranger:
        begun = stranger.post(f"{CHAT}/conversations", json={"language": "en"}).json()
        conversation, token = begun["conversation"], begun["token"]
        path, body = f"{CHAT}/conversations/{conversation}", {"id": "1", "text": "I want to book a visit"}
        mine = {"authorization": f"Bearer {token}"}
        assert stranger.post(f"{path}/messages", json=body, headers=mine).json()["texts"] == ["Which doctor?"]
        assert len(stranger.get(path, headers=mine).json()["lines"]) == 3
        assert stranger.post(f"{path}/feedback", json={"message": "1", "value": "up"}, headers=mine).status_code == 204
        other = stranger.post(f"{CHAT}/conversations", json={}).json()["token"]
        expired = server.running.state
        from solutions.contact_center.service import Tokens

        old = Tokens.of_vault(Vault.of_home(expired.settings.home)).issue(NAME, conversation, -1)
        for wrong in (
            {},
            {"authorization": f"Bearer {other}"},
            {"authorization": f"Bearer {token}x"},
            {"authorization": "Bearer ct_zz_zz"},
            {"authorization": f"Bearer {old}"},
        ):
            assert stranger.post(f"{path}/messages", json=body, headers=wrong).status_code == 401
            assert stranger.get(path, headers=wrong).status_code == 401
        assert stranger.get(f"{API}/{conversation}", headers=mine).status_code == 401


def test_only_allowed_sites_pages_may_use_the_bot(server: Server) -> None:
    with server.client(None) as stranger:
        for origin, status in ((SITE, 201), ("https://evil.example", 403), ("null", 403), (server.url, 201)):
            answer = stranger.post(f"{CHAT}/conversations", json={}, headers={"origin": origin})
            assert answer.status_code == status
            told = answer.headers.get("access-control-allow-origin")
            assert told == (SITE if origin == SITE else None)
        refused = stranger.post(
            f"{CHAT}/conversations/x/messages", json={"id": "1", "text": "x"}, headers={"origin": SITE}
        )
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SITE)
        asked = stranger.options(f"{CHAT}/conversations", headers={"origin": SITE})
        assert asked.headers["access-control-allow-origin"] == SITE
        assert "authorization" in asked.headers["access-control-allow-headers"]
        assert stranger.options(f"{CHAT}/conversations", headers={"origin": "https://evil.example"}).status_code == 403
        assert stranger.get(f"{CHAT}/widget.js").headers["cross-origin-resource-policy"] == "cross-origin"


def test_strangers_are_bounded(server: Server) -> None:
    with server.client(None) as stranger:
        begun = stranger.post(f"{CHAT}/conversations", json={}).json()
        mine = {"authorization": f"Bearer {begun['token']}"}
        path = f"{CHAT}/conversations/{begun['conversation']}/messages"
        answers = [stranger.post(path, json={"id": f"{n}", "text": "예약"}, headers=mine) for n in range(40)]
        busy = [answer for answer in answers if answer.status_code == 429]
        assert busy
        assert int(busy[0].headers["retry-after"]) >= 1
        assert stranger.post(path, content=b"x" * 200_000, headers=mine).status_code == 413
        starts = [stranger.post(f"{CHAT}/conversations", json={}).status_code for _ in range(60)]
        assert 429 in starts
        assert stranger.post("/chat/nothing/conversations", json={}).status_code == 404


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_a_socket_says_who_types_and_what_was_said(server: Server) -> None:
    with server.client() as client:
        conversation, token = begin(client, language="en")
    with server.socket(conversation, token) as socket:
        assert socket.next("line")["text"] == "Welcome."
        assert socket.next("status") == {"type": "status", "mode": "bot", "agent": "", "position": 0, "ended": False}
        socket.send(type="message", id="m1", text="I want to book a visit")
        assert socket.next("typing")["message"] == "m1"
        assert socket.next("line")["who"] == "user"
        answer = socket.next("line")
        assert (answer["who"], answer["text"], answer["message"]) == ("bot", "Which doctor?", "m1")
        assert socket.next("answered") == {"type": "answered", "message": "m1", "rung": "answer"}
        socket.send(type="feedback", message="m1", value="up")
        socket.send(type="message", id="m1", text="again, after a lost connection")
        assert socket.next("answered")["message"] == "m1"
        socket.connection.send("no JSON")
        assert socket.next("error")["error"]
        last = answer["seq"]
    with server.socket(conversation, token, after=last) as socket:
        socket.next("status")
        socket.send(type="message", id="m2", text="Dr Kim")
        assert socket.next("line")["text"] == "Dr Kim"


def test_what_a_person_says_is_pushed_and_the_bot_comes_back(server: Server, pipeline: BotPipeline) -> None:
    with server.client() as client:
        conversation, token = begin(client, language="en")
    stream = stream_of(NAME, conversation)
    with server.socket(conversation, token) as socket:
        socket.send(type="message", id="m1", text="I want to talk to a person")
        status = socket.next("status")
        while status["mode"] != "waiting":
            status = socket.next("status")
        assert status["position"] >= 1
        pipeline.handover.take(stream, "kim")  # as the console does, or another server
        while status["mode"] != "agent":
            status = socket.next("status")
        assert status["agent"] == "kim"
        pipeline.handover.say(stream, "kim", "Hello, how can I help?")
        line = socket.next("line")
        while line["who"] != "agent":
            line = socket.next("line")
        assert (line["name"], line["text"]) == ("kim", "Hello, how can I help?")
        pipeline.handover.give_back(stream, "kim")
        while status["mode"] != "bot":
            status = socket.next("status")


def test_sockets_ask_for_the_token_and_an_allowed_site(server: Server) -> None:
    with server.client() as client:
        conversation, token = begin(client)
    for wrong in ("", "ct_1_1", token[:-1]):
        with server.socket(conversation, wrong) as socket, pytest.raises(ConnectionClosed) as closed:
            socket.next("line")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert "token" in closed.value.rcvd.reason
    with pytest.raises(InvalidStatus), server.socket(conversation, token, origin="https://evil.example"):
        pass
    with server.socket(conversation, token, origin=SITE) as socket:
        assert socket.next("line")["text"]


def test_a_program_has_a_socket_too_and_loses_it_with_its_key(server: Server) -> None:
    store = server.running.state.auth.store
    key = store.create("phone", "operator")
    address = f"{server.url.replace('http', 'ws', 1)}{API}/call-2/socket"
    with connect(address, additional_headers={"X-Api-Key": key}) as connection:
        connection.send('{"type": "message", "id": "1", "text": "예약할게요"}')
        while '"answered"' not in connection.recv(timeout=20):
            pass
        store.revoke("phone")
        connection.send('{"type": "message", "id": "2", "text": "예약할게요"}')
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=20)
    with pytest.raises(InvalidStatus):
        connect(address, additional_headers={"X-Api-Key": key})


# -- several servers ---------------------------------------------------------------------------------------------------


def test_two_servers_serve_one_conversation_in_turn(server: Server, clinic_package: Path) -> None:
    settings = server.running.state.settings
    with (
        serving(clinic_package, settings.home, settings.database_url) as second,
        server.client() as one,
        second.client() as two,
    ):
        conversation, token = begin(one, language="en")
        first = say(one, conversation, "I want to book a visit", "m1").json()
        assert say(two, conversation, "I want to book a visit", "m1").json() == {**first, "duplicate": True}
        assert say(two, conversation, "Dr Kim", "m2").json()["texts"] == ["When?"]
        with second.socket(conversation, token) as socket:
            assert socket.next("line")["text"] == "Welcome."
            say(one, conversation, "help", "m3")
            texts = [socket.next("line")["text"] for _ in range(5)]
            assert "help" in texts  # pushed by the server that did not take the message


def test_without_keys_only_this_machines_name_reaches_the_chat(clinic_package: Path, tmp_path: Path) -> None:
    with serving(clinic_package, tmp_path, auth=False) as started, started.client(None) as client:
        assert client.get(CHAT).status_code == 200
        assert client.get(CHAT, headers={"host": "rebound.example"}).status_code == 403
