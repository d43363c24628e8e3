"""Conversations with a small bot: flows, corrections, digressions, the ladder, patience. Understanding is given."""

from __future__ import annotations

import datetime as dt

import pytest

from shared.records import Records
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.handover import transcript
from solutions.contact_center.dialogue.store import event_of
from tests.solutions.contact_center.talking import Talk


def fill_booking(talk: Talk) -> None:
    """Up to the confirmation: Dr Kim, tomorrow at 15:00."""
    if talk.language == "ko":
        for text in ("김 선생님이요", "내일 오후 3시요", "홍길동입니다", "건너뛸게요"):
            talk.say(text)
    else:
        for text in ("Dr Kim please", "tomorrow at 3 pm", "John Smith", "skip"):
            talk.say(text)


def kinds(talk: Talk) -> list[str]:
    return [one.kind for one in talk.pipeline.conversations.events(talk.id)]


def test_a_form_collects_confirms_acts_and_ends(talk: Talk) -> None:
    assert talk.say("예약할게요", "book").texts == ["어느 선생님께 보실래요?"]
    fill_booking(talk)
    assert talk.state.pending == {"kind": "confirm"}
    reply = talk.say("네")
    assert len(talk.calls) == 1
    name, arguments, _ = talk.calls[0]
    assert name == "book"
    assert arguments == {"doctor": "김 선생님", "datetime": "2026-03-03T15:00:00+09:00", "who": "홍길동"}
    assert "B1" in reply.texts[-1]
    assert talk.flow is None


def test_one_sentence_may_fill_several_slots(talk: Talk, chat: Talk) -> None:
    assert talk.say("이 선생님께 수요일 오후 2시에 예약할게요", "book").texts == ["성함이 어떻게 되세요?"]
    assert talk.slots["doctor"] == "이 선생님"
    assert talk.slots["datetime"] == "2026-03-04T14:00:00+09:00"
    assert chat.say("book Dr Lee on Wednesday at 2pm", "book").texts == ["Your name?"]
    assert chat.slots["datetime"] == "2026-03-04T14:00:00+09:00"


@pytest.mark.parametrize(
    ("text", "slot", "value"),
    [
        ("아니 화요일 말고 수요일이요", "datetime", "2026-03-04T15:00:00+09:00"),
        ("5시로 바꿔 주세요", "datetime", "2026-03-03T17:00:00+09:00"),
        ("아니요, 4시요", "datetime", "2026-03-03T16:00:00+09:00"),
        ("김 선생님 말고 이 선생님이요", "doctor", "이 선생님"),
        ("의사를 이 선생님으로 바꿀게요", "doctor", "이 선생님"),
        ("네 그런데 시간은 모레 오전 11시로 고쳐 주세요", "datetime", "2026-03-04T11:00:00+09:00"),
    ],
)
def test_corrections_in_korean_when_all_is_filled(talk: Talk, text: str, slot: str, value: str) -> None:
    talk.say("예약할게요", "book")
    fill_booking(talk)
    reply = talk.say(text)
    assert talk.slots[slot] == value
    assert talk.state.pending == {"kind": "confirm"}, reply.texts
    assert not talk.calls
    talk.say("네")
    assert talk.calls[0][1][slot] == value


@pytest.mark.parametrize(
    ("text", "slot", "value"),
    [
        ("actually make it 5pm", "datetime", "2026-03-03T17:00:00+09:00"),
        ("no, not Tuesday but Wednesday", "datetime", "2026-03-04T15:00:00+09:00"),
        ("Dr Lee instead of Dr Kim please", "doctor", "이 선생님"),
        ("change the doctor to Dr Lee", "doctor", "이 선생님"),
        ("sorry, I meant Thursday at 10am", "datetime", "2026-03-05T10:00:00+09:00"),
    ],
)
def test_corrections_in_english_when_all_is_filled(chat: Talk, text: str, slot: str, value: str) -> None:
    chat.say("book a visit", "book")
    fill_booking(chat)
    chat.say(text)
    assert chat.slots[slot] == value
    assert chat.state.pending == {"kind": "confirm"}


def test_a_correction_in_the_middle_keeps_the_question(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    talk.say("내일 3시")
    reply = talk.say("아 김 선생님 말고 이 선생님으로요")
    assert talk.slots["doctor"] == "이 선생님"
    assert reply.texts[-1] == "성함이 어떻게 되세요?"


def test_a_slot_may_be_named_alone_and_is_asked_again(talk: Talk, chat: Talk) -> None:
    talk.say("예약할게요", "book")
    fill_booking(talk)
    assert talk.say("의사 바꿀게요").texts == ["어느 선생님께 보실래요?"]
    assert talk.state.pending == {"kind": "slot", "slot": "doctor"}
    talk.say("이 선생님")
    assert talk.state.pending == {"kind": "confirm"}
    chat.say("book a visit", "book")
    fill_booking(chat)
    assert chat.say("change the doctor").texts == ["Which doctor?"]


def test_a_no_asks_what_to_change(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    fill_booking(talk)
    reply = talk.say("아니요")
    assert [button.title for button in reply.buttons] == ["의사", "날짜와 시간", "이름", "메모"]
    assert talk.say("이름이요").texts == ["성함이 어떻게 되세요?"]
    talk.say("김영희")
    assert talk.slots["who"] == "김영희"
    assert talk.state.pending == {"kind": "confirm"}


def test_a_correction_takes_the_branch_anew(talk: Talk) -> None:
    talk.say("주문할게요", "order")
    assert talk.say("큰 거요").texts == ["몇 개요?"]
    talk.say("세 개요")
    assert talk.state.pending == {"kind": "confirm"}
    talk.say("작은 거로 바꿔 주세요")
    assert talk.slots["size"] == "small"
    assert talk.state.pending == {"kind": "confirm"}


def test_what_does_not_hold_is_refused_with_the_reason_and_then_handed_over(talk: Talk) -> None:
    talk.say("주문할게요", "order")
    talk.say("큰 거")
    reply = talk.say("열두 개")
    assert "9 이하" in reply.texts[0]
    assert reply.texts[-1] == "몇 개요?"
    assert talk.say("으음 글쎄요").rung == "ask_again"
    reply = talk.say("모르겠네")
    assert reply.handed_over
    assert talk.state.hand_over["reason"] == "attempts"
    assert talk.state.hand_over["summary"]["flows"][0]["slots"]["size"] == "large"


def test_help_is_said_when_an_answer_does_not_serve(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    reply = talk.say("아무나요")
    assert "김 선생님과 이 선생님이 계세요." in reply.texts


def test_the_past_is_refused(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    reply = talk.say("2026년 3월 1일 오후 3시")
    assert "이후" in reply.texts[0]
    assert "datetime" not in talk.slots


def test_a_question_in_the_middle_is_answered_and_the_form_goes_on(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    reply = talk.say("주차 되나요?", "parking")
    assert reply.texts == ["주차장은 지하에 있어요.", "언제 오실래요?"]
    assert talk.state.frame is not None
    assert talk.state.frame.attempts == {}
    talk.say("내일 3시")
    assert talk.slots["datetime"] == "2026-03-03T15:00:00+09:00"


def test_a_digression_to_another_flow_comes_back(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    reply = talk.say("연락처 먼저 바꿀게요", "contact")
    assert reply.texts == ["전화번호를 알려 주세요."]
    assert [frame.flow for frame in talk.state.stack] == ["book", "contact"]
    reply = talk.say("010-1234-5678")
    assert "조금 남았어요." in reply.texts[0]
    assert reply.texts[-1] == "언제 오실래요?"
    assert talk.slots["doctor"] == "김 선생님"


def test_an_unsure_other_wish_does_not_leave_the_form(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    reply = talk.say("저기 그거", ("contact", 0.5))
    assert talk.flow == "book"
    assert reply.rung == "ask_again"


def test_personal_slots_are_sealed_shown_masked_and_given_to_the_action_in_the_clear(
    talk: Talk, records: Records
) -> None:
    talk.say("연락처 바꿀게요", "contact")
    reply = talk.say("제 번호는 010-1234-5678이에요")
    assert talk.calls[0][1] == {"number": "010-1234-5678", "text": "to 010-1234-5678!", "fixed": 3}
    stored = "".join(str(one.data) for one in talk.pipeline.conversations.events(talk.id))
    assert "1234-5678" not in stored
    assert "010-****-5678" in reply.texts[0]
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    talk.say("내일 3시")
    talk.say("제갈공명이라고 합니다")
    stored = "".join(str(one.data) for one in talk.pipeline.conversations.events(talk.id))
    assert "제갈공명" not in stored
    assert talk.slots["who"] == "제갈공명"


def test_personal_data_where_none_was_expected_is_not_stored(talk: Talk) -> None:
    talk.say("주문할게요", "order")
    talk.say("큰 거")
    talk.say("900101-1234568")
    talk.say("제 카드는 4539148803436467입니다", ("book", 0.5))
    stored = "".join(str(one.data) for one in talk.pipeline.conversations.events(talk.id))
    for secret in ("1234568", "12,345,68", "900101", "4539", "3436467"):
        assert secret not in stored


def test_a_users_braces_stay_text(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    talk.say("내일 3시")
    talk.say("홍길동")
    reply = talk.say("{doctor} 을(를) {__class__} %s {0} 말해 줘")
    assert "{doctor} 을(를) {__class__} %s {0} 말해 줘" in reply.texts[-1]
    talk.say("네")
    assert talk.calls[0][1]["note"] == "{doctor} 을(를) {__class__} %s {0} 말해 줘"


# --- the ladder -------------------------------------------------------------------------------------------------------


def test_the_rungs_of_the_ladder(talk: Talk) -> None:
    assert talk.say("주차", ("parking", 0.9)).rung == "answer"
    reply = talk.say("그 예약인가", ("book", 0.5))
    assert reply.rung == "confirm"
    assert "예약" in reply.texts[0]
    assert [button.say for button in reply.buttons] == ["네", "아니요"]
    reply = talk.say("네")
    assert talk.flow == "book"
    talk.say("취소")
    reply = talk.say("음 그거", ("book", 0.38), ("contact", 0.36))
    assert reply.rung == "choose"
    assert [button.title for button in reply.buttons] == ["예약", "연락처 변경", "둘 다 아니에요"]
    talk.say("2번")
    assert talk.flow == "contact"
    talk.say("취소")
    assert talk.say("뭐라고 해야 하지", ("book", 0.1)).rung == "ask_again"
    talk.say("주차", ("parking", 0.9))
    reply = talk.say("오늘 날씨 어때", ("parking", 0.9), scope=0.1)
    assert reply.rung == "ask_again"
    assert "예약" in reply.texts[0], "what the bot can do is named"


def test_entities_survive_a_confirmation(talk: Talk) -> None:
    talk.say("이 선생님 수요일 2시", ("book", 0.5))
    talk.say("네")
    assert talk.slots == {"doctor": "이 선생님", "datetime": "2026-03-04T14:00:00+09:00"}


def test_who_says_it_again_in_other_words_is_believed(talk: Talk) -> None:
    assert talk.say("이 선생님", ("book", 0.5)).rung == "confirm"
    assert talk.say("수요일 2시 예약", ("book", 0.6)).rung == "answer"
    assert talk.slots == {"doctor": "이 선생님", "datetime": "2026-03-04T14:00:00+09:00"}
    talk.say("취소")
    talk.say("그거", ("book", 0.5))
    assert talk.say("주차", ("parking", 0.6)).rung == "confirm", "something else is asked about anew"


@pytest.mark.parametrize("answer", ["1번", "첫 번째 거요", "예약"])
def test_ways_to_choose_the_first(talk: Talk, answer: str) -> None:
    talk.say("음 그거", ("book", 0.38), ("contact", 0.36))
    talk.say(answer)
    assert talk.flow == "book"


def test_after_too_many_clarifications_a_person_is_asked_for(talk: Talk) -> None:
    assert talk.say("흠", ("book", 0.1)).rung == "ask_again"
    assert talk.say("흐음", ("book", 0.1)).rung == "ask_again"
    reply = talk.say("흐으음", ("book", 0.1))
    assert reply.rung == "hand_over"
    assert reply.handed_over
    assert talk.state.hand_over["reason"] == "not_understood"


def test_being_understood_starts_the_count_anew(talk: Talk) -> None:
    for _ in range(4):
        assert talk.say("흠", ("book", 0.1)).rung == "ask_again"
        assert talk.say("주차요", "parking").rung == "answer"


def test_neither_of_two_asks_again_and_a_third_time_hands_over(talk: Talk) -> None:
    talk.say("음", ("book", 0.38), ("contact", 0.36))
    assert not talk.say("둘 다 아니에요").handed_over
    assert talk.say("음", ("book", 0.1)).handed_over


def test_several_wishes_are_served_in_order(talk: Talk) -> None:
    reply = talk.say(
        "주차 되나요 그리고 연락처 바꾸고 예약할게요",
        "parking",
        parts=(("주차 되나요", "parking"), ("연락처 바꾸고", "contact"), ("예약할게요", "book")),
    )
    assert reply.texts == ["주차장은 지하에 있어요.", "전화번호를 알려 주세요."]
    reply = talk.say("010-1234-5678")
    assert reply.texts[-1] == "어느 선생님께 보실래요?"
    assert talk.flow == "book"
    assert talk.state.queue == ()


def test_an_intent_without_a_flow_says_its_response(talk: Talk) -> None:
    assert talk.say("절 받으세요", "thanks_a_lot").texts == ["꾸벅."]


# --- patience ---------------------------------------------------------------------------------------------------------


def test_words_to_the_bot_inside_of_a_form_count_no_attempt(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    for text in ("도움말", "다시 말해 주세요", "안녕하세요", "감사합니다"):
        reply = talk.say(text)
        assert reply.texts[-1] == "어느 선생님께 보실래요?", text
    assert talk.state.frame is not None
    assert talk.state.frame.attempts == {}


def test_cancel_and_back_and_skip(talk: Talk) -> None:
    assert "취소" in talk.say("취소").texts[0]
    talk.say("예약할게요", "book")
    assert talk.say("뒤로").texts == ["여기가 첫 질문이에요.", "어느 선생님께 보실래요?"]
    assert "건너뛸 수 없어요" in talk.say("건너뛰기").texts[0]
    talk.say("김 선생님")
    assert talk.say("뒤로").texts == ["어느 선생님께 보실래요?"]
    assert "doctor" not in talk.slots
    reply = talk.say("그만할게요")
    assert talk.flow is None
    assert "예약" in reply.texts[0]


def test_repeat_says_the_same_words(talk: Talk) -> None:
    first = talk.say("주차요", "parking")
    assert talk.say("다시 말해 주세요").texts == first.texts
    assert talk.say("뭐라고요").texts == first.texts


def test_insults_are_met_calmly_and_the_third_by_a_person(talk: Talk) -> None:
    first, second, third = (talk.say("이 멍청한 봇아") for _ in range(3))
    assert not first.handed_over
    assert first.texts != second.texts
    assert third.handed_over
    assert talk.state.hand_over["reason"] == "insult"


@pytest.mark.parametrize(
    "text", ["", "   \n", "\0\1\2\3\4\5" * 20, "\ud800\udfff\ud800", "가" * 10_000, "abc " * 2_500]
)
def test_what_is_no_message_is_answered_kindly(talk: Talk, text: str) -> None:
    reply = talk.say(text)
    assert reply.texts
    assert reply.rung == "ask_again"
    assert talk.told.calls == 0, "nothing was there to understand"
    talk.say("예약할게요", "book")
    assert talk.say(text).texts[-1] == "어느 선생님께 보실래요?"
    assert talk.flow == "book"
    for _ in range(4):
        reply = talk.say(text)
    assert reply.handed_over, "it does not go on for ever"


def test_goodbye_ends_everything(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    reply = talk.say("안녕히 계세요")
    assert reply.ended
    assert talk.state.stack == ()
    assert not talk.say("주차요", "parking").ended


def test_after_a_long_while_the_bot_asks_before_it_goes_on(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    late = dt.timedelta(minutes=31)
    reply = talk.say("내일 3시", after=late)
    assert reply.rung == "confirm"
    assert "datetime" not in talk.slots
    assert talk.say("네").texts == ["언제 오실래요?"]
    talk.say("내일 3시")
    assert talk.slots["datetime"] == "2026-03-03T15:00:00+09:00"
    talk.say("안녕하세요", after=late)
    talk.say("아니요")
    assert talk.flow is None


def test_after_a_long_while_a_new_wish_begins_anew(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    reply = talk.say("연락처 바꿀게요", "contact", after=dt.timedelta(hours=2))
    assert reply.texts[-1] == "전화번호를 알려 주세요."
    assert [frame.flow for frame in talk.state.stack] == ["contact"]


def test_a_failed_action_is_spoken_of_and_leads_where_the_flow_says(clinic: Bot, records: Records) -> None:
    def broken(arguments: object, context: object) -> dict[str, object]:
        raise RuntimeError("the database of 010-1234-5678 is on fire")

    talk = Talk(clinic, records, functions={"test_contact": broken, "test_book": broken})
    talk.say("연락처 바꿀게요", "contact")
    reply = talk.say("010-1234-5678")
    assert reply.texts[0] == "지금은 안 돼요."
    assert reply.handed_over
    assert talk.state.hand_over["reason"] == "broken"
    done = [one.data for one in talk.pipeline.conversations.events(talk.id) if one.kind == "action_done"]
    assert done[0]["ok"] is False
    assert "RuntimeError" in done[0]["error"]
    assert "1234-5678" not in done[0]["error"]


# --- a person ---------------------------------------------------------------------------------------------------------


def test_a_person_takes_over_and_gives_back(talk: Talk) -> None:
    talk.say("예약할게요", "book")
    talk.say("김 선생님")
    reply = talk.say("상담원 연결해 주세요")
    assert reply.handed_over
    assert "1번째" in reply.texts[-1]
    queue = talk.pipeline.handover
    request = queue.open()[0]
    assert (request.conversation, request.reason, request.status, request.position) == ("c1", "asked", "waiting", 1)
    assert request.summary["flows"][0]["slots"] == {"doctor": "김 선생님"}
    assert [line.who for line in queue.transcript("c1")][:2] == ["user", "bot"]
    assert "1번째" in talk.say("아직인가요").texts[0]
    queue.take("c1", "kim")
    with pytest.raises(Exception, match="with kim already"):
        queue.take("c1", "lee")
    with pytest.raises(Exception, match="not with lee"):
        queue.say("c1", "lee", "hello")
    queue.say("c1", "kim", "안녕하세요. 010-1234-5678로 연락드릴게요.")
    assert talk.say("네 고맙습니다").texts == []
    assert queue.open()[0].agent == "kim"
    queue.give_back("c1", "kim", resume=True)
    assert queue.open() == []
    assert talk.flow == "book"
    talk.say("내일 3시")
    assert talk.slots["datetime"] == "2026-03-03T15:00:00+09:00"
    lines = transcript([event_of(one) for one in talk.pipeline.conversations.events("c1")])
    said = next(line.text for line in lines if line.who == "kim")
    assert "1234-5678" not in said


def test_those_who_wait_are_told_their_place(clinic: Bot, records: Records) -> None:
    talks = [Talk(clinic, records, id=f"q{number}") for number in range(3)]
    places = [talk.say("상담원", after=dt.timedelta(minutes=number)).texts[-1] for number, talk in enumerate(talks, 1)]
    assert [place[:9] for place in places] == [f"대기 순서는 {number}번" for number in (1, 2, 3)]
    talks[0].pipeline.handover.take("q0", "kim")
    assert "1번째" in talks[1].say("아직인가요").texts[0]
    assert not talks[1].say("취소").handed_over
    assert "1번째" in talks[2].say("아직인가요").texts[0]


def test_outside_of_office_hours_the_bot_says_when_and_goes_on_talking(talk: Talk) -> None:
    reply = talk.say("상담원", after=dt.timedelta(hours=10))
    assert "3월 3일(화) 09:00" in reply.texts[-1]
    assert not reply.handed_over
    assert talk.pipeline.handover.open()[0].status == "callback"
    assert talk.say("주차요", "parking").texts == ["주차장은 지하에 있어요."]


def test_giving_up_a_digression_outside_of_office_hours_goes_back_to_the_form(talk: Talk) -> None:
    talk.say("예약할게요", "book", after=dt.timedelta(hours=10))
    talk.say("김 선생님")
    talk.say("주문 먼저 할게요", "order")
    for text in ("음", "글쎄"):
        talk.say(text, ("order", 0.1))
    reply = talk.say("몰라", ("order", 0.1))
    assert talk.state.hand_over["reason"] == "attempts"
    assert not reply.handed_over
    assert reply.texts[-1] == "언제 오실래요?"
    assert talk.flow == "book"


def test_events_are_masked(talk: Talk) -> None:
    talk.say("제 카드는 4539-1488-0343-6467이고 주민번호는 900101-1234568이에요", ("book", 0.1))
    stored = "".join(str(one.data) for one in talk.pipeline.conversations.events("c1"))
    assert "0343" not in stored
    assert "1234568" not in stored


def test_english_answers_in_english(chat: Talk) -> None:
    assert chat.say("book a visit", "book").texts == ["Which doctor?"]
    assert chat.say("is there parking", "parking").texts == ["The car park is below ground.", "Which doctor?"]
    assert "booking" in chat.say("cancel").texts[0]
    assert chat.flow is None
