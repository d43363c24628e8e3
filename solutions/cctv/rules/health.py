"""The camera itself: frozen, covered, defocused, moved, too dark. (Offline is said by the service: there is no frame.)

A picture is compared with what this camera usually shows, learned over its first seconds and followed slowly after:
how much fine detail it has, and where its edges are. Each state must last for `within_s`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from solutions.cctv.config import CameraHealth
from solutions.cctv.scene import Scene, Signal, View

_EVERY_S = 0.5
_LEARN_S = 5.0
_FOLLOW_S = 180.0
_WIDTH = 240
_DARK, _DARK_BRIGHTEST = 18.0, 45.0
_FORGIVEN_S = 1.5

Grey = NDArray[np.float32]


@dataclass(slots=True)
class _Usual:
    """What the camera shows when it is well."""

    edges: Grey
    """[h, w] strength, mean over time."""
    detail: float
    """Fine detail: mean strength of the Laplacian."""
    texture: float
    """Mean strength of the edges."""


class Health:
    """One camera's state."""

    def __init__(self, rule: CameraHealth, view: View) -> None:
        self.rule, self.view = rule, view
        self._usual: _Usual | None = None
        self._before: NDArray[np.uint8] | None = None
        self._began_s: float | None = None
        self._last_s = -1e9
        self._held: dict[str, tuple[float, float]] = {}
        self._same_since: float | None = None
        self._signals: list[Signal] = []

    def update(self, scene: Scene) -> list[Signal]:
        """What is wrong with the camera."""
        now = scene.time_s
        if now - self._last_s < _EVERY_S - 1e-6:
            return self._signals
        step, self._last_s = min(now - self._last_s, 5.0), now
        small, grey = self._reduced(scene.frame.image)
        states = self._states(small, grey, step, now)
        self._signals = [self._signal(state, why, now) for state, why in states.items()]
        self._held = {state: held for state, held in self._held.items() if now - held[1] <= _FORGIVEN_S}
        self._signals = [each for each in self._signals if now - each.since_s >= self.rule.within_s]
        return self._signals

    def _signal(self, state: str, why: dict[str, float], now: float) -> Signal:
        since, _ = self._held.get(state, (now, now))
        if state == "camera_frozen":
            since = min(since, self._same_since if self._same_since is not None else now)
        self._held[state] = (since, now)
        return Signal(type=state, subject=None, since_s=since, why=why)

    def _states(self, small: NDArray[np.uint8], grey: Grey, step: float, now: float) -> dict[str, dict[str, float]]:
        frozen = self._frozen(small, now)
        found: dict[str, dict[str, float]] = {"camera_frozen": {}} if frozen else {}
        brightness, brightest = float(grey.mean()), float(np.percentile(grey, 97))
        if brightness < _DARK and brightest < _DARK_BRIGHTEST:
            found["camera_dark"] = {"brightness": round(brightness, 1)}
            return found
        edges, detail = _edges(grey), float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())
        texture = float(edges.mean())
        if self._began_s is None:
            self._began_s = now
        if self._usual is None or now - self._began_s < _LEARN_S:
            self._learn(edges, detail, texture, 0.3)
            return found
        usual = self._usual
        alike = _correlation(edges, usual.edges)
        why = {"detail": round(detail / max(usual.detail, 1e-6), 3), "alike": round(alike, 3)}
        worth = usual.texture > 4.0  # a view of an empty wall says nothing
        if worth and texture < 0.3 * usual.texture and alike < 0.35:
            found["camera_covered"] = why
        elif worth and detail < 0.42 * usual.detail and alike >= 0.35:
            found["camera_defocused"] = why
        elif worth and alike < 0.3 and _nowhere_alike(edges, usual.edges):
            found["camera_moved"] = why
        elif alike > 0.5:
            self._learn(edges, detail, texture, 1 - float(np.exp(-step / _FOLLOW_S)))
        return found

    def _learn(self, edges: Grey, detail: float, texture: float, share: float) -> None:
        if self._usual is None or self._usual.edges.shape != edges.shape:
            self._usual = _Usual(edges.copy(), detail, texture)
            return
        self._usual.edges += share * (edges - self._usual.edges)
        self._usual.detail += share * (detail - self._usual.detail)
        self._usual.texture += share * (texture - self._usual.texture)

    def _frozen(self, small: NDArray[np.uint8], now: float) -> bool:
        """The very same picture again and again: a live one has noise, and is coded anew at each key frame."""
        before, self._before = self._before, small
        same = before is not None and before.shape == small.shape and np.array_equal(before, small)
        if not same:
            self._same_since = None
            return False
        self._same_since = now if self._same_since is None else self._same_since
        return now - self._same_since >= self.rule.within_s - _EVERY_S

    def _reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Grey]:
        height = max(round(image.shape[0] * _WIDTH / image.shape[1]), 8)
        small = np.asarray(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
        exact = image[:: max(image.shape[0] // 120, 1), :: max(image.shape[1] // 160, 1)]
        return np.ascontiguousarray(exact), grey


def _edges(grey: Grey) -> Grey:
    """Strength of edges, little moved by the brightness of the picture."""
    soft = cv2.GaussianBlur(grey, (5, 5), 0)
    strength = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    return np.asarray(np.minimum(strength, 120.0), dtype=np.float32)


def _correlation(one: Grey, other: Grey) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(float(np.sqrt((one**2).sum() * (other**2).sum())), 1e-6))


def _nowhere_alike(edges: Grey, usual: Grey) -> bool:
    """In no part of the picture: something large in front of the camera leaves some parts as they were."""
    rows, columns = np.array_split(np.arange(edges.shape[0]), 2), np.array_split(np.arange(edges.shape[1]), 3)
    parts = [(np.ix_(row, column)) for row in rows for column in columns]
    return sum(_correlation(edges[part], usual[part]) > 0.45 for part in parts) <= 1
