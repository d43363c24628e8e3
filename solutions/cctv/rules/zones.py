"""In a zone: intrusion, loitering, crowding, working alone, queue.

Somebody is in a zone where the foot (bottom centre of the box) is. One step outside does not end a stay: `_GAP_S`
bridges what a detector misses, and a stay is handed on where a track ends and another begins at the same place. Times
are of the camera's clock, so that the rate of frames does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solutions.cctv.config import Crowding, Intrusion, Loitering, QueueLength, WorkingAlone, ZoneRule
from solutions.cctv.rules.geometry import Point, foot, height, inside, meant, zones_of
from solutions.cctv.scene import Box, Scene, Signal, Track, View

_GAP_S = 1.5
_UNSEEN_S = 0.5
"""A track that moves counts where it is foreseen for so long; one at rest for as long as its tracker believes in it."""
_HANDED_ON = 0.8
"""A new track within so many heights of where a stay broke off goes on with it."""


@dataclass(slots=True)
class Stay:
    """Somebody in a zone."""

    track: int
    label: str
    since_s: float
    seen_s: float
    place: Point
    box: Box
    tracks: list[int] = field(default_factory=list)
    """All tracks that it was, newest last."""


class Stays:
    """Who is in one zone since when."""

    def __init__(self, polygon: NDArray[np.float32]) -> None:
        self.polygon = polygon
        self._stays: dict[int, Stay] = {}

    def update(self, scene: Scene, tracks: list[Track]) -> list[Stay]:
        """Those who are in it now, longest first."""
        here = {track.id for track in scene.tracks}
        for track in tracks:
            if inside(self.polygon, foot(track.box)):
                self._enter(track, scene.time_s, here)
        for known, stay in list(self._stays.items()):
            gap = scene.time_s - stay.seen_s
            if gap > _GAP_S or (gap > 0 and known in here and self._clearly_out(known, scene)):
                del self._stays[known]
        now = [stay for stay in self._stays.values() if scene.time_s - stay.seen_s <= _UNSEEN_S]
        return sorted(now, key=lambda stay: stay.since_s)

    def _clearly_out(self, known: int, scene: Scene) -> bool:
        track = next(each for each in scene.tracks if each.id == known)
        return not inside(self.polygon, foot(track.box), 0.1 * height(track.box))

    def _enter(self, track: Track, time_s: float, here: set[int]) -> None:
        stay = self._stays.get(track.id)
        if stay is None:
            stay = self._handed_on(track, here) or Stay(
                track.id, track.label, self._entered(track, time_s), time_s, foot(track.box), track.box
            )
            stay.tracks.append(track.id)
            self._stays[track.id] = stay
        stay.track, stay.label, stay.box = track.id, track.label, track.box
        if track.still_since_s is not None or time_s - track.seen_s <= _UNSEEN_S:
            stay.seen_s = time_s
        stay.place = foot(track.box)

    def _handed_on(self, track: Track, here: set[int]) -> Stay | None:
        for known, stay in self._stays.items():
            place = foot(track.box)
            near = np.hypot(place[0] - stay.place[0], place[1] - stay.place[1]) < _HANDED_ON * height(track.box)
            if known not in here and near:
                return self._stays.pop(known)
        return None

    def _entered(self, track: Track, time_s: float) -> float:
        """When the track came in: as far back as its path lies in the zone without a break."""
        entered = time_s
        for step in reversed(track.path):
            if step.time_s > time_s:
                continue
            if not inside(self.polygon, foot(step.box)):
                return (entered + step.time_s) / 2
            entered = step.time_s
        return entered


class _InZones:
    """What the rules of this file share: the stays of each zone."""

    def __init__(self, rule: ZoneRule, view: View) -> None:
        self.rule, self.view = rule, view
        self._zones = {name: Stays(polygon) for name, polygon in zones_of(rule.zones, view).items()}

    def _stays(self, scene: Scene) -> list[tuple[str | None, list[Stay]]]:
        rule = self.rule
        tracks = [each for each in scene.tracks if meant(each, rule.labels, self.view, rule.min_height, rule.min_score)]
        return [(name, zone.update(scene, tracks)) for name, zone in self._zones.items()]


class IntrusionRunner(_InZones):
    """One event for each zone, from when it is entered until it is empty: an operator wants to be called once."""

    rule: Intrusion

    def update(self, scene: Scene) -> list[Signal]:
        """Zones that somebody is in."""
        signals = []
        for zone, stays in self._stays(scene):
            long = [stay for stay in stays if scene.time_s - stay.since_s >= self.rule.dwell_s]
            if long:
                signals.append(_signal("intrusion", zone, long, long[0].since_s))
        return signals


class LoiteringRunner(_InZones):
    """One event for each person."""

    rule: Loitering

    def update(self, scene: Scene) -> list[Signal]:
        """Who has been in a zone for too long."""
        return [
            _signal("loitering", zone, [stay], stay.since_s, subject=stay.tracks[0])
            for zone, stays in self._stays(scene)
            for stay in stays
            if stay.seen_s - stay.since_s >= self.rule.min_s
        ]


class _Lasting:
    """Since when something has held for each zone, short breaks forgiven."""

    def __init__(self, forgiven_s: float = 0.7) -> None:
        self._forgiven_s = forgiven_s
        self._since: dict[str | None, tuple[float, float]] = {}

    def update(self, zone: str | None, time_s: float, *, holds: bool) -> float | None:
        """Since when; None where it does not hold."""
        since, last = self._since.get(zone, (time_s, time_s))
        if holds:
            if time_s - last > self._forgiven_s:
                since = time_s
            self._since[zone] = (since, time_s)
            return since
        if time_s - last > self._forgiven_s:
            self._since.pop(zone, None)
        return None


class CrowdingRunner(_InZones):
    """Many at once."""

    rule: Crowding

    def __init__(self, rule: Crowding, view: View) -> None:
        super().__init__(rule, view)
        self._lasting = _Lasting()

    def update(self, scene: Scene) -> list[Signal]:
        """Zones with too many."""
        signals = []
        for zone, stays in self._stays(scene):
            since = self._lasting.update(zone, scene.time_s, holds=len(stays) >= self.rule.min_persons)
            if since is not None and scene.time_s - since >= self.rule.dwell_s:
                signals.append(_signal("crowding", zone, stays, since))
        return signals


class WorkingAloneRunner(_InZones):
    """Exactly one, for long."""

    rule: WorkingAlone

    def __init__(self, rule: WorkingAlone, view: View) -> None:
        super().__init__(rule, view)
        self._lasting = _Lasting(2.0)

    def update(self, scene: Scene) -> list[Signal]:
        """Zones in which one has been alone for too long."""
        signals = []
        for zone, stays in self._stays(scene):
            since = self._lasting.update(zone, scene.time_s, holds=len(stays) == 1)
            if since is not None and scene.time_s - since >= self.rule.min_s:
                signals.append(_signal("working_alone", zone, stays, since))
        return signals


class QueueRunner(_InZones):
    """Too many wait, or one for too long."""

    rule: QueueLength

    def __init__(self, rule: QueueLength, view: View) -> None:
        super().__init__(rule, view)
        self._lasting = _Lasting(2.0)

    def update(self, scene: Scene) -> list[Signal]:
        """Zones whose queue is too long."""
        signals = []
        for zone, stays in self._stays(scene):
            longest = scene.time_s - stays[0].since_s if stays else 0.0
            too_long = len(stays) > self.rule.max_persons or longest > self.rule.max_wait_s
            since = self._lasting.update(zone, scene.time_s, holds=too_long)
            if since is not None and scene.time_s - since >= self.rule.dwell_s:
                signals.append(_signal("queue", zone, stays, since, waiting_s=round(longest, 1)))
        return signals


def _signal(
    type_: str, zone: str | None, stays: list[Stay], since_s: float, subject: int | None = None, **why: float
) -> Signal:
    return Signal(
        type=type_,
        subject=subject,
        since_s=since_s,
        zone=zone,
        track_ids=tuple(stay.track for stay in stays),
        box=stays[0].box if stays else None,
        why={"count": len(stays), "labels": sorted({stay.label for stay in stays}), **why},
    )
