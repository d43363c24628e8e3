"""Check digits: what tells a number of some kind from any other digits of that length.

All functions take text, read the ASCII digits in it and nothing else, and answer False for anything that is too short,
too long or without digits; none raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_NOT_DIGITS = re.compile(r"[^0-9]+")


def digits_of(text: str) -> str:
    """The ASCII digits of a text, in order."""
    return _NOT_DIGITS.sub("", text)


def luhn(text: str) -> bool:
    """Payment cards, IMEI: the Luhn algorithm (ISO/IEC 7812-1, annex B), for 8 to 19 digits."""
    digits = digits_of(text)
    if not 8 <= len(digits) <= 19 or not digits.strip("0"):
        return False
    doubled = (int(one) * 2 for one in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(two - 9 if two > 9 else two for two in doubled)) % 10 == 0


def mod11(text: str) -> bool:
    """Weights 2, 3, 4, ... from the right, the last digit completing the sum to a multiple of 11 (10 is written X).

    As ISBN-10 and many order numbers have it; 4 to 20 characters.
    """
    digits = re.sub(r"[^0-9Xx]+", "", text).upper()
    if not 4 <= len(digits) <= 20 or "X" in digits[:-1]:
        return False
    last = 10 if digits[-1] == "X" else int(digits[-1])
    return (sum(weight * int(one) for weight, one in enumerate(digits[-2::-1], start=2)) + last) % 11 == 0


def business_number(text: str) -> bool:
    """A Korean business registration number: ten digits, weights 1 3 7 1 3 7 1 3 5, a carry from the ninth."""
    digits = digits_of(text)
    if len(digits) != 10 or not digits.strip("0"):
        return False
    total = sum(int(one) * weight for one, weight in zip(digits, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=False))
    total += int(digits[8]) * 5 // 10
    return (10 - total % 10) % 10 == int(digits[9])


def resident_number(text: str) -> bool:
    """A Korean resident or foreigner registration number: a date of birth, a seventh digit that fits, a check digit.

    Numbers given out since October 2020 are random after the seventh digit; for those use `looks_resident`.
    """
    digits = digits_of(text)
    if not looks_resident(digits):
        return False
    total = sum(int(one) * weight for one, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False))
    check = (11 - total % 11) % 10
    foreigner = digits[6] in "5678"
    return int(digits[12]) == ((check + 2) % 10 if foreigner else check)


def looks_resident(text: str) -> bool:
    """Thirteen digits that begin with a date of birth, whatever the check digit."""
    digits = digits_of(text)
    if len(digits) != 13:
        return False
    month, day = int(digits[2:4]), int(digits[4:6])
    return 1 <= month <= 12 and 1 <= day <= (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


CHECKS: Mapping[str, Callable[[str], bool]] = {
    "luhn": luhn,
    "mod11": mod11,
    "business_number": business_number,
    "resident_number": resident_number,
}
"""By the names that `check:` takes in the file of an entity."""
