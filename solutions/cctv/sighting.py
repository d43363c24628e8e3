"""What is seen of an event at a moment beside the event itself: when that was, who, what they wear, where they walked.

Clothing is kept as one of a few names, which tells persons apart well enough to search for one and too badly to
identify one.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr
from solutions.cctv.config import PERSON
from solutions.cctv.scene import Box, Event, Scene, Track, View

_UPPER, _LOWER = (0.18, 0.48), (0.55, 0.85)
"""Of a standing person's height from above: chest and belly; thighs and shins."""
_INNER = (0.28, 0.72)
"""Of the width: the background at the sides is left out."""
_SMALLEST = 6
"""Pixels: a smaller piece has no colour of its own."""
_BLACK, _DARK, _WHITE = 35, 70, 185
"""Of 255: darker is black, whatever its hue; dark is black unless its hue is strong; bright without hue is white."""
_PALE, _STRONG = 50, 100
"""Saturation below which there is no hue to speak of, and from which there is one in the dark too."""
_HUES = ((6, "red"), (20, "orange"), (34, "yellow"), (86, "green"), (130, "blue"), (148, "purple"), (172, "pink"))
"""Upper ends in OpenCV's degrees (0 to 179); beyond the last it is red again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Beside an event."""

    zero: dt.datetime
    """When the camera's clock stood at 0, UTC."""
    labels: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    """Of clothing, upper body first."""
    through: tuple[str, ...] = ()
    """Zones that its tracks led through."""

    def moment(self, time_s: float) -> dt.datetime:
        """A time on the camera's clock as a person has it."""
        return self.zero + dt.timedelta(seconds=time_s)


def look(event: Event, scene: Scene, view: View, zero: dt.datetime | None = None) -> Seen:
    """What a scene shows of an event.

    Args:
        view: the camera's drawing, for the zones.
        zero: for files, when their clock stood at 0; a live picture says it itself.
    """
    taken = scene.frame.taken_at
    if taken is not None:
        zero = taken.astimezone(dt.UTC) - dt.timedelta(seconds=scene.time_s)
    tracks = [track for track in scene.tracks if track.id in event.track_ids]
    colours: list[str] = []
    for track in tracks:
        if track.label == PERSON:
            colours += clothing_colours(scene.frame.image, track.box)
    return Seen(
        zero=zero or dt.datetime.now(dt.UTC) - dt.timedelta(seconds=scene.time_s),
        labels=tuple(dict.fromkeys(track.label for track in tracks)),
        colours=tuple(dict.fromkeys(filter(None, colours))),
        through=tuple(name for name, polygon in view.zones.items() if any(_led(track, polygon) for track in tracks)),
    )


def _led(track: Track, polygon: NDArray[np.float32]) -> bool:
    """Whether a track's foot was ever in a polygon, as far as its path is remembered."""
    feet = [((step.box[0] + step.box[2]) / 2, step.box[3]) for step in track.path] or [track.foot]
    return any(cv2.pointPolygonTest(polygon, foot, measureDist=False) >= 0 for foot in feet)


def clothing_colours(image: Bgr, box: Box) -> tuple[str, str]:
    """Names of the colours that prevail on a standing person's upper and lower body, of `archive.COLOURS`.

    Empty where the piece is too small to tell, or lies outside the picture. Who lies or sits is seen as if standing:
    the name is a hint for a search, not a fact.
    """
    return _named(_piece(image, box, _UPPER)), _named(_piece(image, box, _LOWER))


def _piece(image: Bgr, box: Box, share: tuple[float, float]) -> Bgr:
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    x0, x1 = (int(np.clip(left + part * wide, 0, image.shape[1])) for part in _INNER)
    y0, y1 = (int(np.clip(top + part * high, 0, image.shape[0])) for part in share)
    return image[y0:y1, x0:x1]


def _named(piece: Bgr) -> str:
    if min(piece.shape[:2]) < _SMALLEST:
        return ""
    small = cv2.resize(piece, (12, 16), interpolation=cv2.INTER_AREA)
    hue, saturation, value = (plane.ravel() for plane in cv2.split(cv2.cvtColor(small, cv2.COLOR_BGR2HSV)))
    names = np.select(
        [
            (value < _BLACK) | ((value < _DARK) & (saturation < _STRONG)),
            saturation < _PALE,
            *(hue < end for end, _ in _HUES),
        ],
        ["black", "grey", *(name for _, name in _HUES)],
        "red",
    )
    names[(names == "grey") & (value > _WHITE)] = "white"
    names[(names == "orange") & (value < 150)] = "brown"  # brown is dark orange
    found, counts = np.unique(names, return_counts=True)
    return str(found[counts.argmax()])
