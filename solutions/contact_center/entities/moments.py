"""Dates and times put together into moments, spans of time, and money: what `datetime`, `duration`, `money` mean.

A moment is a day with a time (`내일 오후 3시`, `at half past three on Friday`) or a distance from now (`두 시간 뒤`,
`in 20 minutes`, `지금`). A duration is ISO 8601 (`PT2H30M`, `P3D`). An amount of money is its number; the currency
is told too.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from solutions.contact_center.entities import calendar_days, clock, numbers

Spans = tuple[tuple[dt.time, dt.time], ...]
WEEKDAYS_KO = "월화수목금토일"

_GAP = re.compile(
    r"(?:[\s,]{0,2}(?:\([월화수목금토일a-z]{1,3}\)|[월화수목금토일]요일|mon\w*|tue\w*|wed\w*"
    r"|thu\w*|fri\w*|sat\w*|sun\w*)?[\s,]{0,2}(?:에|날|의|자로?|at|on|around|by|in\sthe)?\s?)"
)
_DAY_PART = re.compile(
    r"\s?(?P<part>morning|afternoon|evening|night|아침|점심|저녁|밤|새벽|오전|오후)(?:에)?\s?(?:at\s)?"
)
_UNIT_KO = r"(?:개월|달|주일|주|시간|일|분|초|년)"
_N_KO = rf"(?:{numbers.SINO}|{numbers.DIGITS}|{numbers.NATIVE})"
_WORDS_KO = {
    "하루": "P1D",
    "이틀": "P2D",
    "사흘": "P3D",
    "나흘": "P4D",
    "닷새": "P5D",
    "열흘": "P10D",
    "보름": "P15D",
    "일주일": "P7D",
    "반나절": "PT6H",
    "한나절": "PT12H",
    "반년": "P6M",
    "반시간": "PT30M",
}
_DURATION_KO = re.compile(
    rf"(?<![\d.,가-힣])(?![한두세네]일|구분)(?:(?P<word>{'|'.join(_WORDS_KO)})|(?P<nights>{_N_KO})\s?박\s?{_N_KO}\s?일|"
    rf"(?P<parts>{_N_KO}\s?{_UNIT_KO}(?:\s?{_N_KO}\s?{_UNIT_KO}){{0,3}}))(?P<half>\s?반"
    r"(?![가-힣]))?(?!\s?(?:월|째|차|자|권|층|요일))"
)
_PART_KO = re.compile(rf"(?P<count>{_N_KO})\s?(?P<unit>{_UNIT_KO})")
_ISO = {
    "년": ("Y", 1), "개월": ("M", 1), "달": ("M", 1), "주": ("D", 7), "주일": ("D", 7), "일": ("D", 1),
    "시간": ("H", 1), "분": ("m", 1), "초": ("S", 1),
    "year": ("Y", 1), "month": ("M", 1), "week": ("D", 7), "fortnight": ("D", 14), "day": ("D", 1), "night": ("D", 1),
    "hour": ("H", 1), "hr": ("H", 1), "minute": ("m", 1), "min": ("m", 1), "second": ("S", 1), "sec": ("S", 1),
}  # fmt: skip
_UNIT_EN = r"(?:years?|months?|weeks?|fortnights?|days?|nights?|hours?|hrs?|minutes?|mins?|seconds?|secs?)"
_N_EN = rf"(?:half\san?|an?\scouple\sof|an?|{numbers.ENGLISH})"
_DURATION_EN = re.compile(
    rf"(?<![a-z\d.,])(?P<parts>{_N_EN}(?:\s|-)?{_UNIT_EN}(?![a-z])(?:(?:,\s|\sand\s|\s)"
    rf"(?!a\shalf){_N_EN}\s?{_UNIT_EN}(?![a-z])){{0,3}})(?P<half>\sand\sa\shalf)?"
)
_PART_EN = re.compile(rf"(?P<count>{_N_EN})(?:\s|-)?(?P<unit>{_UNIT_EN})(?![a-z])")
_HALF_EN = re.compile(rf"(?<![a-z\d])(?P<count>{_N_EN})\sand\sa\shalf\s(?P<unit>{_UNIT_EN})(?![a-z])")
_AFTER_KO = re.compile(
    r"\s?(?:정도\s?|쯤\s?)?(?P<way>뒤|후|있다가|이따가?|지나서|전)(?:에|로|쯤)?(?!화|체|부|자|기|문|송)"
)
_AFTER_EN = re.compile(r"\s(?:later|from\snow)\b|(?P<ago>\s(?:ago|earlier))\b")
_BEFORE_EN = re.compile(r"(?:^|\s)(?:in|after)\s(?:about\s)?\Z")
_NOW = re.compile(r"(?<![가-힣])(?:지금|당장|방금)|\b(?:right\s)?now\b|\basap\b|\bimmediately\b")

_CURRENCIES = {
    "원": "KRW", "won": "KRW", "krw": "KRW", "₩": "KRW", "달러": "USD", "불": "USD", "$": "USD", "us$": "USD",
    "usd": "USD",
    "dollar": "USD", "buck": "USD", "유로": "EUR", "€": "EUR", "eur": "EUR", "euro": "EUR", "£": "GBP", "gbp": "GBP",
    "pound": "GBP", "파운드": "GBP", "quid": "GBP", "엔": "JPY", "¥": "JPY", "yen": "JPY", "jpy": "JPY",
    "위안": "CNY", "yuan": "CNY",
}  # fmt: skip
_MONEY_KO = re.compile(
    rf"(?P<amount>{_N_KO})\s?(?P<currency>원|달러|불(?!가|만|편|량)|유로|엔(?!진)|위안|파운드)(?!인"
    "|룸|격|래|하|활|본|칙|천|주시|복|두|피스|어민)"
)
_MONEY_SIGN = re.compile(
    rf"(?P<currency>us\$|[$€£¥₩]|usd|krw|eur|gbp)\s?(?P<amount>{numbers.DIGITS})(?!\d)(?:\s?"
    "(?P<times>k|million|billion|thousand|m|만|천|억)(?![a-z]))?"
)
_MONEY_EN = re.compile(
    rf"(?<![a-z\d.,$€£])(?P<amount>an?|{numbers.ENGLISH})\s?(?P<currency>won|krw|dollars?|bucks?"
    "|usd|euros?|eur|pounds?|quid|gbp|yen|yuan)(?![a-z])"
    rf"(?:\s(?:and\s)?(?P<cents>{numbers.ENGLISH})\s(?:cents?|pence)(?![a-z]))?"
)
_CENTS = re.compile(rf"(?<![a-z\d.,])(?P<amount>{numbers.ENGLISH})\s(?:cents?)(?![a-z])")
_TIMES = {
    "k": 1000,
    "thousand": 1000,
    "천": 1000,
    "만": 10**4,
    "m": 10**6,
    "million": 10**6,
    "억": 10**8,
    "billion": 10**9,
}
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "CNY": "CN¥"}


@dataclass(frozen=True)
class Piece:
    """Something found in a normalised text: where, of which built-in kind, its JSON value and how it is shown."""

    kind: str
    start: int
    end: int
    value: Any
    text: str
    confidence: float = 1.0
    unit: str = ""
    """The currency of an amount."""


@dataclass(frozen=True)
class When:
    """What moments are told from: now in the bot's zone, its language, its hours by weekday (Monday 0)."""

    now: dt.datetime
    language: str = "ko"
    hours: Sequence[Spans] = ((),) * 7
    day_first: bool = False

    @property
    def all_hours(self) -> Spans:
        """The business hours of any day."""
        return tuple(dict.fromkeys(span for day in self.hours for span in day))


# --- shown ------------------------------------------------------------------------------------------------------------


def show_date(day: dt.date, language: str, today: dt.date) -> str:
    """`11월 24일 화요일`, `Tuesday 24 November`; with the year where it is another."""
    other = day.year != today.year
    if language == "ko":
        year = f"{day.year}년 " if other else ""
        return f"{year}{day.month}월 {day.day}일 {WEEKDAYS_KO[day.weekday()]}요일"
    return f"{day:%A} {day.day} {day:%B}" + (f" {day.year}" if other else "")


def show_time(time: dt.time, language: str) -> str:
    """`오후 3시 30분`, `3:30 pm`."""
    hour = time.hour % 12 or 12
    if language == "ko":
        return f"{'오전' if time.hour < 12 else '오후'} {hour}시" + (f" {time.minute}분" if time.minute else "")
    return f"{hour}:{time.minute:02d} {'am' if time.hour < 12 else 'pm'}"


def show_money(amount: float, currency: str, language: str) -> str:
    """`35,000원`, `$12.50`."""
    if currency == "KRW":
        return f"{amount:,}원" if language == "ko" else f"{amount:,} won"
    whole = isinstance(amount, int) or amount == int(amount)
    return f"{_SYMBOLS[currency]}{int(amount):,}" if whole else f"{_SYMBOLS[currency]}{amount:,.2f}"


def _show_duration(parts: dict[str, float], language: str) -> str:
    names = {
        "Y": ("년", "year"),
        "M": ("개월", "month"),
        "D": ("일", "day"),
        "H": ("시간", "hour"),
        "m": ("분", "minute"),
        "S": ("초", "second"),
    }
    if language == "ko":
        return " ".join(f"{parts[key]:g}{ko}" for key, (ko, _) in names.items() if parts.get(key))
    return " ".join(
        f"{parts[key]:g} {en}{'' if parts[key] == 1 else 's'}" for key, (_, en) in names.items() if parts.get(key)
    )


# --- money ------------------------------------------------------------------------------------------------------------


def money(text: str, when: When) -> Iterator[Piece]:
    """Amounts with a currency."""
    for pattern in (_MONEY_KO, _MONEY_SIGN, _MONEY_EN):
        for found in pattern.finditer(text):
            groups = found.groupdict()
            start, written = found.start(), found["amount"]
            if "가" <= text[start - 1 : start] <= "힣" and "가" <= written[0] <= "힣" and written[1:2] == " ":
                start, written = start + 2, written[2:]  # 돈이 천원: the particle before is no 2
            amount = 1 if written in ("a", "an") else numbers.value(written)
            name = found["currency"]
            if amount is None or (pattern is _MONEY_KO and _glued(text, found)):
                continue
            amount *= _TIMES.get(groups.get("times") or "", 1)
            if groups.get("cents"):
                amount += (numbers.value(groups["cents"] or "") or 0) / 100
            currency = _CURRENCIES.get(name) or _CURRENCIES[name.removesuffix("s")]
            shown = show_money(amount, currency, when.language)
            yield Piece("money", start, found.end(), amount, shown, 1.0, currency)
    for found in _CENTS.finditer(text):
        amount = (numbers.value(found["amount"]) or 0) / 100
        yield Piece("money", *found.span(), amount, show_money(amount, "USD", when.language), 0.8, "USD")


def _glued(text: str, found: re.Match[str]) -> bool:
    """Whether a short amount in Hangul is part of another word: `지원`, `회원`, `영원`, `이유로`."""
    if found["amount"] in tuple("영공일이삼사오육칠팔구"):
        return True
    before = text[found.start() - 1 : found.start()]
    return "가" <= before <= "힣" and not found["amount"][0].isdigit() and len(found["amount"]) < 2


# --- durations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lasting:
    start: int
    end: int
    parts: dict[str, float]

    @property
    def iso(self) -> str:
        day = "".join(f"{self.parts[key]:g}{key}" for key in "YMD" if self.parts.get(key))
        time = "".join(f"{self.parts[key]:g}{key.upper()}" for key in "HmS" if self.parts.get(key))
        return f"P{day}" + (f"T{time}" if time else "") if day or time else "PT0S"

    def from_(self, moment: dt.datetime, sign: int) -> dt.datetime:
        """The moment this long after (1) or before (-1) another."""
        months = sign * (self.parts.get("Y", 0) * 12 + self.parts.get("M", 0))
        if months:
            moment = dt.datetime.combine(calendar_days.add_months(moment.date(), int(months)), moment.timetz())
        seconds = self.parts.get("H", 0) * 3600 + self.parts.get("m", 0) * 60 + self.parts.get("S", 0)
        # Days keep the time on the clock; hours and minutes are counted in absolute time, across clock changes too.
        moment = moment + dt.timedelta(days=sign * self.parts.get("D", 0))
        absolute = moment.astimezone(dt.UTC) + dt.timedelta(seconds=sign * seconds)
        return absolute.astimezone(moment.tzinfo)


def _lasting(text: str, korean: bool) -> Iterator[_Lasting]:
    if korean:
        for found in _DURATION_KO.finditer(text):
            parts: dict[str, float]
            if found["word"]:
                iso = _WORDS_KO[found["word"]]
                parts = {iso[-1] if "T" not in iso else iso[-1].replace("M", "m"): float(re.sub(r"\D", "", iso))}
            elif found["nights"]:
                parts = {"D": float(numbers.value(found["nights"]) or 0)}
            else:
                parts = _summed(_PART_KO, found["parts"])
            yield from _halved(found, parts)
    for found in _DURATION_EN.finditer(text):
        yield from _halved(found, _summed(_PART_EN, found["parts"]))
    for found in _HALF_EN.finditer(text):
        yield from _halved(found, _summed(_PART_EN, f"{found['count']} {found['unit']}"), half=True)


def _halved(found: re.Match[str], parts: dict[str, float], half: bool = False) -> Iterator[_Lasting]:
    if half or found.groupdict().get("half"):
        smallest = next(key for key in "SmHDMY" if key in parts) if parts else ""
        below, by = {"H": ("m", 30), "m": ("S", 30), "D": ("H", 12), "M": ("D", 15), "Y": ("M", 6)}.get(
            smallest, ("", 0)
        )
        if below and parts[smallest] == 7 and smallest == "D":
            below, by = "D", 3
        if below:
            parts[below] = parts.get(below, 0) + by
    if parts and any(parts.values()):
        yield _Lasting(*found.span(), parts)


def _summed(pattern: re.Pattern[str], written: str) -> dict[str, float]:
    parts: dict[str, float] = {}
    for found in pattern.finditer(written):
        count = found["count"]
        if count.startswith("half"):
            amount: float = 0.5
        elif count.endswith("couple of"):
            amount = 2
        else:
            amount = 1 if count in ("a", "an") else numbers.value(count) or 0
        unit = found["unit"]
        key, times = _ISO.get(unit) or _ISO[unit.removesuffix("s")]
        amount *= times
        if amount == 0.5 and key in ("H", "M", "Y", "m"):
            key, amount = {"H": ("m", 30.0), "M": ("D", 15.0), "Y": ("M", 6.0), "m": ("S", 30.0)}[key]
        parts[key] = parts.get(key, 0) + amount
    return parts


def durations(text: str, when: When, korean: bool) -> Iterator[Piece]:
    """Spans of time; those that tell a distance from now (`3일 뒤`) are moments or days, and not among them."""
    for one in _lasting(text, korean):
        if not _distance(text, one):
            yield Piece("duration", one.start, one.end, one.iso, _show_duration(one.parts, when.language), 0.9)


def _distance(text: str, one: _Lasting) -> tuple[int, int, int] | None:
    """Start, end and sign of a distance from now, if the words around a duration make it one."""
    after = _AFTER_KO.match(text, one.end)
    if after:
        return one.start, after.start("way") + len(after["way"]), -1 if after["way"] == "전" else 1
    english = _AFTER_EN.match(text, one.end)
    if english:
        return one.start, english.end(), -1 if english["ago"] else 1
    before = _BEFORE_EN.search(text[max(0, one.start - 12) : one.start])
    if before:
        start = one.start - len(before[0].lstrip())
        return start, one.end, 1
    return None


# --- days and moments -------------------------------------------------------------------------------------------------


def days_and_times(text: str, when: When, korean: bool, bare: bool = False) -> Iterator[Piece]:
    """Dates, times and moments, all that can be read; a moment where a day and a time stand together."""
    today = calendar_days.Today(when.now.date(), calendar_days.looks_back(text), when.day_first)
    days = _longest(list(calendar_days.find(text, today, korean)))
    clocks = _longest(list(clock.find(text, bare)))
    for day in days:
        yield Piece(
            "date",
            day.start,
            day.end,
            day.date.isoformat(),
            show_date(day.date, when.language, when.now.date()),
            day.confidence,
        )
    for one in clocks:
        time = one.choose(when.all_hours)  # of a day that is not known
        yield Piece(
            "time", one.start, one.end, f"{time:%H:%M}", show_time(time, when.language), 1.0 if one.sure else 0.9
        )
    yield from _joined(text, days, clocks, when)
    for lasting in _lasting(text, korean):
        distance = _distance(text, lasting)
        if distance and any(lasting.parts.get(key) for key in "HmS"):
            try:
                yield _moment(distance[0], distance[1], lasting.from_(when.now, distance[2]), when)
            except (OverflowError, ValueError):
                continue
    for found in _NOW.finditer(text):
        yield _moment(*found.span(), when.now, when, 0.6)


def _longest(found: list[Any]) -> list[Any]:
    """Of overlapping ones the longest; of equal ones the surer."""
    kept: list[Any] = []
    taken = bytearray(max((one.end for one in found), default=0))
    for one in sorted(found, key=lambda x: (x.start - x.end, -getattr(x, "confidence", 1.0), x.start)):
        if not any(taken[one.start : one.end]):
            taken[one.start : one.end] = b"\1" * (one.end - one.start)
            kept.append(one)
    return sorted(kept, key=lambda x: x.start)


def _joined(text: str, days: list[calendar_days.Day], clocks: list[clock.Clock], when: When) -> Iterator[Piece]:
    used: set[int] = set()
    starts = [one.start for one in clocks]
    for day in days:
        after = bisect.bisect_left(starts, day.end)
        for number in (after, after - 1):  # the time behind the day, else the one before it
            if number in used or not 0 <= number < len(clocks):
                continue
            one = clocks[number]
            first, second = (day, one) if day.start < one.start else (one, day)
            between = text[first.end : second.start]
            if first.end > second.start or len(between) > 30:
                continue
            part = _DAY_PART.fullmatch(between) if first is day else None
            if _GAP.fullmatch(between) or part:
                used.add(number)
                if part:
                    one = _with_part(one, part["part"])
                yield _moment(first.start, second.end, at(day.date, one, when), when, min(day.confidence, 0.95))
                break


def _with_part(one: clock.Clock, part: str) -> clock.Clock:
    """`tomorrow evening at 7`, `내일 저녁에 7시`: the part of the day stands before."""
    if one.sure:
        return one
    early = part in ("morning", "아침", "새벽", "오전")
    hour = one.hour % 12 if early else one.hour % 12 + 12
    return clock.Clock(one.start, one.end, hour, one.minute, True)


def at(day: dt.date, one: clock.Clock, when: When) -> dt.datetime:
    """The moment of a time on a day.

    An ambiguous hour within the business hours, and later than now if that is today.
    """
    now = when.now.time() if day == when.now.date() else None
    time = one.choose(when.hours[day.weekday()], now)
    moment = dt.datetime.combine(day, time, when.now.tzinfo)
    return moment + dt.timedelta(days=1) if one.next_day else moment


def next_at(one: clock.Clock, when: When) -> dt.datetime:
    """The next moment at which a time comes."""
    moment = at(when.now.date(), one, when)
    if moment <= when.now:
        moment = at(when.now.date() + dt.timedelta(days=1), one, when)
    return moment


def _moment(start: int, end: int, moment: dt.datetime, when: When, confidence: float = 1.0) -> Piece:
    moment = moment.replace(second=0, microsecond=0)
    shown = f"{show_date(moment.date(), when.language, when.now.date())} {show_time(moment.time(), when.language)}"
    return Piece("datetime", start, end, moment.isoformat(), shown, confidence)
