"""Replaying: the state is what the events add up to, byte for byte, whatever was said."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.events import Event
from solutions.contact_center.dialogue.state import State, apply, replay
from solutions.contact_center.dialogue.store import Conversations, event_of
from tests.solutions.contact_center.talking import Talk

UTTERANCES = (
    *(
        "예약할게요",
        "김 선생님이요",
        "내일 오후 3시",
        "아니 수요일로 바꿔 주세요",
        "홍길동입니다",
        "건너뛸게요",
        "네",
        "아니요",
    ),
    *(
        "취소",
        "뒤로",
        "다시 말해 주세요",
        "상담원",
        "이 멍청한 봇아",
        "주차 되나요",
        "연락처 바꿀게요",
        "010-1234-5678",
    ),
    *("큰 거 세 개요", "", "\0\0\0", "안녕히 계세요", "1번", "도움말", "의사 바꿀게요", "{doctor}", "😀", "가" * 3000),
    *("이름이요", "김 선생님 말고 이 선생님"),
)
INTENTS = ("book", "contact", "order", "parking", "price", "thanks_a_lot")

turn_of_talk = st.tuples(
    st.one_of(st.sampled_from(UTTERANCES), st.text(max_size=30)),
    st.lists(st.tuples(st.sampled_from(INTENTS), st.floats(0, 1)), max_size=3, unique_by=lambda item: item[0]),
    st.sampled_from([0.1, 0.9, 0.9, 0.9]),
    st.sampled_from([5, 5, 5, 3600, 36_000]),
    st.sampled_from(["talk", "talk", "talk", "take", "say", "return"]),
)


def play(talk: Talk, course: list[tuple[str, list[tuple[str, float]], float, int, str]]) -> list[bytes]:
    """The conversation, and the state's bytes after each turn."""
    seen = []
    for text, intents, scope, seconds, deed in course:
        if deed == "take" and talk.state.mode == "waiting":
            talk.pipeline.handover.take(talk.id, "kim", talk.time)
        elif deed == "say" and talk.state.mode == "agent":
            talk.pipeline.handover.say(talk.id, "kim", text.strip() or "네", talk.time)
        elif deed == "return" and talk.state.mode == "agent":
            talk.pipeline.handover.give_back(talk.id, "kim", resume=seconds > 5, now=talk.time)
        else:
            best = sorted(intents, key=lambda item: -item[1])
            talk.say(text, *best, scope=scope, after=dt.timedelta(seconds=seconds))
        seen.append(talk.state.to_bytes())
    return seen


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(course=st.lists(turn_of_talk, min_size=1, max_size=14))
def test_any_conversation_replays_to_the_same_bytes(clinic: Bot, course: list) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder, Records.open(f"sqlite:///{Path(folder, 'r.db')}") as records:
        talk = Talk(clinic, records)
        seen = play(talk, course)
        stored = Streams(records).read("contact_center", talk.id)
        events = [event_of(one) for one in stored]
        assert replay(events).to_bytes() == seen[-1]
        # through JSON, as a backup or another server's client would carry them
        carried = [Event.from_dict(json.loads(json.dumps(event.as_dict()))) for event in events]
        assert replay(carried).to_bytes() == seen[-1]
        # from any point on
        middle = len(events) // 2
        assert replay(events[middle:], replay(events[:middle])).to_bytes() == seen[-1]
        # and another server, which has never seen the conversation, stands at the same point
        assert Conversations(Streams(records)).load(talk.id).state.to_bytes() == seen[-1]
        state = State()
        for event in events:  # no event is applied to a state it does not fit, and every turn ends
            state = apply(state, event)
        assert sum(one.kind == "user" for one in stored) == sum(one.kind == "turn_ended" for one in stored)
        assert len(state.stack) <= 6


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(course=st.lists(turn_of_talk, min_size=1, max_size=8))
def test_two_servers_decide_the_same(clinic: Bot, course: list) -> None:  # type: ignore[type-arg]
    results = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder, Records.open(f"sqlite:///{Path(folder, 'r.db')}") as records:
            talk = Talk(clinic, records)
            play(talk, course)
            results.append(
                [
                    (one.kind, one.data.get("text"), one.data.get("variant"), one.data.get("key"))
                    for one in Streams(records).read("contact_center", talk.id)
                ]
            )
    assert results[0] == results[1]


def test_apply_changes_neither_argument() -> None:
    user = Event("user", {"conversation": "c", "channel": "rest", "language": "ko"}, "2026-03-02T01:00:00.000000+00:00")
    start = replay([user, Event("flow_started", {"flow": "book"}, user.time)])
    before = start.to_bytes()
    event = Event("slot_set", {"slot": "a", "value": [1], "shown": "1", "source": "answer"}, user.time)
    after = apply(start, event)
    assert start.to_bytes() == before
    assert after.frame is not None
    assert after.frame.slots == {"a": {"value": [1], "shown": "1", "source": "answer"}}
    assert event.data == {"slot": "a", "value": [1], "shown": "1", "source": "answer"}


def test_events_that_do_not_fit_are_refused() -> None:
    time = "2026-03-02T01:00:00.000000+00:00"
    with pytest.raises(ValueError, match="needs a running flow"):
        apply(State(), Event("slot_set", {"slot": "a", "shown": ""}, time))
    with pytest.raises(ValueError, match="none is running"):
        apply(State(), Event("flow_ended", {}, time))
    with pytest.raises(ValueError, match="newer"):
        Event.from_dict({"kind": "said", "data": {}, "time": time, "schema": 99})
    with pytest.raises(ValueError, match="newer"):
        Event.from_dict({"kind": "dreamt", "data": {}, "time": time, "schema": 1})
