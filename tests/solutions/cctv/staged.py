"""A hall on a stage: a still camera's picture with things and people put into it, at any rate, noise and light."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.io.frames import Bgr, Frame
from solutions.cctv.scene import Box, Scene, Step, Track
from tests.solutions.cctv.figures import CLIPS

SIZE = (480, 270)
Floats = NDArray[np.float32]
Place = Callable[[float], Box | None]
"""Where something is at a time; None: it is not in the picture."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """Something in the hall. `label`: what a detector calls it; None: nothing knows it."""

    place: Place
    colour: tuple[int, int, int]
    label: str | None = None
    seed: int = 0
    round: bool = False

    def paint(self, image: Floats, time_s: float) -> None:
        """Put it into the picture: one colour with some texture of its own."""
        box = self.place(time_s)
        if box is None:
            return
        left, top, right, bottom = (round(each) for each in box)
        rng = np.random.default_rng(self.seed)
        shape = (max(bottom - top, 1), max(right - left, 1))
        grain = cv2.resize(rng.normal(0, 18, (6, 6)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
        patch = np.asarray(self.colour, dtype=np.float32) + grain[..., None]
        inside = np.ones(shape, dtype=bool)
        if self.round:
            rows, columns = np.indices(shape)
            half = (shape[0] / 2, shape[1] / 2)
            inside = ((rows + 0.5 - half[0]) / half[0]) ** 2 + ((columns + 0.5 - half[1]) / half[1]) ** 2 <= 1
        y0, y1, x0, x1 = max(top, 0), min(bottom, image.shape[0]), max(left, 0), min(right, image.shape[1])
        if y0 >= y1 or x0 >= x1:
            return
        part = inside[y0 - top : y1 - top, x0 - left : x1 - left]
        image[y0:y1, x0:x1][part] = patch[y0 - top : y1 - top, x0 - left : x1 - left][part]


def hall(seed: int = 0, size: tuple[int, int] = SIZE) -> Floats:
    """[H, W, 3] an empty hall: floor and walls in patches, tiles, pillars."""
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = cv2.resize(rng.uniform(80, 170, (5, 8, 3)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 7, (height // 3, width // 3, 1)).astype(np.float32), size)
    image = coarse + fine[..., None]
    for _ in range(7):
        x, y = int(rng.integers(0, width - 40)), int(rng.integers(0, height // 2))
        across, down = int(rng.integers(10, 60)), int(rng.integers(20, 110))
        cv2.rectangle(image, (x, y), (x + across, y + down), rng.uniform(40, 220, 3).tolist(), -1)
    for x in range(0, width, 48):
        cv2.line(image, (x, height // 2), (x - 60, height), (70.0, 70.0, 70.0), 1)
    return np.clip(image, 0, 255).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is played. `light` multiplies the picture (gain by time), `camera` transforms what the camera gives."""

    things: tuple[Thing, ...] = ()
    seconds: float = 30.0
    noise: float = 2.0
    seed: int = 0
    light: Callable[[float], float] = lambda _: 1.0
    camera: Callable[[Floats, float], Floats] = lambda image, _: image
    ground: Floats | None = None

    def scenes(self, fps: float) -> Iterator[Scene]:
        """At a rate; people and vehicles come with tracks, as a good tracker gives them."""
        rng = np.random.default_rng(self.seed + 1)
        ground = hall(self.seed) if self.ground is None else self.ground
        size = (ground.shape[1], ground.shape[0])
        tracks: dict[int, Track] = {}
        for index in range(int(self.seconds * fps)):
            now = index / fps
            image = ground.copy()
            for thing in self.things:
                thing.paint(image, now)
            image = self.camera(image * self.light(now), now)
            noisy = image + self.noise * rng.standard_normal(image.shape, dtype=np.float32)
            seen = tuple(self._followed(tracks, now, size))
            frame = Frame("c", index, now, np.clip(noisy, 0, 255).astype(np.uint8))
            yield Scene(frame, size, seen)

    def _followed(self, tracks: dict[int, Track], now: float, size: tuple[int, int]) -> Iterator[Track]:
        for number, thing in enumerate(self.things, start=1):
            box = thing.place(now)
            if thing.label is None or box is None:
                continue
            shown = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1])))
            if shown[0] >= shown[2] or shown[1] >= shown[3]:
                continue
            track = tracks.setdefault(number, Track(number, thing.label, shown, 0.8, now, now))
            moved = abs(shown[0] - track.box[0]) + abs(shown[1] - track.box[1]) > 0.5
            track.still_since_s = None if moved else track.still_since_s or now
            track.box, track.seen_s = shown, now
            track.path.append(Step(now, shown, measured=True, detected=True))
            yield track


def walk(start: tuple[float, float], end: tuple[float, float], begin_s: float, seconds: float, size: Box) -> Place:
    """From a place to another, and gone: `size` is (width, height) of it in the last two numbers of a box at 0, 0."""

    def place(now: float) -> Box | None:
        if not begin_s <= now <= begin_s + seconds:
            return None
        share = (now - begin_s) / seconds
        x, y = start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
        return (x, y, x + size[2], y + size[3])

    return place


def lies(box: Box, from_s: float = 0.0, until_s: float = 1e9) -> Place:
    """It is there from a moment to another, and does not move."""
    return lambda now: box if from_s <= now < until_s else None


def clip(name: str, step: int = 1, until_s: float = 1e9) -> Iterator[tuple[float, Bgr]]:
    """Times and pictures of a real clip; every `step`-th frame. Skips the test where the clip is missing."""
    path: Path = CLIPS / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    capture = cv2.VideoCapture(str(path))
    fps, index = capture.get(cv2.CAP_PROP_FPS), -1
    while (index + 1) / fps < until_s:
        there, image = capture.read()
        index += 1
        if not there:
            return
        if index % step == 0:
            yield index / fps, image.astype(np.uint8, copy=False)


def as_scenes(pictures: Iterable[tuple[float, Bgr]]) -> Iterator[Scene]:
    """Pictures without tracks."""
    for index, (now, image) in enumerate(pictures):
        yield Scene(Frame("c", index, now, image), (image.shape[1], image.shape[0]), ())
