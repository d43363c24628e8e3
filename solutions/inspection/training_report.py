"""What a package carries for people: `report.html`, `histogram.png` and `candidates.json` among its assets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.dataset import DatasetReport, Item
from shared.images import Rgb, read_image
from shared.manifest import Manifest
from solutions.inspection.chart import histogram_png
from solutions.inspection.pipeline import decide
from solutions.inspection.report import Contents, Sample, render

Run = Callable[[Rgb, float], Mapping[str, NDArray[Any]]]
"""A picture and a pixel threshold → the graph's outputs for it."""
_SAMPLES = 6


def assets_of(
    manifest: Manifest,
    data: DatasetReport,
    candidates: Sequence[Mapping[str, Any]],
    good_scores: Sequence[float],
    bad_scores: Sequence[float],
    run: Run,
) -> dict[str, bytes]:
    """The assets of a package that was just trained.

    Args:
        good_scores: of `data.train_good`, in order, each by a model that had not seen the part.
        bad_scores: of `data.bad`, in order; empty where they were not looked at.
    """
    thresholds = {name: threshold.value for name, threshold in manifest.thresholds.items()}
    worst = np.argsort(good_scores)[::-1][:_SAMPLES]
    best = np.argsort(bad_scores)[:_SAMPLES]
    contents = Contents(
        title=f"Inspection: {manifest.name} {manifest.version}",
        manifest=manifest,
        metrics=manifest.metrics,
        good_scores=good_scores,
        bad_scores=bad_scores,
        thresholds={name: manifest.thresholds[name] for name in ("review", "ng")},
        worst_good=[_sample(data.train_good[i], run, thresholds) for i in worst],
        best_bad=[_sample(data.bad[i], run, thresholds) for i in best],
        candidates=candidates,
        data=data,
        notes=[
            "Scores of good parts are cross-validated: each is by a model that had not seen the part. The heat maps "
            "are by the final model, which has.",
            "Models were compared on held-out good parts against the same with painted defects; the discriminator had "
            "not seen defects of those kinds.",
        ],
    )
    return {
        "report.html": render(contents).encode(),
        "histogram.png": histogram_png(good_scores, bad_scores or None, thresholds),
        "candidates.json": (json.dumps(list(candidates), indent=2) + "\n").encode(),
    }


def strangers(items: Sequence[Item], scores: Sequence[float]) -> list[str]:
    """A sentence about good parts that are unlike all others, if there are any: defects among them cost the most.

    Beyond the upper quartile by three times the distance between the quartiles (Tukey's "far out").
    """
    low, high = np.quantile(scores, [0.25, 0.75])
    limit = high + 3 * (high - low)
    found = sorted((-score, item.name) for item, score in zip(items, scores, strict=True) if score > limit)
    if not found:
        return []
    named = ", ".join(name for _, name in found[:_SAMPLES])
    return [
        f"{len(found)} of {len(items)} good parts are unlike the others ({named}): look at them; one that is defective "
        "should be taken out, for it raises the thresholds."
    ]


def _sample(item: Item, run: Run, thresholds: Mapping[str, float]) -> Sample:
    image = read_image(item.path)
    decision = decide(run(image, thresholds["pixel"]), thresholds, image.shape[1], image.shape[0])
    boxes = [region.box for region in decision.regions]
    return Sample(item.name, image, decision.heatmap, decision.score, decision.verdict, item.label, None, boxes)
