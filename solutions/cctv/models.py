"""What the CCTV routes take and give as JSON. Times of events are RFC 3339; `…_s` are seconds on the camera's clock."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from shared.yaml_files import NAME
from solutions.cctv.config import Line, Polygon

State = Literal["new", "approved", "dismissed"]
MAX_SHAPES = 200
"""Zones, lines or private areas of one camera."""
Named = Annotated[str, StringConstraints(pattern=rf"^{NAME}$", max_length=64)]
Place = Annotated[list[float], Field(min_length=2, max_length=2)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]


def _written_out(moment: object) -> object:
    """A number would be taken for seconds or for milliseconds since 1970, whichever fits: say what is meant."""
    if isinstance(moment, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt]", moment):
        raise ValueError("write it as 2030-01-31T08:00:00Z or with +09:00")
    return moment


Moment = Annotated[dt.datetime, BeforeValidator(_written_out)]
"""A time in a query, as RFC 3339 writes it."""


class Body(BaseModel):
    """Unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CameraAnswer(BaseModel):
    """A camera and how it is."""

    name: str
    state: Literal["connecting", "live", "ended", "offline", "unknown"]
    """`unknown`: the service that watches the cameras does not run, or says nothing."""
    since: dt.datetime | None
    """Since when it is in this state."""
    at: dt.datetime | None
    """When the service said so."""
    error: str | None
    """Why it is not live, without credentials."""
    fps: float | None
    """Frames per second that arrive."""
    frames: int | None
    dropped: int | None
    """Frames passed over for newer ones."""
    reconnects: int | None
    problems: list[str]
    """Open events of the camera itself, such as camera_covered."""
    snapshot_url: str
    live_url: str


class ReviewAnswer(BaseModel):
    """What a person said of an event."""

    verdict: Literal["approve", "dismiss", "reopen"]
    reason: str
    who: str
    time: dt.datetime


class EventAnswer(BaseModel):
    """An event."""

    id: str
    camera: str
    type: str
    rule: str
    severity: str
    start: dt.datetime
    end: dt.datetime | None
    """None while it goes on."""
    start_s: float
    end_s: float | None
    zone: str | None
    line: str | None
    direction: str | None
    labels: list[str]
    colours: list[str]
    """Of the clothing of the person it is about, where that was seen."""
    track_ids: list[int]
    why: dict[str, Any]
    """The figures that decided."""
    state: State
    locked: bool
    """Its evidence is never deleted."""
    reviews: list[ReviewAnswer]
    snapshot_url: str | None
    clip_url: str | None


class EventsPage(BaseModel):
    """Events, newest first."""

    events: list[EventAnswer]
    next_before: str | None
    """Give it as `before` for the next page; null on the last one."""


class ReviewBody(Body):
    """What a person says of an event."""

    verdict: Literal["approve", "dismiss"]
    reason: Reason = ""
    """Needed to dismiss: why it is a false alarm."""


class LockBody(Body):
    """Whether the evidence is kept whatever its age."""

    locked: bool


class DrawingAnswer(BaseModel):
    """What is drawn on a camera's picture, places relative to it: 0 is left or top, 1 right or bottom."""

    zones: dict[str, list[Place]]
    lines: dict[str, list[Place]]
    private: dict[str, list[Place]]
    version: str
    """Of the site file; give it back with a change."""
    note: str | None = None
    """Said where the file had to be written anew without its comments."""


class DrawingBody(Body):
    """A drawing that replaces the present one; a section that is left out stays as it is."""

    version: Annotated[str, StringConstraints(max_length=64)]
    zones: Annotated[dict[Named, Polygon], Field(max_length=MAX_SHAPES)] | None = None
    lines: Annotated[dict[Named, Line], Field(max_length=MAX_SHAPES)] | None = None
    private: Annotated[dict[Named, Polygon], Field(max_length=MAX_SHAPES)] | None = None


class CountAnswer(BaseModel):
    """How many events began in a stretch of time."""

    start: dt.datetime
    camera: str
    type: str
    events: int


class CrossingsAnswer(BaseModel):
    """How many objects crossed a line in one direction."""

    start: dt.datetime
    camera: str
    line: str
    direction: str
    crossings: int


class CountsAnswer(BaseModel):
    """Figures over time; stretches without anything are left out."""

    bucket_s: int
    events: list[CountAnswer]
    crossings: list[CrossingsAnswer]
