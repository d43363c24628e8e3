"""One picture of a camera: what every source gives and everything behind it reads."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bgr = NDArray[np.uint8]
"""[H, W, 3], blue, green, red: as decoders and OpenCV have it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and when it was taken."""

    camera: str
    index: int
    """Counts the frames that the source decoded, from 0; a gap is a frame that was dropped for a newer one."""
    time_s: float
    """Presentation time in seconds since the source's first frame; rises strictly, over re-connections too. The clock
    of everything: no rule counts frames."""
    image: Bgr
    """Read-only for whoever receives it."""
    taken_at: dt.datetime | None = None
    """UTC, where the source is live; None for files."""
