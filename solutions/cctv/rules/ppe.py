"""Persons without helmet or vest, by a trained package or, as a fallback that says so, by colour.

A single look is often wrong, so each track votes: over `vote_s` at least, over several looks, and only looks that are
clear count. A person who is small, cut by the picture's edge, or not upright gives no look; a track that stays unclear
gives no verdict.

By colour, a helmet is a saturated (or white: then unclear, for so are walls and hair) patch where the head is; a vest
is fluorescent yellow, green, orange or red over much of the torso.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from edge.io.frames import Bgr
from solutions.cctv import config
from solutions.cctv.rules.subjects import clip_box, meant, place_of
from solutions.cctv.scene import Scene, Signal, Track, View

LEAST_HEIGHT = 60.0
"""Of a person, in pixels: under it a head is less than ten pixels."""
LOOK_S = 0.15
"""Between two looks at a person."""
LOOKS = 5
MEMORY_S = 6.0
Look = dict[str, bool | None]
"""For each item: worn, missing, or unclear."""


@dataclass(slots=True)
class _Votes:
    looks: deque[tuple[float, Look]] = field(default_factory=deque)
    seen_s: float = 0.0
    missing_since_s: dict[str, float] = field(default_factory=dict)


class PpeRunner:
    """The rule at work for one camera."""

    def __init__(self, rule: config.PpeMissing, view: View) -> None:
        self._rule, self._view = rule, view
        self._votes: dict[int, _Votes] = {}
        self._detector: Any = None
        if rule.package is not None:
            from solutions.cctv.detector import Detector

            self._detector = Detector.load(rule.package)

    def update(self, scene: Scene) -> list[Signal]:
        """Who lacks something now."""
        now = scene.time_s
        signals = []
        for track in meant(self._rule, scene):
            inside, zone = place_of(self._rule.zones, self._view, track.foot)
            if not inside:
                continue
            votes = self._votes.setdefault(track.id, _Votes())
            votes.seen_s = now
            if not votes.looks or now - votes.looks[-1][0] >= LOOK_S:
                self._look(votes, track, scene)
            missing: list[str] = [item for item in self._rule.required if self._missing(votes, item)]
            if missing:
                signals.append(self._signal(track, zone, missing, votes))
        self._votes = {key: each for key, each in self._votes.items() if now - each.seen_s <= MEMORY_S}
        return signals

    def _look(self, votes: _Votes, track: Track, scene: Scene) -> None:
        last = track.path[-1] if track.path else None
        if (last is not None and not last.detected) or not _clear(track, scene):
            return
        now = scene.time_s
        look = by_colour(scene.frame.image, track) if self._detector is None else self._by_package(scene, track)
        votes.looks.append((now, look))
        while votes.looks[0][0] < now - max(MEMORY_S, 2 * self._rule.vote_s):
            votes.looks.popleft()

    def _by_package(self, scene: Scene, track: Track) -> Look:
        """What a detector sees on the person and a little around it. No box of an item's labels: unclear."""
        side = 0.1 * (track.box[3] - track.box[1])
        left, top, right, bottom = track.box
        wide = (left - side, top - side, right + side, bottom + side)
        x0, y0, x1, y1 = clip_box(wide, scene.size[0], scene.size[1])
        found = self._detector.detect([np.ascontiguousarray(scene.frame.image[y0:y1, x0:x1])])[0]
        names = found.data.get("class_name", ())
        scores = found.confidence if found.confidence is not None else np.ones(len(found))
        best: dict[str, tuple[float, bool]] = {}
        for name, score in zip(names, scores, strict=True):
            meaning = meaning_of(str(name))
            if meaning is not None and score >= max(0.3, best.get(meaning[0], (0.0, True))[0]):
                best[meaning[0]] = (float(score), meaning[1])
        return {item: best[item][1] if item in best else None for item in ("helmet", "vest")}

    def _missing(self, votes: _Votes, item: str) -> bool:
        """The vote: enough clear looks over long enough, nearly all of them without the item."""
        clear = [(at, look[item]) for at, look in votes.looks if look[item] is not None]
        if len(clear) < LOOKS or clear[-1][0] - clear[0][0] < self._rule.vote_s:
            return False
        lacking = [at for at, worn in clear if not worn]
        share = len(lacking) / len(clear)
        if share < (0.6 if item in votes.missing_since_s else 0.8) or len(clear) < 0.4 * len(votes.looks):
            votes.missing_since_s.pop(item, None)
            return False
        votes.missing_since_s.setdefault(item, lacking[0])
        return True

    def _signal(self, track: Track, zone: str | None, missing: list[str], votes: _Votes) -> Signal:
        return Signal(
            type="ppe_missing",
            subject=track.id,
            since_s=min(votes.missing_since_s[item] for item in missing),
            zone=zone,
            track_ids=(track.id,),
            box=track.box,
            why={"method": self._rule.package or "colour (fallback)", "missing": missing, "looks": len(votes.looks)},
        )


def meaning_of(label: str) -> tuple[str, bool] | None:
    """Item and whether it is worn, of a detector's label ("NO-Hardhat", "no_vest", "head", "helmet"); None: neither."""
    plain = label.lower().replace("_", " ").replace("-", " ").strip()
    without = plain.startswith(("no ", "without ")) or plain.endswith(" missing")
    if any(word in plain for word in ("helmet", "hardhat", "hard hat")):
        return "helmet", not without
    if plain == "head":
        return "helmet", False
    return ("vest", not without) if "vest" in plain else None


def by_colour(image: Bgr, track: Track) -> Look:
    """What the colours of an upright person's head and torso say."""
    left, top, right, bottom = track.box
    width, height = right - left, bottom - top
    head = _hsv(image, (left + 0.25 * width, top, right - 0.25 * width, top + 0.13 * height))
    torso = _hsv(image, (left + 0.22 * width, top + 0.2 * height, right - 0.22 * width, top + 0.5 * height))
    return {"helmet": _helmet(head), "vest": _vest(torso)}


def _hsv(image: Bgr, box: tuple[float, float, float, float]) -> np.ndarray:
    x0, y0, x1, y1 = clip_box(box, image.shape[1], image.shape[0])
    if x1 - x0 < 3 or y1 - y0 < 3:
        return np.zeros((0, 3), dtype=np.uint8)
    return cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_BGR2HSV).reshape(-1, 3)


def _helmet(pixels: np.ndarray) -> bool | None:
    """Saturated enough is worn; hair and skin alone are not; much white or little saturation is unclear."""
    if len(pixels) < 12:
        return None
    hue, saturation, value = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    skin_like = (hue <= 17) & (saturation < 165)
    coloured = float(np.mean((saturation >= 110) & (value >= 100) & ~skin_like))
    white = float(np.mean((saturation < 45) & (value >= 190)))
    if coloured >= 0.2:
        return True
    return False if coloured <= 0.06 and white <= 0.25 else None


def _vest(pixels: np.ndarray) -> bool | None:
    if len(pixels) < 30:
        return None
    hue, saturation, value = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    warm = (hue <= 45) | (hue >= 172)
    share = float(np.mean(warm & (saturation >= 120) & (value >= 130)))
    if share >= 0.18:
        return True
    return False if share <= 0.04 else None


def _clear(track: Track, scene: Scene) -> bool:
    """Whether head and torso can be looked at: large, upright, not cut, not behind somebody else."""
    left, top, right, bottom = track.box
    width, height = right - left, bottom - top
    if height < LEAST_HEIGHT or not 1.5 <= height / max(width, 1.0) <= 4.5:
        return False
    if left <= 2 or top <= 2 or right >= scene.size[0] - 2 or bottom >= scene.size[1] - 2:
        return False
    for other in scene.tracks:
        if other.id == track.id or other.label != config.PERSON:
            continue
        shared_width = min(right, other.box[2]) - max(left, other.box[0])
        shared_height = min(top + 0.5 * height, other.box[3]) - max(top, other.box[1])
        if shared_width > 0.25 * width and shared_height > 0.1 * height:
            return False
    return True
