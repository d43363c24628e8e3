"""Fire and smoke: by a trained package, or without one by what flames and smoke do. The latter says that it is a
fallback.

Flames, without a model. A pixel is flame-coloured if it is bright, red over green over blue, and far from grey; what
is so coloured is often a vest, a car, a lamp or a sunset. Flames alone also *flicker in place*: their pixels rise and
fall by many grey levels several times a second (Cetin et al. 2013 review flicker of 1 to 13 Hz), neighbours out of
step, on the same spot for seconds. So each pixel counts its turning points (a change of direction after a swing of at
least `SWING` levels: the rainflow idea), which needs no frame rate: at 5 frames per second the flicker is
under-sampled and still turns. Vests and cars turn once or twice as they pass and are then gone; lamps and indicators
turn with all their pixels at once; boxes of persons and of moving vehicles do not count.

Smoke, without a model. A veil: what was textured behind it loses fine contrast relative to its brightness (a shadow
keeps it), goes grey, stays uneasy, and has spread from place to place rather than appeared at once (Toreyin et al.
2005 use the same loss of high frequencies). It is seen as it comes: smoke that was there before the camera was
switched on is background.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr
from solutions.cctv import config
from solutions.cctv.rules.subjects import place_of, zone_mask
from solutions.cctv.scene import Box, Scene, Signal, View

Picture = NDArray[np.float32]
SWING = 18.0
"""Grey levels between two turning points."""
TURNS_PER_S = 2.0
RATE_S, COLOUR_S, MEET_S = 1.5, 1.0, 1.0
"""Time constants: of the turning rate, of the colour's presence, of the measure of neighbours in step."""
IN_STEP = 0.72
"""Neighbours that rise and fall together more than so are a lamp or a screen."""
LEAST_PIXELS = 14
"""Of a flame, in the reduced picture."""
FALLBACK_FIRE = "colour and flicker (fallback)"
FALLBACK_SMOKE = "veil and spread (fallback)"
BLOCK = 8
"""Side of the blocks in which smoke is looked for, in pixels of the reduced picture."""
FRESH_S = 10.0
"""Smoke shows itself within so long; what turns uneasy later is something else in the place of what was taken away."""
GAP_S = 2.0
"""Without a picture for so long, what was learned is forgotten."""

Finding = tuple[Box, dict[str, Any]]


class FireRunner:
    """The rule for flames at work."""

    def __init__(self, rule: config.Fire, view: View) -> None:
        finder = _Flames(rule.zones, view, rule.dwell_s).find
        self._rule = _Announcer(rule, view, finder, FALLBACK_FIRE, back_s=1.0)

    def update(self, scene: Scene) -> list[Signal]:
        """Where it burns now."""
        return self._rule.update(scene)


class SmokeRunner:
    """The rule for smoke at work."""

    def __init__(self, rule: config.Smoke, view: View) -> None:
        finder = _Veils(rule.zones, view, rule.dwell_s).find
        self._rule = _Announcer(rule, view, finder, FALLBACK_SMOKE, back_s=1.0)

    def update(self, scene: Scene) -> list[Signal]:
        """Where it smokes now."""
        return self._rule.update(scene)


class _Announcer:
    """Findings of a package or of the fallback, as one signal for each zone; when it began is remembered."""

    def __init__(
        self,
        rule: config.Fire | config.Smoke,
        view: View,
        fallback: Callable[[Scene], list[Finding]],
        method: str,
        back_s: float,
    ) -> None:
        self._rule, self._view, self._method, self._back_s = rule, view, method, back_s
        self._find = fallback if rule.package is None else _Votes(rule, rule.package).find
        if rule.package is not None:
            self._method, self._back_s = rule.package, 0.0
        self._since: dict[str | None, tuple[float, float]] = {}
        self._first_s: float | None = None

    def update(self, scene: Scene) -> list[Signal]:
        now = scene.time_s
        if self._first_s is None:
            self._first_s = now
        best: dict[str | None, Finding] = {}
        for box, why in self._find(scene):
            inside, zone = self._zone(box)
            if inside and (zone not in best or _area(box) > _area(best[zone][0])):
                best[zone] = (box, why)
        signals = []
        for zone, (box, why) in best.items():
            began, last = self._since.get(zone, (0.0, -np.inf))
            if now - last > self._rule.hold_s:
                began = max(self._first_s, now - float(why.pop("burning_s", 0.0)) - self._back_s)
            self._since[zone] = (began, now)
            shown = {"method": self._method, **{key: value for key, value in why.items() if key != "burning_s"}}
            signals.append(Signal(type=self._rule.type, subject=None, since_s=began, zone=zone, box=box, why=shown))
        return signals

    def _zone(self, box: Box) -> tuple[bool, str | None]:
        """The zone of a box: of its centre, or of its lower end."""
        middle = (box[0] + box[2]) / 2
        inside, zone = place_of(self._rule.zones, self._view, (middle, (box[1] + box[3]) / 2))
        return (inside, zone) if inside else place_of(self._rule.zones, self._view, (middle, box[3]))


class _Votes:
    """A detection package's boxes of one label, told once they have been seen in most looks of `dwell_s`."""

    def __init__(self, rule: config.Fire | config.Smoke, package: str) -> None:
        from solutions.cctv.detector import Detector

        self._rule = rule
        self._detector = Detector.load(package, None)
        self._looks: deque[tuple[float, bool]] = deque()

    def find(self, scene: Scene) -> list[Finding]:
        found = self._detector.detect([scene.frame.image])[0]
        names = [str(name).lower() for name in found.data.get("class_name", ())]
        scores = found.confidence if found.confidence is not None else np.ones(len(found))
        hits = [i for i, name in enumerate(names) if self._rule.type in name and scores[i] >= 0.3]
        now = scene.time_s
        self._looks.append((now, bool(hits)))
        while self._looks[0][0] < now - max(self._rule.dwell_s, 0.5):
            self._looks.popleft()
        share = sum(hit for _, hit in self._looks) / len(self._looks)
        long_enough = now - self._looks[0][0] >= 0.6 * self._rule.dwell_s and len(self._looks) >= 2
        if not hits or share < 0.6 or not long_enough:
            return []
        since = next(at for at, hit in self._looks if hit)
        return [(_box(found.xyxy[i]), {"score": round(float(scores[i]), 2), "burning_s": now - since}) for i in hits]


class _Flames:
    """Flame-coloured pixels that flicker in place."""

    def __init__(self, zones: tuple[str, ...], view: View, dwell_s: float) -> None:
        self._zones, self._view = zones, view
        self._settle_s = max(3.0 * dwell_s, 1.0)
        self._time_s = -np.inf
        self._quiet_since_s = -np.inf
        self._shape = (0, 0)

    def _restart(self, value: Picture, colour: Picture) -> None:
        self._shape = value.shape[:2]
        self._value, self._extreme = value, value.copy()
        self._way = np.ones_like(value)
        self._rate, self._steady = np.zeros_like(value), np.zeros_like(value)
        self._colour = colour.copy()
        self._together, self._apart = np.zeros_like(value), np.full_like(value, 1e-3)
        self._mask = zone_mask(self._zones, self._view, (value.shape[1], value.shape[0]))

    def find(self, scene: Scene) -> list[Finding]:
        """Boxes of flames in pixels of the frame, with the figures that decided."""
        now, small = scene.time_s, scene.reduced[0]
        blue, green, red = cv2.split(small)
        bright = (red >= 170) & (red >= green)
        colour = bright & (cv2.subtract(red, blue) >= 80) & (cv2.subtract(blue, green) <= 10)
        step = now - self._time_s
        if np.count_nonzero(colour) >= LEAST_PIXELS // 2:
            self._quiet_since_s = now
        elif now - self._quiet_since_s > 5 * RATE_S:
            self._time_s = -np.inf
            return []
        value = cv2.addWeighted(red, 1 / 3, green, 2 / 3, 0.0, dtype=cv2.CV_32F).astype(np.float32, copy=False)
        present = colour.astype(np.float32)
        self._time_s = now
        if step > GAP_S or value.shape[:2] != self._shape:
            self._restart(value, present)
            return []
        self._learn(value, present, step)
        hot = ((self._rate >= TURNS_PER_S) & (self._colour >= 0.25)).astype(np.uint8)
        if self._mask is not None:
            hot[self._mask == 0] = 0
        wide = cv2.dilate(hot, np.ones((3, 3), np.uint8))
        cv2.accumulateWeighted(wide, self._steady, 1 - float(np.exp(-step / self._settle_s)))
        return self._flames(scene, hot)

    def _learn(self, value: Picture, present: Picture, step: float) -> None:
        """Turning points, colour and whether neighbours move in step."""
        swing = self._way * value
        np.maximum(self._extreme, swing, out=self._extreme)
        turned = (self._extreme - swing) >= SWING
        self._way[turned] *= -1
        self._extreme[turned] = (self._way * value)[turned]
        self._rate *= np.float32(np.exp(-step / RATE_S))
        self._rate[turned] += np.float32(1 / RATE_S)
        cv2.accumulateWeighted(present, self._colour, 1 - float(np.exp(-step / COLOUR_S)))
        change = value - self._value
        weight = 1 - float(np.exp(-step / MEET_S))
        cv2.accumulateWeighted(np.abs(cv2.blur(change, (9, 9))), self._together, weight)
        cv2.accumulateWeighted(cv2.blur(np.abs(change), (9, 9)), self._apart, weight)
        self._value = value

    def _flames(self, scene: Scene, hot: NDArray[np.uint8]) -> list[Finding]:
        core = (self._steady >= 0.6).astype(np.uint8)
        if cv2.countNonZero(core) < LEAST_PIXELS:
            return []
        joined = cv2.dilate(core, np.ones((5, 5), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        scale = scene.reduced[1]
        found: list[Finding] = []
        for index in range(1, count):
            mine = (labels == index) & (core > 0)
            if mine.sum() < LEAST_PIXELS or hot[labels == index].sum() < LEAST_PIXELS // 2:
                continue
            in_step = float(self._together[mine].sum() / self._apart[mine].sum())
            left, top, width, height = (int(each) for each in stats[index, :4])
            box = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
            if in_step > IN_STEP or _covered(box, scene):
                continue
            why = {
                "turns_per_s": round(float(self._rate[mine].mean()), 1),
                "in_step": round(in_step, 2),
                "area": round(float(mine.sum() / mine.size), 4),
                "burning_s": self._settle_s * 0.9,
            }
            found.append((box, why))
        return found


class _Veils:
    """Blocks whose fine contrast fades to grey, one after another."""

    def __init__(self, zones: tuple[str, ...], view: View, dwell_s: float) -> None:
        self._zones, self._view = zones, view
        self._settle_s = max(2.0 * dwell_s, 1.0)
        self._time_s = -np.inf
        self._shape = (0, 0)
        self._onset: NDArray[np.float64] = np.zeros((0, 0))
        self._found: list[Finding] = []

    def _restart(self, now: float, fine: Picture, grey: Picture, tint: Picture) -> None:
        self._shape = grey.shape[:2]
        self._began_s = now
        self._fine, self._grey, self._tint = fine.copy(), grey.copy(), tint.copy()
        self._fine_now, self._grey_now = fine.copy(), grey.copy()
        self._unrest, self._steady = np.zeros_like(grey), np.zeros_like(grey)
        self._onset = np.full(grey.shape, np.inf)
        self._mask = zone_mask(self._zones, self._view, (grey.shape[1], grey.shape[0]))

    def find(self, scene: Scene) -> list[Finding]:
        """Boxes of smoke in pixels of the frame. Looks at most ten times a second: smoke is slow."""
        now = scene.time_s
        step = now - self._time_s
        if step < 0.095:
            return self._found
        small = scene.reduced[0]
        fine, grey, tint = _blocks(small)
        self._time_s = now
        if step > GAP_S or grey.shape[:2] != self._shape:
            self._restart(now, fine, grey, tint)
            self._found = []
            return []
        veiled = self._learn(now, step, fine, grey, tint)
        self._found = self._smoke(scene, veiled) if now - self._began_s >= 3.0 else []
        return self._found

    def _learn(self, now: float, step: float, fine: Picture, grey: Picture, tint: Picture) -> NDArray[np.bool_]:
        """Veiled blocks, after the background has been brought up to date where nothing is veiled."""
        quick = 1 - float(np.exp(-step / 0.5))
        cv2.accumulateWeighted(fine, self._fine_now, quick)
        change = grey - self._grey_now
        change -= np.median(change)  # the camera's own exposure moves all blocks alike
        moved = (np.abs(change) >= 2.5).astype(np.float32)
        cv2.accumulateWeighted(moved, self._unrest, 1 - float(np.exp(-step / 3.0)))
        cv2.accumulateWeighted(grey, self._grey_now, quick)
        contrast = (self._fine_now / (grey + 10)) / np.maximum(self._fine / (self._grey + 10), 1e-3)
        greyer = (tint <= 0.8 * self._tint) | (tint <= 30)
        veiled = (self._fine >= 5.0) & (contrast < 0.65) & greyer & (np.abs(grey - self._grey) >= 8)
        veiled &= grey >= 50
        if veiled.mean() > 0.6:
            self._restart(now, fine, grey, tint)
            return np.zeros(grey.shape, dtype=bool)
        learning = 5.0 if now - self._began_s < 5.0 else 40.0
        kept_veil = veiled & ((self._unrest >= 0.4) | (now - self._began_s < 5.0))
        weight = np.where(kept_veil, step / 300.0, step / np.where(veiled, 3.0, learning)).astype(np.float32)
        for kept, fresh in ((self._fine, fine), (self._grey, grey), (self._tint, tint)):
            kept += weight * (fresh - kept)
        self._onset[veiled & ~np.isfinite(self._onset)] = now
        cv2.accumulateWeighted(veiled.astype(np.float32), self._steady, 1 - float(np.exp(-step / self._settle_s)))
        self._onset[~veiled & (self._steady < 0.15)] = np.inf
        return veiled

    def _smoke(self, scene: Scene, veiled: NDArray[np.bool_]) -> list[Finding]:
        uneasy = self._unrest >= 0.6
        core = ((self._steady >= 0.5) & uneasy).astype(np.uint8)
        if self._mask is not None:
            core[self._mask == 0] = 0
        count, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
        scale = BLOCK * scene.reduced[1]
        found: list[Finding] = []
        for index in range(1, count):
            mine = labels == index
            if mine.sum() < 10 or (veiled & mine).sum() < 3:
                continue
            onsets = self._onset[mine & np.isfinite(self._onset)]
            spread = float(np.subtract(*np.percentile(onsets, [85, 15]))) if len(onsets) else 0.0
            left, top, width, height = (int(each) for each in stats[index, :4])
            box = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
            fresh = bool(self._found) or (len(onsets) and scene.time_s - np.median(onsets) <= FRESH_S)
            if spread < 1.0 or not fresh or _covered(box, scene):
                continue
            why = {
                "spread_s": round(spread, 1),
                "area": round(float(mine.sum() / mine.size), 4),
                "burning_s": scene.time_s - float(np.percentile(onsets, 15)),
            }
            found.append((box, why))
        return found


def _blocks(small: Bgr) -> tuple[Picture, Picture, Picture]:
    """For each block: mean absolute Laplacian, mean brightness, and distance from grey (largest less least channel)."""
    height, width = small.shape[0] // BLOCK * BLOCK, small.shape[1] // BLOCK * BLOCK
    size = (max(width // BLOCK, 1), max(height // BLOCK, 1))
    grey = cv2.cvtColor(small[:height, :width], cv2.COLOR_BGR2GRAY)
    fine = cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S))
    colours = cv2.resize(small[:height, :width], size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return (
        cv2.resize(fine, size, interpolation=cv2.INTER_AREA).astype(np.float32),
        cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32),
        colours.max(axis=2) - colours.min(axis=2),
    )


def _covered(box: Box, scene: Scene) -> bool:
    """Whether mostly a person, or a vehicle on its way, is what was found. A vehicle that stands may burn."""
    for track in scene.tracks:
        moving_vehicle = track.label in config.VEHICLES and track.still_since_s is None
        if track.label != config.PERSON and not moving_vehicle:
            continue
        width = min(box[2], track.box[2]) - max(box[0], track.box[0])
        height = min(box[3], track.box[3]) - max(box[1], track.box[1])
        if width > 0 and height > 0 and width * height >= 0.6 * _area(box):
            return True
    return False


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _box(row: NDArray[np.float32]) -> Box:
    return (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
