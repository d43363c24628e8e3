"""Events and their evidence as the API and the console tell them: search, reviews, pictures by role, figures.

What is kept and how is `store.py`'s and `evidence.py`'s matter; this module asks them, and turns what they give into
the JSON of `models.py`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from solutions.cctv.config import Privacy

Bucket = Literal["hour", "day"]
Reviewed = Literal["new", "approved", "dismissed"]
BUCKET_S: dict[Bucket, int] = {"hour": 3600, "day": 86400}
MAX_BUCKETS = 2000
COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
"""What clothing may be called."""
HEAT_WIDTH = 640


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which events are wanted; None: any."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    camera: str | None = None
    type: str | None = None
    severity: str | None = None
    zone: str | None = None
    """The zone or line that it is about."""
    label: str | None = None
    colour: str | None = None
    """Of the clothing, upper or lower body."""
    through: str | None = None
    """A zone that its path led through."""
    state: Reviewed | None = None
    locked: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a person said of an event."""

    verdict: Literal["approve", "dismiss", "reopen"]
    reason: str
    who: str
    time: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Told:
    """An event as it is kept."""

    id: str
    camera: str
    type: str
    rule: str
    severity: str
    start: dt.datetime
    end: dt.datetime | None
    start_s: float
    end_s: float | None
    zone: str | None
    line: str | None
    direction: str | None
    labels: tuple[str, ...]
    colours: tuple[str, ...]
    track_ids: tuple[int, ...]
    why: Mapping[str, Any]
    state: Reviewed
    locked: bool
    reviews: tuple[Review, ...]
    has_snapshot: bool
    has_clip: bool


@dataclass(frozen=True, kw_only=True)
class Count:
    """How often something happened in a stretch of time."""

    start: dt.datetime
    camera: str
    name: str
    """Type of event, or line."""
    direction: str = ""
    number: int


class Archive(Protocol):
    """What is kept of events. Blocking."""

    def search(self, search: Search, limit: int, before: str | None = None) -> tuple[list[Told], str | None]:
        """Events that match, newest first, and what to give as `before` for the next page (None: that was all).

        Raises:
            BadInput: `before` is nothing that an earlier page gave.
        """
        ...

    def get(self, event_id: str) -> Told | None:
        """One event."""
        ...

    def review(self, event_id: str, verdict: Literal["approve", "dismiss"], reason: str, who: str) -> None:
        """Note what a person says of an event."""
        ...

    def lock(self, event_id: str, locked: bool, who: str) -> None:
        """Keep its evidence whatever its age, or no longer."""
        ...

    def snapshot(self, event_id: str, privacy: Privacy | None) -> bytes | None:
        """Its picture as JPEG; with `privacy`, hidden by it. None: there is none (any more)."""
        ...

    def clip(self, event_id: str, privacy: Privacy | None) -> Path | None:
        """Its clip; with `privacy`, a copy that hides by it. None: there is none (yet, or any more)."""
        ...

    def counts(self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None) -> list[Count]:
        """Events that began, by bucket, camera and type."""
        ...

    def crossings(self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None) -> list[Count]:
        """Objects that crossed lines, by bucket, camera, line and direction."""
        ...

    def heat(self, camera: str, since: dt.datetime | None, until: dt.datetime | None) -> NDArray[Any]:
        """[rows, columns] how often each part of the picture was trodden."""
        ...


def check_range(since: dt.datetime, until: dt.datetime, bucket: Bucket) -> int:
    """Seconds of a bucket.

    Raises:
        BadInput: the times are the wrong way round, or hold too many buckets.
    """
    if until <= since:
        raise BadInput("until must be later than since.")
    seconds = BUCKET_S[bucket]
    if (until - since).total_seconds() / seconds > MAX_BUCKETS:
        raise BadInput(f"that is more than {MAX_BUCKETS} {bucket}s; ask for less at a time.")
    return seconds


def heat_picture(cells: NDArray[Any], aspect: float = 16 / 9) -> bytes:
    """A PNG of how often cells were trodden, clear where never, to be laid over the camera's picture.

    Args:
        cells: [rows, columns], not negative.
        aspect: width by height of the picture.
    """
    height = round(HEAT_WIDTH / aspect)
    shares = np.sqrt(cells.astype(np.float32))  # one place where somebody sat must not outshine all others
    shares /= max(float(shares.max(initial=0.0)), 1e-9)
    large = np.clip(cv2.resize(shares, (HEAT_WIDTH, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    levels = np.rint(large * 255).astype(np.uint8)
    image = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2BGRA)
    image[..., 3] = np.where(levels > 4, 90 + levels * 0.5, 0).astype(np.uint8)
    done, content = cv2.imencode(".png", image)
    assert done
    return content.tobytes()
