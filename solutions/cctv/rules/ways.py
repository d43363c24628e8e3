"""Against the way: somebody goes through a zone in the wrong direction."""

from __future__ import annotations

import math

from solutions.cctv.config import WrongDirection
from solutions.cctv.rules.geometry import foot, inside, meant
from solutions.cctv.scene import Scene, Signal, Step, Track, View

_LOOK_BACK_S = 4.0


class WrongDirectionRunner:
    """One rule of one camera."""

    def __init__(self, rule: WrongDirection, view: View) -> None:
        self.rule, self.view = rule, view
        self._zones = {name: view.zones[name] for name in rule.zones}
        self._told: dict[tuple[int, str], float] = {}

    def update(self, scene: Scene) -> list[Signal]:
        """Who has gone far enough the wrong way."""
        signals = []
        least = self.rule.min_travel * self.view.size[1]
        for track in scene.tracks:
            if not meant(track, self.rule.labels, self.view, self.rule.min_height, self.rule.min_score):
                continue
            for zone in self._zones:
                way = self._way(track, zone, scene.time_s)
                if way is None:
                    continue
                (dx, dy), since_s = way
                travelled = math.hypot(dx, dy)
                if travelled >= least and self._angle(dx, dy) > self.rule.tolerance_deg:
                    self._told.setdefault((track.id, zone), since_s)
                    signals.append(
                        Signal(
                            type="wrong_direction",
                            subject=track.id,
                            since_s=self._told[track.id, zone],
                            zone=zone,
                            track_ids=(track.id,),
                            box=track.box,
                            why={"angle_deg": round(self._angle(dx, dy)), "travelled_px": round(travelled)},
                        )
                    )
        here = {track.id for track in scene.tracks}
        self._told = {key: since for key, since in self._told.items() if key[0] in here}
        return signals

    def _way(self, track: Track, zone: str, now_s: float) -> tuple[tuple[float, float], float] | None:
        """From where the track was in the zone a while ago to where it is, in pixels, and since when."""
        polygon = self._zones[zone]
        if not inside(polygon, foot(track.box)):
            return None
        first: Step | None = None
        for step in reversed(track.path):
            if now_s - step.time_s > _LOOK_BACK_S or not inside(polygon, foot(step.box)):
                break
            first = step
        if first is None:
            return None
        (x, y), (old_x, old_y) = foot(track.box), foot(first.box)
        return (x - old_x, y - old_y), first.time_s

    def _angle(self, dx: float, dy: float) -> float:
        """Degrees between the way taken and the way allowed."""
        allowed = self.rule.allowed
        lengths = math.hypot(dx, dy) * math.hypot(*allowed)
        if lengths < 1e-9:
            return 0.0
        return math.degrees(math.acos(max(-1.0, min(1.0, (dx * allowed[0] + dy * allowed[1]) / lengths))))
