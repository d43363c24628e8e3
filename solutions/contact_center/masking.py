"""Personal data is masked before a text is stored or logged.

Two forms, for two readers:

- **stored**: `mask("제 번호는 010-1234-5678이에요").text` → `제 번호는 <phone>이에요`. The token keeps the kind, so
  that transcripts stay readable and models may learn from them, and nothing of the number. Kinds: `resident_number`
  (resident and foreigner registration, US social security), `card`, `driver_licence`, `passport`, `email`, `phone`,
  `account`, `address`.
- **shown**: `shown("010-1234-5678", "phone")` → `010-****-5678`, for saying a value back to the one who gave it.

Found in any spelling: with spaces, dots, hyphens, full-width digits, digits read aloud (`공일공 일이삼사 오육칠팔`,
`oh one oh ...`). A company's service number (1588-1234) is nobody's personal data and stays. Shapes shared with
orders, parcels or coupons are told apart by check digits, grouping and the words close by; `entities/personal.py`
has the rules, and the corpus beside the tests measures both kinds of error.

Masking a masked text changes nothing, no string makes it fail, and all of a text is read, however long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from solutions.contact_center.entities import numbers, personal
from solutions.contact_center.entities.reading import has_hangul, read

KINDS = personal.KINDS
_PASSES = 8
"""After which what is left would need numbers nested in numbers; every pass but the first is rare."""
_TOKEN = re.compile(rf"<(?:{'|'.join(KINDS)})>")
_DIGIT_OR_LETTER = re.compile(r"[0-9A-Za-z가-힣]")


@dataclass(frozen=True)
class Masked:
    """A text that may be stored, and what was taken out of the original: (start, end, kind), in order."""

    text: str
    spans: list[tuple[int, int, str]]


def mask(text: str) -> Masked:
    """The text with every piece of personal data replaced by its kind, as in `<phone>`."""
    spans: list[tuple[int, int, str]] = []
    for _ in range(_PASSES):
        # Taking one number out can part what stood beside it, so look again until nothing is left.
        current, origins = _replaced(text, spans)
        found = _find(current)
        if not found:
            return Masked(current, spans)
        fresh = [(origins[start][0], origins[end - 1][1], kind) for start, end, kind in found]
        spans = _joined(spans + fresh)
    return Masked(_replaced(text, spans)[0], spans)


def shown(value: str, kind: str) -> str:
    """A value in part, to say it back: `010-****-5678`, `****-****-****-1234`, `ki***@naver.com`.

    Args:
        value: as an extractor gives it; any text is taken.
        kind: one of `KINDS`; any other is hidden but for its first character.
    """
    if kind == "email" and "@" in value:
        name, _, host = value.partition("@")
        return f"{name[:2]}***@{host}" if len(name) > 2 else f"***@{host}"
    if kind == "address":
        return " ".join(
            word if place < 2 and not re.search(r"\d", word) else "***" for place, word in enumerate(value.split())
        )
    places = [i for i, one in enumerate(value) if _DIGIT_OR_LETTER.match(one)]
    keep = {
        "phone": {*places[:3], *places[-4:]} if len(places) >= 9 else set(places[-4:]),
        "card": set(places[-4:]),
        "account": set(places[-3:]),
        "resident_number": set(places[:2]),
    }.get(kind, set(places[:1]))
    if len(keep) >= len(places) - 2:
        keep = set()
    return "".join("*" if i in places and i not in keep else one for i, one in enumerate(value))


def _find(text: str) -> list[tuple[int, int, str]]:
    """Personal data in the original's characters, in order, none overlapping."""
    reading = read(_TOKEN.sub(_blank, text), limit=None)
    dictated = numbers.dictated(reading, has_hangul(reading.text))
    found = []
    last = 0
    for one in personal.find(dictated.text, public=False):
        start, end = dictated.original(one.start, one.end)
        if start >= last:
            found.append((start, end, one.kind))
            last = end
    return found


def _blank(token: re.Match[str]) -> str:
    """A token without its words, which would be words close by for the number next to it."""
    return f"<{'_' * (len(token[0]) - 2)}>"


def _replaced(text: str, spans: list[tuple[int, int, str]]) -> tuple[str, list[tuple[int, int]]]:
    """The text with its spans as tokens, and for each of its characters where it came from."""
    parts: list[str] = []
    origins: list[tuple[int, int]] = []
    position = 0
    for start, end, kind in [*spans, (len(text), len(text), "")]:
        parts.append(text[position:start])
        origins += [(i, i + 1) for i in range(position, start)]
        if kind:
            token = f"<{kind}>"
            parts.append(token)
            origins += [(start, end)] * len(token)
        position = end
    return "".join(parts), origins


def _joined(spans: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """In order, and one of those that overlap: the larger swallows the smaller."""
    kept: list[tuple[int, int, str]] = []
    for span in sorted(set(spans), key=lambda one: (one[0], -one[1])):
        if kept and span[0] < kept[-1][1]:
            start, end, kind = kept[-1]
            kept[-1] = (start, max(end, span[1]), kind)
        else:
            kept.append(span)
    return kept
