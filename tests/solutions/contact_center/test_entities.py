"""Entities in whole sentences: what is found, what is not, what an answer to a question says, and any string at all."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from shared.text import features
from solutions import contact_center
from solutions.contact_center.config import EntityConfig, Hours, load
from solutions.contact_center.entities import BUILTINS, Entity, Extractor, fits, resolve
from solutions.contact_center.entities.reading import read

SEOUL = ZoneInfo("Asia/Seoul")
NOW = dt.datetime(2026, 11, 18, 14, 0, tzinfo=SEOUL)  # a Wednesday
WEEK = ["09:00-18:00"]
HOURS = Hours(mon=WEEK, tue=WEEK, wed=WEEK, thu=WEEK, fri=WEEK)
PLANS = EntityConfig(
    entity="plan",
    values={"5G 스탠다드": ["스탠다드", "standard plan"], "5G 프리미엄": ["프리미엄", "premium plan"], "LTE 슬림": []},
)
ALL = Extractor([], "ko", "Asia/Seoul", hours=HOURS)


def values(extractor: Extractor, text: str, kind: str) -> list[Any]:
    return [one.value for one in extractor.extract(text, NOW) if one.kind == kind]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("두 대 주문하고 3만 5천원 냈어요", "money", 35000),
        ("만 원이요", "money", 10000),
        ("12,000원 환불", "money", 12000),
        ("１２，０００원", "money", 12000),
        ("이십만원", "money", 200000),
        ("it was $12.50", "money", 12.5),
        ("twelve dollars and fifty cents", "money", 12.5),
        ("이백삼십 개", "number", 230),
        ("사과 열두 개 주세요", "number", 12),
        ("two hundred and five boxes", "number", 205),
        ("회선 스물다섯 개", "number", 25),
        ("두 시간 반 동안", "duration", "PT2H30M"),
        ("3박 4일", "duration", "P3D"),
        ("for two weeks", "duration", "P14D"),
        ("an hour and a half", "duration", "PT1H30M"),
        ("보름 동안", "duration", "P15D"),
        ("제 번호는 공일공 일이삼사 오육칠팔이에요", "phone", "010-1234-5678"),
        ("oh one oh one two three four five six seven eight", "phone", "010-1234-5678"),
        ("01012345678", "phone", "010-1234-5678"),
        ("+82 10-1234-5678", "phone", "010-1234-5678"),
        ("02-123-4567로", "phone", "02-123-4567"),
        ("1588-1234로 전화했어요", "phone", "1588-1234"),
        ("call +1 415-555-2671", "phone", "+14155552671"),
        ("Kim.Minsu@Naver.com 이요", "email", "kim.minsu@naver.com"),
        ("kim dot minsu at naver dot com", "email", "kim.minsu@naver.com"),
        ("minsu 골뱅이 naver.com", "email", "minsu@naver.com"),
        ("서울시 강남구 테헤란로 152 101동 1203호에 살아요", "address", "서울시 강남구 테헤란로 152 101동 1203호"),
        ("경기도 성남시 분당구 정자동 178-1 이에요", "address", "경기도 성남시 분당구 정자동 178-1"),
        ("I live at 221b Baker Street", "address", "221b baker street"),
        ("card 4111 1111 1111 1111", "card", "4111-1111-1111-1111"),
        ("신한 110-123-456789", "account", "110-123-456789"),
        ("주문번호는 ab-20261118 이에요", "order_number", "AB-20261118"),
        ("order 12345678 please", "order_number", "12345678"),
        ("제 이름은 홍길동입니다", "name", "홍길동"),
        ("저는 김철수라고 합니다", "name", "김철수"),
        ("Hello, my name is John Smith and I need help", "name", "John Smith"),
    ],
)
def test_built_in_entities_are_found_in_sentences(text: str, kind: str, value: Any) -> None:
    assert values(ALL, text, kind) == [value]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("카드 4111 1111 1111 1112", "card"),
        ("이 사람이 일을 사서 하네요", "number"),
        ("병원 지원 회원", "money"),
        ("다시 시작 시스템", "time"),
        ("이번 주문 취소", "date"),
        ("may I ask", "date"),
        ("the sun sat", "date"),
        ("버전 1.2.3", "number"),
        ("카드로 3개월 할부", "address"),
        ("저는 화가 났습니다", "name"),
    ],
)
def test_words_that_look_like_entities_are_none(text: str, kind: str) -> None:
    assert values(ALL, text, kind) == []


@pytest.mark.parametrize(
    "text",
    [
        "5G 스탠다드로 바꿔 주세요",
        "5G스탠다드로바꿔주세요",
        "내요금제스탠다드로변경",
        "스텐다드 요금제",
        "스탠다두 요금제",
        "５Ｇ 스탠다드",
        "to the standard plan please",
        "to the standrd plan",
        "the standardplan",
    ],
)
def test_a_list_value_is_found_in_many_spellings(text: str) -> None:
    assert values(Extractor([PLANS]), text, "plan") == ["5G 스탠다드"]


def test_a_short_value_is_not_found_inside_another_word() -> None:
    fruit = Extractor([EntityConfig(entity="fruit", values=["사과", "배", "감", "fig"])])
    assert values(fruit, "사과문 배송 담배 감사 figure config", "fruit") == []
    assert values(fruit, "사과를 주세요 배는요 fig도", "fruit") == ["사과", "배", "fig"]


def test_the_longest_value_wins_and_typos_can_be_switched_off() -> None:
    cities = EntityConfig(entity="city", values=["서울", "서울대입구"], fuzzy=False)
    assert values(Extractor([cities]), "서울대입구로 가요", "city") == ["서울대입구"]
    strict = PLANS.model_copy(update={"fuzzy": False})
    assert values(Extractor([strict]), "스텐다드 요금제", "plan") == []


def test_overlaps_go_to_the_longest_then_to_the_first_declared() -> None:
    first = EntityConfig(entity="first", values=["프리미엄"])
    second = EntityConfig(entity="second", values=["프리미엄", "프리미엄 플러스"])
    found = Extractor([first, second]).extract("프리미엄 플러스 말고 프리미엄", NOW)
    assert [(one.kind, one.surface) for one in found] == [("second", "프리미엄 플러스"), ("first", "프리미엄")]


def test_a_pattern_finds_its_matches_and_checks_their_digits() -> None:
    order = EntityConfig(entity="order", pattern="[A-Z]{2}[0-9]{8}")
    business = EntityConfig(entity="business", pattern=r"\d{3}-\d{2}-\d{5}", check="business_number")
    extractor = Extractor([order, business], used=[])
    assert values(extractor, "주문 ab12345678 과 ＡＢ１２３４５６７９, XAB123456789", "order") == [
        "AB12345678",
        "AB12345679",
    ]
    assert values(extractor, "220-81-62517 그리고 220-81-62518", "business") == ["220-81-62517"]
    answer = extractor.resolve("order", "ab 1234 5678", NOW)
    assert answer is not None
    assert answer.value == "AB12345678"


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(\w+\s?)*!", r"\d*\d*x", r"(\d+)\1", r"(\d{1,20}){1,20}x"])
def test_a_pattern_that_could_run_away_is_refused(pattern: str) -> None:
    with pytest.raises(BadInput, match="too long"):
        Extractor([EntityConfig(entity="x", pattern=pattern)])


@pytest.mark.parametrize("pattern", [r"[A-Z]{2}\d{8}", r"(?:\d{4}-){3}\d{4}", r"(ORD|INV)-?\d{6,10}", r"\w+@\w+\.com"])
def test_a_plain_pattern_is_taken_and_quick_on_long_texts(pattern: str) -> None:
    extractor = Extractor([EntityConfig(entity="x", pattern=pattern)], used=[])
    began = time.process_time()
    for text in ("a" * 10_000, "1" * 10_000, "1234-" * 2000, "ORD" * 3000):
        extractor.extract(text, NOW)
    assert time.process_time() - began < 5  # a runaway pattern would take for ever; this is no figure of speed


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("plan", "스탠드", "5G 스탠다드"),
        ("plan", "프리미엄이요", "5G 프리미엄"),
        ("plan", "premium", "5G 프리미엄"),
        ("plan", "모르겠어요", None),
        ("number", "three", 3),
        ("number", "셋이요", 3),
        ("number", "두 개요", 2),
        ("number", "삼", 3),
        ("number", "글쎄요", None),
        ("money", "오만", 50000),
        ("time", "세 시", "15:00"),
        ("time", "3", "15:00"),
        ("time", "열한 시", "11:00"),
        ("time", "half past nine", "09:30"),
        ("date", "내일이요", "2026-11-19"),
        ("date", "15", "2026-12-15"),
        ("date", "수요일이요", "2026-11-25"),
        ("date", "내일 오후 3시", "2026-11-19"),
        ("datetime", "네 시", "2026-11-18T16:00:00+09:00"),
        ("datetime", "내일", None),
        ("name", "홍길동이요", "홍길동"),
        ("name", "John Smith", "John Smith"),
        ("name", "취소", None),
        ("phone", "01012345678이요", "010-1234-5678"),
        ("phone", "공일공 일이삼사 오육칠팔", "010-1234-5678"),
        ("order_number", "12345678이요", "12345678"),
        ("account", "110123456789", "110123456789"),
        ("address", "강남구 역삼동", "강남구 역삼동"),
        ("email", "네", None),
        ("duration", "이틀 정도", "P2D"),
        ("symptom", "인터넷이 자꾸 끊겨요", "인터넷이 자꾸 끊겨요"),
    ],
)
def test_an_answer_to_a_question_may_be_bare(kind: str, text: str, value: Any) -> None:
    extractor = Extractor([PLANS, EntityConfig(entity="symptom", kind="learned")], hours=HOURS)
    found = extractor.resolve(kind, text, NOW)
    assert (found.value if found is not None else None) == value
    if found is not None:
        assert found.kind == kind
        assert text[found.start : found.end] == found.surface


def test_built_ins_take_declared_names_and_serve_without_a_bot() -> None:
    extractor = Extractor([EntityConfig(entity="when", builtin="datetime")], hours=HOURS, used=[])
    assert [one.kind for one in extractor.extract("내일 오후 3시에 2명", NOW)] == ["when"]
    found = resolve("date", "모레", NOW)
    assert found is not None
    assert found.value == "2026-11-20"
    assert found.text == "11월 20일 금요일"
    with pytest.raises(BadInput, match="no entity"):
        extractor.resolve("unheard_of", "내일", NOW)


@pytest.mark.parametrize("template", ["telecom-ko", "bank-ko", "shop-ko", "telecom-en", "bank-en", "shop-en"])
def test_what_the_templates_mark_in_their_examples_is_found_again(template: str) -> None:
    bot = load(Path(contact_center.__file__).parent / "templates" / template)
    extractor = Extractor.of_bot(bot)
    missed, marked = [], 0
    for intent in bot.intents.values():
        for example in intent.examples:
            found = extractor.extract(example.text, NOW)
            for mark in example.marks:
                if mark.entity in bot.entities and bot.entities[mark.entity].kind != "learned":
                    marked += 1
                    if not any(
                        one.kind == mark.entity and one.start < mark.end and mark.start < one.end for one in found
                    ):
                        missed.append((example.text, mark))
    assert marked > 0
    assert missed == []


def test_a_moment_serves_where_a_date_or_a_time_is_asked() -> None:
    (moment,) = [one for one in ALL.extract("내일 오후 3시", NOW) if one.kind == "datetime"]
    assert [getattr(fits(moment, kind), "value", None) for kind in ("date", "time", "phone")] == [
        "2026-11-19",
        "15:00",
        None,
    ]


TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(
            ["내일", "오후", "3시", "반", " ", "다음 주", "수요일", "만", "원", "삼", "열두", "개",
             "010", "-", "1234", "스탠다드", "five", "to", "half", "past",
             "May", "2", "월", "일", "/", "@", "a", ".", "ﾡ", "ᄀ", "é"]
        ),
        max_size=30,
    ).map("".join),
)  # fmt: skip


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_any_text_gives_spans_in_order_that_do_not_overlap_and_json(text: str) -> None:
    found: list[Entity] = Extractor([PLANS], hours=HOURS).extract(text, NOW)
    position = 0
    for one in found:
        assert position <= one.start < one.end <= len(text)
        assert text[one.start : one.end] == one.surface
        assert json.loads(json.dumps(one.value)) == one.value
        position = one.end
    for kind in (*BUILTINS, "plan"):
        Extractor([PLANS]).resolve(kind, text, NOW)


@given(st.text(max_size=200))
@settings(deadline=None)
def test_a_reading_is_the_normalised_text_with_a_way_back(text: str) -> None:
    reading = read(text)
    assert " ".join(reading.text.split()) == features.normalise(text)
    assert len(reading.text) == len(reading.starts) == len(reading.ends)
    assert all(0 <= start < end <= len(text) for start, end in zip(reading.starts, reading.ends, strict=True))


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "1 ", "일", "내일 ", "3시 ", "one ", "가동 ", "a@", "서울시", "010", "an hour and ", "\x00\xff", "-"],
)
def test_time_grows_with_the_length_of_the_text_and_no_faster(piece: str) -> None:
    extractor = Extractor([PLANS], hours=HOURS)

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        began = time.process_time()
        extractor.extract(text, NOW)
        return time.process_time() - began

    seconds(1000)
    # Four times the text: four times the time, or sixteen if it were quadratic; the constant covers clock ticks.
    assert min(seconds(10_000) for _ in range(2)) < 8 * max(seconds(2500) for _ in range(2)) + 0.1
