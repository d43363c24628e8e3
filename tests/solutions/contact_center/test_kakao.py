"""KakaoTalk's skill: the platform's JSON, its limits and its five seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from solutions.contact_center import kakao
from solutions.contact_center.dialogue.events import Button
from solutions.contact_center.service import stream_of
from tests.solutions.contact_center.served import CHAT, NAME, Server, serving

GOLDEN = Path(__file__).with_name("kakao")
PATH = f"{CHAT}/kakao"
SITE = "https://www.clinic.example"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def request(utterance: str, user: str, **more: str) -> dict[str, Any]:
    asked: dict[str, Any] = golden("request")
    asked["userRequest"] |= {"utterance": utterance, **more}
    asked["userRequest"]["user"]["id"] = user
    return asked


@pytest.fixture(scope="module")
def server(clinic_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(clinic_package, tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture
def platform(server: Server) -> Iterator[httpx.Client]:
    with server.client(None) as client:
        yield client


def test_a_request_as_the_platform_sends_it_gets_an_answer_as_it_wants_it(platform: httpx.Client) -> None:
    answer = platform.post(PATH, json=golden("request"))
    assert (answer.status_code, answer.json()) == (200, golden("response"))
    chosen = platform.post(PATH, json=request("김 선생님", golden("request")["userRequest"]["user"]["id"])).json()
    assert chosen["template"]["outputs"] == [{"simpleText": {"text": "언제 오실래요?"}}]


def test_links_become_cards_and_lists() -> None:
    buttons = [
        Button("오시는 길", url=f"{SITE}/map"),
        Button("전화하기", url="tel:02-123-4567"),
        Button("예약", "예약할게요"),
    ]
    assert kakao.response_of(["주차장은 지하에 있어요.", "자세한 내용은 아래에서 보세요."], buttons, "ko") == golden(
        "links"
    )
    many = [Button(f"{number}지점", url=f"{SITE}/{number}") for number in range(1, 5)]
    assert kakao.response_of(["어느 지점이 가까우세요?"], many, "ko") == golden("list")


@given(
    some.lists(some.text(max_size=3000), max_size=6),
    some.lists(some.tuples(some.text(min_size=1, max_size=40), some.booleans()), max_size=15),
    some.integers(50, 1000),
)
def test_whatever_the_bot_says_is_within_the_platforms_limits(
    texts: list[str], buttons: list[tuple[str, bool]], longest: int
) -> None:
    made = [Button(title, url=SITE) if link else Button(title, title) for title, link in buttons]
    template = kakao.response_of(texts, made, "ko", longest)["template"]
    assert 1 <= len(template["outputs"]) <= 3
    assert len(template.get("quickReplies", [])) <= 10
    assert all(1 <= len(reply["label"]) <= 14 for reply in template.get("quickReplies", []))
    for output in template["outputs"]:
        ((kind, content),) = output.items()
        if kind == "simpleText":
            assert 1 <= len(content["text"]) <= 1000
        elif kind == "textCard":
            assert len(content.get("description", "")) <= 400
            assert 1 <= len(content["buttons"]) <= 3
            assert all(len(button["label"]) <= 14 for button in content["buttons"])
        else:
            assert kind == "listCard"
            assert 1 <= len(content["items"]) <= 5


def test_a_long_answer_is_split_where_sentences_end() -> None:
    sentence = "해치는 불을 막아요. "
    outputs = kakao.response_of([sentence * 60], [], "ko", 400)["template"]["outputs"]
    texts = [output["simpleText"]["text"] for output in outputs]
    assert 1 < len(texts) <= 3
    assert all(text.endswith(".") for text in texts)
    assert "".join(texts).replace(" ", "").replace("\n", "") == (sentence * 60).replace(" ", "")


def test_a_slow_turn_is_answered_in_time_and_fetched_later(server: Server, platform: httpx.Client) -> None:
    server.slow.may_end.clear()
    started = time.monotonic()
    answer = platform.post(PATH, json=request("천천히 부탁해요", "slow-user")).json()
    assert time.monotonic() - started < 5
    fetch = answer["template"]["quickReplies"][0]["messageText"]
    assert json.loads(json.dumps(answer, ensure_ascii=False).replace(fetch.split()[-1], "TAG")) == golden("slow")
    again = platform.post(PATH, json=request(fetch, "slow-user")).json()
    assert again == answer
    server.slow.may_end.set()
    deadline = time.monotonic() + 20
    while again == answer and time.monotonic() < deadline:
        again = platform.post(PATH, json=request(fetch, "slow-user")).json()
    assert again["template"]["outputs"][0] == {"simpleText": {"text": "다 됐어요."}}


def test_with_a_callback_the_answer_is_sent_later(
    server: Server, platform: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(kakao, "_post", lambda url, content, _message: sent.append((url, content)) or "")
    server.slow.may_end.clear()
    url = "https://bot-api.kakao.com/v1/callback/abc"
    answer = platform.post(PATH, json=request("천천히 부탁해요", "callback-user", callbackUrl=url)).json()
    assert answer == golden("callback")
    server.slow.may_end.set()
    deadline = time.monotonic() + 20
    while not sent and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sent[0][0] == url
    assert sent[0][1]["template"]["outputs"][0] == {"simpleText": {"text": "다 됐어요."}}


@pytest.mark.parametrize(
    "url",
    [
        "http://bot-api.kakao.com/x",
        "https://evil.example/.kakao.com",
        "https://kakao.com.evil.example",
        "https://[",
        "x",
    ],
)
def test_no_other_address_is_called_back(url: str) -> None:
    assert not kakao._is_callback(url)
    assert kakao._is_callback("https://bot-api.kakaoenterprise.com/callback/1")


def test_what_a_person_said_is_fetched(server: Server, platform: httpx.Client, pipeline: Any) -> None:
    waiting = platform.post(PATH, json=request("상담원 연결해 주세요", "agent-user")).json()
    fetch = waiting["template"]["quickReplies"][-1]
    assert fetch["label"] == "답변 확인"
    (head,) = pipeline.conversations.streams.list_streams("contact_center", status="waiting")
    pipeline.handover.take(head.stream, "kim")
    pipeline.handover.say(head.stream, "kim", "안녕하세요, 상담사입니다.")
    texts = json.dumps(platform.post(PATH, json=request("답변 확인", "agent-user")).json(), ensure_ascii=False)
    assert "안녕하세요, 상담사입니다." in texts
    pipeline.handover.say(head.stream, "kim", "무엇을 도와드릴까요?")
    answer = platform.post(PATH, json=request("예약이요", "agent-user")).json()
    assert "무엇을 도와드릴까요?" in json.dumps(answer, ensure_ascii=False)
    said = [line.text for line in pipeline.handover.transcript(head.stream)]
    assert "답변 확인" not in said


@pytest.fixture
def pipeline(server: Server, clinic_package: Path) -> Any:
    from shared.package import open_package
    from shared.streams import Streams
    from solutions.contact_center.dialogue.sealing import Vault
    from solutions.contact_center.service import open_bot

    state = server.running.state
    return open_bot(open_package(clinic_package), Streams(state.records), Vault.of_home(state.settings.home))


def test_users_are_known_by_a_hash_and_forgotten_by_their_id(server: Server, platform: httpx.Client) -> None:
    user = "very-personal-id"
    platform.post(PATH, json=request("예약할게요", user))
    records = server.running.state.records
    from shared.streams import Streams
    from solutions.contact_center.dialogue.sealing import Vault
    from solutions.contact_center.service import Tokens

    name = Tokens.of_vault(Vault.of_home(server.running.state.settings.home)).pseudonym("kakao", user)
    streams = Streams(records)
    assert streams.head("contact_center", stream_of(NAME, name)) is not None
    assert user not in str(streams.scan("contact_center"))
    with server.client("engineer") as engineer:
        assert engineer.delete(f"/api/contact_center/customers/{user}").json() == {"conversations": 1}
    assert streams.head("contact_center", stream_of(NAME, name)) is None


def test_a_shared_secret_shuts_others_out(platform: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAECHI_KAKAO_SECRET", "open sesame")
    assert platform.post(PATH, json=golden("request")).status_code == 401
    assert platform.post(PATH, json=golden("request"), headers={"X-Haechi-Secret": "x"}).status_code == 401
    told = {"X-Haechi-Secret": "open sesame"}
    assert platform.post(PATH, json=golden("request"), headers=told).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"userRequest": {}},
        {"userRequest": {"utterance": 5, "user": {"id": "1"}}},
        {"userRequest": {"utterance": "x", "user": {"id": ""}}},
        {"userRequest": {"utterance": "x"}},
    ],
)
def test_what_is_no_skill_request_is_refused(platform: httpx.Client, body: dict[str, Any]) -> None:
    assert platform.post(PATH, json=body).status_code == 400
    assert platform.post("/chat/nothing/kakao", json=golden("request")).status_code == 404
