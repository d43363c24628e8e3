"""Names, order numbers, and personal numbers as entities: what leads to a person or a purchase."""

from __future__ import annotations

import re
from collections.abc import Iterator

from solutions.contact_center.entities import checks, numbers, personal
from solutions.contact_center.entities.moments import Piece

_SURNAMES = (
    "김이박최정강조윤장임한오서신권황안송류전홍유고문양손배백허남심노하곽성차주우구나민진지엄채원천방공현함변염여추도소석선설"
    "마길연위표명기반라왕금옥육인맹제모탁국어은편용예경봉사부"
)
_LONG_SURNAMES = "남궁|황보|제갈|사공|선우|서문|독고|동방"
_KOREAN_NAME = rf"(?!어떻|어디|무엇|누구|아직)(?:(?:{_LONG_SURNAMES})[가-힣]{{1,2}}|[{_SURNAMES}][가-힣]{{1,2}})"
_TAIL = r"(?=\s?(?:이라고|라고|이에요|예요|입니다|입니당|이고|이구요|고요|이요|요|임|이야|야|인데|님|씨|[.,!?)\s]|$))"
_INTRODUCED = re.compile(
    r"(?:이름은|성함은|성명은|예약자명?은|예금주는|이름이|명의는|제\s?이름|이름:|성함:)\s?"
    f"(?P<name>{_KOREAN_NAME}){_TAIL}"
)
_SELF = re.compile(
    rf"(?<![가-힣])(?:저는|전|나는|난)\s(?P<name>{_KOREAN_NAME})(?=\s?(?:이라고|라고|입니다|이에요|예요|이라\s?합니다))"
)
_LATIN_INTRODUCED = re.compile(
    r"\b(?:my\sname(?:\sis|['’]s)|name:|call\sme|the\sname\sis|under\s(?:the\sname\s(?:of\s)?)?)\s?"
    r"(?P<name>(?!at\b|on\b|back\b|by\b|in\b|not\b|the\b|a\b|for\b|when\b|if\b|now\b"
    r"|later\b|this\b|that\b|it\b|an?\b|my\b|is\b)[^\W\d_][^\W\d_'’.-]*(?:\s(?!at\b|on\b|in\b|we\b|you\b|he\b|she\b|it\b|they\b|as\b|by\b|of\b|this\b|that\b|and\b|i\b|but\b|from\b|here\b|calling\b"
    r"|please\b|with\b|to\b|for\b|my\b|is\b)[^\W\d_][^\W\d_'’-]*){0,2})"
)
_CAPITAL = re.compile(
    r"\b(?:[Ii](?:['’]m|\sam)|[Tt]his\sis)\s(?P<name>[A-Z][a-z'’-]+(?:\s[A-Z][a-z'’-]+){0,2})(?![a-z])"
)
_KOREAN_ANSWER = re.compile(
    rf"(?:저는\s|제\s?이름은\s|이름은\s)?(?P<name>{_KOREAN_NAME}|[가-힣]{{2,5}})(?:이라고\s?합니다"
    r"|라고\s?합니다|입니다|이에요|예요|이요|요|이고요|님|\s?[.!])*"
)
_LATIN_ANSWER = re.compile(
    r"(?:it['’]?s\s|it is\s|i am\s|i['’]m\s|this is\s)?(?P<name>[^\W\d_][^\W\d_'’-]*"
    r"(?:\s[^\W\d_][^\W\d_'’.-]*){0,3})[.!]?",
    re.IGNORECASE,
)
_NOT_NAMES = {
    "yes", "no", "ok", "okay", "sure", "cancel", "help", "stop", "hello", "hi", "thanks", "please", "why",
    "what", "nothing",
    "네", "아니", "아니요", "취소", "도와줘", "상담원", "안녕", "모름", "몰라", "그만", "싫어", "네네", "예",
    "응", "주세요", "감사합니다", "안녕하세요",
    "i don't know", "not sure", "never mind",
}  # fmt: skip

_ORDER_WORDS = (
    "(?:주문|접수|예약|운송장|송장|문의|신청|확인|order|tracking|reference|ref|booking|confirmation"
    "|ticket|case|invoice)"
)
_ORDER_NAMED = re.compile(
    rf"{_ORDER_WORDS}\s?(?:번호|no\.?|number|num|id|code|#)?\s?(?:는|은|가|이|is|:|#)?\s?"
    rf"(?P<number>(?=[a-z\d-]{{0,24}}\d{{3}})[a-z\d]+(?:-[a-z\d]+){{0,4}})(?![a-z\d])"
)
_ORDER_SHAPED = re.compile(
    r"(?<![a-z\d-])(?P<number>[a-z]{1,4}-?\d{6,16}(?:-\d{1,8})?|20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]"
    r"|[12]\d|3[01])-?\d{4,10})(?![a-z\d-])"
)


def personals(text: str) -> Iterator[Piece]:
    """Telephone, e-mail, address, card and account numbers in a normalised text with digits as digits."""
    for one in personal.find(text):
        if one.kind == "card" and not checks.luhn(one.value):
            continue
        if one.kind in ("phone", "email", "address", "card", "account"):
            yield Piece(one.kind, one.start, one.end, one.value, one.value)


def orders(text: str) -> Iterator[Piece]:
    """Order, booking and tracking numbers."""
    for pattern, confidence in ((_ORDER_NAMED, 1.0), (_ORDER_SHAPED, 0.8)):
        for found in pattern.finditer(text):
            written = found["number"].upper()
            if 4 <= len(written) <= 32:
                yield Piece("order_number", *found.span("number"), written, written, confidence)


def names(text: str, original: str) -> Iterator[Piece]:
    """Names that are introduced: `이름은 …`, `저는 …입니다`, `my name is …`.

    `original` has the same length, with capitals.
    """
    for pattern in (_INTRODUCED, _SELF, _LATIN_INTRODUCED):
        for found in pattern.finditer(text):
            if numbers.value(found["name"]) is None:
                yield _name(*found.span("name"), original, 0.9)
    for found in _CAPITAL.finditer(original):
        yield _name(*found.span("name"), original, 0.8)


def _name(start: int, end: int, original: str, confidence: float) -> Piece:
    written = original[start:end]
    shown = written if any(one.isupper() for one in written) else written.title()
    return Piece("name", start, end, shown, shown, confidence)


def name_answer(text: str, original: str) -> Piece | None:
    """The name that answers a question for one: a short message that could be one."""
    stripped = text.strip(" .!")
    if stripped in _NOT_NAMES:
        return None
    pattern = _KOREAN_ANSWER if any("가" <= one <= "힣" for one in text) else _LATIN_ANSWER
    found = pattern.fullmatch(original.strip())
    if found is None or found["name"].lower() in _NOT_NAMES:
        return None
    offset = len(original) - len(original.lstrip())
    return _name(found.start("name") + offset, found.end("name") + offset, original, 0.8)


def number_answer(kind: str, text: str) -> Piece | None:
    """A barer number that answers a question for an account, an order or a telephone number."""
    stripped = text.strip(" .!")
    tail = re.fullmatch(r"(?P<number>[a-z\d][a-z\d\s.\-]{2,40}?)\s?(?:입니다|이에요|예요|이요|요|이고요|번)?", stripped)
    if tail is None:
        return None
    start = text.index(tail["number"])
    written = re.sub(r"\s", "", tail["number"])
    digits = checks.digits_of(written)
    end = start + len(tail["number"])
    if kind == "account" and 8 <= len(digits) <= 16 and not re.search("[a-z]", written):
        return Piece("account", start, end, written, written)
    if kind == "order_number" and 4 <= len(written) <= 32 and len(digits) >= 3:
        return Piece("order_number", start, end, written.upper(), written.upper(), 0.9)
    if kind == "phone" and 7 <= len(digits) <= 13 and not re.search("[a-z]", written):
        shown = personal.written_phone(written if len(digits) != 10 or digits[0] != "1" else "0" + digits)
        return Piece("phone", start, end, shown, shown, 0.8)
    if kind == "card" and checks.luhn(digits) and len(digits) >= 13:
        shown = "-".join(digits[i : i + 4] for i in range(0, len(digits), 4))
        return Piece("card", start, end, shown, shown)
    return None
