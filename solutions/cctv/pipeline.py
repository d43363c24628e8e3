"""One camera, from frames to events: what must be looked at, and what comes of it. Pure but for its own state.

A frame passes the motion gate. Where something moves or is being followed, and now and then in any case, the detector
is asked, about the regions that matter; between its answers tracks go on by motion. Rules read the tracks, the event
machine makes events of what they signal. The detector is not here: it is shared by all cameras, so the service asks it
between `plan` and `track`, and has the gate of the next frame and the rules of the last one run meanwhile.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import numpy as np
import supervision as sv

from edge.io.frames import Bgr, Frame
from solutions.cctv.config import Camera, CameraHealth, Rule
from solutions.cctv.detector import Detector
from solutions.cctv.machine import EventMachine
from solutions.cctv.motion import MotionGate
from solutions.cctv.regions import Looker
from solutions.cctv.rules import runner_for
from solutions.cctv.scene import Box, Event, Message, Motion, Runner, Scene, Signal, View
from solutions.cctv.tracking import Tracker

DETECT_EVERY_S = 0.1
"""The detector is asked about a camera at most so often; tracks go on by motion in between."""


@dataclass(frozen=True, slots=True)
class Look:
    """A frame that was seen, without private areas, and what the detector should be asked about it."""

    frame: Frame
    motion: Motion
    regions: tuple[Box, ...] | None = None
    """Parts of the picture; None: nothing."""

    @property
    def whole(self) -> Look:
        """The same, with the picture as one region."""
        height, width = self.frame.image.shape[:2]
        return replace(self, regions=((0.0, 0.0, float(width), float(height)),))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a frame."""

    scene: Scene
    signals: tuple[Signal, ...]
    messages: tuple[Message, ...]


class CameraPipeline:
    """Not thread-safe: one loop feeds it."""

    def __init__(
        self,
        name: str,
        camera: Camera,
        *,
        clip: str | None = None,
        zone: ZoneInfo | None = None,
        detector: Detector | None = None,
    ) -> None:
        """
        Args:
            clip: goes into events that are judged; None: the evidence gives its own.
            zone: of the rules' schedules.
            detector: that will be asked: what it sees well decides what it is shown.
        """
        self.name, self.camera = name, camera
        self._sees: dict[str, Any] = {} if detector is None else {"side": detector.side, "smallest": detector.smallest}
        self.association_s = 0.0
        """Spent on tracking so far."""
        self.frames = 0
        self._rules = _with_health(camera.rules)
        self._machine = EventMachine(name, clip, zone=zone)
        self._view: View | None = None
        self._detected_s = -np.inf

    def see(self, frame: Frame) -> Look:
        """What moves in a frame."""
        size = (frame.image.shape[1], frame.image.shape[0])
        if self._view is None or self._view.size != size:
            self._start(size)
        image = self._without_private(frame.image)
        shown = Frame(frame.camera, frame.index, frame.time_s, image, frame.taken_at)
        return Look(shown, self._gate.update(shown))

    def plan(self, look: Look) -> Look:
        """What the detector should be asked, once the frame before is tracked."""
        time_s = look.frame.time_s
        if time_s - self._detected_s < DETECT_EVERY_S - 1e-6:
            return look
        regions = self._looker.plan(look.motion, self._tracker.tracks, time_s)
        if regions is not None:
            self._detected_s = time_s
        return replace(look, regions=regions)

    def track(self, look: Look, detections: sv.Detections | None) -> Scene:
        """Who and what is there.

        Args:
            detections: of the regions; None: the detector was not asked.
        """
        started = time.perf_counter()
        tracks = self._tracker.update(detections, look.frame.time_s, look.motion, look.regions)
        self.association_s += time.perf_counter() - started
        self.frames += 1
        assert self._view is not None
        return Scene(look.frame, self._view.size, tracks, look.motion)

    def judge(self, scene: Scene) -> Outcome:
        """What the rules make of it, before the next frame is tracked."""
        signals = [
            (rule, signal)
            for rule, runner in zip(self._rules, self._runners, strict=True)
            for signal in runner.update(scene)
        ]
        messages = self._machine.update(signals, scene.frame)
        return Outcome(scene, tuple(signal for _, signal in signals), tuple(map(self._placed, messages)))

    def offline(self, time_s: float, since_s: float, taken_at: dt.datetime, error: str | None) -> tuple[Message, ...]:
        """There is no picture: say so, and end what was going on.

        Args:
            time_s: on the camera's clock, as it would have gone on.
            since_s: of the last picture.
        """
        rule = next(rule for rule in self._rules if rule.type == "camera_health")
        nothing = Frame(self.name, -1, time_s, np.zeros((0, 0, 3), dtype=np.uint8), taken_at)
        why = {"error": error} if error else {}
        signal = Signal(type="camera_offline", subject=None, since_s=since_s, why=why)
        return tuple(self._machine.update([(rule, signal)], nothing))

    @property
    def offline_after_s(self) -> float:
        """Without a picture for so long, it is an event."""
        return next(rule.within_s for rule in self._rules if rule.type == "camera_health")

    @property
    def view(self) -> View:
        """The camera's drawing; there must have been a frame."""
        assert self._view is not None
        return self._view

    def close(self) -> tuple[Message, ...]:
        """End what is open: the source has ended."""
        return tuple(map(self._placed, self._machine.close()))

    def _start(self, size: tuple[int, int]) -> None:
        self._view = View.of(self.camera, size)
        self._gate, self._tracker = MotionGate(), Tracker(size)
        self._looker = Looker(size, tiles=self.camera.tiles, **self._sees)
        self._runners: list[Runner] = [runner_for(rule, self._view) for rule in self._rules]
        self._private = [
            (points * np.array(size)).astype(np.int32) for points in map(np.array, self.camera.private.values())
        ]

    def _without_private(self, image: Bgr) -> Bgr:
        if not self._private:
            return image
        covered = image.copy()
        for area in self._private:  # one by one: where two overlap, filling both at once leaves a hole
            cv2.fillPoly(covered, [area], (0, 0, 0))
        return covered

    def _placed(self, message: Message) -> Message:
        """With the zone in which it happened, where the rule is about the whole picture."""
        event = message.event
        if event.zone is None and event.line is None and event.box is not None and self._view is not None:
            event.zone = _zone_at(event, self._view)
        return message


def _with_health(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if any(rule.type == "camera_health" for rule in rules):
        return rules
    return (*rules, CameraHealth(type="camera_health"))


def _zone_at(event: Event, view: View) -> str | None:
    assert event.box is not None
    left, top, right, bottom = event.box
    for place in (((left + right) / 2, bottom), ((left + right) / 2, (top + bottom) / 2)):
        for name, polygon in view.zones.items():
            if cv2.pointPolygonTest(polygon, place, False) >= 0:
                return name
    return None
