"""Motion like fighting: persons within reach of one another, whose limbs move quickly and every way at once.

Dense optical flow (Farnebäck 2003) between two looks is measured inside each person's box, less the box's own median
flow, so that walking or running past is not counted; in the person's heights per second, so that distance from the
camera is not either. Quick limbs alone are also a wave or a dance: the directions must be spread as well (entropy), and
both persons must move so for `dwell_s`. It is a warning to look, not a verdict; hugging children and sports look alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

from edge.io.frames import Bgr
from solutions.cctv import config
from solutions.cctv.rules.subjects import clip_box, meant, place_of
from solutions.cctv.scene import Box, Scene, Signal, Track, View

LOOK_S = 0.075
"""Between two looks, at least."""
GAP_S = 0.3
"""Pictures further apart tell nothing of motion."""
CROP_HEIGHT = 72
ENERGY = 0.2
"""Heights per second of the quickest quarter of a person's pixels, after the body's own motion is taken off."""
ENTROPY = 0.7
"""Of the flow's directions: 0 all one way, 1 evenly all ways."""
FORGET_S = 3.0


@dataclass(slots=True)
class _Pair:
    level: float = 0.0
    since_s: float | None = None
    seen_s: float = 0.0
    energy: float = 0.0
    entropy: float = 0.0
    on: bool = False


class FightingRunner:
    """The rule at work for one camera."""

    def __init__(self, rule: config.Fighting, view: View) -> None:
        self._rule, self._view = rule, view
        self._pairs: dict[tuple[int, int], _Pair] = {}
        self._image: Bgr | None = None
        self._time_s = -np.inf
        self._signals: list[Signal] = []

    def update(self, scene: Scene) -> list[Signal]:
        """Which pairs of persons move so now."""
        now = scene.time_s
        step = now - self._time_s
        if step < LOOK_S:
            return self._signals
        before, self._image, self._time_s = self._image, scene.frame.image, now
        self._signals = []
        usable = before is not None and before.shape == scene.frame.image.shape and step <= GAP_S
        for one, other in combinations(list(meant(self._rule, scene)), 2):
            if not _in_reach(one.box, other.box):
                continue
            inside, zone = place_of(self._rule.zones, self._view, one.foot)
            if not inside:
                inside, zone = place_of(self._rule.zones, self._view, other.foot)
            if not inside or not usable or before is None:
                continue
            pair = self._pairs.setdefault((min(one.id, other.id), max(one.id, other.id)), _Pair())
            self._measure(pair, before, scene, (one, other), step)
            if pair.on:
                self._signals.append(self._signal(pair, (one, other), zone))
        self._pairs = {key: pair for key, pair in self._pairs.items() if now - pair.seen_s <= FORGET_S}
        return self._signals

    def _measure(self, pair: _Pair, before: Bgr, scene: Scene, two: tuple[Track, Track], step: float) -> None:
        """Bring a pair's level up to date: the share of recent time in which both moved like fighting."""
        now = scene.time_s
        figures = [limb_motion(before, scene.frame.image, track.box, step) for track in two]
        pair.energy = min(energy for energy, _ in figures)
        pair.entropy = min(entropy for _, entropy in figures)
        wild = pair.energy >= ENERGY and pair.entropy >= ENTROPY
        weight = 1 - float(np.exp(-step / max(self._rule.dwell_s, 0.3)))
        pair.level += weight * (float(wild) - pair.level)
        pair.seen_s = now
        if wild and pair.since_s is None:
            pair.since_s = now - step
        if pair.level < 0.1:
            pair.since_s = None
        pair.on = pair.since_s is not None and pair.level >= (0.35 if pair.on else 0.6)

    @staticmethod
    def _signal(pair: _Pair, two: tuple[Track, Track], zone: str | None) -> Signal:
        boxes = np.array([track.box for track in two])
        left, top = boxes[:, :2].min(axis=0)
        right, bottom = boxes[:, 2:].max(axis=0)
        ids = tuple(sorted(track.id for track in two))
        assert pair.since_s is not None
        return Signal(
            type="fighting",
            subject=ids,
            since_s=pair.since_s,
            zone=zone,
            track_ids=ids,
            box=(float(left), float(top), float(right), float(bottom)),
            why={"limb_motion": round(pair.energy, 2), "direction_entropy": round(pair.entropy, 2)},
        )


def _in_reach(one: Box, other: Box) -> bool:
    """Whether two persons stand within an arm's length: gap between the boxes, and feet at a like depth."""
    height = (one[3] - one[1] + other[3] - other[1]) / 2
    gap = max(one[0], other[0]) - min(one[2], other[2])
    sizes = sorted((one[3] - one[1], other[3] - other[1]))
    return gap < 0.25 * height and abs(one[3] - other[3]) < 0.35 * height and sizes[0] > 0.5 * sizes[1]


def limb_motion(before: Bgr, after: Bgr, box: Box, step: float) -> tuple[float, float]:
    """Speed of the quickest quarter of a person's pixels, in heights per second, and entropy of the directions."""
    x0, y0, x1, y1 = clip_box(box, after.shape[1], after.shape[0])
    if y1 - y0 < 24 or x1 - x0 < 8:
        return 0.0, 0.0
    size = (max(8, round((x1 - x0) * CROP_HEIGHT / (y1 - y0))), CROP_HEIGHT)
    pictures = [
        cv2.resize(cv2.cvtColor(np.ascontiguousarray(each[y0:y1, x0:x1]), cv2.COLOR_BGR2GRAY), size)
        for each in (before, after)
    ]
    empty = np.zeros((size[1], size[0], 2), dtype=np.float32)
    flow = cv2.calcOpticalFlowFarneback(pictures[0], pictures[1], empty, 0.5, 3, 11, 2, 5, 1.1, 0)
    flow = flow.reshape(-1, 2) - np.median(flow.reshape(-1, 2), axis=0)
    speed = np.hypot(flow[:, 0], flow[:, 1])
    quick = speed >= np.percentile(speed, 75)
    ways = np.arctan2(flow[quick, 1], flow[quick, 0])
    shares, _ = np.histogram(ways, bins=8, range=(-np.pi, np.pi), weights=speed[quick])
    total = float(shares.sum())
    if total < 1e-6:
        return 0.0, 0.0
    shares = shares[shares > 0] / total
    entropy = float(-(shares * np.log(shares)).sum() / np.log(8))
    return float(speed[quick].mean()) / CROP_HEIGHT / step, entropy
