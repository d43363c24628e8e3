"""Masking: how much of the corpus is caught, how much is wrongly hidden, and what must hold of any string."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from solutions.contact_center import korean, masking

CORPUS = yaml.safe_load((Path(__file__).parent / "masking_corpus.yaml").read_text(encoding="utf-8"))
PERSONAL = [(kind, text) for kind, texts in CORPUS["personal"].items() for text in texts]
PIECES = st.sampled_from(
    ["010", "1234", "5678", "-", " ", ".", "공일공", "일이삼사", "900101", "1234567",
     "@", "naver.com", "<phone>", "로 12", "계좌", "동", "호", "서울시 ", "a",
     "4111", "1111", "+82", "M12345678", "1", "0"]
)  # fmt: skip


def test_the_corpus_is_large_enough_and_knows_every_kind() -> None:
    assert len(PERSONAL) >= 150
    assert len(CORPUS["look_alike"]) >= 150
    assert set(CORPUS["personal"]) == set(masking.KINDS)


def test_recall_on_personal_data_is_at_least_99_percent() -> None:
    missed = [(kind, text) for kind, text in PERSONAL if kind not in [one[2] for one in masking.mask(text).spans]]
    assert len(missed) <= 0.01 * len(PERSONAL), missed


def test_at_most_2_percent_of_the_look_alikes_are_hidden() -> None:
    hidden = [(text, masking.mask(text).text) for text in CORPUS["look_alike"] if masking.mask(text).spans]
    assert len(hidden) <= 0.02 * len(CORPUS["look_alike"]), hidden


def written(number: str, random: Random) -> str:
    """A number the way some customer would write or dictate it."""
    gap = random.choice(["-", " ", ".", "", " - "])
    plain = number.replace("-", gap)
    aloud = korean.digits(number).replace("-", random.choice(["", " ", "-", "에 "]))
    wide = "".join(chr(ord(one) + 0xFEE0) if one.isdigit() else one for one in number)
    return random.choice([plain, plain, aloud, wide, " ".join(korean.digits(number.replace("-", "")))])


def test_numbers_in_every_spelling_are_hidden() -> None:
    random = Random(11)

    def some(count: int) -> str:
        return "".join(random.choices("0123456789", k=count))

    missed = []
    for _ in range(500):
        birth = f"{random.randint(50, 99)}{random.randint(1, 12):02}{random.randint(1, 28):02}"
        number, sentence = random.choice(
            [
                (f"010-{random.randint(2, 9)}{some(3)}-{some(4)}", "제 번호는 {} 이에요"),
                (f"02-{random.randint(2, 9)}{some(2)}-{some(4)}", "{}로 연락 주세요"),
                (f"{birth}-{random.randint(1, 2)}{some(6)}", "주민번호 {} 입니다"),
                (f"110-{some(3)}-{some(6)}", "신한은행 {}"),
                (f"3333-{some(2)}-{some(7)}", "환불 계좌는 {} 이고 예금주는 홍길동"),
                (f"5{some(3)}-{some(4)}-{some(4)}-{some(4)}", "카드번호 {} 입니다"),
            ]
        )
        text = sentence.format(written(number, random))
        masked = masking.mask(text)
        left = sum(one.isdigit() for one in masked.text)
        if not masked.spans or left:
            missed.append((text, masked.text))
    assert len(missed) <= 5, missed


@pytest.mark.parametrize(("kind", "text"), PERSONAL)
def test_masked_text_keeps_the_kind_and_not_the_value(kind: str, text: str) -> None:
    masked = masking.mask(text)
    assert masking.mask(masked.text).text == masked.text
    rebuilt, position = "", 0
    for start, end, one in masked.spans:
        rebuilt += text[position:start] + f"<{one}>"
        position = end
    assert rebuilt + text[position:] == masked.text


@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=14).map("".join)))
@settings(max_examples=400, deadline=None)
def test_masking_twice_is_masking_once_and_never_fails(text: str) -> None:
    masked = masking.mask(text)
    assert masking.mask(masked.text).text == masked.text
    assert all(0 <= start < end <= len(text) for start, end, _ in masked.spans)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_bytes_of_any_kind_are_read(raw: bytes) -> None:
    masking.mask(raw.decode("utf-8", "surrogateescape"))
    masking.mask(raw.decode("latin-1"))


def test_all_of_a_long_text_is_read() -> None:
    text = "가나다 " * 20_000 + "010-1234-5678"
    assert masking.mask(text).text.endswith("<phone>")


def test_a_token_is_no_reason_to_hide_its_neighbours() -> None:
    assert masking.mask("<account> 1234567890 <phone> 234-5678").spans == []


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("010-1234-5678", "phone", "010-****-5678"),
        ("4111-1111-1111-1111", "card", "****-****-****-1111"),
        ("kimminsu@naver.com", "email", "ki***@naver.com"),
        ("900101-1234567", "resident_number", "90****-*******"),
        ("서울시 강남구 테헤란로 152", "address", "서울시 강남구 *** ***"),
        ("110-123-456789", "account", "***-***-***789"),
        ("12", "phone", "**"),
        ("", "card", ""),
    ],
)
def test_values_are_shown_in_part(value: str, kind: str, expected: str) -> None:
    assert masking.shown(value, kind) == expected


@given(st.text(max_size=40), st.sampled_from(masking.KINDS))
def test_showing_never_fails(value: str, kind: str) -> None:
    masking.shown(value, kind)
