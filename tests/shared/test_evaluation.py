"""Metrics with resampling: what a drop is, when the data are too few, and who evaluates what."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import BadInput
from shared.evaluation import Drop, Evaluation, changed_answers, evaluator_for, interval, mean_evaluation, paired_drop
from tests.shared.packages import make_manifest


def ranking(groups: list[int], answers: list[int] | None = None) -> Evaluation:
    chosen = None if answers is None else np.array(answers)
    return Evaluation("auroc", np.array(groups), lambda _: 1.0, {}, chosen)


def test_the_smallest_group_decides_how_fine_a_metric_is():
    assert ranking([0] * 14 + [1] * 40).smallest_group == 14
    assert ranking([0] * 9).smallest_group == 9
    assert ranking([1] * 5 + [3] * 7).smallest_group == 5  # group numbers need not be dense


def test_a_drop_is_paired():
    generator = np.random.default_rng(0)
    right = (generator.uniform(size=4000) < 0.8).astype(float)
    worse = right.copy()
    worse[np.flatnonzero(right)[:20]] = 0
    drop = paired_drop(mean_evaluation("accuracy", right), mean_evaluation("accuracy", worse))
    assert drop.point == pytest.approx(20 / 4000)
    # Unpaired, the interval of a difference of two shares of 80 % among 4,000 would be ± 0.018.
    assert 0.002 < drop.low < drop.point < drop.high < 0.008
    assert drop.allowed(0.01) == (True, "")
    assert drop.allowed(0.005)[0] is False  # by the bound, not by the point


def test_few_samples_are_taken_by_the_point_with_a_warning():
    allowed, warning = Drop(0.0, 0.0, 0.02, 50).allowed(0.005)
    assert allowed
    assert "600 samples would be enough" in warning
    assert Drop(0.01, 0.0, 0.02, 50).allowed(0.005)[0] is False


def test_other_samples_cannot_be_paired():
    with pytest.raises(ValueError, match="same samples"):
        paired_drop(ranking([0, 0]), ranking([0, 1]))


def test_changed_answers_are_decisions_and_not_scores():
    assert changed_answers(ranking([0] * 4, [0, 1, 2, 2]), ranking([0] * 4, [0, 1, 2, 0])) == 1
    assert changed_answers(ranking([0, 0]), ranking([0, 0], [1, 1])) is None


def test_interval_holds_the_value():
    low, high = interval(mean_evaluation("accuracy", np.array([1.0] * 80 + [0.0] * 20)))
    assert low < 0.8 < high


def test_a_manifest_names_its_evaluator():
    with pytest.raises(BadInput, match="names no evaluator"):
        evaluator_for(make_manifest())
    known = evaluator_for(make_manifest().model_copy(update={"evaluator": "inspection"}))
    assert type(known).__name__ == "InspectionEvaluator"
