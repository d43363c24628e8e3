"""Crowds that walk about before a simulated camera, and what a detector would say of them; for benchmarks/tracking.py.

People walk on a ground plane from place to place, alone or in small groups, stop, turn, and pass in front of one
another; a pinhole camera, still, swaying or carried along, sees them. What a detector makes of that is imitated after
the public detections of MOT17: it misses who is hidden or small, for several frames at a time; its boxes jitter, slowly
as well as quickly; it fires on pieces of background, again and again in the same places; and its scores are on a scale
of their own. Everything follows from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solutions.cctv.hota import PEDESTRIAN, Boxes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Flavour:
    """How a detector errs."""

    found: float
    """Share of fully visible, large people that are found."""
    jitter: float
    """Standard deviation of an edge, in heights."""
    inventions: float
    """False boxes for each frame, on average."""
    nms: float
    """Overlap from which the weaker of two boxes is dropped."""
    least: float
    most: float
    """Scores: what is barely a person, and what certainly is one."""


FLAVOURS = {
    "dpm": Flavour(found=0.80, jitter=0.045, inventions=3.0, nms=0.5, least=-0.5, most=1.8),
    "frcnn": Flavour(found=0.93, jitter=0.025, inventions=0.8, nms=0.6, least=0.3, most=1.0),
    "sdp": Flavour(found=0.96, jitter=0.02, inventions=1.0, nms=0.65, least=0.1, most=1.0),
    "nano": Flavour(found=0.88, jitter=0.035, inventions=1.5, nms=0.5, least=0.05, most=0.92),
}


@dataclass(frozen=True)
class Setting:
    """One sequence."""

    seed: int
    flavour: str = "frcnn"
    people: int = 20
    """In the picture at once, about."""
    fps: float = 25.0
    seconds: float = 12.0
    size: tuple[int, int] = (1920, 1080)
    camera: str = "still"
    """still, sways or moves"""

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.flavour}-{self.people}p-{self.fps:g}fps-{self.camera}-{self.seed}"


@dataclass(frozen=True)
class Sequence:
    """What a tracker is given, and the truth."""

    name: str
    size: tuple[int, int]
    fps: float
    frames: int
    detections: Boxes
    truth: Boxes | None


def settings(count: int, seed: int = 0) -> list[Setting]:
    """Sequences that differ in everything."""
    rng = np.random.default_rng(seed)
    return [
        Setting(
            seed=seed * 1000 + index,
            flavour=list(FLAVOURS)[index % len(FLAVOURS)],
            people=int(rng.choice([5, 10, 15, 25, 40])),
            fps=float(rng.choice([14, 25, 30])),
            size=((1920, 1080), (1920, 1080), (640, 480))[int(rng.integers(3))],
            camera=("still", "still", "sways", "moves")[int(rng.integers(4))],
        )
        for index in range(count)
    ]


def simulate(setting: Setting) -> Sequence:
    """The sequence of a setting."""
    rng = np.random.default_rng(setting.seed)
    frames = round(setting.seconds * setting.fps)
    walk, heights = _walk(rng, setting, frames)
    boxes, depth = _seen(rng, setting, walk, heights)
    detector = _Detector(rng, setting, len(heights))
    true: list[Array] = []
    given: list[Array] = []
    width, height = setting.size
    for frame in range(frames):
        centre = (boxes[frame, :, :2] + boxes[frame, :, 2:]) / 2
        inside = (depth[frame] > 1.5) & (centre > 0).all(axis=1) & (centre < (width, height)).all(axis=1)
        present = np.flatnonzero(inside)
        visible = _visible(boxes[frame, present], depth[frame, present], setting.size)
        true.append(_rows(frame + 1, present + 1, boxes[frame, present], visible * 0 + 1, PEDESTRIAN))
        found, scores = detector.look(boxes[frame, present], visible, present)
        given.append(_rows(frame + 1, np.full(len(found), -1), found, scores, -1))
    return Sequence(setting.name, setting.size, setting.fps, frames, _boxes(given), _boxes(true))


def _walk(rng: np.random.Generator, setting: Setting, frames: int) -> tuple[Array, Array]:
    """[frames, N, 2] metres to the right and away, and [N] heights; some come in only later."""
    count = int(setting.people * 1.7) + 2
    near, far = 4.0, float(rng.uniform(18, 40))
    group = np.sort(rng.integers(0, max(count * 2 // 3, 1), count))
    shift = rng.normal(0, 0.5, (count, 2))

    def place(size: int) -> Array:
        away = rng.uniform(near, far, size)
        return np.stack([rng.uniform(-0.75, 0.75, size) * away, away], axis=1)

    starts, goals = place(count)[group], place(count)[group]
    pace = rng.uniform(0.7, 1.7, count)[group]
    rests = np.zeros(count)
    at, speed = starts + shift, np.zeros((count, 2))
    step = 1 / setting.fps
    walk = np.zeros((frames, count, 2))
    for frame in range(frames):
        walk[frame] = at
        way = goals + shift - at
        distance = np.linalg.norm(way, axis=1, keepdims=True)
        arrived = np.flatnonzero(distance[:, 0] < 0.7)
        if len(arrived):
            fresh = place(count)
            goals[arrived] = fresh[group[arrived]]
            rests[arrived] = np.where(rng.random(len(arrived)) < 0.4, rng.exponential(4.0, len(arrived)), 0)
        rests -= step
        wanted = np.where(rests[:, None] > 0, 0, pace[:, None] * way / np.maximum(distance, 0.1))
        speed += (wanted - speed) * min(step / 0.4, 1) + rng.normal(0, 0.35, (count, 2)) * np.sqrt(step)
        at = at + speed * step
    return walk, rng.uniform(1.55, 1.9, count)


def _seen(rng: np.random.Generator, setting: Setting, walk: Array, heights: Array) -> tuple[Array, Array]:
    """[frames, N, 4] boxes in pixels and [frames, N] depths in metres."""
    frames, count, _ = walk.shape
    width, height = setting.size
    focal, above = float(rng.uniform(0.8, 1.3)) * width, float(rng.uniform(1.6, 6.0))
    # Where the camera looks: people in the middle of the depth stand in the middle of the picture.
    horizon = height * 0.62 - focal * above / 12 + focal * 0.9 / 12
    time = np.arange(frames)[:, None] / setting.fps
    sway = np.zeros((frames, 2))
    if setting.camera != "still":
        reach = 0.004 if setting.camera == "sways" else 0.012
        for hertz in (0.15, 0.5, 1.3, 2.2):
            turn = rng.uniform(0, 2 * np.pi, 2)
            sway += reach * width / (1 + hertz) * np.sin(2 * np.pi * hertz * time + turn) * rng.uniform(0.4, 1.0)
    ahead = (0.9 * time) if setting.camera == "moves" else 0 * time
    depth = walk[:, :, 1] - ahead
    safe = np.maximum(depth, 0.5)
    x = width / 2 + focal * walk[:, :, 0] / safe + sway[:, :1]
    foot = horizon + focal * above / safe + sway[:, 1:]
    tall = focal * heights / safe
    gait = 0.36 + 0.05 * np.sin(2 * np.pi * 0.9 * time + rng.uniform(0, 6.28, count))
    wide = tall * gait
    return np.stack([x - wide / 2, foot - tall, x + wide / 2, foot], axis=2), depth


def _visible(boxes: Array, depth: Array, size: tuple[int, int]) -> Array:
    """[N] share of each that neither somebody nearer nor the picture's edge hides."""
    across, down = np.meshgrid(np.linspace(0.1, 0.9, 5), np.linspace(0.05, 0.95, 9))
    grid = np.stack([across.ravel(), down.ravel()], axis=1)
    points = boxes[:, None, :2] + grid[None] * (boxes[:, 2:] - boxes[:, :2])[:, None]
    slim = boxes + np.concatenate([0.1, 0, -0.1, 0] * np.ones((1, 4)), axis=0) * (boxes[:, 2:3] - boxes[:, :1])
    within = (points[:, :, None] >= slim[None, None, :, :2]) & (points[:, :, None] <= slim[None, None, :, 2:])
    hidden = (within.all(axis=3) & (depth[None] < depth[:, None] - 1e-9)[:, None]).any(axis=2)
    outside = ((points < 0) | (points > size)).any(axis=2)
    return np.asarray(1 - (hidden | outside).mean(axis=1))


class _Detector:
    """What it overlooks or moves stays so for a while: its errors are slow as well as quick."""

    def __init__(self, rng: np.random.Generator, setting: Setting, count: int) -> None:
        self._rng, self._size = rng, setting.size
        self._flavour = FLAVOURS[setting.flavour]
        self._keep = float(np.exp(-1 / (0.25 * setting.fps)))
        self._mood, self._drift = rng.normal(0, 1, count), rng.normal(0, 1, (count, 4))
        spots = 3 + int(self._flavour.inventions * 4)
        width, height = setting.size
        tall = rng.uniform(0.08, 0.5, spots) * height
        x, y = rng.uniform(0, width, spots), rng.uniform(0.2 * height, 0.9 * height, spots)
        wide = tall * rng.uniform(0.3, 0.6, spots)
        self._spots = np.stack([x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2], axis=1)
        self._eager = rng.dirichlet(np.full(spots, 0.5)) * self._flavour.inventions * 0.7

    def look(self, boxes: Array, visible: Array, who: NDArray[np.intp]) -> tuple[Array, Array]:
        """[M, 4] boxes and [M] scores of one frame."""
        rng, flavour, fresh = self._rng, self._flavour, np.sqrt(1 - self._keep**2)
        self._mood = self._keep * self._mood + fresh * rng.normal(0, 1, self._mood.shape)
        self._drift = self._keep * self._drift + fresh * rng.normal(0, 1, self._drift.shape)
        tall = boxes[:, 3] - boxes[:, 1]
        limit = np.log(max(flavour.found, 0.5) / (1 - flavour.found))
        sure = limit + 1.2 * self._mood[who] - 7 * np.maximum(0.75 - visible, 0) - 3 * (tall < 45) + (tall > 120) * 0.3
        quality = 1 / (1 + np.exp(-sure))
        seen = (rng.random(len(boxes)) < quality) & (visible > 0.12)
        error = 0.6 * self._drift[who] + 0.8 * rng.normal(0, 1, boxes.shape)
        found = (boxes + flavour.jitter * error * np.stack([tall * 0.6, tall, tall * 0.6, tall], axis=1))[seen]
        certainty = np.clip(quality[seen] * 1.05 - 0.12 * np.abs(rng.normal(0, 1, seen.sum())), 0.02, 1)
        extra = np.concatenate(
            [self._spots[rng.random(len(self._spots)) < self._eager], self._elsewhere(), self._parts(found)]
        )
        extra = extra + rng.normal(0, flavour.jitter, extra.shape) * (extra[:, 3:] - extra[:, 1:2])
        low = np.clip(rng.beta(1.6, 3.5, len(extra)), 0.02, 1)
        everything, certain = np.concatenate([found, extra]), np.concatenate([certainty, low])
        kept = _suppressed(everything, certain, flavour.nms)
        return everything[kept], flavour.least + (flavour.most - flavour.least) * certain[kept]

    def _elsewhere(self) -> Array:
        count = self._rng.poisson(self._flavour.inventions * 0.3)
        width, height = self._size
        tall = self._rng.uniform(0.08, 0.5, count) * height
        x, y = self._rng.uniform(0, width, count), self._rng.uniform(0.2 * height, 0.9 * height, count)
        return np.stack([x - tall * 0.2, y - tall / 2, x + tall * 0.2, y + tall / 2], axis=1)

    def _parts(self, found: Array) -> Array:
        """Upper bodies, and boxes around two."""
        some = found[self._rng.random(len(found)) < 0.02 * self._flavour.inventions]
        return some + np.array([0, 0, 0, -0.45]) * (some[:, 3:] - some[:, 1:2])


def _suppressed(boxes: Array, scores: Array, most: float) -> list[int]:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inner = np.prod(np.maximum(high - low, 0), axis=2)
    overlap = inner / np.maximum(area[:, None] + area[None] - inner, 1e-9)
    kept: list[int] = []
    for each in np.argsort(-scores):
        if not kept or overlap[each, kept].max() < most:
            kept.append(int(each))
    return kept


def _rows(frame: int, ids: Array | NDArray[np.intp], boxes: Array, scores: Array, kind: int) -> Array:
    count = len(boxes)
    columns = [np.full(count, frame), ids, *boxes.T, scores, np.full(count, kind)]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _boxes(rows: list[Array]) -> Boxes:
    table = np.concatenate([np.zeros((0, 8)), *rows])
    return Boxes(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2:6],
        table[:, 6],
        table[:, 7].astype(np.int64),
    )
