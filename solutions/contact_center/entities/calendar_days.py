"""Days as people name them: `내일`, `다음 주 수요일`, `사흘 뒤`, `이번 달 말`, `the 3rd of May`, `in two weeks`, `5/3`.

Every pattern has a function that turns its match into a date, given today. A day without its year, month or week is
the next one to come; only words for the past (`지난주`, `ago`, `샀는데`, `I ordered`) look back. Weeks begin on Monday:
`다음 주 금요일` and `next Friday` are in the week after this one, `금요일` alone is the coming Friday.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from solutions.contact_center.entities import numbers

N = rf"(?:{numbers.SINO}|\d{{1,4}}|{numbers.NATIVE})"
_SMALL = r"(?:\d{1,2}|[이삼]?십[일이삼사오육칠팔구]?|[일이삼사오육칠팔구유시])"
_MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
]  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(f'{m}|{m[:3]}' for m in _MONTHS)}|sept)\.?"
_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_WEEKDAY = r"(?P<weekday>mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?P<day>day)?s?\.?"
_ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
    "twentieth", "twenty-first", "twenty-second", "twenty-third", "twenty-fourth", "twenty-fifth",
    "twenty-sixth", "twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first",
]  # fmt: skip
_ORDINAL_WORD = "|".join(sorted((word.replace("-", r"[\s-]") for word in _ORDINALS), key=len, reverse=True))
_ORDINAL = rf"(?P<nth>[0-3]?\d\s?(?:st|nd|rd|th)|{_ORDINAL_WORD})(?![a-z])"
_COUNT_EN = rf"(?P<count>an?|a\scouple\sof|a\sfew|\d{{1,4}}|{numbers.ENGLISH})"
_YEAR_EN = r"(?:,?\s(?P<year>(?:19|20)\d\d)(?!\d))?"
_DAYS_KO = {
    "하루": 1, "이틀": 2, "사흘": 3, "나흘": 4, "닷새": 5, "엿새": 6, "이레": 7, "여드레": 8, "아흐레": 9, "열흘": 10,
    "보름": 15, "일주일": 7,
}  # fmt: skip
_NAMED_DAYS = {
    "오늘": 0, "금일": 0, "내일": 1, "낼": 1, "명일": 1, "익일": 1, "모레": 2, "내일모레": 2, "낼모레": 2,
    "모래": 2, "글피": 3,
    "그글피": 4, "어제": -1, "어저께": -1, "작일": -1, "그제": -2, "그저께": -2, "엊그제": -2, "today": 0, "tonight": 0,
    "tomorrow": 1, "tmrw": 1, "tomorow": 1, "tommorow": 1, "tommorrow": 1, "the day after tomorrow": 2,
    "day after tomorrow": 2, "yesterday": -1, "the day before yesterday": -2, "day before yesterday": -2,
    "당일": 0,
}  # fmt: skip
_PAST = re.compile(
    r"[했었았였됐샀왔갔났탔]|받은|결제한|주문한|구매한|\b(?:was|were|did|had|ordered|bought|paid"
    "|received|got|made|happened|charged|"
    r"arrived|since|last|ago)\b"
)
_EDGE = {
    "초": 1,
    "초순": 1,
    "중순": 15,
    "말": 31,
    "말일": 31,
    "하순": 31,
    "말경": 31,
    "beginning": 1,
    "start": 1,
    "middle": 15,
    "end": 31,
}


@dataclass(frozen=True)
class Day:
    """A day as said, where it was said, and how sure it is that a day was meant."""

    start: int
    end: int
    date: dt.date
    confidence: float = 1.0


@dataclass(frozen=True)
class Today:
    """What a day is told from."""

    date: dt.date
    past: bool = False
    """Whether the text looks back."""
    day_first: bool = False
    """Whether 5/3 is the fifth of March."""


def looks_back(text: str) -> bool:
    """Whether a normalised text tells of what has happened."""
    return _PAST.search(text) is not None


def add_months(day: dt.date, months: int) -> dt.date:
    """The same day some months on; the last of the month where there is no such day. OverflowError out of range."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise OverflowError("a date out of range")
    return dt.date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def _edge(first: dt.date, day: int) -> dt.date:
    return first.replace(day=min(day, calendar.monthrange(first.year, first.month)[1]))


def _next_month_day(today: Today, month: int, day: int) -> dt.date:
    """The next such day, today included, or the last one where the text looks back; 29 February waits for its year."""
    step = -1 if today.past else 1
    for year in range(today.date.year, today.date.year + 9 * step, step):
        try:
            found = dt.date(year, month, day)
        except ValueError:
            if not (month == 2 and day == 29):
                raise
            continue
        if (found <= today.date) if today.past else (found >= today.date):
            return found
    raise ValueError("no such day")


def _next_day(today: Today, day: int) -> dt.date:
    for months in range(13):
        first = add_months(today.date.replace(day=1), -months if today.past else months)
        if day <= calendar.monthrange(first.year, first.month)[1]:
            found = first.replace(day=day)
            if (found <= today.date) if today.past else (found >= today.date):
                return found
    raise ValueError("no such day")


def _weekday(today: Today, weekday: int, weeks: int | None) -> dt.date:
    """The coming such day after today (weeks None), or the one in the week that many weeks on."""
    if weeks is None:
        if today.past:
            return today.date - dt.timedelta((today.date.weekday() - weekday - 1) % 7 + 1)
        return today.date + dt.timedelta((weekday - today.date.weekday() - 1) % 7 + 1)
    return today.date - dt.timedelta(today.date.weekday()) + dt.timedelta(weekday, weeks=weeks)


def _number(written: str) -> int:
    if written in ("a", "an"):
        return 1
    if written in ("a couple of", "a few"):
        return 2 if written == "a couple of" else 3
    found = numbers.value({"유": "육", "시": "십"}.get(written, written))
    if found is None or found != int(found):
        raise ValueError("no whole number")
    return int(found)


# --- Korean -----------------------------------------------------------------------------------------------------------

_MONTH_WORDS = {
    "이번": 0,
    "이달": 0,
    "금월": 0,
    "당월": 0,
    "다음": 1,
    "담": 1,
    "내": 1,
    "다다음": 2,
    "지난": -1,
    "저번": -1,
    "전": -1,
}
_WEEK_WORDS = {
    "이번": 0, "금": 0, "요번": 0, "다음": 1, "담": 1, "차": 1, "내": 1, "다다음": 2, "다담": 2, "지난": -1,
    "저번": -1, "지지난": -2,
}  # fmt: skip
_YEAR_WORDS = {"올해": 0, "금년": 0, "내년": 1, "내후년": 2, "작년": -1, "지난해": -1, "재작년": -2}


def _full_ko(found: re.Match[str], today: Today) -> dt.date:
    year = found["year"]
    month, day = _number(found["month"]), _number(found["day"])
    if found["yearword"]:
        return dt.date(today.date.year + _YEAR_WORDS[found["yearword"].replace(" ", "")], month, day)
    if year:
        return dt.date(int(year) + (2000 if len(year) == 2 else 0), month, day)
    return _next_month_day(today, month, day)


def _month_of(found: re.Match[str], today: Today) -> dt.date:
    """The first of the month that `이번 달`, `다음 달`, `5월` names."""
    groups = found.groupdict()
    if groups.get("month"):
        month = _number(groups["month"] or "")
        if not 1 <= month <= 12:
            raise ValueError("no such month")
        year = today.date.year
        if not today.past and month < today.date.month:
            year += 1
        elif today.past and month > today.date.month:
            year -= 1
        return dt.date(year, month, 1)
    which = (groups.get("which") or "이달").replace(" ", "")
    which = which.removesuffix("달") if which != "이달" else which
    return add_months(today.date.replace(day=1), _MONTH_WORDS[which])


def _edge_ko(found: re.Match[str], today: Today) -> dt.date:
    return _edge(_month_of(found, today), _EDGE[found["edge"]])


def _day_of_month_ko(found: re.Match[str], today: Today) -> dt.date:
    return _month_of(found, today).replace(day=_number(found["day"]))


def _year_end(found: re.Match[str], today: Today) -> dt.date:
    return dt.date(today.date.year + _YEAR_WORDS.get((found["yearword"] or "").strip(), 0), 12, 31)


def _this_month_end(_found: re.Match[str], today: Today) -> dt.date:
    return _edge(today.date.replace(day=1), 31)


def _weekday_ko(found: re.Match[str], today: Today) -> dt.date:
    which = found["which"]
    weeks = None if which is None else _WEEK_WORDS[which]
    name = found["weekday"] or found["short"]
    if found["week"] is None and which in ("다음", "담") and name != "주말":
        weeks = None  # 다음 금요일: the coming one
    weekday = 5 if name == "주말" else "월화수목금토일".index(name[0])
    if name == "주말" and weeks is None and today.date.weekday() >= 5 and not today.past:
        return today.date
    return _weekday(today, weekday, weeks)


def _week_ko(found: re.Match[str], today: Today) -> dt.date:
    return max(_weekday(today, 0, _WEEK_WORDS[found["which"]]), today.date if found["which"] == "이번" else dt.date.min)


def _relative_ko(found: re.Match[str], today: Today) -> dt.date:
    sign = -1 if found["way"] == "전" else 1
    if found["days"]:
        return today.date + dt.timedelta(sign * _DAYS_KO[found["days"]])
    count = sign * _number(found["count"])
    unit = found["unit"].replace(" ", "")
    if unit in ("일", "날"):
        return today.date + dt.timedelta(count)
    if unit in ("주", "주일"):
        return today.date + dt.timedelta(weeks=count)
    return add_months(today.date, count * (12 if unit == "년" else 1))


def _day_ko(found: re.Match[str], today: Today) -> dt.date:
    day = _number(found["day"])
    if not 1 <= day <= 31:
        raise ValueError("no such day")
    return _next_day(today, day)


def _named(found: re.Match[str], today: Today) -> dt.date:
    return today.date + dt.timedelta(_NAMED_DAYS[" ".join(found[0].split())])


_YEARWORD = r"(?P<yearword>올해|금년|내년|내후년|작년|지난\s?해|재작년)"
_WHICH_MONTH = r"(?P<which>(?:이번|다다음|다음|담|지난|저번)\s?달|이달|내달|금월|당월|전달)"
_DAYWORD = "|".join(_DAYS_KO)
_AFTER_DAY = (
    r"(?=\s?(?:에|날|로|까지|부터|쯤|경|자로|이후|이전|오전|오후|아침|점심|저녁|밤|새벽|정오|낮|[월화수목금토일]요일|"
    r"(?:\d{1,2}|한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|열한|열두)\s?시|\())"
)
_KOREAN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Today], dt.date], float], ...] = (
    (
        re.compile(
            rf"(?:{_YEARWORD}\s?|(?<!\d)(?P<year>(?:19|20)\d\d|\d\d)\s?년\s?)?(?<![\d.])"
            rf"(?P<month>{_SMALL})\s?월\s?(?P<day>{_SMALL})\s?일"
        ),
        _full_ko,
        1.0,
    ),
    (
        re.compile(
            rf"(?:(?<![\d.])(?P<month>{_SMALL})\s?월|{_WHICH_MONTH})\s?(?P<edge>말일|말경|초순|중순"
            r"|하순|초|말)(?!고|씀|투|로\s?하)"
        ),
        _edge_ko,
        0.9,
    ),
    (re.compile(r"(?<![가-힣])월말"), _this_month_end, 0.9),
    (re.compile(rf"(?:{_YEARWORD}\s?말|(?<![가-힣])연말)"), _year_end, 0.8),
    (re.compile(rf"{_WHICH_MONTH}\s?(?P<day>{_SMALL})\s?일"), _day_of_month_ko, 1.0),
    (
        re.compile(
            r"(?:(?P<which>이번|금|요번|다다음|다담|다음|담|차|내|지지난|지난|저번)\s?(?P<week>주)?\s?)?"
            "(?:(?<![가-힣])|(?<=번)|(?<=음)|(?<=담)|(?<=난)|(?<=주)|(?<=에)|(?<=은)|(?<=일)|"
            r"(?<=\s))(?P<weekday>[월화수목금토일]요일|주말)"
            r"(?P<short>)"
        ),
        _weekday_ko,
        1.0,
    ),
    (
        re.compile(
            r"(?P<which>이번|요번|다다음|다담|다음|담|지지난|지난|저번)\s?(?P<week>주)\s?"
            "(?P<weekday>)(?P<short>[월화수목금토일])(?=$|[^가-힣]|에|날|로|까지|부터|오)"
        ),
        _weekday_ko,
        0.9,
    ),
    (
        re.compile(
            r"(?P<which>이번|요번|다다음|다음|담|지난|저번)\s?주(?![가-힣]*(?:[월화수목금토일]요일"
            "|말|문|소|차|세|식|인))"
        ),
        _week_ko,
        0.6,
    ),
    (
        re.compile(
            rf"(?<![\d.])(?:(?P<days>{_DAYWORD})|(?P<count>{N})\s?(?P<unit>일|날|주일|주|개월|달"
            r"|년))\s?(?:이?\s?)(?P<way>뒤|후|있다가|지나서|전)(?!화|체|부|자|기|문|송|달|환)"
        ),
        _relative_ko,
        1.0,
    ),
    (re.compile(rf"(?<![\d.가-힣])(?P<day>\d{{1,2}}|[이삼]?십[일이삼사오육칠팔구]?)\s?일{_AFTER_DAY}"), _day_ko, 0.8),
    (
        re.compile(
            r"(?:내일\s?모레|낼\s?모레|그글피|글피|모레|(?<![가-힣])모래(?=에|로|\s|$)|내일|"
            "(?<![가-힣])낼|명일|익일|오늘|금일|어저께|어제|그저께|엊그제|(?<![가-힣])그제)"
            r"(?!자로\s?보)"
        ),
        lambda f, t: t.date + dt.timedelta(_NAMED_DAYS[f[0].replace(" ", "")]),
        1.0,
    ),
)

# --- English and figures ----------------------------------------------------------------------------------------------


def _month_day_en(found: re.Match[str], today: Today) -> dt.date:
    month = [name[:3] for name in _MONTHS].index(found["month"][:3]) + 1
    groups = found.groupdict()
    day = _nth(groups.get("nth") or groups.get("plain") or "")
    if groups.get("year"):
        return dt.date(int(groups["year"] or 0), month, day)
    return _next_month_day(today, month, day)


def _nth(written: str) -> int:
    figures = re.match(r"\d+", written)
    return int(figures[0]) if figures else _ORDINALS.index("-".join(written.split())) + 1


def _weekday_en(found: re.Match[str], today: Today) -> dt.date:
    weekday = [name[:3] for name in _WEEKDAYS].index(found["weekday"][:3])
    which = (found["which"] or "").strip()
    weeks = {"next": 1, "last": -1}.get(which)
    if found["later"]:
        return _weekday(today, weekday, None) + dt.timedelta(weeks=1)
    if which == "last" and weekday < today.date.weekday():
        weeks = 0  # last Monday, said on a Friday: four days ago
    return _weekday(today, weekday, weeks)


def _weekend_en(found: re.Match[str], today: Today) -> dt.date:
    which = (found["which"] or "").strip()
    if which != "next" and today.date.weekday() >= 5:
        return today.date
    return _weekday(today, 5, {"next": 1, "last": -1}.get(which, 0))


def _relative_en(found: re.Match[str], today: Today) -> dt.date:
    count = _number(found["count"]) * (-1 if found["ago"] else 1)
    unit = found["unit"]
    if unit in ("day", "week", "fortnight"):
        return today.date + dt.timedelta(count * {"day": 1, "week": 7, "fortnight": 14}[unit])
    return add_months(today.date, count * (12 if unit == "year" else 1))


def _edge_en(found: re.Match[str], today: Today) -> dt.date:
    groups = found.groupdict()
    if groups["month"]:
        month = [name[:3] for name in _MONTHS].index((groups["month"] or "")[:3]) + 1
        first = _next_month_day(today, month, 28).replace(day=1)
    else:
        first = add_months(today.date.replace(day=1), {"next": 1, "last": -1}.get(groups["which"] or "", 0))
    return _edge(first, _EDGE[found["edge"]])


def _period_en(found: re.Match[str], today: Today) -> dt.date:
    sign = 1 if found["which"] == "next" else -1
    if found["unit"] == "week":
        return _weekday(today, 0, sign)
    return add_months(today.date.replace(day=1), sign)


def _iso(found: re.Match[str], _today: Today) -> dt.date:
    return dt.date(int(found["year"]), int(found["month"]), int(found["day"]))


def _slashed(found: re.Match[str], today: Today) -> dt.date:
    first, second = int(found["first"]), int(found["second"])
    month, day = (second, first) if (today.day_first and second <= 12) or first > 12 else (first, second)
    if found["year"]:
        year = int(found["year"])
        return dt.date(year + (2000 if year < 100 else 0), month, day)
    return _next_month_day(today, month, day)


def _the_nth(found: re.Match[str], today: Today) -> dt.date:
    return _next_day(today, _nth(found["nth"]))


_EVERYWHERE: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Today], dt.date], float], ...] = (
    (re.compile((
        r"(?<![\d./-])(?P<year>(?:19|20)\d\d)\s?[-./]\s?(?P<month>\d{1,2})\s?[-./]\s?(?P<day>\d{1,2})"
        r"(?!\d|[-/]\d|\.\d)"
    )), _iso, 1.0),
    (re.compile(
        r"(?<![\d./-])(?P<first>\d{1,2})/(?P<second>\d{1,2})(?:/(?P<year>(?:19|20)\d\d|\d\d))?(?![\d/]"
        r"|\.\d)"
    ), _slashed, 0.9),
    (re.compile(
        r"\b(?:the\s)?day\s(?:after\stomorrow|before\syesterday)\b|\b(?:today|tonight|tomm?orr?ow|tmrw"
        r"|yesterday)\b"
    ), _named, 1.0),
    (re.compile(
        rf"\b{_MONTH}\s(?:the\s)?(?:{_ORDINAL}|(?P<plain>[0-3]?\d)(?![\d:%]|[.,]\d"
        rf"|\s?[ap]\.?m\b)){_YEAR_EN}"
    ), _month_day_en, 1.0),
    (re.compile(
        rf"(?<![\w.])(?:the\s)?(?:{_ORDINAL}|(?P<plain>[0-3]?\d))\s(?:of\s)?{_MONTH}(?![a-z]){_YEAR_EN}"
    ), _month_day_en, 1.0),
    (re.compile(
        rf"\b(?P<which>next|this|last|coming|on)?\s?\b{_WEEKDAY}(?![a-z])(?P<later>\sweek\b"
        r"|\sof\snext\sweek)?"
    ), _weekday_en, 1.0),
    (re.compile(r"\b(?P<which>next|this|last|the)\s(?:coming\s)?weekend\b"), _weekend_en, 0.9),
    (re.compile(
        rf"\b(?:in\s|after\s)?{_COUNT_EN}\s(?P<unit>day|week|fortnight|month|year)s?(?:\s(?:later"
        r"|from\s(?:now|today))|(?P<ago>\s(?:ago|earlier)))"
    ), _relative_en, 1.0),
    (re.compile(
        rf"\b(?:in|after)\s(?:about\s)?{_COUNT_EN}\s(?P<unit>day|week|fortnight|month|year)s?"
        r"(?:['’]\stime)?\b(?P<ago>)"
    ), _relative_en, 1.0),
    (re.compile(
        r"\b(?P<edge>end|beginning|start|middle)\sof\s(?:(?:the|this|(?P<which>next|last))\smonth"
        f"|{_MONTH})(?![a-z])"
    ), _edge_en, 0.9),
    (re.compile(r"\b(?P<which>next|last)\s(?P<unit>week|month)\b(?!end)"), _period_en, 0.6),
    (re.compile(
        rf"\b(?:on\s)?the\s{_ORDINAL}(?!\s(?:of\s)?(?:{'|'.join(m[:3] for m in _MONTHS)}|floor|time"
        "|item|one|option|order|line|month|week|day|page|plan))"
    ), _the_nth, 0.8),
)  # fmt: skip
_SHORT_WEEKDAYS = ("mon", "tue", "tues", "wed", "thu", "thur", "thurs", "fri")


def find(text: str, today: Today, korean: bool) -> Iterator[Day]:
    """The days in a normalised text; of overlapping ones all, for the caller to choose."""
    patterns = (*_EVERYWHERE, *_KOREAN) if korean else _EVERYWHERE
    for pattern, resolve, confidence in patterns:
        for found in pattern.finditer(text):
            groups = found.groupdict()
            if resolve is _weekday_en and not groups["day"] and groups["weekday"] not in _SHORT_WEEKDAYS:
                continue  # sat, sun, wednes: words of their own, or none
            try:
                date = resolve(found, today)
            except (ValueError, OverflowError, KeyError):
                continue
            start = found.end("which") if resolve is _weekday_en and groups["which"] == "on" else found.start()
            start += len(text[start : found.end()]) - len(text[start : found.end()].lstrip())
            yield Day(start, found.end() - _trailing(found[0]), date, confidence)


def _trailing(matched: str) -> int:
    return len(matched) - len(matched.rstrip(" ("))
