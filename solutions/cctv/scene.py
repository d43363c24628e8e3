"""The values that go from one module to the next: what is seen at a moment, and what a rule makes of it.

    Frame → motion gate → detector → tracker → Scene → rules → Signals → events

Places are in pixels of the picture that was looked at; times in seconds on the camera's own clock (`Frame.time_s`).
Detections cross borders as `supervision.Detections` (xyxy, confidence, class_id, and `data["class_name"]`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr, Frame
from solutions.cctv.config import Camera
from solutions.cctv.reduced import reduce

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
MOVING = "moving"
"""Label of something that moves and that no detector has named."""
PATH_S = 120.0
"""What a track remembers of its path."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a track was at a moment."""

    time_s: float
    box: Box
    measured: bool
    """By the detector or by motion. False: predicted, since nothing was there."""
    detected: bool = False
    """By the detector."""


@dataclass(slots=True)
class Track:
    """One object over time. Its tracker updates it; rules only read."""

    id: int
    """Unique in its camera for as long as the process runs; counts from 1."""
    label: str
    """What most of its detections say, weighted by score; `MOVING` where none does."""
    box: Box
    score: float
    """Mean of its detections' scores."""
    first_s: float
    seen_s: float
    """When it was last detected (not predicted)."""
    path: deque[Step] = field(default_factory=deque)
    """Oldest first, at most `PATH_S` seconds."""
    votes: Counter[str] = field(default_factory=Counter)
    unnamed: float = 0.0
    """Sum of scores of detections with names that mean nothing here: something is there, whatever it is."""
    still_since_s: float | None = None
    """Since when it has not moved more than a fraction of its size; None: it moves."""

    @property
    def foot(self) -> tuple[float, float]:
        """Bottom centre of the box: where it stands."""
        left, _, right, bottom = self.box
        return ((left + right) / 2, bottom)

    @property
    def centre(self) -> tuple[float, float]:
        """Of the box."""
        left, top, right, bottom = self.box
        return ((left + right) / 2, (top + bottom) / 2)


@dataclass(frozen=True, slots=True)
class Motion:
    """What moved, by the background model."""

    mask: NDArray[np.uint8]
    """[h, w] 0 or 255, a reduced picture; multiply by `scale` for pixels of the frame."""
    scale: float
    boxes: tuple[Box, ...]
    """Around what moved, in pixels of the frame."""
    share: float
    """Of the picture that moves, 0 to 1."""
    settled: bool
    """False while the background is still being learned, or after the light has jumped: do not trust the mask."""
    small: Bgr | None = None
    """The reduced picture that it was told by; None: not kept."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is seen at a moment. Rules get one for each frame that was looked at."""

    frame: Frame
    size: tuple[int, int]
    """Width and height of the picture in pixels."""
    tracks: tuple[Track, ...]
    """Confirmed and present (seen within the tracker's patience)."""
    motion: Motion | None = None

    @property
    def time_s(self) -> float:
        """On the camera's clock."""
        return self.frame.time_s

    @property
    def reduced(self) -> tuple[Bgr, float]:
        """The picture in small, and by what to multiply for pixels of the frame."""
        if self.motion is not None and self.motion.small is not None:
            return self.motion.small, self.motion.scale
        return reduce(self.frame.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What a rule holds to be so at this moment. The event machine makes events of signals that go on."""

    type: str
    """As in an event line: intrusion, line_crossing, fall, camera_covered …"""
    subject: Hashable
    """With rule and place, what makes two signals one event: a track's id; None where the place alone is meant."""
    since_s: float
    """When it began, as far as the rule can tell (not when the rule became sure)."""
    zone: str | None = None
    line: str | None = None
    direction: str | None = None
    track_ids: tuple[int, ...] = ()
    box: Box | None = None
    """What to draw."""
    why: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: figures that decided."""
    instant: bool = False
    """Over as it happens (a line crossed): starts and ends at `since_s`."""


class Runner(Protocol):
    """A rule at work for one camera. State is pruned: memory stays flat however long it runs."""

    def update(self, scene: Scene) -> list[Signal]:
        """What holds now. Called for every frame that was looked at, at any rate, times rising."""
        ...


EventKind = Literal["start", "update", "end"]


@dataclass(slots=True)
class Event:
    """Something that an operator should know."""

    id: str
    camera: str
    clip: str | None
    """Name of the evidence clip, or, when judged, of the file."""
    type: str
    rule: str
    start_s: float
    end_s: float | None
    zone: str | None
    line: str | None
    direction: str | None
    track_ids: tuple[int, ...]
    severity: str
    why: dict[str, Any]
    box: Box | None = None

    def as_line(self) -> dict[str, Any]:
        """As in events.jsonl: `zone` or `line`, whichever it is about."""
        place = {"line": self.line} if self.line is not None else {"zone": self.zone}
        return {
            "id": self.id,
            "camera": self.camera,
            "clip": self.clip,
            "type": self.type,
            "start_s": round(self.start_s, 3),
            "end_s": None if self.end_s is None else round(self.end_s, 3),
            **place,
            "direction": self.direction,
            "track_ids": list(self.track_ids),
            "severity": self.severity,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """What sinks get: an event as it starts, changes, ends."""

    kind: EventKind
    event: Event
    """A copy: the machine does not change it any more."""


@dataclass(frozen=True, slots=True)
class View:
    """A camera's drawing in pixels of its pictures; made anew when the resolution changes."""

    camera: Camera
    size: tuple[int, int]
    zones: Mapping[str, NDArray[np.float32]]
    """[P, 2] each."""
    lines: Mapping[str, NDArray[np.float32]]
    """[2, 2] each."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What several rules of the camera have in common, by name."""

    @classmethod
    def of(cls, camera: Camera, size: tuple[int, int]) -> View:
        """The drawing of a camera for pictures of this width and height."""
        scale = np.array(size, dtype=np.float32)
        return cls(
            camera,
            size,
            {name: np.array(points, dtype=np.float32) * scale for name, points in camera.zones.items()},
            {name: np.array(points, dtype=np.float32) * scale for name, points in camera.lines.items()},
        )
