"""One detector for all cameras: pictures and regions of them in, objects in pixels of the pictures out.

Each region is cut out and shown to the package's model, which resizes it itself. What several regions say of one
picture is put together: a thing that two regions saw counts once, and what a region's border cut gives way to what
another region saw whole. Low scores are kept on purpose: a tracker may hold on to something with them that it would
not begin (Zhang et al., "ByteTrack", 2022); `min_score` is from where on a detection should count by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from edge.io.frames import Bgr
from shared import runtime
from shared.detectors.builtin import PERSON_DETECTOR, person_detector
from shared.errors import BadInput
from shared.package import Package, open_package
from shared.registry import locate
from solutions.cctv.scene import Box

FLOOR = 0.1
"""Scores below are not given, unless the package recommends to count them."""
OVERLAP = 0.5
"""IoU from which two boxes of different regions are one thing."""
COVERED = 0.7
"""Share of a box that a border cut, from which on another box explains it."""
_BORDER = 3.0
"""Pixels from a region's border within which a box is taken for cut."""
_SMALLEST, _SMALLEST_BUILT_IN = 40.0, 170.0
_BATCH = 8
_FASTER = 0.9
"""A batch must take less than this share of the time of its pictures one by one."""

Cut = tuple[Bgr, float, float, float]
"""A part of a picture as the model gets it, its left and top in the picture, and its scale."""


class Detector:
    """A detection package at work. `detect` may be called from many threads at once."""

    def __init__(self, model: runtime.Model) -> None:
        """
        Raises:
            BadInput: the package is no detector.
        """
        manifest = model.manifest
        if not {"boxes", "scores", "classes"} <= {spec.name for spec in manifest.outputs} or len(manifest.inputs) != 1:
            raise BadInput(
                f"package {manifest.name} is no detector: it has no boxes, scores and classes; give one made by "
                "`haechi package import` or `haechi cctv train`."
            )
        self.model = model
        self.labels: tuple[str, ...] = tuple(manifest.labels)
        self.side: int = int(manifest.preprocessing.get("image_size", 416))
        """Of its input, in pixels."""
        self.smallest = _SMALLEST_BUILT_IN if manifest.name == PERSON_DETECTOR else _SMALLEST
        """Height in pixels of its input from which on it is sure of a thing; for `regions.Looker`."""
        threshold = manifest.thresholds.get("score")
        self.min_score: float = 0.3 if threshold is None else threshold.value
        """What the package recommends to count."""
        self.floor = min(FLOOR, self.min_score)
        self.milliseconds = 0.0
        """What the last call of `detect` took."""
        self.total_s = 0.0
        """Of all calls."""
        self.runs = 0
        """Regions that the model was shown."""
        self._lock = threading.Lock()
        self._input = manifest.inputs[0].name
        self.batches = model.provider != runtime.CPU and manifest.inputs[0].shape[0] == -1 and self._batches_pay()
        """Whether several regions are shown at once: only where that was measured to be quicker."""

    @classmethod
    def load(cls, package: Path | str | None = None, threads: int | None = None) -> Detector:
        """A detector by its package.

        Args:
            package: path, or name in the registry; None: the person detector that Haechi brings.
            threads: of one run on the CPU; None: one for each core.

        Raises:
            BadInput: there is no such package, or it is no detector.
            PackageRefused: it failed its checks.
        """
        return cls(runtime.load(_opened(package), threads=threads))

    def detect(
        self, images: Sequence[Bgr], regions: Sequence[Sequence[Box] | None] | None = None
    ) -> list[sv.Detections]:
        """What is in pictures.

        Args:
            images: of any sizes, from any cameras.
            regions: for each picture the parts to look at, in its pixels; None: the whole; an empty list: nothing.

        Returns:
            One for each picture, surest first: `xyxy` in its pixels, `confidence` from `floor` up, `class_id`, and
            `data["class_name"]`.

        Raises:
            BadInput: not as many regions as pictures, or a picture that is no uint8 [H, W, 3].
        """
        started = time.perf_counter()
        places = [None] * len(images) if regions is None else list(regions)
        if len(places) != len(images):
            raise BadInput(f"{len(images)} pictures and regions for {len(places)} were given; give both for each.")
        asked: list[list[Box]] = []
        cuts: list[Cut] = []
        for image, wanted in zip(images, places, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise BadInput(f"a picture must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.")
            asked.append(_within(wanted, image))
            cuts += [self._cut(image, box) for box in asked[-1]]
        answers = iter(self._answers(cuts))
        found = [
            self._merged([next(answers) for _ in boxes], boxes, image)
            for image, boxes in zip(images, asked, strict=True)
        ]
        spent = time.perf_counter() - started
        with self._lock:
            self.milliseconds = spent * 1000
            self.total_s += spent
            self.runs += len(cuts)
        return found

    def _cut(self, image: Bgr, box: Box) -> Cut:
        left, top, right, bottom = (int(value) for value in box)
        part = image[top:bottom, left:right]
        scale = 1.0
        if self.batches:  # all of one size
            scale = self.side / max(part.shape[:2])
            size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
            canvas = np.full((self.side, self.side, 3), 114, dtype=np.uint8)
            canvas[: size[1], : size[0]] = cv2.resize(part, size)
            part = canvas
        return np.ascontiguousarray(part[:, :, ::-1]), left, top, scale

    def _answers(self, cuts: Sequence[Cut]) -> list[NDArray[np.float32]]:
        """For each part [K, 6]: box in pixels of the picture, score, class."""
        size = _BATCH if self.batches else 1
        answers = []
        for start in range(0, len(cuts), size):
            some = cuts[start : start + size]
            out = self.model.run({self._input: np.stack([part for part, *_ in some])})
            for index, (_, left, top, scale) in enumerate(some):
                kept = out["scores"][index] >= self.floor
                boxes = out["boxes"][index][kept] / scale + np.array([left, top, left, top], dtype=np.float32)
                columns = (boxes, out["scores"][index][kept][:, None], out["classes"][index][kept][:, None])
                answers.append(np.concatenate(columns, axis=1).astype(np.float32))
        return answers

    def _merged(self, parts: Sequence[NDArray[np.float32]], regions: Sequence[Box], image: Bgr) -> sv.Detections:
        height, width = image.shape[:2]
        rows = np.concatenate([*parts, np.zeros((0, 6), dtype=np.float32)])
        rows[:, [0, 2]] = rows[:, [0, 2]].clip(0, width)
        rows[:, [1, 3]] = rows[:, [1, 3]].clip(0, height)
        if len(regions) > 1:
            owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            rows = merge(rows, owner, np.array(regions, dtype=np.float32).reshape(-1, 4), (width, height))
        rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        classes = rows[:, 5].astype(np.int64)
        names = np.array([self._name(number) for number in classes], dtype=np.str_)
        return sv.Detections(xyxy=rows[:, :4], confidence=rows[:, 4], class_id=classes, data={"class_name": names})

    def _name(self, number: int) -> str:
        return self.labels[number] if number < len(self.labels) else f"class {number}"

    def _batches_pay(self) -> bool:
        """Measured once, on noise: convolutions on a CPU gain nothing by batches, those on a GPU mostly do."""
        noise = np.random.default_rng(0).integers(0, 256, (_BATCH, self.side, self.side, 3), dtype=np.uint8)
        spent = []
        for step in (_BATCH, 1):
            times = []
            for _ in range(4):
                started = time.perf_counter()
                for start in range(0, _BATCH, step):
                    self.model.run({self._input: noise[start : start + step]})
                times.append(time.perf_counter() - started)
            spent.append(min(times[1:]))
        return spent[0] < _FASTER * spent[1]


def merge(
    rows: NDArray[np.float32], owner: NDArray[np.int64], regions: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    """What several regions of a picture say, each thing once, whatever its class.

    Whole boxes come first, the surest leading; each takes away those of other regions that overlap it and those that a
    border cut and that it covers. Two halves that meet at borders become one box.

    Args:
        rows: [K, 6] box, score, class, in pixels of the picture.
        owner: [K] the region of each.
        regions: [R, 4]
        size: width and height of the picture.

    Returns:
        Some of the rows, halves joined.
    """
    sides = _cut_sides(rows[:, :4], regions[owner], size)
    cut = np.asarray(sides.any(axis=1), dtype=np.bool_)
    rows = rows.copy()
    alive = np.ones(len(rows), dtype=bool)
    kept = []
    for index in np.lexsort((-rows[:, 4], cut)):
        if not alive[index]:
            continue
        alive[index] = False
        for other in np.flatnonzero(alive & cut) if cut[index] else ():
            if (
                owner[other] != owner[index]
                and rows[other, 5] == rows[index, 5]
                and _halves(rows, sides, int(index), int(other))
            ):
                rows[index, :2] = np.minimum(rows[index, :2], rows[other, :2])
                rows[index, 2:4] = np.maximum(rows[index, 2:4], rows[other, 2:4])
                alive[other] = False
        shared, areas, area = _overlaps(rows[index, :4], rows[:, :4])
        same = shared / np.maximum(areas + area - shared, 1e-6) > OVERLAP
        covered = cut & (shared / np.maximum(areas, 1e-6) > COVERED)
        alive &= ~((same | covered) & (owner != owner[index]))
        kept.append(index)
    return rows[kept]


def _cut_sides(boxes: NDArray[np.float32], regions: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[K, 4] whether left, top, right, bottom of a box lie on a border of its region that is not the picture's."""
    ends = np.array([0, 0, size[0], size[1]], dtype=np.float32)
    inner = np.abs(regions - ends) > 1
    near: NDArray[np.bool_] = (np.abs(boxes - regions) <= _BORDER) & inner
    return near


def _halves(rows: NDArray[np.float32], sides: NDArray[np.bool_], one: int, other: int) -> bool:
    """Whether two boxes are cut at facing borders, meet, and lie level with each other."""
    for low, high in ((0, 2), (1, 3)):
        for first, second in ((one, other), (other, one)):
            if not (sides[first, high] and sides[second, low]):
                continue
            across = 1 - low
            shared = min(rows[one, across + 2], rows[other, across + 2]) - max(rows[one, across], rows[other, across])
            whole = max(rows[one, across + 2], rows[other, across + 2]) - min(rows[one, across], rows[other, across])
            if rows[second, low] <= rows[first, high] + _BORDER and shared > COVERED * whole:
                return True
    return False


def _overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Areas that boxes share with one, their own areas, and its area."""
    spans = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = spans.clip(min=0).prod(axis=1)
    return shared, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod()


def _within(wanted: Sequence[Box] | None, image: Bgr) -> list[Box]:
    """Regions in whole pixels that lie in the picture; those that do not are left out."""
    height, width = image.shape[:2]
    if wanted is None:
        return [(0.0, 0.0, float(width), float(height))]
    boxes = []
    for left, top, right, bottom in wanted:
        box = (max(0, int(left)), max(0, int(top)), min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom))))
        if box[2] - box[0] >= 2 and box[3] - box[1] >= 2:
            boxes.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return boxes


def _opened(package: Path | str | None) -> Package:
    if package is None or (str(package) == PERSON_DETECTOR and not Path(package).exists()):
        return person_detector()
    return open_package(locate(str(package)))
