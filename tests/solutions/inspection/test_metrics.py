"""Metrics against the plainest possible reference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from solutions.inspection.metrics import (
    PixelMeter,
    clopper_pearson,
    upper_bound,
)


def pairwise(good, bad) -> float:
    good, bad = np.asarray(good, dtype=float)[None, :], np.asarray(bad, dtype=float)[:, None]
    return float(((bad > good) + 0.5 * (bad == good)).mean())


def test_heat_maps_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        PixelMeter().add(np.full((4, 4), np.inf, dtype=np.float32), np.zeros((4, 4), dtype=bool))


def pictures(rng, count=14, offset=0.0, scale=1.0):
    """Heat maps at 32×32 and masks at 96×80, of good and of bad pictures, with several regions of unlike size."""
    for index in range(count):
        mask = np.zeros((96, 80), dtype=np.uint8)
        if index % 2:
            for _ in range(int(rng.integers(1, 4))):
                x, y, radius = rng.integers(5, 75), rng.integers(5, 90), int(rng.integers(1, 12))
                cv2.circle(mask, (int(x), int(y)), radius, 1, -1)
        heat = cv2.resize(mask.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        heat = cv2.GaussianBlur(heat, (0, 0), 1.5) + rng.gamma(2.0, 0.12, (32, 32)).astype(np.float32)
        yield (heat * scale + offset).astype(np.float32), mask > 0


def reference(samples):
    """Pixel AUROC and AUPRO from all pixels at once, one step of the curve for each distinct score."""
    scores, labels, weights = [], [], []
    regions = 0
    for heat, mask in samples:
        scores.append(cv2.resize(heat, mask.shape[::-1], interpolation=cv2.INTER_LINEAR).ravel())
        labels.append(mask.ravel())
        count, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += count - 1
        weight = np.zeros(mask.shape)
        for region in range(1, count):
            weight[components == region] = 1 / (components == region).sum()
        weights.append(weight.ravel())
    scores, labels, weights = map(np.concatenate, (scores, labels, weights))
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    rate = np.append(0, np.cumsum(~labels[order])[last] / (~labels).sum())
    overlap = np.append(0, np.cumsum(weights[order])[last] / regions)
    found = np.append(0, np.cumsum(labels[order])[last] / labels.sum())
    grid = np.append(rate[rate < 0.3], 0.3)
    kept = np.append(overlap[rate < 0.3], np.interp(0.3, rate, overlap))
    return np.trapezoid(found, rate), np.trapezoid(kept, grid) / 0.3


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1000.0, 1.0), (-5.0, 1e-3), (3.0, 1e4)])
def test_streamed_pixel_metrics_equal_the_reference_at_any_offset_and_scale(offset, scale):
    samples = list(pictures(np.random.default_rng(7), offset=offset, scale=scale))
    meter = PixelMeter()
    for heat, mask in samples:
        meter.add(heat, mask)
    auroc, aupro = reference(samples)
    assert 0.6 < aupro < 0.999
    assert meter.pixel_auroc() == pytest.approx(auroc, abs=2e-4)
    assert meter.aupro() == pytest.approx(aupro, abs=1e-3)


def test_a_small_region_counts_as_much_as_a_large_one():
    mask = np.zeros((64, 64), dtype=bool)
    mask[2:4, 2:4] = True
    mask[20:60, 20:60] = True
    heat = np.zeros((64, 64), dtype=np.float32)
    heat[20:60, 20:60] = 1.0
    meter = PixelMeter()
    meter.add(heat, mask)
    assert meter.regions == 2
    # The large region is found at once, the small one together with all good pixels: half, then a ramp to 1.
    assert meter.aupro() == pytest.approx(0.5 + 0.25 * 0.3, abs=1e-6)
    assert meter.pixel_auroc() == pytest.approx(pairwise([0] * 10, [1] * 1600 + [0] * 4), abs=1e-6)


def test_perfect_and_absent_defects():
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:20, 10:20] = True
    perfect, none = PixelMeter(), PixelMeter()
    perfect.add(mask.astype(np.float32), mask)
    assert (perfect.pixel_auroc(), perfect.aupro()) == (1.0, pytest.approx(1.0))
    none.add(np.ones((8, 8), dtype=np.float32), np.zeros((40, 40), dtype=bool))
    assert none.pixel_auroc() is None
    assert none.aupro() is None


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    [(0, 30, 0.0, 0.11570), (3, 10, 0.06674, 0.65245), (10, 10, 0.69150, 1.0), (5, 1000, 0.001625, 0.011629)],
)
def test_clopper_pearson_gives_the_tabled_values(events, trials, low, high):
    assert clopper_pearson(events, trials) == (pytest.approx(low, abs=2e-5), pytest.approx(high, abs=2e-5))


def test_thirty_parts_cannot_promise_a_thousandth():
    assert upper_bound(0, 30) == pytest.approx(1 - 0.05 ** (1 / 30), abs=1e-9)
    assert upper_bound(0, 3000) == pytest.approx(0.001, abs=3e-5)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
