"""Persons without helmet or vest, by a trained package or, as a fallback that says so, by colour.

A single look is often wrong, so each track votes: over `vote_s` at least, over several looks, and only looks that are
clear count. A person who is small, cut by the picture's edge, or not upright gives no look; a track that stays unclear
gives no verdict.
What one look says is the affair of `wearing`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from solutions.cctv import config
from solutions.cctv.rules.subjects import meant, place_of
from solutions.cctv.rules.wearing import Look, reader_for
from solutions.cctv.scene import Scene, Signal, Track, View

LEAST_HEIGHT = 60.0
"""Of a person, in pixels: under it a head is less than ten pixels."""
LOOK_S = 0.15
"""Between two looks at a person."""
LOOKS = 5
MEMORY_S = 6.0


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
        self._reader = reader_for(rule.package)

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
        votes.looks.append((now, self._reader(scene.frame.image, track)))
        while votes.looks[0][0] < now - max(MEMORY_S, 2 * self._rule.vote_s):
            votes.looks.popleft()

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
