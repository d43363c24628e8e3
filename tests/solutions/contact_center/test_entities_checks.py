"""Check digits: published examples, and that one wrong digit is noticed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solutions.contact_center.entities import checks, numbers, patterns
from solutions.contact_center.entities.lists import distance


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ("luhn", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("luhn", "378282246310005", "378282246310006"),
        ("mod11", "0-306-40615-2", "0-306-40615-3"),
        ("mod11", "0-8044-2957-X", "0-8044-2957-0"),
        ("business_number", "220-81-62517", "220-81-62518"),
        ("resident_number", "900101-1123459", "900101-1123458"),
        ("resident_number", "880405-5123453", "880405-5123450"),
    ],
)
def test_check_digits(check: str, right: str, wrong: str) -> None:
    assert checks.CHECKS[check](right)
    assert not checks.CHECKS[check](wrong)


@given(st.text(max_size=40), st.sampled_from(sorted(checks.CHECKS)))
def test_checks_take_any_text(text: str, check: str) -> None:
    assert checks.CHECKS[check](text) in (True, False)


@given(st.text("0123456789", min_size=12, max_size=18), st.integers(0, 17), st.integers(1, 9))
def test_one_wrong_digit_is_noticed(digits: str, place: int, by: int) -> None:
    whole = next((digits + last for last in "0123456789" if checks.luhn(digits + last)), None)
    if whole is None:  # all zeros
        return
    place %= len(whole)
    changed = whole[:place] + str((int(whole[place]) + by) % 10) + whole[place + 1 :]
    assert not checks.luhn(changed)


def edits(first: str, second: str) -> int:
    """The textbook table, to compare with."""
    table = [[max(i, j) if not i or not j else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            same = first[i - 1] == second[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (not same))
            if i > 1 and j > 1 and first[i - 1] == second[j - 2] and first[i - 2] == second[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_the_distance_in_bits_is_the_one_in_the_table(first: str, second: str) -> None:
    assert distance(first, second) == edits(first, second)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        r"(\d+-?)+",
        "(x+x+)+y",
        "(.*)*",
        r".*.*=.*",
        "(?:a?){200}a",
        "(ab|a.)*c",
        "((a{1,5}){1,5}){1,5}",
        "a?" * 30,
    ],
)
def test_patterns_that_can_run_away_are_named(pattern: str) -> None:
    assert patterns.risk(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"\d+", r"(?:[a-z]+ )+end", r"(\d{1,3},)*\d{3}", r"[가-힣]+동\s*\d+", r"(?:\d{1,4}-){1,4}\d{1,4}", "a*b*c*"],
)
def test_patterns_that_cannot_are_not(pattern: str) -> None:
    assert patterns.risk(pattern) is None
    for text in ("a" * 1000, "1" * 1000, "가" * 1000, "1," * 500, "12-" * 300, "a " * 500):
        list(re.finditer(pattern, text))


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("이백삼십", 230),
        ("3만 5천", 35000),
        ("만 오천", 15000),
        ("1억 2천만", 120_000_000),
        ("열두", 12),
        ("스물다섯", 25),
        ("12,000", 12000),
        ("-2.5", -2.5),
        ("two hundred and five", 205),
        ("twenty-one", 21),
        ("three thousand four hundred", 3400),
        ("a hundred", 100),
        ("half a dozen", 6),
        ("사과", None),
        ("apple", None),
        ("", None),
    ],
)
def test_numbers_in_digits_and_words(written: str, number: float | None) -> None:
    assert numbers.value(written) == number
