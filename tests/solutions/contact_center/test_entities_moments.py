"""Dates, times and moments in Korean and English, told from a Wednesday afternoon in Seoul."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solutions.contact_center.config import Hours
from solutions.contact_center.entities import Extractor

SEOUL = ZoneInfo("Asia/Seoul")
NOW = dt.datetime(2026, 11, 18, 14, 0, tzinfo=SEOUL)
WEEK = ["09:00-18:00"]
HOURS = Hours(mon=WEEK, tue=WEEK, wed=WEEK, thu=WEEK, fri=WEEK)
EXTRACTOR = Extractor([], hours=HOURS, used=["datetime", "date", "time"])


def first(text: str, kind: str, extractor: Extractor = EXTRACTOR, now: dt.datetime = NOW) -> str | None:
    return next((one.value for one in extractor.extract(text, now) if one.kind == kind), None)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("오늘", "2026-11-18"),
        ("내일", "2026-11-19"),
        ("모레", "2026-11-20"),
        ("내일모레", "2026-11-20"),
        ("글피", "2026-11-21"),
        ("어제", "2026-11-17"),
        ("3일 뒤", "2026-11-21"),
        ("사흘 후", "2026-11-21"),
        ("보름 뒤", "2026-12-03"),
        ("일주일 뒤", "2026-11-25"),
        ("이 주 뒤에", "2026-12-02"),
        ("한 달 뒤", "2026-12-18"),
        ("다음 주 수요일", "2026-11-25"),
        ("다음주수요일", "2026-11-25"),
        ("다음 금요일", "2026-11-20"),
        ("이번 주 금요일", "2026-11-20"),
        ("금요일", "2026-11-20"),
        ("수요일", "2026-11-25"),
        ("지난주 금요일", "2026-11-13"),
        ("이번 주말", "2026-11-21"),
        ("다음 주말", "2026-11-28"),
        ("이번 달 말", "2026-11-30"),
        ("다음 달 초", "2026-12-01"),
        ("다음 달 3일", "2026-12-03"),
        ("월말", "2026-11-30"),
        ("12월 25일", "2026-12-25"),
        ("십이월 이십오일", "2026-12-25"),
        ("5월 3일", "2027-05-03"),
        ("2월 29일", "2028-02-29"),
        ("내년 3월 2일", "2027-03-02"),
        ("2026년 12월 1일", "2026-12-01"),
        ("15일에", "2026-12-15"),
        ("5월 3일에 주문했는데", "2026-05-03"),
        ("2026-12-01", "2026-12-01"),
        ("2026.12.1", "2026-12-01"),
        ("5/3", "2027-05-03"),
        ("tomorrow", "2026-11-19"),
        ("the day after tomorrow", "2026-11-20"),
        ("next Friday", "2026-11-27"),
        ("this Friday", "2026-11-20"),
        ("on friday", "2026-11-20"),
        ("in two weeks", "2026-12-02"),
        ("three days from now", "2026-11-21"),
        ("a week ago", "2026-11-11"),
        ("the 3rd of May", "2027-05-03"),
        ("May 3rd", "2027-05-03"),
        ("3 May 2028", "2028-05-03"),
        ("the twenty-first of June", "2027-06-21"),
        ("the end of the month", "2026-11-30"),
        ("the end of next month", "2026-12-31"),
        ("the 5th", "2026-12-05"),
    ],
)
def test_days(text: str, date: str) -> None:
    assert first(text, "date") == date


@pytest.mark.parametrize("text", ["2월 30일", "13월 1일", "2026-13-40", "99/99", "the 45th of May", "45일에"])
def test_days_that_do_not_exist_are_not_found(text: str) -> None:
    assert first(text, "date") is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("오후 3시 반", "15:30"),
        ("열두 시 반", "12:30"),
        ("저녁 7시", "19:00"),
        ("아침 8시", "08:00"),
        ("새벽 두 시", "02:00"),
        ("세 시 십오 분", "15:15"),
        ("3시 10분 전", "14:50"),
        ("십오 시", "15:00"),
        ("15:30", "15:30"),
        ("오전 9:05", "09:05"),
        ("정오", "12:00"),
        ("자정", "00:00"),
        ("half past three", "15:30"),
        ("quarter to five", "16:45"),
        ("at three", "15:00"),
        ("3pm", "15:00"),
        ("3:30 a.m.", "03:30"),
        ("ten past nine am", "09:10"),
        ("seven in the evening", "19:00"),
        ("noon", "12:00"),
        ("nine o'clock", "09:00"),
    ],
)
def test_times(text: str, time: str) -> None:
    assert first(text, "time", now=NOW.replace(hour=8)) == time


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("내일 오후 3시", "2026-11-19T15:00:00+09:00"),
        ("내일오후3시에", "2026-11-19T15:00:00+09:00"),
        ("내일 세시요", "2026-11-19T15:00:00+09:00"),
        ("다음 주 수요일 열두 시 반", "2026-11-25T12:30:00+09:00"),
        ("모레 저녁 7시", "2026-11-20T19:00:00+09:00"),
        ("내일 밤 12시", "2026-11-20T00:00:00+09:00"),
        ("12월 1일(화) 오전 10시", "2026-12-01T10:00:00+09:00"),
        ("두 시간 뒤", "2026-11-18T16:00:00+09:00"),
        ("30분 후에", "2026-11-18T14:30:00+09:00"),
        ("tomorrow at half past three", "2026-11-19T15:30:00+09:00"),
        ("3pm on Friday", "2026-11-20T15:00:00+09:00"),
        ("next Friday, 10:30", "2026-11-27T10:30:00+09:00"),
        ("tomorrow evening at 7", "2026-11-19T19:00:00+09:00"),
        ("in 20 minutes", "2026-11-18T14:20:00+09:00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    assert first(text, "datetime") == moment


def test_an_ambiguous_hour_falls_into_the_business_hours() -> None:
    night = Extractor([], hours=Hours(thu=["19:00-23:00"]), used=["datetime"])
    assert first("내일 9시", "datetime") == "2026-11-19T09:00:00+09:00"
    assert first("내일 9시", "datetime", night) == "2026-11-19T21:00:00+09:00"
    assert first("내일 오전 9시", "datetime", night) == "2026-11-19T09:00:00+09:00"
    without = Extractor([], used=["datetime"])
    assert first("오늘 9시", "datetime", without) == "2026-11-18T21:00:00+09:00"  # nine in the morning is over


def test_the_order_of_day_and_month_follows_language_and_place() -> None:
    assert first("5/3", "date", Extractor([], "en", "America/New_York", used=["date"])) == "2027-05-03"
    assert first("5/3", "date", Extractor([], "en", "Europe/London", used=["date"])) == "2027-03-05"


def test_days_and_hours_are_told_apart_across_a_change_of_the_clocks() -> None:
    zone = ZoneInfo("Europe/London")
    before = dt.datetime(2026, 10, 24, 12, 0, tzinfo=zone)  # the clocks go back in the night that follows
    extractor = Extractor([], "en", "Europe/London", used=["datetime"])
    assert first("in 24 hours", "datetime", extractor, before) == "2026-10-25T11:00:00+00:00"
    assert first("tomorrow at noon", "datetime", extractor, before) == "2026-10-25T12:00:00+00:00"


def test_a_moment_given_in_another_zone_is_taken_in_the_bots() -> None:
    late = dt.datetime(2026, 11, 18, 20, 0, tzinfo=dt.UTC)  # already the 19th in Seoul
    assert first("오늘", "date", now=late) == "2026-11-19"
    assert first("오늘", "date", now=dt.datetime(2026, 11, 18, 20, 0)) == "2026-11-18"


FUTURE = (
    *(
        "내일",
        "모레",
        "금요일",
        "다음 주 월요일",
        "12월 25일",
        "5월 3일",
        "15일에",
        "3일 뒤",
        "다음 달 말",
        "이번 달 말",
    ),
    *("tomorrow", "friday", "next tuesday", "in two weeks", "May 3rd", "the 5th", "the end of the month"),
)


@given(
    st.sampled_from(FUTURE),
    st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2040, 12, 31), timezones=st.just(SEOUL)),
)
@settings(max_examples=300, deadline=None)
def test_words_for_the_future_never_lie_in_the_past(text: str, now: dt.datetime) -> None:
    found = first(text, "date", now=now)
    assert found is not None
    assert dt.date.fromisoformat(found) >= now.date()


@given(st.dates(dt.date(2000, 1, 1), dt.date(2099, 12, 31)))
@settings(deadline=None)
def test_written_dates_are_read_back(day: dt.date) -> None:
    for text in (f"{day:%Y-%m-%d}", f"{day.year}년 {day.month}월 {day.day}일", f"{day:%B} {day.day}, {day.year}"):
        assert first(text, "date") == day.isoformat()


@given(st.times())
@settings(deadline=None)
def test_written_times_are_read_back(moment: dt.time) -> None:
    hour, half = moment.hour % 12 or 12, "오전" if moment.hour < 12 else "오후"
    for text in (f"{half} {hour}시 {moment.minute}분", f"{hour}:{moment.minute:02d} {'ap'[moment.hour >= 12]}m"):
        assert first(text, "time") == f"{moment:%H:%M}"
