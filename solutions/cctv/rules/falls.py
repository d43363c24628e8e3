"""Falls: from upright to down, quickly; what tells is the change, not a long stillness after it.

Each person is measured in two ways: the detector's box, and the silhouette that the background model sees near it (a
detector trained on upright people often loses one that lies, or draws half of it). Each way gives a series of outlines,
measured against the person's own height while upright, so that neither the camera's height nor its distance matters:

    drop     how much of the own upright height is gone,
    aspect   width by height of the outline,
    speed    of the top of the outline (the head) downwards, in own heights per second.

Rougier et al. (2011) and Mubashir et al. (2013) found these shape and speed cues the steadiest of the classical ones.
Sitting keeps about two thirds of the height; bending and crouching come back within a second or two; who walks behind
a table loses the lower end of the outline and not the head; who leaves at the picture's lower edge touches it. A
person whose track breaks off during the fall is followed by the silhouette, and a new track that appears there goes on
with the old one's history.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

from solutions.cctv import config
from solutions.cctv.rules.subjects import clip_box, meant, place_of
from solutions.cctv.scene import Box, Motion, Scene, Signal, Track, View

MEMORY_S = 5.0
"""Of outlines, for each person."""
UPRIGHT_S = 3.5
"""The upright height is taken from so long before."""
FALL_S = 1.6
"""From upright to down takes at most so long; slower is lying down."""
HEAD_S = 0.4
"""Over which the head's speed is measured: a fall from standing takes 0.6 to 1.2 s."""
LOST_S = 2.5
"""A person out of the tracks is looked for so long."""
STILL_S = 20.0
"""Somebody who lay down slowly is announced after so long without getting up."""


class Outline(NamedTuple):
    """A person's extent at a moment; pixels of the picture."""

    time_s: float
    box: Box
    cut: bool
    """By the picture's upper, left or right edge."""
    cut_below: bool

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def aspect(self) -> float:
        return (self.box[2] - self.box[0]) / max(self.height, 1.0)


@dataclass(frozen=True, slots=True)
class Posture:
    """A change of posture, measured in the person's own upright height."""

    drop: float
    """0: as upright; 0.6: of the height 0.4 is left."""
    aspect: float
    widening: float
    """Of the outline, now by then."""
    speed: float
    """Of the head, at its quickest, in own heights per second downwards."""
    head: float
    """How far the head has come down, in own heights."""
    rise: float
    """Of the lower end: large where furniture hides the legs."""
    since_s: float
    """When it was last upright."""
    down_s: float
    """How long the person has been low."""
    truncated: bool


@dataclass(slots=True)
class Series:
    """Outlines of one person, measured in one way."""

    outlines: deque[Outline] = field(default_factory=deque)

    def add(self, outline: Outline) -> None:
        """A new one, later than the last."""
        self.outlines.append(outline)
        while self.outlines[0].time_s < outline.time_s - MEMORY_S:
            self.outlines.popleft()

    def posture(self, now_s: float) -> Posture | None:
        """How the posture has changed within `FALL_S`; None while nothing is upright before, or nothing is new."""
        if len(self.outlines) < 3 or self.outlines[-1].time_s < now_s - 0.45:
            return None
        times = np.array([each.time_s for each in self.outlines])
        boxes = np.array([each.box for each in self.outlines])
        heights = boxes[:, 3] - boxes[:, 1]
        recent = times >= times[-1] - 0.35
        box = np.median(boxes[recent], axis=0)
        reference = _upright(times, boxes)
        if reference is None:
            return None
        height, width, bottom = reference
        low = heights < 0.72 * height
        if not low[-1]:
            return None
        first_low = len(low) - int(np.argmin(low[::-1])) if not low.all() else 0
        begun = _begun(times, heights, height, first_low)
        window = (times >= begun - 0.2) & (times <= times[first_low] + 1.0)
        latest = self.outlines[-1]
        return Posture(
            drop=float(1 - (box[3] - box[1]) / height),
            aspect=float((box[2] - box[0]) / max(box[3] - box[1], 1.0)),
            widening=float((box[2] - box[0]) / width),
            speed=_head_speed(times[window], boxes[window, 1]) / height,
            head=float((box[1] - (bottom - height)) / height),
            rise=float((bottom - box[3]) / height),
            since_s=begun,
            down_s=float(times[-1] - times[first_low]),
            truncated=latest.cut or latest.cut_below,
        )


def _upright(times: np.ndarray, boxes: np.ndarray) -> tuple[float, float, float] | None:
    """Height, width and lower end of the person while upright: of the tall and narrow outlines of the last seconds.

    The height is the 80th percentile, so that a single stretched box is not believed; the lower end is the last one.
    """
    heights, widths = boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]
    narrow = (widths < 0.85 * heights) & (times >= times[-1] - UPRIGHT_S)
    if narrow.sum() < 2:
        return None
    height = float(np.percentile(heights[narrow], 80))
    tall = narrow & (heights >= 0.85 * height)
    return height, float(np.median(widths[tall])), float(boxes[np.flatnonzero(tall)[-1], 3])


def _begun(times: np.ndarray, heights: np.ndarray, height: float, first_low: int) -> float:
    """When the outline was last nearly as tall as upright, before it was low."""
    before = np.flatnonzero(heights[:first_low] >= 0.88 * height)
    return float(times[before[-1]] if len(before) else times[0])


def _head_speed(times: np.ndarray, tops: np.ndarray) -> float:
    """The greatest speed of the upper end downwards, in pixels per second, over `HEAD_S`.

    Interpolated, so that a slow camera measures the same as a quick one.
    """
    if len(times) < 2:
        return 0.0
    starts = np.arange(times[0], max(times[-1] - HEAD_S, times[0]) + 1e-6, 0.1)
    moved = np.interp(starts + HEAD_S, times, tops) - np.interp(starts, times, tops)
    return float(moved.max() / HEAD_S)


def confidence(posture: Posture) -> float:
    """How sure a fall is, 0 to 1; what is asked in `down_s` is longer where postures are less clear.

    Lying across the view is wide and low. Lying along it (a fall towards the camera or away from it) is only low, and
    so is a crouch: there the head must have come down as no crouch does.
    """
    took = posture.down_s if posture.down_s > 0 else 0.0
    if posture.head < 0.3 or posture.rise > 0.35 or posture.speed < 0.55:
        return 0.0
    if posture.truncated and (posture.aspect < 1.3 or posture.widening < 1.8):
        return 0.0
    if posture.aspect >= 1.15 and posture.drop >= 0.45 and posture.widening >= 1.3:
        needed, quick = 0.2, 0.7
    elif posture.aspect >= 1.0 and posture.drop >= 0.4 and posture.widening >= 1.2:
        needed, quick = 0.5, 0.75
    elif posture.drop >= 0.5 and posture.aspect >= 0.7 and posture.rise <= 0.2:
        needed, quick = 0.8, 1.1
    elif posture.drop >= 0.42 and posture.aspect >= 0.8 and posture.rise <= 0.2:
        needed, quick = 1.0, 1.4  # quicker than anybody crouches
    else:
        return 0.0
    if took < needed or posture.speed < quick:
        return 0.0
    return min(1.0, 0.5 + 0.25 * (posture.speed - quick) + 0.5 * (posture.drop - 0.4))


@dataclass(slots=True)
class Person:
    """What is remembered of one."""

    subject: int
    box: Box
    seen_s: float
    by_box: Series = field(default_factory=Series)
    by_silhouette: Series = field(default_factory=Series)
    fallen: Signal | None = None
    up_since_s: float | None = None
    lying_since_s: float | None = None
    was_upright: bool = False


class FallRunner:
    """The rule at work for one camera."""

    def __init__(self, rule: config.Fall, view: View) -> None:
        self._rule, self._view = rule, view
        self._persons: dict[int, Person] = {}

    def update(self, scene: Scene) -> list[Signal]:
        """Who is down now."""
        now = scene.time_s
        tracks = {track.id: track for track in meant(self._rule, scene)}
        for track in tracks.values():
            if track.id not in self._persons:
                self._persons[track.id] = self._adopt(track, tracks, now)
            self._measure(self._persons[track.id], track, scene)
        signals = []
        for key, person in list(self._persons.items()):
            gone = key not in tracks
            if gone and now - person.seen_s > LOST_S:
                del self._persons[key]
                continue
            _add_silhouette(person, scene, gone, [p.box for k, p in self._persons.items() if k != key])
            signal = self._judge(person, key, tracks.get(key), now)
            if signal is not None:
                signals.append(signal)
        return signals

    def _adopt(self, track: Track, tracks: dict[int, Track], now: float) -> Person:
        """A new track's person: one that was lost near it, or somebody new."""
        for key, person in self._persons.items():
            if key in tracks or now - person.seen_s > LOST_S:
                continue
            reach = max(person.box[3] - person.box[1], person.box[2] - person.box[0])
            apart = abs(track.centre[0] - (person.box[0] + person.box[2]) / 2)
            if apart < 0.8 * reach and abs(track.foot[1] - person.box[3]) < 0.5 * reach:
                del self._persons[key]
                return person
        return Person(track.id, track.box, now)

    @staticmethod
    def _measure(person: Person, track: Track, scene: Scene) -> None:
        """The detector's box. What motion shows of a person is the silhouette's affair."""
        person.seen_s, person.box = max(person.seen_s, track.seen_s), track.box
        last = track.path[-1] if track.path else None
        if last is None or not last.detected or last.time_s < scene.time_s - 1e-6:
            return
        person.by_box.add(_outline(scene.time_s, last.box, scene.size))
        if track.box[3] - track.box[1] > 1.3 * (track.box[2] - track.box[0]):
            person.was_upright = True

    def _judge(self, person: Person, key: int, track: Track | None, now: float) -> Signal | None:
        """The signal of a person who is down."""
        if person.fallen is not None:
            return self._still_down(person, now)
        foot = ((person.box[0] + person.box[2]) / 2, person.box[3])
        inside, zone = place_of(self._rule.zones, self._view, foot)
        if not inside:
            return None
        by_box, by_silhouette = person.by_box.posture(now), person.by_silhouette.posture(now)
        if _stands(person.by_box, now):
            person.lying_since_s = None
            return None
        found = max(
            ((confidence(each), how, each) for how, each in (("box", by_box), ("silhouette", by_silhouette)) if each),
            key=lambda each: each[0],
            default=(0.0, "", None),
        )
        score, how, posture = found
        why: dict[str, Any] = {}
        if score > 0 and posture is not None:
            why = {
                "method": f"change of posture ({how})",
                "drop": round(posture.drop, 2),
                "aspect": round(posture.aspect, 2),
                "head_speed": round(posture.speed, 2),
                "score": round(score, 2),
            }
            since = posture.since_s
        else:
            since = self._lies(person, now)
            if since < 0:
                return None
            why = {"method": "lying still", "lying_s": round(now - since, 1)}
        person.fallen = Signal(
            type="fall",
            subject=person.subject,
            since_s=since,
            zone=zone,
            track_ids=tuple(sorted({person.subject, key})),
            box=track.box if track is not None else person.box,
            why=why,
        )
        return person.fallen

    @staticmethod
    def _lies(person: Person, now: float) -> float:
        """Since when somebody who was upright once lies without having got up; negative: not long enough."""
        last = person.by_box.outlines[-1] if person.by_box.outlines else None
        if last is None or last.time_s < now - 1.0:
            return -1.0
        if not person.was_upright or last.aspect < 1.3 or last.cut or last.cut_below:
            person.lying_since_s = None
            return -1.0
        if person.lying_since_s is None:
            person.lying_since_s = last.time_s
        return person.lying_since_s if now - person.lying_since_s >= STILL_S else -1.0

    @staticmethod
    def _still_down(person: Person, now: float) -> Signal | None:
        """The same signal until the person has been up for a second."""
        if _stands(person.by_box, now) or _stands(person.by_silhouette, now):
            person.up_since_s = now if person.up_since_s is None else person.up_since_s
            if now - person.up_since_s >= 1.0:
                person.fallen = person.up_since_s = person.lying_since_s = None
                return None
        else:
            person.up_since_s = None
        return person.fallen


def _stands(series: Series, now: float) -> bool:
    """Whether the newest outlines are clearly those of somebody upright."""
    recent = [each for each in series.outlines if each.time_s >= now - 0.4]
    if not recent or series.outlines[-1].time_s < now - 0.3:
        return False
    tallest = max(each.height for each in series.outlines)
    return all(each.aspect < 0.65 and each.height > 0.75 * tallest for each in recent)


def _outline(time_s: float, box: Box, size: tuple[int, int]) -> Outline:
    margin_x, margin_y = 0.008 * size[0], 0.01 * size[1]
    return Outline(
        time_s,
        box,
        box[0] <= margin_x or box[2] >= size[0] - margin_x or box[1] <= margin_y,
        box[3] >= size[1] - margin_y,
    )


def _add_silhouette(person: Person, scene: Scene, gone: bool, others: list[Box]) -> None:
    """What moves where the person is, as an outline; nothing where it cannot be told from somebody else."""
    motion = scene.motion
    if motion is None or not motion.settled or motion.share > 0.5:
        return
    last = person.by_silhouette.outlines[-1].box if person.by_silhouette.outlines and gone else person.box
    side = max(last[3] - last[1], last[2] - last[0])
    reach = (last[0] - 0.5 * side, last[1] - 0.1 * side, last[2] + 0.5 * side, last[3] + 0.35 * side)
    if any(_overlap(reach, other) > 0.25 for other in others):
        return
    box = _silhouette(motion, last, reach)
    if box is None or (box[2] - box[0]) * (box[3] - box[1]) < 0.12 * (last[2] - last[0]) * (last[3] - last[1]):
        return
    person.by_silhouette.add(_outline(scene.time_s, box, scene.size))
    if gone:
        person.box = box


def _silhouette(motion: Motion, last: Box, reach: Box) -> Box | None:
    """Extent of the moving blobs in `reach` that touch the person's last place. Thin fringes (an outstretched arm, a
    shadow's edge) are left out: the extent holds all but 2 % of the blob on each side.
    """
    height, width = motion.mask.shape
    left, top, right, bottom = clip_box(_scaled(reach, 1 / motion.scale), width, height)
    if right - left < 3 or bottom - top < 3:
        return None
    crop = motion.mask[top:bottom, left:right]
    joined = cv2.morphologyEx(crop, cv2.MORPH_CLOSE, np.ones((5, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    inner = clip_box(_scaled(last, 1 / motion.scale), width, height)
    mine = labels[max(inner[1] - top, 0) : inner[3] - top, max(inner[0] - left, 0) : inner[2] - left]
    if count < 2 or mine.size == 0:
        return None
    shares = np.bincount(mine.ravel(), minlength=count)[1:]
    areas = stats[1:, cv2.CC_STAT_AREA]
    chosen = np.flatnonzero((shares >= 0.2 * areas) & (areas >= 0.08 * areas.max())) + 1
    if len(chosen) == 0:
        return None
    blob = np.isin(labels, chosen) & (crop > 0)
    x0, x1 = _extent(blob.sum(axis=0))
    y0, y1 = _extent(blob.sum(axis=1))
    return _scaled((left + x0, top + y0, left + x1, top + y1), motion.scale)


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """Where the middle 96 % of a profile lie."""
    total = np.cumsum(profile)
    if total[-1] == 0:
        return 0.0, 0.0
    ends = np.searchsorted(total, [0.02 * total[-1], 0.98 * total[-1]])
    return float(ends[0]), float(ends[1] + 1)


def _scaled(box: Box, by: float) -> Box:
    return (box[0] * by, box[1] * by, box[2] * by, box[3] * by)


def _overlap(a: Box, b: Box) -> float:
    """Of b that lies in a, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / max((b[2] - b[0]) * (b[3] - b[1]), 1.0)
