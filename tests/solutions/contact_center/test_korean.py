"""Particles, jamo and numbers read aloud."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadInput
from solutions.contact_center import korean
from solutions.contact_center.entities import numbers

HANGUL = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), max_size=20)
PAIRS = ("은/는", "이/가", "을/를", "와/과", "으로/로", "이라/라", "이나/나", "아/야")


@pytest.mark.parametrize(
    ("word", "topic", "object_", "towards"),
    [
        ("사과", "는", "를", "로"),
        ("빵", "은", "을", "으로"),
        ("서울", "은", "을", "로"),
        ("7", "은", "을", "로"),
        ("3", "은", "을", "으로"),
        ("2", "는", "를", "로"),
        ("10", "은", "을", "으로"),
        ("100", "은", "을", "으로"),
        ("1,000", "은", "을", "으로"),
        ("20000", "은", "을", "으로"),
        ("100원", "은", "을", "으로"),
        ("010-1234-5670", "은", "을", "으로"),
        ("3.5", "는", "를", "로"),
        ("PC", "는", "를", "로"),
        ("SMS", "는", "를", "로"),
        ("LTE", "는", "를", "로"),
        ("5G", "는", "를", "로"),
        ("KTX", "는", "를", "로"),
        ("ATM", "은", "을", "으로"),
        ("URL", "은", "을", "로"),
        ("Basic", "은", "을", "으로"),
        ("Standard", "는", "를", "로"),
        ("Premium", "은", "을", "으로"),
        ("Internet", "은", "을", "으로"),
        ("Apple", "은", "을", "로"),
        ("5kg", "은", "을", "으로"),
        ("10GB", "는", "를", "로"),
        ("요금제(월)", "는", "를", "로"),
        ("‘프리미엄’", "은", "을", "으로"),
        ('"빵"', "은", "을", "으로"),
        ("50%", "는", "를", "로"),
        ("７", "은", "을", "로"),
    ],
)
def test_particles_follow_the_last_sound(word: str, topic: str, object_: str, towards: str) -> None:
    assert korean.particle(word, "은/는") == topic
    assert korean.particle(word, "를/을") == object_
    assert korean.particle(word, "으로/로") == towards


def test_every_written_form_is_resolved_in_a_message() -> None:
    text = (
        "빵은(는) 사과이(가) 5G을(를) 서울(으)로 부산(으)로 "
        "커피와(과) 밥와(과) 민수아(야) 지훈아(야) 프리미엄(이)라고 배(이)나"
    )
    assert korean.with_particles(text) == (
        "빵은 사과가 5G를 서울로 부산으로 커피와 밥과 민수야 지훈아 프리미엄이라고 배나"
    )


@pytest.mark.parametrize("text", ["을(를)", "🙂을(를)", "가 나", "", " (으)로"])
def test_nothing_readable_before_a_particle_leaves_both_forms(text: str) -> None:
    assert korean.with_particles(text) == text


def test_an_unknown_particle_is_bad_input() -> None:
    with pytest.raises(BadInput, match="은/는"):
        korean.particle("빵", "부터/까지")


@given(HANGUL.filter(bool), st.sampled_from(PAIRS))
def test_a_particle_is_one_of_its_two_forms(word: str, kind: str) -> None:
    chosen = korean.particle(word, kind)
    assert chosen in kind.split("/")
    final = korean.letters(word[-1])[2]
    if kind == "을/를":
        assert chosen == ("을" if final else "를")
    if kind == "으로/로":
        assert chosen == ("으로" if final not in ("", "ㄹ") else "로")


@given(st.text(max_size=60))
def test_messages_without_particles_to_choose_are_left_alone(text: str) -> None:
    resolved = korean.with_particles(text)
    assert resolved == text or "(" in text
    assert korean.with_particles(resolved) == resolved


@given(HANGUL)
def test_jamo_come_apart_and_together_again(text: str) -> None:
    apart = korean.decompose(text)
    assert not any(korean.is_syllable(one) for one in apart)
    assert korean.compose(apart) == text


@given(st.text(max_size=40))
def test_decomposing_never_fails_and_keeps_the_rest(text: str) -> None:
    apart = korean.decompose(text)
    assert [one for one in text if not korean.is_syllable(one)] == [
        one for one in apart if one not in korean.INITIALS + korean.MEDIALS + "".join(korean.FINALS)
    ] or set(text) & set(korean.INITIALS + korean.MEDIALS + "".join(korean.FINALS))


@given(st.integers(min_value=0, max_value=10**16 - 1))
def test_numbers_are_read_and_understood_again(number: int) -> None:
    assert numbers.value(korean.sino(number)) == number


@given(st.integers(min_value=1, max_value=99))
def test_native_numbers_are_read_and_understood_again(number: int) -> None:
    assert numbers.value(korean.native(number)) == number


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in (-1, 10**16):
        with pytest.raises(ValueError, match=str(wrong)):
            korean.sino(wrong)
    with pytest.raises(ValueError, match="100"):
        korean.native(100)
    assert korean.digits("010-12") == "공일공-일이"
