"""Entities that the bot's owner describes by a regular expression, searched in what customers write.

The pattern is the owner's, the text a stranger's: a pattern whose matching time can grow out of hand is refused when it
is loaded. `risk` reads Python's own parse of it and names the first danger: a repetition inside another one
(`(a+)+`), one over alternatives that overlap, two unbounded repetitions side by side over the same characters
(`\\d*\\d*`), or a back-reference. What passes runs on at most `MAX_CHARACTERS` characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from shared.errors import BadInput
from solutions.contact_center.entities import checks

MAX_CHARACTERS = 1000
_MANY = 64
"""A repetition that may go on for longer counts as this many."""
_TOO_MANY = 4000
"""Ways to match one text that a pattern may have: two unbounded repetitions side by side have more."""
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)


def risk(pattern: str) -> str | None:
    """Why a pattern may take too long, in words for its owner; None where it is safe.

    Raises:
        re.error: it is no regular expression.
    """
    return _risk(parser.parse(pattern))


def _risk(items: Any) -> str | None:
    chain, before = 1, set[int]()  # ways to share a text among the repetitions side by side, and what they match
    for code, value in items:
        if code in (codes.GROUPREF, codes.GROUPREF_EXISTS):
            return "it refers back to a group"
        if code in _REPEATS:
            most = min(value[1], _MANY)
            if most > 1 and not _separated(value[2]) and _choices(value[2]) ** most > _TOO_MANY:
                return "it repeats what already repeats, as in (a+)+"
            if most > 8 and _overlapping(value[2]):
                return "it repeats alternatives that can match the same text, as in (ab|a.)*"
        for inner in _inner(code, value):
            found = _risk(inner)
            if found:
                return found
        if code in _REPEATS and value[0] != value[1]:
            matched = _characters(value[2])
            beside = bool(matched & before)
            ways = min(_choices([(code, value)]), _MANY + 1)
            chain, before = (chain * ways, before | matched) if beside else (ways, matched)
            if beside and chain > _TOO_MANY:
                return r"repetitions that can match the same text stand side by side, as in \d*\d*"
        elif code is not codes.AT and not _characters([(code, value)]) & before:
            chain, before = 1, set()
    return None


def _choices(items: Any) -> int:
    """In how many lengths some items can match, at most `_TOO_MANY` + 1."""
    ways = 1
    for code, value in items:
        if code in _REPEATS:
            ways *= min(value[1], _MANY) - value[0] + 1 if value[0] < _MANY else 1
        inner = max((_choices(one) for one in _inner(code, value)), default=1)
        ways = min(ways * inner, _TOO_MANY + 1)
    return ways


def _separated(items: Any) -> bool:
    """Whether what is repeated must hold a character that none of its own repetitions can match."""
    repeated: set[int] = set()
    fixed: list[set[int]] = []
    for code, value in items:
        if code in _REPEATS and value[0] != value[1]:
            repeated |= _characters(value[2])
        elif code is codes.SUBPATTERN and _choices(value[3]) > 1:
            return _separated(value[3]) if len(items) == 1 else False
        elif code is not codes.AT:
            fixed.append(_characters([(code, value)]))
    return any(not one & repeated for one in fixed)


def _inner(code: Any, value: Any) -> Iterator[Any]:
    if code in _REPEATS or code is getattr(codes, "POSSESSIVE_REPEAT", None):
        yield value[2]
    elif code is codes.SUBPATTERN:
        yield value[3]
    elif code is codes.BRANCH:
        yield from value[1]
    elif code in (codes.ASSERT, codes.ASSERT_NOT):
        yield value[1]
    elif code is getattr(codes, "ATOMIC_GROUP", None):
        yield value


def _overlapping(items: Any) -> bool:
    """Whether alternatives directly inside can begin with the same character."""
    for code, value in items:
        if code is codes.BRANCH:
            seen: set[int] = set()
            for branch in value[1]:
                first = _characters(branch)
                if first & seen:
                    return True
                seen |= first
        elif code is codes.SUBPATTERN and _overlapping(value[3]):
            return True
    return False


_SAMPLE = [*range(0x20, 0x7F), 0xE9, 0x3131, 0xAC00, 0xB098, 0xD558, 0x4E00, 0x0A, 0x09]
"""Characters that stand for all: where two repetitions share none of these they are taken as apart."""


def _characters(items: Any) -> set[int]:
    """Which of the sample characters some items can begin with."""
    found: set[int] = set()
    for code, value in items:
        if code in _REPEATS:
            found |= _characters(value[2])
            if value[0] == 0:
                continue
            return found
        if code is codes.SUBPATTERN:
            return found | _characters(value[3])
        if code is codes.BRANCH:
            return found.union(*(_characters(branch) for branch in value[1]))
        if code is codes.LITERAL:
            return found | {value}
        if code is codes.AT or code in (codes.ASSERT, codes.ASSERT_NOT):
            continue
        return found | {one for one in _SAMPLE if _matches(code, value, one)}
    return found


def _matches(code: Any, value: Any, character: int) -> bool:
    if code is codes.ANY:
        return character != 0x0A
    if code is codes.NOT_LITERAL:
        return character != value
    if code is not codes.IN:
        return True
    negated = bool(value) and value[0][0] is codes.NEGATE
    return any(_in_set(kind, what, chr(character)) for kind, what in value if kind is not codes.NEGATE) != negated


def _in_set(kind: Any, what: Any, character: str) -> bool:
    if kind is codes.LITERAL:
        return ord(character) == what
    if kind is codes.RANGE:
        return what[0] <= ord(character) <= what[1]
    names = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": lambda one: one.isalnum() or one == "_"}
    name = str(what).removeprefix("CATEGORY_")
    belongs = names[name.removeprefix("NOT_")](character)
    return not belongs if name.startswith("NOT_") else belongs


class Pattern:
    """One compiled pattern with the check digits its matches must have."""

    def __init__(self, entity: str, pattern: str, check: str | None = None) -> None:
        """Raises BadInput where the pattern is none, or could take too long."""
        try:
            danger = risk(pattern)
            self._pattern = re.compile(pattern, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            raise BadInput(f"entity {entity}: pattern: {pattern!r} is no regular expression ({error}).") from error
        if danger:
            raise BadInput(
                f"entity {entity}: pattern: {pattern!r} can take too long on some texts: {danger}; bound the "
                "repetitions, as in {1,20}."
            )
        self._check = checks.CHECKS[check] if check else None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it matches, not inside a longer word or number of the same script."""
        text = text[:MAX_CHARACTERS]
        for found in self._pattern.finditer(text):
            start, end = found.span()
            if end > start and not _cut(text, start) and not _cut(text, end) and self._passes(found[0]):
                yield start, end

    def _passes(self, written: str) -> bool:
        return self._check is None or self._check(written)


def _cut(text: str, place: int) -> bool:
    """Whether a boundary lies inside a run of Latin letters and digits."""
    around = text[place - 1 : place + 1] if place else ""
    return len(around) == 2 and all(one.isascii() and one.isalnum() for one in around)
