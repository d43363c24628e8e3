"""Entities marked inside an example: `[5G 스탠다드](plan)` and `[tomorrow](date=2026-03-03)`.

A mark names the entity and, after `=`, the canonical value where the surface does not say it. Brackets that are not a
mark (`[주의] 확인`) stay as they are; `\\[` writes a bracket that would begin one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.yaml_files import NAME

_MARK = re.compile(r"\[(?P<surface>[^\[\]]*)\]\((?P<inside>[^()]*)\)")
_UNCLOSED = re.compile(r"\[[^\[\]]*\]\([^()]*$|\[[^\[\]]*\]\(")
_TARGET = re.compile(rf"\s*(?P<entity>{NAME})\s*(?:=\s*(?P<value>.*\S)\s*)?")
_ESCAPED = {"\\[": "\ue000", "\\]": "\ue001"}  # private-use characters: no text that people write holds them


@dataclass(frozen=True)
class Mark:
    """Characters `start` to `end` of the plain text are this entity; `value` None: the surface says it."""

    start: int
    end: int
    entity: str
    value: str | None = None


def parse(marked: str) -> tuple[str, tuple[Mark, ...]]:
    """The plain text and its marks, in order.

    Raises:
        ValueError: a mark is empty, names no entity or is not closed; the sentence says which one and how to mend it.
    """
    for written, stand_in in _ESCAPED.items():
        marked = marked.replace(written, stand_in)
    plain: list[str] = []
    marks: list[Mark] = []
    length = position = 0
    for found in _MARK.finditer(marked):
        before = marked[position : found.start()]
        _refuse_unclosed(before)
        plain.append(before)
        length += len(before)
        surface = found["surface"]
        marks.append(_mark(found[0], surface, found["inside"], length))
        plain.append(surface)
        length += len(surface)
        position = found.end()
    _refuse_unclosed(marked[position:])
    plain.append(marked[position:])
    text = "".join(plain)
    for written, stand_in in _ESCAPED.items():
        text = text.replace(stand_in, written[1])
    return text, tuple(marks)


def write(text: str, marks: tuple[Mark, ...] | list[Mark]) -> str:
    """The marked form of a text; `parse` gives the same text and marks back."""
    parts: list[str] = []
    position = 0
    for mark in sorted(marks, key=lambda one: one.start):
        parts.append(_escape(text[position : mark.start]))
        value = "" if mark.value is None else f"={mark.value}"
        parts.append(f"[{_escape(text[mark.start : mark.end])}]({mark.entity}{value})")
        position = mark.end
    parts.append(_escape(text[position:]))
    return "".join(parts)


def _escape(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]")


def _mark(whole: str, surface: str, inside: str, start: int) -> Mark:
    if not surface.strip():
        raise ValueError(f"the mark {whole} holds no words; write them between the brackets")
    target = _TARGET.fullmatch(inside)
    if target is None:
        raise ValueError(
            f"the mark {whole} names no entity; write [{surface}](entity) or [{surface}](entity=value), "
            "the entity in a-z, 0-9 and _"
        )
    return Mark(start, start + len(surface), target["entity"], target["value"])


def _refuse_unclosed(text: str) -> None:
    found = _UNCLOSED.search(text)
    if found:
        raise ValueError(f"the mark {found[0][:40]!r} is not closed; write [words](entity), or \\[ for a plain bracket")
