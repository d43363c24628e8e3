"""Corrections: "아니 화요일 말고 수요일이요", "actually make it 5pm", "change the address".

A correction names a slot, or a new value, or both; the old value too, perhaps. Which slot is meant is decided in this
order: the one whose name is said; the one that holds the old value that is said; the only filled one that takes such a
value; of several, the one filled last. A value of the day or the time alone changes that part of a moment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from solutions.contact_center.config import WHOLE_TEXT, CollectStep
from solutions.contact_center.dialogue.patterns import squeezed
from solutions.contact_center.dialogue.slots import Candidate
from solutions.contact_center.dialogue.turn import Turn

_MARKS = {
    "ko": re.compile(
        r"말고|아니라|아니고|아니구|대신|잘못|수정|정정|고쳐|고칠|고치|바꿔|바꿀|바꾸|변경|다시\s?할|실은|사실은|아참|참,|"
        r"^\s*(?:아니|아뇨|아냐|아|음|잠깐)[\s,.요]"
    ),
    "en": re.compile(
        r"\b(?:actually|instead|rather|i\s+mean(?:t)?|i\s+meant|change|correct(?:ion)?|fix|edit|update|make\s+(?:it|that)|"
        r"not|wrong|mistake|sorry|wait|on\s+second\s+thought|switch|scratch\s+that|should\s+(?:be|have\s+been)|no)\b"
    ),
}
_NEW_LAST = {
    # old, mark, new
    "ko": re.compile(
        r"(?P<old>.*?)\s*(?:이|가)?\s*(?:말고|아니라|아니고|아니구요?|대신에?)[\s,]*(?P<new>.+)", re.DOTALL
    ),
    "en": re.compile(
        r"(?:.*\bnot\s+(?P<old>.+?)[\s,]+(?:but|it'?s|rather)?\s*(?P<new>.+)"
        r"|.*\bfrom\s+(?P<old2>.+?)\s+to\s+(?P<new2>.+)|.*\b(?:change|switch|update|correct)\b.+?\bto\s+(?P<new3>.+))",
        re.DOTALL,
    ),
}
_NEW_FIRST = {
    "ko": re.compile(r"(?P<new>.+?)[\s,]+(?P<old>\S.*?)\s*(?:말고|아니고|아니라)요?\s*[.!]*$", re.DOTALL),
    "en": re.compile(r"(?P<new>.+?)[\s,]+(?:instead\s+of|rather\s+than|and\s+not|not)\s+(?P<old>.+)", re.DOTALL),
}


@dataclass(frozen=True)
class Correction:
    """A slot to change; `value` None: it is to be asked for again."""

    step: CollectStep
    value: Candidate | None


def marked(text: str, language: str) -> bool:
    """Whether the text sounds like a correction at all."""
    return bool(_MARKS.get(language, _MARKS["en"]).search(text.lower()))


def find(turn: Turn, *, mark_needed: bool) -> Correction | None:
    """The correction in the message, of a slot that the running flow has filled already; None where there is none.

    Args:
        mark_needed: only texts that sound like a correction; False after "what would you like to change?", or where
            nothing else can be meant by a value.
    """
    text = turn.message.text
    if mark_needed and not marked(text, turn.language):
        return None
    filled = [step for name, step in turn.flow.slots().items() if name in turn.frame.slots]
    if not filled:
        return None
    old_part, new_part = _parts(text, turn.language)
    named = _named(turn, filled, text)
    for step in named or _by_value(turn, filled, old_part, new_part):
        value = _value(turn, step, new_part, named=bool(named))
        if value is not None:
            if _differs(turn, step, value):
                return Correction(step, value)
        elif named:
            return Correction(step, None)
    return None


def _parts(text: str, language: str) -> tuple[str, str]:
    """What is said of the old value and of the new one; without a contrast the whole text is of the new."""
    for forms in (_NEW_LAST, _NEW_FIRST):
        pattern = forms.get(language)
        found = pattern.match(text) if pattern is not None else None
        if found is None:
            continue
        groups = {name: part for name, part in found.groupdict().items() if part}
        new = next((part for name, part in groups.items() if name.startswith("new")), "")
        old = next((part for name, part in groups.items() if name.startswith("old")), "")
        if squeezed(new):
            return old, new
    return "", text


def _named(turn: Turn, filled: Sequence[CollectStep], text: str) -> list[CollectStep]:
    """The slot whose name is in the text; the longest name wins, so that `card number` is no `number`."""
    said = squeezed(text)
    best: tuple[int, CollectStep] | None = None
    for step in reversed(filled):
        for name in turn.kit.answers.names(step, turn.language):
            folded = squeezed(name)
            if len(folded) > 1 and _says(said, text, name, folded) and (best is None or len(folded) > best[0]):
                best = (len(folded), step)
    return [best[1]] if best else []


def _says(said: str, text: str, name: str, folded: str) -> bool:
    if name.isascii():  # whole words: `name` is not in `renamed`
        return re.search(rf"\b{re.escape(name.lower())}s?\b", text.lower()) is not None
    return folded in said


def _by_value(turn: Turn, filled: Sequence[CollectStep], old_part: str, new_part: str) -> list[CollectStep]:
    """Slots that could take what is said, the likeliest first."""
    takes = [step for step in reversed(filled) if _value(turn, step, new_part, named=False) is not None]
    if old_part:
        holding = [step for step in takes if _held(turn, step, old_part)]
        return holding or takes
    return takes


def _held(turn: Turn, step: CollectStep, old_part: str) -> bool:
    """Whether the slot holds what is said of the old value."""
    answers = turn.kit.answers
    value = turn.value(step.collect)
    found = answers.fitting(answers.extract(old_part, turn.language, turn.now), step.kind)
    if any(one.value == value for one in found):
        return True
    shown, said = squeezed(str(turn.frame.slots[step.collect].get("shown", ""))), squeezed(old_part)
    return bool(shown) and bool(said) and (shown in said or said in shown)


def _value(turn: Turn, step: CollectStep, text: str, *, named: bool) -> Candidate | None:
    """The new value in what was said of it."""
    if step.kind == WHOLE_TEXT:
        return None  # the words around it would become part of it: ask anew
    answers = turn.kit.answers
    if answers.is_moment(step.kind):
        part = answers.changed_moment(turn.value(step.collect), text, turn.language, turn.now)
        if part is not None:
            return part
    found = answers.fitting(answers.extract(text, turn.language, turn.now), step.kind)
    if found:
        return found[-1]
    read_bare = named and not answers.is_loose(step.kind)
    return answers.read(step, text, turn.language, turn.now) if read_bare else None


def _differs(turn: Turn, step: CollectStep, value: Candidate) -> bool:
    return turn.value(step.collect) != value.value


def contrasts(turn: Turn, correction: Correction) -> bool:
    """Whether the text sets the new value against an old one, or names the slot: more than an answer would."""
    old_part, _ = _parts(turn.message.text, turn.language)
    return bool(squeezed(old_part)) or bool(_named(turn, [correction.step], turn.message.text))
