"""What a user writes in SITE.yaml: cameras, their zones and lines, rules, sinks, evidence and privacy.

Places are relative to the picture: x and y from 0 (left, top) to 1, so that another stream of the same camera needs no
new drawing. Times are in seconds: no rule depends on how many frames a camera sends.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from shared.yaml_files import NAME, Mistakes, did_you_mean, read, validate

Share = Annotated[float, Field(ge=0, le=1)]
Point = tuple[Share, Share]
Seconds = Annotated[float, Field(ge=0, le=30 * 86_400)]
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Polygon = Annotated[list[Point], Field(min_length=3, max_length=100)]
Line = Annotated[list[Point], Field(min_length=2, max_length=2)]
"""From a point to another. Looking from the first to the second, objects pass from one side to the other; how a
direction is named is told in `rules/lines.py`."""
Severity = Literal["info", "warning", "critical"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Clock = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$")]
PERSON = "person"
VEHICLES = ("bicycle", "car", "motorcycle", "bus", "train", "truck", "forklift")
MOVERS = (PERSON, *VEHICLES)
BELONGINGS = ("backpack", "handbag", "suitcase")
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")


class Strict(BaseModel):
    """A section of the file. Unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True)


class Period(Strict):
    """Part of the week; `to` before `from` goes over midnight and belongs to the day on which it begins."""

    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    from_: Annotated[Clock, Field(alias="from")] = "00:00"
    to: Clock = "24:00"


class RuleBase(Strict):
    """What every rule has."""

    name: Name | None = None
    """Default: its type."""
    severity: Severity = "warning"
    schedule: tuple[Period, ...] = ()
    """When the rule holds, in the site's time zone; empty: always."""
    cooldown_s: Seconds = 0.0
    """After an event has ended, its like (same rule, zone or line) is not announced again for so long."""
    hold_s: Seconds = 2.0
    """An event ends when what made it has been gone for so long; what returns sooner is the same event."""


class ZoneRule(RuleBase):
    """A rule about objects in places."""

    zones: tuple[Name, ...] = ()
    """Empty: the whole picture."""
    labels: tuple[str, ...] = (PERSON,)
    min_height: Share = 0.0
    """Of the picture: smaller objects are not meant."""
    min_score: Share = 0.0
    """Mean score of the track."""


class Intrusion(ZoneRule):
    """Somebody or something in a zone: security's intrusion, safety's danger zone."""

    type: Literal["intrusion"]
    zones: Annotated[tuple[Name, ...], Field(min_length=1)]
    labels: tuple[str, ...] = MOVERS
    dwell_s: Seconds = 0.3
    """In the zone for so long before it counts."""


class Loitering(ZoneRule):
    """In a zone for long."""

    type: Literal["loitering"]
    min_s: Seconds = 10.0


class Crowding(ZoneRule):
    """Many persons in a zone at once."""

    type: Literal["crowding"]
    min_persons: Annotated[int, Field(ge=2, le=1000)] = 5
    dwell_s: Seconds = 0.5


class WorkingAlone(ZoneRule):
    """Exactly one person in a zone, for long."""

    type: Literal["working_alone"]
    min_s: Seconds = 60.0


class LineCrossing(RuleBase):
    """Objects over a line, with direction; both ways are counted."""

    type: Literal["line_crossing"]
    lines: Annotated[tuple[Name, ...], Field(min_length=1)]
    labels: tuple[str, ...] = MOVERS
    directions: tuple[Literal["left", "right", "up", "down"], ...] = ()
    """Empty: either."""
    unnamed: bool = True
    """Also what moves and is seen by the detector under a name that means nothing here, but for animals: to a detector
    of everyday things a car from above is a telephone."""
    min_height: Share = 0.0
    severity: Severity = "info"


class WrongDirection(ZoneRule):
    """Against the way in a zone."""

    type: Literal["wrong_direction"]
    zones: Annotated[tuple[Name, ...], Field(min_length=1)]
    labels: tuple[str, ...] = MOVERS
    allowed: tuple[Annotated[float, Field(ge=-1, le=1)], Annotated[float, Field(ge=-1, le=1)]]
    """The right way, as x and y in the picture: [0, 1] is downwards."""
    tolerance_deg: Annotated[float, Field(gt=0, lt=180)] = 100.0
    min_travel: Share = 0.08
    """Of the picture's height, walked the wrong way before it counts."""


class Tailgating(RuleBase):
    """Two over a line in the same direction, closer after one another than anybody may be."""

    type: Literal["tailgating"]
    lines: Annotated[tuple[Name, ...], Field(min_length=1)]
    labels: tuple[str, ...] = (PERSON,)
    within_s: Seconds = 2.0


class VehicleNearPerson(RuleBase):
    """A vehicle nearer to a person than allowed, measured on the ground: the camera needs `ground`."""

    type: Literal["vehicle_near_person"]
    min_distance_m: Annotated[float, Field(gt=0, le=1000)] = 3.0
    vehicles: tuple[str, ...] = ("car", "motorcycle", "bus", "truck", "forklift")
    moving_only: bool = True
    dwell_s: Seconds = 0.3
    severity: Severity = "critical"


class PpeMissing(ZoneRule):
    """A person without helmet or vest, voted over the track."""

    type: Literal["ppe_missing"]
    required: Annotated[tuple[Literal["helmet", "vest"], ...], Field(min_length=1)] = ("helmet", "vest")
    package: str | None = None
    """A detector with the labels helmet, no_helmet, vest, no_vest (any of them), or a classifier of persons; None: by
    colour, which says that it is a fallback."""
    vote_s: Seconds = 1.0
    """Looked at for so long before it is said."""


class Fall(ZoneRule):
    """A person goes down, or lies."""

    type: Literal["fall"]
    severity: Severity = "critical"
    hold_s: Seconds = 4.0


class Fighting(ZoneRule):
    """Quick and irregular motion of persons close to one another."""

    type: Literal["fighting"]
    dwell_s: Seconds = 1.0
    severity: Severity = "critical"


class QueueLength(ZoneRule):
    """More people wait in a zone, or longer, than they should."""

    type: Literal["queue"]
    zones: Annotated[tuple[Name, ...], Field(min_length=1)]
    max_persons: Annotated[int, Field(ge=1, le=1000)] = 5
    max_wait_s: Seconds = 300.0
    dwell_s: Seconds = 5.0


class AbandonedObject(RuleBase):
    """Something new that stays where it was put, and whose owner has gone."""

    type: Literal["abandoned_object"]
    zones: tuple[Name, ...] = ()
    min_s: Seconds = 10.0
    """At rest for so long."""
    min_area: Share = 0.0008
    """Of the picture."""
    owner_distance: Annotated[float, Field(ge=0, le=20)] = 1.0
    """A person nearer than so many of the person's heights still minds it."""


class RemovedObject(RuleBase):
    """Something that was there is gone."""

    type: Literal["removed_object"]
    zones: tuple[Name, ...] = ()
    """With zones, each is one place whose object is watched; without, anything that stood still in the picture."""
    min_s: Seconds = 3.0
    min_area: Share = 0.0008


class Fire(RuleBase):
    """Flames: by a trained package, or by colour, flicker and growth, which says that it is a fallback."""

    type: Literal["fire"]
    zones: tuple[Name, ...] = ()
    package: str | None = None
    dwell_s: Seconds = 1.0
    severity: Severity = "critical"
    hold_s: Seconds = 5.0


class Smoke(RuleBase):
    """Smoke: the same."""

    type: Literal["smoke"]
    zones: tuple[Name, ...] = ()
    package: str | None = None
    dwell_s: Seconds = 2.0
    severity: Severity = "critical"
    hold_s: Seconds = 5.0


class CameraHealth(RuleBase):
    """The camera itself: offline, frozen, covered, defocused, moved, too dark. On for every camera."""

    type: Literal["camera_health"]
    within_s: Annotated[float, Field(gt=0, le=600)] = 15.0
    """A state that lasts so long is announced; 30 s at most are allowed to a station."""


Rule = Annotated[
    Intrusion
    | Loitering
    | Crowding
    | WorkingAlone
    | LineCrossing
    | WrongDirection
    | Tailgating
    | VehicleNearPerson
    | PpeMissing
    | Fall
    | Fighting
    | QueueLength
    | AbandonedObject
    | RemovedObject
    | Fire
    | Smoke
    | CameraHealth,
    Field(discriminator="type"),
]


class Ground(Strict):
    """Four points of the ground in the picture and where they are in metres, seen from above."""

    image: Annotated[list[Point], Field(min_length=4, max_length=4)]
    metres: Annotated[list[tuple[float, float]], Field(min_length=4, max_length=4)]


class Camera(Strict):
    """One camera."""

    source: str
    """rtsp://…, a file, a folder of frames, usb:0, http://… (MJPEG). `${NAME}` is read from the environment, so that
    passwords stay out of the file."""
    record: str | None = None
    """The main stream, recorded as it comes; default: `source`."""
    fps: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Frames per second that are looked at, at most; files are looked at at every frame that the rules need."""
    zones: dict[Name, Polygon] = {}
    lines: dict[Name, Line] = {}
    private: dict[Name, Polygon] = {}
    """Areas painted over before anything looks at the picture or stores it."""
    ground: Ground | None = None
    tiles: bool = False
    """Also look at the picture in tiles, for small objects; costs several times the work."""
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _places_are_drawn(self) -> Camera:
        for rule in self.rules:
            for kind, known in (("zones", self.zones), ("lines", self.lines)):
                for name in getattr(rule, kind, ()):
                    if name not in known:
                        raise ValueError(
                            f"rule {rule.type} names {name!r}, not among the {kind}; {did_you_mean(name, known)}"
                        )
            if rule.type == "vehicle_near_person" and self.ground is None:
                raise ValueError(
                    "rule vehicle_near_person measures on the ground; give the camera four points in `ground`"
                )
        return self


class Detector(Strict):
    """Who finds the objects."""

    package: str | None = None
    """A package's path or name in the registry; default: the person detector that Haechi brings."""
    min_score: Share | None = None
    """Default: what the package recommends."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None


class Evidence(Strict):
    """What is kept of an event, and how long."""

    pre_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    post_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    record: bool = True
    """False: events and snapshots alone."""
    days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    gigabytes: Annotated[float, Field(gt=0, le=1_000_000)] = 20.0
    low_water: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Over the limit, the oldest is deleted down to this share of it; what is locked never is."""


class Privacy(Strict):
    """What stored and shown pictures hide. Who holds one of the roles `clear_for` sees everything."""

    hide: Literal["nothing", "faces", "persons"] = "nothing"
    how: Literal["blur", "pixelate"] = "pixelate"
    clear_for: tuple[Literal["viewer", "operator", "engineer", "admin"], ...] = ("admin",)


class MqttSink(Strict):
    """`haechi/<camera>/events`, status of each camera with last will, Home Assistant discovery."""

    type: Literal["mqtt"]
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password: str | None = None
    """`${NAME}` reads it from the environment."""
    tls: bool = False
    prefix: str = "haechi"
    home_assistant: bool = True


class WebhookSink(Strict):
    """POST of each event as JSON, signed with HMAC-SHA-256 in `X-Haechi-Signature`."""

    type: Literal["webhook"]
    url: str
    secret: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=120)] = 5.0


class EmailSink(Strict):
    """A mail for each event that starts, with the snapshot."""

    type: Literal["email"]
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    sender: str
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    username: str | None = None
    password: str | None = None
    starttls: bool = True
    least: Severity = "warning"


class LinesSink(Strict):
    """A file with one JSON line for each message."""

    type: Literal["jsonl"]
    path: str


Sink = Annotated[MqttSink | WebhookSink | EmailSink | LinesSink, Field(discriminator="type")]


class Site(Strict):
    """The whole file."""

    name: str = "site"
    time_zone: str = "Asia/Seoul"
    detector: Detector = Detector()
    evidence: Evidence = Evidence()
    privacy: Privacy = Privacy()
    sinks: tuple[Sink, ...] = ()
    cameras: Annotated[dict[Name, Camera], Field(min_length=1, max_length=1000)]


def load(path: Path) -> Site:
    """The site of a file.

    Raises:
        BadInput: with every mistake, its file and line.
    """
    mistakes = Mistakes()
    document = read(path, path.name, mistakes)
    site = None if document is None else validate(Site, document, (), mistakes)
    mistakes.refuse()
    assert site is not None
    return site


def in_schedule(rule: RuleBase, at: dt.datetime) -> bool:
    """Whether a rule holds at a moment, which is in the site's time zone."""
    if not rule.schedule:
        return True
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    now = at.hour * 60 + at.minute
    for period in rule.schedule:
        start, end = _minutes(period.from_), _minutes(period.to)
        today, yesterday = days[at.weekday()] in period.days, days[at.weekday() - 1] in period.days
        if start < end:
            if today and start <= now < end:
                return True
        elif (today and now >= start) or (yesterday and now < end):
            return True
    return False


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
