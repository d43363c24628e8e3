"""Personal data in text: numbers that lead to a person, e-mail and postal addresses. Read by extractors and by masking.

Patterns run over a normalised reading in which digits read one by one are digits (`numbers.dictated`). Where a shape is
shared with harmless numbers (orders, parcels, coupons), a check digit, the shape of the groups or a word close by
(`계좌`, `card`) decides. Sources of the shapes: Korean numbering plan (land, mobile, 070, 050x, 080), ITU-T E.164,
ISO/IEC 7812 (cards), ISO 13616 (IBAN), the Road Name Address Act, ICAO 9303 passports as Korea numbers them.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from solutions.contact_center.entities import checks

KINDS = (
    "resident_number",
    "card",
    "driver_licence",
    "passport",
    "email",
    "phone",
    "account",
    "address",
)
"""In the order in which one wins where two overlap."""

S = r"[\s.\-–—−·/\u1173]{0,3}"
"""What may stand between groups of digits; U+1173 is the vowel ㅡ, which people type as a dash."""
_LEFT = r"(?<![\d*])(?<!\d[-.,])"
_RIGHT = r"(?![\d*])(?!-\d)"
_CITIES = (
    "서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주"
    "|충청[남북]도|전라[남북]도|경상[남북]도"
)


@dataclass(frozen=True)
class Personal:
    """Characters `start` to `end` of the reading are of this kind; `value` is its usual written form."""

    kind: str
    start: int
    end: int
    value: str
    public: bool = False
    """A company's number (1588-1234), which needs no masking."""


def _near(text: str, found: re.Match[str], words: re.Pattern[str], before: int = 24, after: int = 0) -> bool:
    return bool(
        words.search(text[max(0, found.start() - before) : found.start()])
        or (after and words.search(text[found.end() : found.end() + after]))
    )


# --- registration numbers, licences, passports ------------------------------------------------------------------------

_RESIDENT = re.compile(
    rf"{_LEFT}(?P<birth>\d{S}\d{S}\d{S}\d{S}\d{S}\d)(?P<gap>{S})(?P<rest>[0-9](?:{S}\d){{6}}){_RIGHT}"
)
_RESIDENT_WORDS = re.compile(r"주민|외국인\s?등록|등록\s?번호|거소|resident|registration|rrn|\bssn\b")
_SSN = re.compile(rf"{_LEFT}(?!000|666|9)\d{{3}}[-\s](?!00)\d{{2}}[-\s](?!0000)\d{{4}}{_RIGHT}")
_SSN_WORDS = re.compile(r"social|\bssn\b")
_LICENCE = re.compile(
    rf"{_LEFT}(?:(?:{_CITIES})\s?(?:\d{{2}}\s?-\s?\d{{6}}\s?-\s?\d{{2}})|(?:1[1-9]|2[0-8])"
    rf"(?P<gap>[-\s.]{{0,3}})\d{{2}}[-\s.]{{0,3}}\d{{6}}[-\s.]{{0,3}}\d{{2}}){_RIGHT}"
)
_LICENCE_WORDS = re.compile(r"면허|licen[cs]e")
_PASSPORT = re.compile(
    r"(?<![a-z\d-])(?:[ms]\s?-?\d{8}|[mspdrg]\d{3}[a-z]\d{4}|(?P<other>[a-z]{1,2}\s?\d{6,8}|\d{9}))(?![a-z\d-])"
)
_PASSPORT_WORDS = re.compile(r"여권|passport")


def _resident(text: str) -> Iterator[Personal]:
    for found in _RESIDENT.finditer(text):
        digits = checks.digits_of(found[0])
        if not checks.looks_resident(digits):
            continue
        # Six digits, a sign, seven digits; or all thirteen in a row. Other groups are those of another number.
        split = len(found["birth"]) == 6 and len(found["rest"]) == 7 and bool(found["gap"])
        bare = found[0] == digits and _plausible(digits)
        harmless = _near(text, found, _NO_CARD_WORDS) or (not split and _near(text, found, _BANK_WORDS, 20, 10))
        if ((split or bare) and not harmless) or _near(text, found, _RESIDENT_WORDS):
            yield Personal("resident_number", *found.span(), f"{digits[:6]}-{digits[6:]}")
    for found in _SSN.finditer(text):
        if _near(text, found, _SSN_WORDS):
            yield Personal("resident_number", *found.span(), found[0])


def _plausible(digits: str) -> bool:
    """Whether the seventh digit, which tells the century, fits the year of birth: nobody is born in the future."""
    return digits[6] in "1256" or (digits[6] in "3478" and int(digits[:2]) <= dt.date.today().year % 100)


def _licence(text: str) -> Iterator[Personal]:
    for found in _LICENCE.finditer(text):
        if found["gap"] == "" and not _near(text, found, _LICENCE_WORDS):
            continue
        yield Personal("driver_licence", *found.span(), found[0])


def _passport(text: str) -> Iterator[Personal]:
    for found in _PASSPORT.finditer(text):
        if found["other"] is None or _near(text, found, _PASSPORT_WORDS, before=20):
            yield Personal("passport", *found.span(), re.sub(r"[\s-]", "", found[0]).upper())


# --- cards and accounts -----------------------------------------------------------------------------------------------

_CARD = re.compile(rf"{_LEFT}\d(?:{S}\d){{12,18}}{_RIGHT}")
_CARD_GROUPS = re.compile(
    r"\d{4}(?P<gap>\s?[-–—−]\s?|\s|\.|·)\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|3\d{3}[-\s]\d{6}[-\s]\d{5}"
)
_CARD_WORDS = re.compile(r"카드|card|visa|master\s?card|amex|비자|마스터")
_NO_CARD_WORDS = re.compile(
    r"쿠폰|상품권|시리얼|일련|제품\s?번호|운송장|송장|주문|coupon|voucher|serial|tracking|imei"
    r"|order|gift|포인트\s?번호|바코드|isbn|모델"
)
_SHAPES = {
    (3, 2, 6), (3, 3, 6), (4, 3, 6), (3, 6, 2, 3), (3, 4, 4, 2), (4, 2, 7), (3, 6, 5), (6, 2, 6), (4, 4, 4, 1),
    (3, 5, 6),
    (3, 4, 6), (3, 2, 5, 1), (3, 2, 6, 1), (3, 2, 6, 2), (3, 6, 3), (3, 8, 2), (3, 6, 2), (3, 2, 7), (3, 5, 5, 1),
    (4, 3, 5), (3, 4, 5, 1), (4, 6, 3), (3, 3, 5, 1), (5, 2, 6), (3, 4, 4, 1),
}  # fmt: skip
"""Lengths of the groups of account numbers, as Korean banks print them."""
_ACCOUNT_SHAPES = {*_SHAPES, (4, 4, 4), (3, 3, 5), (6, 6), (4, 4, 2), (3, 7), (4, 4, 5), (3, 4, 4), (3, 3, 4)}
"""With a word for a bank or an account close by, these too."""
_GROUPED = re.compile(rf"{_LEFT}\d{{2,8}}(?:\s?[-–—−.]\s?\d{{1,8}}|\s\d{{1,8}}){{1,3}}{_RIGHT}")
_RUN = re.compile(rf"{_LEFT}(?!20\d\d[01]\d[0-3]\d(?!\d))\d{{7,16}}{_RIGHT}(?!\s?(?:원|won|krw|달러))")
_BANK_WORDS = re.compile(
    r"계좌|은행|국민|신한|우리\s?은|하나\s?은|농협|기업|카카오\s?뱅크|토스|케이\s?뱅크|새마을|신협"
    r"|우체국|수협|입금|이체|송금|예금주|자동\s?납부|환불\s?받|"
    r"account|\bacct\b|iban|\bbank\b|routing|sort\scode"
)
_NO_BANK_WORDS = re.compile(
    r"운송장|송장|주문|접수|예약|사업자|고객\s?센터|모델|시리얼|order|tracking|booking|ticket|case"
    "|invoice|serial|쿠폰|상품"
)
_NAMED_ACCOUNT = re.compile(
    r"(?:(?:account|acct)\s?(?:number|no\.?|num|#)?|계좌\s?(?:번호)?(?:는|은|가)?)\s?(?:is)?[:#]?\s?\Z"
)
_IBAN = re.compile(r"(?<![a-z\d])[a-z]{2}\d{2}(?:\s?[a-z\d]{4}){2,7}(?:\s?[a-z\d]{1,4})?(?![a-z\d])")


def _prefix(digits: str) -> bool:
    """Whether cards begin so: ISO/IEC 7812 issuers, and 9 for cards within Korea."""
    return digits[0] in "34569" or 2221 <= int(digits[:4]) <= 2720


def _card(text: str) -> Iterator[Personal]:
    for found in _CARD.finditer(text):
        digits = checks.digits_of(found[0])
        grouped = _CARD_GROUPS.fullmatch(found[0]) is not None
        if tuple(map(len, re.findall(r"\d+", found[0]))) in _SHAPES:
            continue
        if not _prefix(digits) or (not grouped and _near(text, found, _NO_CARD_WORDS)):
            continue
        if len(digits) in (14, 15, 16, 19) and checks.luhn(digits) and not _near(text, found, _NO_CARD_WORDS, 16):
            pass
        elif not (grouped and not _near(text, found, _NO_CARD_WORDS)) and not (
            len(digits) >= 15 and _near(text, found, _CARD_WORDS)
        ):
            continue
        yield Personal("card", *found.span(), "-".join(digits[i : i + 4] for i in range(0, len(digits), 4)))


def _iban(written: str) -> bool:
    plain = re.sub(r"\s", "", written).upper()
    if not 15 <= len(plain) <= 34 or not plain.isascii():
        return False
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


def _account(text: str) -> Iterator[Personal]:
    for found in _GROUPED.finditer(text):
        groups = tuple(len(group) for group in re.findall(r"\d+", found[0]))
        hyphens = "." not in found[0] and not re.search(r"\d\s+\d", found[0])
        near = _near(text, found, _BANK_WORDS, 24, 10) and not _near(text, found, _NO_BANK_WORDS, 10)
        total = sum(groups)
        if not 10 <= total <= 16 or (found[0][:2] in ("19", "20") and groups[:3] == (4, 2, 2)):
            continue
        shape = hyphens and groups in _SHAPES and not _near(text, found, _NO_BANK_WORDS, 16)
        if shape or (near and (groups in _ACCOUNT_SHAPES or total >= 11)):
            yield Personal("account", *found.span(), re.sub(r"\s?[-–—−.\s]\s?", "-", found[0]))
    for found in _RUN.finditer(text):
        if _near(text, found, _BANK_WORDS, 20, 10) and not _near(text, found, _NO_BANK_WORDS, 10):
            named = _NAMED_ACCOUNT.search(text[max(0, found.start() - 24) : found.start()]) is not None
            if len(found[0]) >= 10 or named:
                yield Personal("account", *found.span(), found[0])
    for found in _IBAN.finditer(text):
        if _iban(found[0]):
            yield Personal("account", *found.span(), re.sub(r"\s", "", found[0]).upper())


# --- telephone and e-mail ---------------------------------------------------------------------------------------------

_AREA = r"(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|80|50[2-8]?)"
_PHONES: tuple[tuple[re.Pattern[str], bool], ...] = (
    (re.compile((
        rf"(?<![\d*])(?<!\d-)(?:\(?\+?\s?82\s?\)?{S}\(?0?\)?\s?|0)1{S}[016789]\)?{S}\d"
        rf"(?:{S}\d){{6,7}}{_RIGHT}"
    )), False),
    (re.compile(
        rf"(?<![\d*])(?<!\d[-.])(?:\(?\+?\s?82\s?\)?{S}\(?0?"
        rf"|\(?0){_AREA}\)?{S}\d{{3,4}}{S}\d{{4}}{_RIGHT}"
    ), False),
    (re.compile(r"(?<![\d*])(?<!\d[-.])1[568]\d\d\s?[-.\s]?\s?\d{4}(?![\d*])(?!-\d|원|won|,\d)"), True),
    (re.compile(
        r"(?<![\d*])(?:\+|(?<![\d.,])(?<!\d[-.\s])00)\s?[1-9]\d{0,2}[\s.()-]{0,3}"
        r"(?:\(?\d{1,5}\)?[\s.-]{0,2}){1,5}\d{2,4}(?![\d*])"
    ), False),
    (re.compile(
        r"(?<![\d*])(?<!\d[-.])(?:1[-.\s])?\(?[2-9]\d\d\)?[-.\s]{1,2}[2-9]\d\d[-.\s]\d{4}(?![\d*])"
        r"(?!-\d)"
    ), False),
    (re.compile(
        r"(?<![\d*])(?<!\d[-.])0(?:20[\s-]\d{4}[\s-]\d{4}|1\d{2,3}[\s-]\d{3,4}[\s-]\d{3,4}"
        r"|7\d{3}[\s-]?\d{6}|7\d{3}[\s-]\d{3}[\s-]\d{3})(?![\d*])(?!-\d)"
    ), False),
)  # fmt: skip
_SHORT_PHONE = re.compile(r"(?<![\d*])(?<!\d[-.])(?!1[568]\d\d)[1-9]\d{2,3}\s?-\s?\d{4}(?![\d*])(?!-\d)")
_PHONE_WORDS = re.compile(r"전화|연락|휴대|핸드폰|폰\s?번호|제\s?번호|phone|call|mobile|cell|text\sme|reach")
_EMAIL = re.compile(
    r"(?<![a-z\d._%+-])[a-z\d][a-z\d._%+-]{0,63}\s?(?:@|\[at\]|\(at\)|골뱅이)\s?[a-z\d][a-z\d-]{0,62}"
    r"(?:\s?(?:\.|\[dot\]|\(dot\)|점|닷)\s?[a-z][a-z\d-]{1,30}){1,4}"
)
_EMAIL_SPOKEN = re.compile(
    r"(?<![a-z\d])[a-z\d][a-z\d_+-]{0,40}(?:\s(?:dot|underscore|dash|hyphen|점|닷)\s[a-z\d]{1,40}"
    r"|\.[a-z\d]{1,40}){0,4}\s(?:at|앳|골뱅이)\s"
    r"[a-z\d-]{2,40}(?:\s(?:dot|점|닷)\s[a-z]{2,20}|\.[a-z]{2,20}){1,3}(?![a-z])"
)
_SPOKEN_SIGNS = (
    (re.compile(r"\s?(?:\[at\]|\(at\)|골뱅이|@)\s?|\s(?:at|앳)\s"), "@"),
    (re.compile(r"\s?(?:\[dot\]|\(dot\)|점|닷)\s?|\sdot\s|\s?\.\s?"), "."),
    (re.compile(r"\s(?:underscore)\s"), "_"),
    (re.compile(r"\s(?:dash|hyphen)\s"), "-"),
)


def _phone(text: str) -> Iterator[Personal]:
    for pattern, public in _PHONES:
        for found in pattern.finditer(text):
            digits = checks.digits_of(found[0])
            if (10 if digits.startswith("00") else 8) <= len(digits) <= 16:
                yield Personal("phone", *found.span(), written_phone(found[0]), public)
    for found in _SHORT_PHONE.finditer(text):
        if _near(text, found, _PHONE_WORDS):
            yield Personal("phone", *found.span(), found[0].replace(" ", ""))


def written_phone(text: str) -> str:
    """`010-1234-5678`, `02-123-4567`, `1588-1234`, `+14155552671`."""
    digits = checks.digits_of(text)
    if text.lstrip(" (").startswith("+") or digits.startswith("00") or (digits.startswith("82") and len(digits) > 10):
        digits = digits.removeprefix("00")
        if not digits.startswith("82"):
            return f"+{digits}"
        digits = "0" + digits[2:].removeprefix("0")
    if digits[:2] == "02":
        return f"02-{digits[2:-4]}-{digits[-4:]}"
    if len(digits) == 8:
        return f"{digits[:4]}-{digits[4:]}"
    if digits[:3] == "050" and len(digits) == 12:
        return f"{digits[:4]}-{digits[4:8]}-{digits[8:]}"
    return f"{digits[:3]}-{digits[3:-4]}-{digits[-4:]}" if len(digits) in (10, 11) else digits


def _email(text: str) -> Iterator[Personal]:
    for pattern in (_EMAIL, _EMAIL_SPOKEN):
        for found in pattern.finditer(text):
            written = found[0]
            for sign, plain in _SPOKEN_SIGNS:
                written = sign.sub(plain, written)
            yield Personal("email", *found.span(), written.replace(" ", ""))


# --- postal addresses -------------------------------------------------------------------------------------------------

_REGION = rf"(?:(?:{_CITIES})(?:특별자치도|특별자치시|특별시|광역시|도|시)?|[가-힣]{{1,5}}(?:시|군|구))"
_PLACE = r"[가-힣]{1,6}\d{0,2}(?:읍|면|동|리|가)"
_UNIT = (
    r"(?:[\s,(]{0,3}(?:[가-힣a-z\d]{1,12}(?:아파트|빌딩|빌라|오피스텔|타워|맨션|주택|마을|단지"
    "|팰리스|자이|캐슬|푸르지오|힐스테이트|래미안|아이파크|더샵)|"
    r"[가-힣]{1,6}동\)|[가-힣]{1,6}동(?=[,)])|지하\s?\d{1,2}층|b?\d{1,4}\s?동|[a-z가-다]\s?동"
    r"|\d{1,3}\s?층|\d{1,5}\s?호실?)\)?){1,5}"
)
_ROAD = (
    r"[가-힣]{1,8}\d{0,3}(?:번)?(?:대로|로|길)\s?(?:\d{1,3}번?[가나다라]?길\s?)?\d{1,5}"
    r"(?:\s?-\s?\d{1,5})?(?:번길\s?\d{1,4}(?:-\d{1,4})?)?"
)
_LOT = rf"{_PLACE}\s?(?:산\s?)?\d{{1,5}}(?:\s?-\s?\d{{1,5}}(?![-\d]))?(?:\s?번지)?"
_NOT_COUNTED = (
    r"(?!\d|[\s]?(?:개|명|원|만|천|시|분|일|월|년|주|회|번(?![지길])|대|건|배|기가|메가|%|퍼센트|장|달"
    r"|통|인|살|세|층에서|,\d|\.\d|[gm]b|:|/))"
)
_KOREAN_ADDRESS = re.compile(
    rf"(?<![가-힣])(?:(?P<regions>{_REGION}(?:\s?{_REGION}){{0,2}})(?:\s?{_PLACE}){{0,2}}\s?|"
    rf"(?P<place>{_PLACE})\s)?(?:(?P<road>{_ROAD})|(?P<lot>{_LOT}))"
    rf"{_NOT_COUNTED}(?P<unit>{_UNIT})?"
)
_APARTMENT = re.compile(
    r"(?:[가-힣a-z]{1,12}\s?(?:아파트|빌라|맨션|오피스텔|타운|마을|단지|자이|캐슬|푸르지오"
    r"|힐스테이트|래미안|아이파크)?\s?(?:\d{1,2}\s?(?:차|단지)\s?)?)?"
    r"(?<!\d)\d{1,4}\s?동\s?\d{1,5}\s?호(?!선|기|점)"
)
_ADDRESS_WORDS = re.compile(r"주소|배송지|사는\s?곳|집은|살아|거주|보내\s?주|설치\s?장소|이사|도로명|address|배달")
_STREETS = (
    "(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|terrace|crescent"
    "|parkway|pkwy|place|highway|hwy|gardens|square)"
)
_ENGLISH_ADDRESS = re.compile(
    rf"(?<![\w.$€£-])\d{{1,5}}[a-d]?\s(?:(?:north|south|east|west|[nsew]\.?)\s)?(?P<middle>"
    rf"(?:[a-z\d][a-z\d'.-]{{0,20}}\s){{1,3}}){_STREETS}\b\.?"
    r"(?:,?\s(?:apt|apartment|unit|suite|ste|flat|floor|#)\.?\s?[a-z\d-]{1,6})?"
    r"(?:,\s[a-z][a-z'.]{1,20}(?:\s[a-z][a-z'.]{1,20}){0,2})?(?:,?\s[a-z]{2}\s\d{5}(?:-\d{4})?"
    r"|,?\s[a-z]{1,2}\d[a-z\d]?\s\d[a-z]{2})?"
)
_PO_BOX = re.compile(r"\b(?:p\.?\s?o\.?\s?box|사서함)\s(?:제\s?)?\d{1,6}(?:호)?\b")
_NO_STREET = re.compile(
    r"\b(?:a|an|and|at|days?|for|from|hours?|i|in|is|it|items?|minutes?|months?|my|no|of|on|or"
    r"|percent|per|the|times?|to|was|weeks?|with|years?|you|star|way|more|people|gb|am|pm)\b"
)


def _address(text: str) -> Iterator[Personal]:
    for found in _KOREAN_ADDRESS.finditer(text):
        certain = found["regions"] or found["unit"] or "번지" in found[0] or "번길" in found[0]
        if (
            certain
            and not found["regions"]
            and not _number_after_name(found)
            and not _near(text, found, _ADDRESS_WORDS)
        ):
            certain = False
        if certain or (_near(text, found, _ADDRESS_WORDS) and (found["road"] or found["place"])):
            yield Personal("address", *_trimmed(found), found[0].strip(" ,("))
    for found in _APARTMENT.finditer(text):
        yield Personal("address", *_trimmed(found), found[0].strip())
    for found in _ENGLISH_ADDRESS.finditer(text):
        if not _NO_STREET.search(found["middle"]):
            yield Personal("address", *found.span(), found[0])
    for found in _PO_BOX.finditer(text):
        yield Personal("address", *found.span(), found[0])


def _number_after_name(found: re.Match[str]) -> bool:
    """Whether a road without its town is one for certain: it has a side street, a lot or a unit behind it."""
    return (
        "번길" in found[0]
        or "번지" in found[0]
        or bool(found["unit"] and re.search(r"\d\s?호|\d\s?층|동\)", found["unit"]))
    )


def _trimmed(found: re.Match[str]) -> tuple[int, int]:
    start = found.start() + len(found[0]) - len(found[0].lstrip(" ,("))
    return start, found.end() - (len(found[0]) - len(found[0].rstrip(" ,(")))


FINDERS: dict[str, Callable[[str], Iterator[Personal]]] = {
    "resident_number": _resident,
    "card": _card,
    "driver_licence": _licence,
    "passport": _passport,
    "email": _email,
    "phone": _phone,
    "account": _account,
    "address": _address,
}


def find(text: str, public: bool = True) -> list[Personal]:
    """All personal data in a normalised text with digits as digits; none overlap, the earlier kind of KINDS wins.

    `public`: whether the service numbers of companies, which are nobody's personal data, are among them.
    """
    taken = bytearray(len(text))
    kept: list[Personal] = []
    for kind in KINDS:
        for one in sorted(FINDERS[kind](text), key=lambda x: (x.start - x.end, x.start)):
            if (public or not one.public) and not any(taken[one.start : one.end]):
                taken[one.start : one.end] = b"\1" * (one.end - one.start)
                kept.append(one)
    return sorted(kept, key=lambda x: x.start)
