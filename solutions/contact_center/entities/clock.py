"""Times of day: `오후 3시 반`, `열두 시 십오 분`, `15:30`, `half past three`, `quarter to five`, `3pm`, `noon`.

An hour from 1 to 12 without a word for the part of the day is ambiguous. `Clock.choose` decides: the one inside the
business hours of that day (of any day, where none is named), else the one still to come, else what people mean most
often (7 to 11 in the morning, 12 to 6 in the afternoon).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass

from solutions.contact_center.entities import numbers

PARTS_KO = "오전|오후|아침|점심|저녁|밤|새벽|낮|한밤|정오"
_HOUR_KO = (
    "(?:열한|열두|열하나|열둘|열|한|두|세|네|다섯|여섯|일곱|여덟|여덜|아홉|이십[일이삼사]?"
    r"|십[일이삼사오육칠팔구]?|\d{1,2})"
)
_MINUTE_KO = r"(?:[이삼사오]?십[일이삼사오육칠팔구]?|[일이삼사오육칠팔구]|\d{1,2})"
_KOREAN = re.compile(
    rf"(?:(?P<part>{PARTS_KO})\s?(?:에\s?)?)?(?<![\d.,:])(?P<hour>{_HOUR_KO})\s?시(?!간|작|스템|세|오(?!전|후)"
    "|도|내|장|청|리즈|험|켜|키|즌|트|중|대)"
    rf"(?:\s?(?:(?P<minute>{_MINUTE_KO})\s?분(?!기|실|류|할|납)(?:\s?(?P<before>전))?|(?P<half>반)"
    r"(?!드|품|납|대|환|송)))?(?:\s?(?:정각|쯤|경|께))?"
)
_FIGURES = re.compile(
    rf"(?:(?P<part>{PARTS_KO}|am|pm|a\.m\.|p\.m\.)\s?)?(?<![\d.:/-])(?P<hour>[01]?\d|2[0-4])\s?:\s?"
    r"(?P<minute>[0-5]\d)(?::[0-5]\d)?(?![\d:]|\.\d)"
    r"(?:\s?(?P<after>[ap]\.?m\b\.?))?"
)
_NAMED = re.compile(r"(?P<noon>정오|(?<![가-힣])한낮|\b(?:at\s)?(?:noon|midday)\b)|(?P<midnight>자정|\bmidnight\b)")
_NUMBER_EN = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d{1,2})"
_MINUTE_EN = (
    r"(?:(?:twenty|thirty|forty|fifty)(?:[\s-](?:one|two|three|four|five|six|seven|eight|nine))?|ten|eleven|twelve|"
    r"thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|oh[\s-](?:one|two|three|four"
    "|five|six|seven|eight|nine)|five)"
)
_PART_EN = r"(?:\s?(?:in\sthe\s|at\s)?(?P<after>[ap]\.?m\b\.?|morning|afternoon|evening|night))"
_TO_PAST = re.compile(
    rf"(?<![a-z\d])(?:(?P<half>half)(?:\spast)?|(?:a\s)?(?P<quarter>quarter)\s(?P<qway>past|to|after|before|of|till)|"
    rf"(?P<minute>{_MINUTE_EN}|\d{{1,2}})(?:\sminutes?)?\s(?P<way>past|to|till|after|before))\s"
    rf"(?P<hour>{_NUMBER_EN})(?![a-z\d:]){_PART_EN}?"
)
_ENGLISH = re.compile(
    r"(?<![a-z\d.,:/$€£-])(?P<at>(?:at|around|by|before|after|until|till)\s)?"
    rf"(?P<hour>{_NUMBER_EN})(?![:\d])"
    rf"(?:(?:\s(?P<minute>{_MINUTE_EN}))(?![a-z]))?(?P<clock>\s?o\s?['’]?\s?clock)?{_PART_EN}?"
    r"(?![a-z\d]|[.,:/-]\d|%|\s?(?:st|nd|rd|th)\b)"
)
_UNITS_FOLLOW = re.compile(
    r"\s?(?:minutes?|hours?|days?|weeks?|months?|years?|people|persons?|items?|dollars?|won|bucks"
    r"|percent|gb|times|of\b|euros?|"
    r"pounds?|cents?|january|february|march|april|may\b|june|july|august|september|october"
    r"|november|december|jan\b|feb\b|hundred|thousand|pieces|units)"
)


@dataclass(frozen=True)
class Clock:
    """A time as said: hour 0 to 24, minute, and whether the half of the day is known."""

    start: int
    end: int
    hour: int
    minute: int
    sure: bool = True
    next_day: bool = False
    """밤 12시, midnight: the end of the day that is named."""

    def choose(self, open_: tuple[tuple[dt.time, dt.time], ...] = (), after: dt.time | None = None) -> dt.time:
        """The time of day; of two possible ones the likelier.

        Args:
            open_: the spans of business hours on that day.
            after: now, where the day is today and the time is still to come.
        """
        if self.sure:
            return dt.time(self.hour % 24, self.minute)
        both = [dt.time(self.hour % 12, self.minute), dt.time(self.hour % 12 + 12, self.minute)]
        later = [one for one in both if after is None or one > after]
        inside = [one for one in later or both if any(begin <= one <= end for begin, end in open_)]
        if len(inside) == 1:
            return inside[0]
        if len(later) == 1:
            return later[0]
        return both[0] if 7 <= self.hour <= 11 else both[1]


def find(text: str, bare: bool = False) -> Iterator[Clock]:
    """The times in a normalised text.

    `bare`: a number alone (`세 시`, `3`, `three`) is one too, as an answer may be.
    """
    for found in _KOREAN.finditer(text):
        yield from _korean(found, text)
    for found in _FIGURES.finditer(text):
        part = found["part"] or (found["after"] or "").replace(".", "")
        whole = int(found["hour"])
        yield from _clock(found, whole, int(found["minute"]), part, sure=found["hour"][0] == "0" or whole > 12)
    for found in _NAMED.finditer(text):
        noon = found["noon"] is not None
        yield Clock(found.start(), found.end(), 12 if noon else 0, 0, next_day=not noon)
    for found in _TO_PAST.finditer(text):
        yield from _to_past(found)
    for found in _ENGLISH.finditer(text):
        if bare or found["at"] or found["clock"] or found["after"]:
            if _UNITS_FOLLOW.match(text, found.end()) and not found["after"] and not found["clock"]:
                continue
            if found["minute"] and not (found["at"] or found["after"]) and not bare:
                continue
            minute = numbers.value((found["minute"] or "0").replace("oh", "zero"))
            after = (found["after"] or "").replace(".", "")
            yield from _clock(found, int(numbers.value(found["hour"]) or 0), int(minute or 0), after)


def _korean(found: re.Match[str], text: str) -> Iterator[Clock]:
    hour = numbers.value(found["hour"])
    minute = 30 if found["half"] else numbers.value(found["minute"] or "0")
    preceded = "가" <= text[found.start() - 1 : found.start()] <= "힣"
    if hour is None or minute is None or (preceded and not found["part"] and found["hour"] in "한두세네십"):
        yield from _korean_unspaced(found, text, hour, minute)
        return
    hour, minute = int(hour), int(minute)
    if found["before"]:
        hour, minute = (hour - 1) % 24 or 12, 60 - minute
    yield from _clock(found, hour, minute, found["part"] or "", sure=hour > 12 or found["hour"] == "00")


_DAY_BEFORE = re.compile(r"(?:일|날|늘|레|피|말|주|에|째)\Z")


def _korean_unspaced(found: re.Match[str], text: str, hour: float | None, minute: float | None) -> Iterator[Clock]:
    """`내일세시`: a short hour inside a run of Hangul counts where a day stands before it."""
    if hour is not None and minute is not None and _DAY_BEFORE.search(text[found.start() - 1 : found.start()]):
        yield from _clock(found, int(hour), int(minute), "")


def _to_past(found: re.Match[str]) -> Iterator[Clock]:
    hour = int(numbers.value(found["hour"]) or 0)
    minute = 30 if found["half"] else 15 if found["quarter"] else int(numbers.value(found["minute"]) or 0)
    bare = found["minute"] is not None and found["minute"].isdigit() and "minute" not in found[0]
    if bare and minute % 5:
        return  # 3 to 9: a range
    if (found["way"] or found["qway"]) in ("to", "till", "before", "of"):
        hour, minute = (hour - 1) % 24 or 12, 60 - minute
    yield from _clock(found, hour, minute, (found["after"] or "").replace(".", ""))


_MORNING = ("오전", "새벽", "아침", "am", "morning")
_EVENING = ("오후", "저녁", "pm", "afternoon", "evening", "낮", "점심")


def _clock(found: re.Match[str], hour: int, minute: int, part: str, sure: bool = False) -> Iterator[Clock]:
    """A clock from what was said, unless there is no such time."""
    next_day = False
    if part and hour <= 12:
        sure = True
        if part in _MORNING:
            hour %= 12
        elif part in _EVENING:
            hour = hour if part in ("낮", "점심") and hour in (10, 11) else hour % 12 + 12
            next_day = part == "저녁" and hour == 12
            hour = 0 if next_day else hour
        elif part == "정오":
            hour = 12
        else:  # 밤, 한밤, night: 6 to 11 in the evening, 12 to 5 after midnight
            next_day = hour % 12 < 6
            hour = hour % 12 if next_day else hour + 12
    if hour == 24 and minute == 0:
        hour, next_day = 0, True
    if 0 <= hour < 24 and 0 <= minute < 60 and (sure or hour > 0):
        sure = sure or hour == 0 or hour > 12
        yield Clock(found.start(), found.end(), hour, minute, sure, next_day)
