"""The pipeline over a real store: nothing lost, nothing doubled, whoever serves and whoever is killed."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import settings
from shared.errors import BadInput
from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.events import Message
from solutions.contact_center.dialogue.state import replay
from solutions.contact_center.dialogue.store import SOLUTION, event_of
from solutions.contact_center.pipeline import BotPipeline
from tests.shared.test_records import _throw_away_database
from tests.solutions.contact_center.talking import MONDAY, Talk, Told


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.db'}"
    else:
        yield from _throw_away_database()


@pytest.fixture
def store(url: str) -> Iterator[Records]:
    with Records.open(url) as opened:
        yield opened


def test_a_message_that_comes_twice_is_answered_once(clinic: Bot, store: Records) -> None:
    talk = Talk(clinic, store)
    talk.say("연락처 바꿀게요", "contact")
    first = talk.say("010-1234-5678", id="x")
    again = talk.say("010-1234-5678", id="x")
    assert again.duplicate
    assert not first.duplicate
    assert (again.texts, again.buttons, again.rung, again.turn) == (first.texts, first.buttons, first.rung, first.turn)
    assert len(talk.calls) == 1
    assert talk.state.turn == 2
    other_server = Talk(clinic, store)
    assert other_server.say("something else", id="x").texts == first.texts
    assert other_server.calls == []


def test_servers_take_turns(clinic: Bot, store: Records) -> None:
    first, second = Talk(clinic, store), Talk(clinic, store)
    second.number = 100
    first.say("예약할게요", "book")
    assert second.say("김 선생님").texts == ["언제 오실래요?"]
    assert first.say("내일 3시").texts == ["성함이 어떻게 되세요?"]
    second.say("홍길동")
    assert first.slots["who"] == "홍길동"
    assert first.state.to_bytes() == second.state.to_bytes()


def test_servers_that_answer_at_once_lose_and_double_nothing(clinic: Bot, url: str) -> None:
    def serve(server: int) -> list[int]:
        with Records.open(url) as records:
            talk = Talk(clinic, records)
            turns = []
            for number in range(8):
                # every message goes to all three, as an impatient client would send it
                turns.append(talk.say(f"주차 {number}", "parking", id=f"m{number}").turn)
                turns.append(talk.say(f"주차 {server} {number}", "parking", id=f"own-{server}-{number}").turn)
            return turns

    Records.open(url).close()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        turns = list(pool.map(serve, range(3)))
    with Records.open(url) as records:
        stored = Streams(records).read(SOLUTION, "c1")
    users = [one for one in stored if one.kind == "user"]
    assert len(users) == 8 + 3 * 8
    assert len({one.key for one in users}) == len(users)
    assert [one.seq for one in stored] == list(range(1, len(stored) + 1))
    ended = [one.data["turn"] for one in stored if one.kind == "turn_ended"]
    assert ended == list(range(1, len(users) + 1))
    assert {turn for each in turns for turn in each} == set(ended)
    assert replay([event_of(one) for one in stored]).turn == len(users)


def test_many_threads_talk_in_many_conversations(clinic: Bot, store: Records) -> None:
    pipeline = BotPipeline(clinic, Told(clinic), Streams(store))

    def converse(number: int) -> list[str]:
        said = []
        for place, text in enumerate(("안녕하세요", "도움말", "감사합니다", "안녕하세요")):
            time = MONDAY + dt.timedelta(seconds=place)
            said += pipeline.reply(f"c{number}", Message(text, f"m{place}", time=time)).texts
        return said

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        said = list(pool.map(converse, range(30)))
    assert all(len(texts) == 4 for texts in said)
    heads = Streams(store).list_streams(SOLUTION)
    assert len(heads) == 30
    assert len({head.seq for head in heads}) == 1


_SERVER = """
import sys
from pathlib import Path
from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.config import load
from solutions.contact_center.dialogue.events import Message
from solutions.contact_center.pipeline import BotPipeline
from tests.solutions.contact_center.talking import Told
bot = load(Path(sys.argv[2]))
pipeline = BotPipeline(bot, Told(bot), Streams(Records.open(sys.argv[1])))
print("ready", flush=True)
for line in sys.stdin:
    conversation, message = line.split()
    reply = pipeline.reply(conversation, Message("안녕하세요", message))
    print(conversation, message, reply.turn, flush=True)
"""


def test_a_server_killed_at_work_loses_and_doubles_no_turn(clinic: Bot, url: str) -> None:
    assert clinic.folder is not None
    Records.open(url).close()
    command = [sys.executable, "-c", _SERVER, url, str(clinic.folder)]
    servers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ), cwd=Path.cwd()
        )
        for _ in range(2)
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    wanted = [(f"c{number % 10}", f"m{number}") for number in range(200)]
    dying, living = servers
    assert dying.stdin is not None
    dying.stdin.write("".join(f"{conversation} {message}\n" for conversation, message in wanted))
    dying.stdin.flush()
    assert dying.stdout is not None
    for _ in range(20):
        dying.stdout.readline()
    dying.send_signal(signal.SIGKILL)
    answered = 20 + len([line for line in dying.stdout if line.endswith("\n")])
    dying.wait()
    # the client does not know how far it came, and sends everything again to the other
    out, _ = living.communicate("".join(f"{conversation} {message}\n" for conversation, message in wanted), timeout=120)
    assert len(out.splitlines()) == len(wanted)
    assert 20 <= answered < len(wanted), "it was meant to die at work"
    with Records.open(url) as records:
        for number in range(10):
            stored = Streams(records).read(SOLUTION, f"c{number}")
            keys = [one.key for one in stored if one.kind == "user"]
            assert keys == [message for conversation, message in wanted if conversation == f"c{number}"]
            assert [one.data["turn"] for one in stored if one.kind == "turn_ended"] == list(range(1, 21))


def test_an_action_gets_the_same_key_from_whichever_server_decides_the_turn(clinic: Bot, tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        with Records.open(f"sqlite:///{tmp_path / name}.db") as records:
            talk = Talk(clinic, records)
            talk.say("연락처 바꿀게요", "contact")
            talk.say("010-1234-5678")
            talk.say("연락처 바꿀게요", "contact")
            talk.say("010-1234-5678")
            keys.append([key for _, _, key in talk.calls])
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 2


def test_a_customer_is_forgotten(clinic: Bot, store: Records) -> None:
    talk, other = Talk(clinic, store), Talk(clinic, store, id="c2")
    talk.say("예약할게요", "book", customer="kim")
    talk.say("김 선생님", customer="kim")
    other.say("예약할게요", "book", customer="lee")
    assert talk.state.customer == "kim"
    assert talk.pipeline.forget("kim", "admin") == 1
    assert talk.state.turn == 0
    assert other.state.turn == 1
    assert store.audit_entries(action="streams.forget")[0].who == "admin"
    assert talk.say("주차요", "parking").turn == 1, "the conversation begins anew"


def test_what_is_older_than_may_be_kept_is_purged(clinic: Bot, store: Records) -> None:
    talk = Talk(clinic, store)
    talk.say("주차요", "parking")
    assert talk.pipeline.purge(MONDAY + dt.timedelta(days=90)) == 0
    assert talk.pipeline.purge(MONDAY + dt.timedelta(days=91)) == 1
    assert talk.state.turn == 0
    assert len(store.audit_entries(action="streams.expire")) == 1


def test_the_greeting_of_the_channel(clinic: Bot, store: Records) -> None:
    talk = Talk(clinic, store)
    reply = talk.pipeline.greet("w1", Message("", "open", "web", "en", MONDAY))
    assert reply.texts == ["Welcome."]
    assert talk.pipeline.greet("w1", Message("", "open", "web", "en", MONDAY)).duplicate
    assert talk.pipeline.greet("w2", Message("", "open", "rest", None, MONDAY)).texts


@pytest.mark.parametrize(
    ("conversation", "message"), [("", "m"), ("a b", "m"), ("c", ""), ("c" * 201, "m"), ("c", "m\n")]
)
def test_ids_are_checked(clinic: Bot, store: Records, conversation: str, message: str) -> None:
    with pytest.raises(BadInput):
        Talk(clinic, store).pipeline.reply(conversation, Message("hi", message))


def test_a_time_without_a_zone_is_refused(clinic: Bot, store: Records) -> None:
    with pytest.raises(BadInput, match="zone"):
        Talk(clinic, store).pipeline.reply("c", Message("hi", "m", time=dt.datetime(2026, 3, 2)))


def test_a_turn_is_one_append(clinic: Bot, store: Records) -> None:
    """What keeps many conversations quick: the disk is waited for once a turn."""
    talk = Talk(clinic, store)
    talk.say("예약할게요", "book")
    appends = []
    streams = talk.pipeline.conversations.streams
    plain = streams.append

    def counted(*given: object, **more: object) -> int:
        appends.append(given)
        return plain(*given, **more)  # type: ignore[arg-type]

    streams.append = counted  # type: ignore[method-assign]
    for number in range(6):
        talk.say("도움말" if number % 2 else "다시 말해 주세요")
    assert len(appends) == 6


def test_the_key_is_made_in_the_home_folder(clinic: Bot, store: Records) -> None:
    Talk(clinic, store)
    key = settings.load().home / "keys" / "conversations.key"
    assert key.stat().st_mode & 0o777 == 0o600
