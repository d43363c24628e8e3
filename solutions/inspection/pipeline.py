"""A picture becomes a decision: run the package's graph, compare its raw numbers with the manifest's thresholds.

Everything from the uint8 picture to the raw score, heat map and mask is inside `model.onnx`; what is left for this file
is to compare and to translate regions into pixels of the original picture. Training, evaluation, command line and
server all decide through `decide`, so that they cannot drift apart. No torch here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.images import Rgb
from shared.runtime import Model, load

TASK = "inspection"
Verdict = Literal["OK", "REVIEW", "NG"]
THRESHOLDS = ("review", "ng", "pixel")
_MAX_REGIONS = 100
"""Regions told of one picture, the strongest first: a picture that is all defect would otherwise flood its readers."""


@dataclass(frozen=True)
class Region:
    """A connected part of the heat map above the pixel threshold."""

    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels of the original picture; x1 and y1 are exclusive."""
    score: float
    """The largest value of the heat map inside."""
    area: int
    """Pixels of the original picture."""


@dataclass(frozen=True)
class Decision:
    """What was decided of one picture, and from what."""

    score: float
    verdict: Verdict
    regions: list[Region]
    """The strongest first, at most 100."""
    heatmap: NDArray[np.float32]
    """Raw, [S, S], stretched over the whole picture: x_original = x · W / S."""
    mask: NDArray[np.uint8]
    """[S, S], 1 where the heat map is above the pixel threshold."""
    latency_ms: float = 0.0


def decide(outputs: Mapping[str, NDArray[Any]], thresholds: Mapping[str, float], width: int, height: int) -> Decision:
    """The decision for one picture, from what the graph gave for it. A pure function.

    Args:
        outputs: `score` [1], `heatmap` [1, S, S], `mask` [1, S, S].
        thresholds: `review` and `ng`, on the score.
        width, height: of the original picture, in pixels.
    """
    score = float(outputs["score"][0])
    heatmap = np.asarray(outputs["heatmap"][0], dtype=np.float32)
    mask = np.asarray(outputs["mask"][0], dtype=np.uint8)
    verdict: Verdict = "OK" if score < thresholds["review"] else "REVIEW" if score < thresholds["ng"] else "NG"
    return Decision(score, verdict, regions_of(heatmap, mask, width, height), heatmap, mask)


def regions_of(heatmap: NDArray[np.float32], mask: NDArray[np.uint8], width: int, height: int) -> list[Region]:
    """The connected regions of `mask` in pixels of a `width` × `height` picture, the strongest first."""
    if not mask.any():
        return []
    rows, columns = mask.shape
    across, down = width / columns, height / rows
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    regions = []
    for index in range(1, count):
        x, y, wide, high, area = (int(value) for value in statistics[index])
        window = (slice(y, y + high), slice(x, x + wide))
        strongest = float(heatmap[window][labels[window] == index].max())
        right, bottom = min(width, round((x + wide) * across)), min(height, round((y + high) * down))
        left, top = min(round(x * across), right - 1), min(round(y * down), bottom - 1)
        regions.append(Region((left, top, right, bottom), strongest, max(1, round(area * across * down))))
    return sorted(regions, key=lambda region: -region.score)[:_MAX_REGIONS]


class Inspector:
    """A loaded inspection package that decides on pictures.

    Args:
        model: a package of the task `inspection`, loaded.

    Raises:
        BadInput: the package is of another task, or lacks a threshold.
    """

    def __init__(self, model: Model) -> None:
        manifest = model.manifest
        if manifest.task != TASK:
            raise BadInput(f"package {manifest.name} is for {manifest.task}; this needs a package for {TASK}.")
        missing = [name for name in THRESHOLDS if name not in manifest.thresholds]
        if missing:
            raise BadInput(f"package {manifest.name} has no threshold {missing[0]} in its manifest; train it again.")
        self.model = model
        self.thresholds = {name: manifest.thresholds[name].value for name in THRESHOLDS}

    @classmethod
    def load(cls, path: Path | str, threads: int | None = None) -> Inspector:
        """Verify and load the package at `path`. Raises as `shared.runtime.load` and the constructor."""
        return cls(load(Path(path), threads=threads))

    def inspect(self, image: Rgb) -> Decision:
        """Decide on one picture, uint8 [H, W, 3] RGB of any size."""
        return self.inspect_batch([image])[0]

    def inspect_batch(self, images: Sequence[Rgb]) -> list[Decision]:
        """Decide on several pictures; those of one size run through the graph together.

        `latency_ms` of each is its share of the time.
        """
        decisions: list[Decision | None] = [None] * len(images)
        for size in {image.shape[:2] for image in images}:
            same = [index for index, image in enumerate(images) if image.shape[:2] == size]
            started = time.perf_counter()
            outputs = self.model.run(self.inputs_for(np.stack([images[index] for index in same])))
            for place, index in enumerate(same):
                one = {name: values[place : place + 1] for name, values in outputs.items()}
                decisions[index] = decide(one, self.thresholds, width=size[1], height=size[0])
            spent = (time.perf_counter() - started) * 1000 / len(same)
            for index in same:
                decision = decisions[index]
                assert decision is not None  # set by the loop above
                decisions[index] = replace(decision, latency_ms=spent)
        return [decision for decision in decisions if decision is not None]

    def inputs_for(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """What the graph takes, for pictures uint8 [N, H, W, 3]."""
        return {"image": images, "pixel_threshold": np.array([self.thresholds["pixel"]], dtype=np.float32)}
