"""The area under the curve against the plainest possible reference: counting pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auroc import auroc, auroc_interval, standard_error

SCORES = st.lists(st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6), min_size=1, max_size=30)


def pairwise(good, bad) -> float:
    good, bad = np.asarray(good, dtype=float)[None, :], np.asarray(bad, dtype=float)[:, None]
    return float(((bad > good) + 0.5 * (bad == good)).mean())


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_pairs_in_the_right_order(good, bad):
    assert auroc(good, bad) == pytest.approx(pairwise(good, bad), abs=1e-12)


def test_auroc_needs_both_kinds():
    assert auroc([], [1.0]) is None
    assert auroc([1.0], []) is None
    assert auroc_interval([], [1.0]) is None


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        auroc([0.0, float("nan")], [1.0])


def test_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth = 0.760  # of two normals one deviation apart
    held = 0
    for seed in range(120):
        good, bad = rng.normal(0, 1, 60), rng.normal(1, 1, 60)
        low, high = auroc_interval(good, bad, seed=seed, rounds=300)
        assert low <= auroc(good, bad) <= high
        held += low <= truth <= high
    assert 0.86 <= held / 120 <= 1.0


def test_the_standard_error_is_about_the_spread_of_the_figure_over_many_draws():
    rng = np.random.default_rng(2)
    drawn = [auroc(rng.normal(0, 1, 60), rng.normal(1, 1, 40)) for _ in range(600)]
    assert standard_error(float(np.mean(drawn)), 60, 40) == pytest.approx(np.std(drawn), rel=0.15)
    assert standard_error(1.0, 10, 10) == 0
