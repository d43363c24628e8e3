"""A vehicle too near a person, in metres on the ground: a homography of four points that somebody measured."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from solutions.cctv.config import PERSON, VehicleNearPerson
from solutions.cctv.rules.geometry import foot
from solutions.cctv.scene import Scene, Signal, Track, View

_SPEED_S = 0.6
_MOVES_M_S = 0.3
_FORGIVEN_S = 0.5


class VehicleNearPersonRunner:
    """One rule of one camera."""

    def __init__(self, rule: VehicleNearPerson, view: View) -> None:
        """
        Raises:
            BadInput: the camera's four points are not corners of an area.
        """
        ground = view.camera.ground
        assert ground is not None  # the configuration sees to it
        corners = np.array(ground.image, dtype=np.float32) * np.array(view.size, dtype=np.float32)
        metres = np.array(ground.metres, dtype=np.float32)
        if min(cv2.contourArea(cv2.convexHull(corners)), cv2.contourArea(cv2.convexHull(metres))) < 1e-3:
            raise BadInput("ground: the four points must be the corners of an area, not lie on one line.")
        self._to_metres = cv2.getPerspectiveTransform(corners, metres)
        self.rule = rule
        self._since: dict[tuple[int, int], tuple[float, float]] = {}

    def update(self, scene: Scene) -> list[Signal]:
        """Pairs that are too near."""
        rule = self.rule
        persons = [track for track in scene.tracks if track.label == PERSON]
        vehicles = [track for track in scene.tracks if track.label in rule.vehicles]
        if rule.moving_only:
            vehicles = [track for track in vehicles if self._speed(track, scene.time_s) > _MOVES_M_S]
        signals = []
        for person in persons:
            for vehicle in vehicles:
                apart = self._apart(person, vehicle)
                if apart < rule.min_distance_m:
                    since = self._hold(person.id, vehicle.id, scene.time_s)
                    if scene.time_s - since >= rule.dwell_s:
                        signals.append(_signal(person, vehicle, since, apart))
        self._since = {pair: held for pair, held in self._since.items() if scene.time_s - held[1] <= _FORGIVEN_S}
        return signals

    def _hold(self, person: int, vehicle: int, now_s: float) -> float:
        since, _ = self._since.get((person, vehicle), (now_s, now_s))
        self._since[person, vehicle] = (since, now_s)
        return since

    def _apart(self, person: Track, vehicle: Track) -> float:
        """Metres between where the person stands and the nearest of the vehicle's bottom edge."""
        left, _, right, bottom = vehicle.box
        edge = self._metres(np.array([[x, bottom] for x in np.linspace(left, right, 7)]))
        stand = self._metres(np.array([foot(person.box)]))
        return float(np.linalg.norm(edge - stand, axis=1).min())

    def _speed(self, track: Track, now_s: float) -> float:
        """Metres per second of the bottom centre, over the last half second or so."""
        old = next((step for step in reversed(track.path) if now_s - step.time_s >= _SPEED_S), None)
        if old is None:
            return 0.0
        here, there = self._metres(np.array([foot(track.box), foot(old.box)]))
        return float(np.linalg.norm(here - there)) / (now_s - old.time_s)

    def _metres(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 2] on the ground."""
        lifted = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ self._to_metres.T
        return np.asarray(lifted[:, :2] / np.where(np.abs(lifted[:, 2:]) < 1e-9, 1e-9, lifted[:, 2:]))


def _signal(person: Track, vehicle: Track, since_s: float, apart: float) -> Signal:
    return Signal(
        type="vehicle_near_person",
        subject=(person.id, vehicle.id),
        since_s=since_s,
        track_ids=(person.id, vehicle.id),
        box=person.box,
        why={"distance_m": round(apart, 2), "vehicle": vehicle.label},
    )
