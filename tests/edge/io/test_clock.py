"""Presentation stamps as they come from real cameras: wrapped, jumping, missing, drifting."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.io.clock import FileClock, LiveClock

ODD = st.one_of(st.none(), st.floats(), st.floats(min_value=-10, max_value=1e5))


@given(st.lists(ODD, max_size=60))
def test_file_times_rise_strictly_whatever_the_stamps(stamps: list[float | None]) -> None:
    times = FileClock(0.04)
    seen = [times.at(stamp) for stamp in stamps]
    assert all(math.isfinite(each) for each in seen)
    assert all(after > before for before, after in itertools.pairwise(seen))


@given(st.lists(st.tuples(ODD, st.floats(min_value=0, max_value=60)), max_size=60))
def test_live_times_rise_strictly_and_never_leave_the_arrivals(packets: list[tuple[float | None, float]]) -> None:
    times, now_s, before = LiveClock(), 1000.0, -math.inf
    for stamp, waited in packets:
        now_s += waited
        time_s = times.at(stamp, now_s)
        assert before < time_s <= now_s + 0.001 * len(packets) + 1e-6
        assert time_s > now_s - 200
        before = time_s


def test_file_keeps_its_stamps_and_bridges_what_is_broken() -> None:
    times = FileClock(0.1)
    got = [times.at(stamp) for stamp in (5.0, 5.1, None, 5.3, 2.0, 2.1, 1e9, 1e9 + 0.1)]
    assert got == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], abs=1e-6)


def test_live_time_is_the_stamps_where_arrival_jitters() -> None:
    times = LiveClock()
    times.anchor([(0.0, 100.0)])
    got = [times.at(number * 0.04, 100 + number * 0.04 + 0.2 * (number % 3 == 1)) for number in range(200)]
    assert got == pytest.approx([100 + number * 0.04 for number in range(200)], abs=0.005)


def test_live_clock_survives_a_wrap_and_a_jump() -> None:
    times, got = LiveClock(), []
    for number in range(300):
        stamp = number * 0.04
        stamp -= 95_443.7 if number >= 100 else 0  # 33 bits of 90 kHz
        stamp += 1e6 if number >= 200 else 0
        got.append(times.at(stamp, 50 + number * 0.04))
    assert got == pytest.approx([50 + number * 0.04 for number in range(300)], abs=0.005)


def test_live_clock_follows_a_camera_whose_clock_is_slow() -> None:
    times = LiveClock()
    for number in range(200_000):
        time_s = times.at(number * 0.04 * (1 - 100e-6), number * 0.04)
    assert time_s == pytest.approx(number * 0.04, abs=0.01)


def test_a_burst_after_a_stall_keeps_its_own_times() -> None:
    times = LiveClock()
    arrivals = [number * 0.04 if number < 50 else max(12.0, number * 0.04) for number in range(400)]
    got = [times.at(number * 0.04, arrived) for number, arrived in enumerate(arrivals)]
    assert got == pytest.approx([number * 0.04 for number in range(400)], abs=0.02)
