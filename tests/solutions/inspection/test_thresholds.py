"""Thresholds on simulated parts, whose true overkill is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from solutions.inspection.thresholds import Tail, choose_thresholds, promise, threshold_table


def _normal_above(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


LAWS = {
    "normal": (lambda rng, n: rng.normal(10, 1, n), lambda t: _normal_above(t - 10)),
    "log-normal": (lambda rng, n: np.exp(0.3 * rng.standard_normal(n)), lambda t: _normal_above(math.log(t) / 0.3)),
    "gumbel": (lambda rng, n: 5 + rng.gumbel(size=n), lambda t: 1 - math.exp(-math.exp(5 - t))),
    "exponential": (lambda rng, n: 1 + rng.exponential(size=n), lambda t: math.exp(-max(t - 1, 0.0))),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("parts", "asked", "low", "high"),
    [
        (20, 0.01, 0.2, 2.0),
        (30, 0.01, 0.3, 1.7),
        (60, 0.01, 0.4, 1.6),
        (200, 0.01, 0.6, 1.5),
        (1000, 0.01, 0.85, 1.2),
        (40, 0.05, 0.8, 1.3),
    ],
)
def test_realised_overkill_is_close_to_the_one_asked(law, parts, asked, low, high):
    draw, above = LAWS[law]
    rng = np.random.default_rng(parts)
    thresholds = [Tail(draw(rng, parts)).quantile(asked) for _ in range(250)]
    realised = float(np.mean([above(value) for value in thresholds]))
    assert low * asked < realised < high * asked


def test_the_threshold_is_not_the_maximum_of_the_good_parts():
    rng = np.random.default_rng(3)
    for parts in (10, 30, 99, 100, 400):
        good = rng.normal(10, 1, parts)
        value = choose_thresholds(good, max_overkill=0.01)["review"].value
        assert abs(value - good.max()) > 1e-6


def test_few_parts_are_told_what_they_cannot_promise():
    details = choose_thresholds(np.random.default_rng(0).normal(10, 1, 30), max_overkill=0.001)["review"].details
    assert details["overkill_bound"] == pytest.approx(0.095, abs=0.001)
    assert "9.5 %" in details["promise"]
    assert "0.1 %" in details["promise"]
    assert "2,995" in details["promise"]
    assert "keeps" in promise(0.05, 100, 0, extrapolated=False)


def test_a_stricter_overkill_never_lowers_the_threshold():
    tail = Tail(np.random.default_rng(5).gamma(3, 1, 137))
    values = [tail.quantile(rate) for rate in np.geomspace(0.4, 1e-6, 60)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(values))


def test_exceedance_undoes_quantile():
    tail = Tail(np.random.default_rng(6).normal(0, 1, 50))
    for rate in (0.3, 0.02, 0.001):
        assert tail.exceedance(tail.quantile(rate)) == pytest.approx(rate, rel=1e-3)


def test_upper_threshold_by_escape_where_bad_parts_are_known():
    rng = np.random.default_rng(8)
    good = rng.normal(10, 1, 80)
    apart = choose_thresholds(good, rng.normal(40, 2, 60), max_escape=0.05)
    assert apart["ng"].method.startswith("accepted escape")
    assert 30 < apart["ng"].value < 40
    assert apart["ng"].details["bad_parts_ok"] == 0
    mixed = choose_thresholds(good, rng.normal(11, 1, 60))
    assert "overlap" in mixed["ng"].method
    assert mixed["ng"].value > mixed["review"].value
    assert mixed["ng"].details["bad_parts_ok"] > 0
    alone = choose_thresholds(good)
    assert alone["ng"].value > alone["review"].value
    assert alone["review"].value == apart["review"].value


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=5, max_size=60),
    st.lists(st.floats(-1e4, 1e4), max_size=20),
    st.sampled_from([0.001, 0.01, 0.1, 0.3]),
)
def test_review_never_exceeds_ng(good, bad, asked):
    chosen = choose_thresholds(good, bad, max_overkill=asked)
    assert math.isfinite(chosen["review"].value)
    assert chosen["review"].value <= chosen["ng"].value


def test_identical_scores_still_pass():
    chosen = choose_thresholds([2.5] * 20)
    assert chosen["review"].value > 2.5


def test_an_outlier_among_the_good_parts_does_not_set_the_threshold():
    good = np.append(np.random.default_rng(2).normal(10, 1, 59), 60.0)
    value = choose_thresholds(good)["review"].value
    assert 12 < value < 45


@pytest.mark.parametrize(
    "bad_input",
    [
        {"good": [1.0, 2.0]},
        {"good": [1.0] * 9 + [float("nan")]},
        {"good": [1.0] * 10, "max_overkill": 0.0},
        {"good": [1.0] * 10, "max_escape": 0.9},
    ],
)
def test_bad_input_is_refused_in_one_sentence(bad_input):
    with pytest.raises(BadInput) as caught:
        choose_thresholds(**bad_input)
    assert str(caught.value).endswith(".")


def test_table_shows_the_trade():
    rng = np.random.default_rng(9)
    good, bad = rng.normal(10, 1, 200), rng.normal(13, 1.5, 80)
    chosen = choose_thresholds(good, bad)
    rows = threshold_table(good, bad, thresholds=chosen)
    assert {row.name for row in rows} == {"", "review", "ng"}
    assert [row.threshold for row in rows] == sorted(row.threshold for row in rows)
    overkill = [row.overkill for row in rows]
    assert overkill == sorted(overkill, reverse=True)
    escape = [row.escape for row in rows]
    assert escape == sorted(escape)
    assert escape[0] == pytest.approx(float((bad < rows[0].threshold).mean()))
    for row in rows:
        assert row.overkill <= row.overkill_bound
        assert row.escape <= row.escape_bound
        assert 0 <= row.review <= row.overkill
    assert threshold_table(good)[0].escape is None
    assert threshold_table(good)[0].review is None
