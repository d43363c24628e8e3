"""Events as they are kept: announced, searched, reviewed, locked, counted; and where in the picture people walked.

`EventStore` lives in the records' database, SQLite or PostgreSQL. Each message of an event is one transaction, on disk
when the call returns: it brings the event's row up to date and adds the message itself to the append-only events of
`shared.records`. The same message may come twice, or late; an event that has ended does not open again.

`KeptArchive` adds the evidence beside it, and is what the API and the console ask (`archive.Archive`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from shared import database, records
from shared.errors import BadInput
from shared.records import MAX_PAGE, Records, now
from solutions.cctv.archive import Count, Review, Reviewed, Search, Told
from solutions.cctv.config import Privacy
from solutions.cctv.desk import SOLUTION
from solutions.cctv.evidence import EvidenceFolder, Place
from solutions.cctv.scene import Event, Message
from solutions.cctv.sighting import Seen
from solutions.cctv.tables import EVENTS, HEAT, MARKS, REVIEWS

HEAT_ROWS, HEAT_COLUMNS = 18, 32
HEAT_DAYS = 90
"""Heat older than this is forgotten: the table's size is bounded by the number of cameras."""
_HOUR_US = 3_600_000_000
_STATES: dict[str, Reviewed] = {"approve": "approved", "dismiss": "dismissed", "reopen": "new"}
_CURSOR = re.compile(r"(-?\d{1,18})-([^\s]{1,200})")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class EventStore:
    """One per process is enough. Thread-safe and blocking.

    Args:
        kept: the records whose database holds the events too.
    """

    def __init__(self, kept: Records) -> None:
        self._url, self._engine, self._write_engine = kept.connections
        self._trodden: dict[tuple[str, int], NDArray[np.uint32]] = {}
        self._lock = threading.Lock()

    # -- writing -----------------------------------------------------------------------------------------------------

    def announce(self, message: Message, seen: Seen | None = None) -> None:
        """Keep what happened to an event; it is on disk when the call returns.

        Args:
            seen: when and what; None: only the event itself is known, and that it begins now.

        Raises:
            HaechiError: the database refused.
        """
        event = message.event
        line = {"message": message.kind, **plain(event.as_line())}
        entry = {"time": now(), "solution": SOLUTION, "source": event.camera, "kind": event.type, "details": line}
        with self._writing() as connection:
            number = self._bring_up_to_date(connection, message, seen)
            _mark(connection, number, seen)
            connection.execute(records.EVENTS.insert().values(**entry))

    def _bring_up_to_date(self, connection: sa.Connection, message: Message, seen: Seen | None) -> int:
        event, moment = message.event, microseconds(now())
        row = connection.execute(sa.select(EVENTS).where(EVENTS.c.event == text(event.id)).with_for_update()).first()
        began = microseconds(seen.moment(event.start_s)) if seen is not None else moment
        if row is not None:
            began = row.began
            if row.ended is not None and message.kind != "end":
                return int(row.id)
        values = _values(event, message.kind == "end", began, max(moment, began))
        if row is not None:
            connection.execute(EVENTS.update().where(EVENTS.c.id == row.id).values(**values))
            return int(row.id)
        inserted = connection.execute(EVENTS.insert().values(**values, state="new", locked=False))
        assert inserted.inserted_primary_key is not None
        return int(inserted.inserted_primary_key[0])

    def settle(self, cameras: Iterable[str]) -> list[Message]:
        """End what an interrupted run of these cameras left open, at the last that was heard of it.

        Returns:
            What to tell the sinks.
        """
        left = EVENTS.c.ended.is_(None) & EVENTS.c.camera.in_([text(name) for name in cameras])
        with self._reading() as connection:
            rows = connection.execute(sa.select(EVENTS).where(left).order_by(EVENTS.c.id)).all()
        messages = [Message("end", _interrupted(row)) for row in rows]
        for message in messages:
            self.announce(message)
        return messages

    def review(self, event_id: str, verdict: Literal["approve", "dismiss", "reopen"], reason: str, who: str) -> None:
        """Note what a person says of an event; the newest word decides its state, none is lost.

        Raises:
            BadInput: there is no such event, or no such verdict.
        """
        if verdict not in _STATES:
            raise BadInput(f"the verdict {verdict!r} is unknown; write approve, dismiss or reopen.")
        said = {"verdict": verdict, "reason": text(reason), "who": text(who), "time": now()}
        with self._writing() as connection:
            number = _number_of(connection, event_id)
            connection.execute(REVIEWS.insert().values(event_id=number, **said))
            connection.execute(EVENTS.update().where(EVENTS.c.id == number).values(state=_STATES[verdict]))

    def lock(self, event_id: str, locked: bool, who: str) -> None:
        """Note that an event's evidence is to be kept whatever its age, or no longer, and who says so.

        Raises:
            BadInput: there is no such event.
        """
        action = "cctv.lock" if locked else "cctv.unlock"
        entry = {"time": now(), "who": text(who), "action": action, "subject": text(event_id), "details": {}}
        with self._writing() as connection:
            number = _number_of(connection, event_id)
            connection.execute(EVENTS.update().where(EVENTS.c.id == number).values(locked=locked))
            connection.execute(records.AUDIT.insert().values(**entry))

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, event_id: str) -> Told | None:
        """One event."""
        found = self._told([EVENTS.c.event == text(event_id)], 1)
        return found[0] if found else None

    def search(self, search: Search, limit: int, before: str | None = None) -> tuple[list[Told], str | None]:
        """Events that match, newest first, and what to give as `before` for the next page (None: that was all).

        Raises:
            BadInput: `before` is nothing that an earlier page gave, the limit is out of range, or a time has no zone.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise BadInput(f"limit is {limit}; ask for 1 to {MAX_PAGE} events.")
        where = _conditions(search)
        if before is not None:
            where.append(_older(before))
        found = self._told(where, limit + 1)
        if len(found) <= limit:
            return found, None
        last = found[limit - 1]
        return found[:limit], f"{microseconds(last.start)}-{last.id}"

    def counts(self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None) -> list[Count]:
        """Events that began, by bucket, camera and type; buckets count from 1970 in UTC."""
        return self._counted(since, until, bucket_s, camera, EVENTS.c.type, sa.literal(""))

    def crossings(self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None) -> list[Count]:
        """Objects that crossed lines, by bucket, camera, line and direction."""
        direction = sa.func.coalesce(EVENTS.c.direction, "")
        over = (EVENTS.c.type == "line_crossing", EVENTS.c.line.is_not(None))
        return self._counted(since, until, bucket_s, camera, EVENTS.c.line, direction, *over)

    def _counted(
        self,
        since: dt.datetime,
        until: dt.datetime,
        bucket_s: int,
        camera: str | None,
        name: sa.ColumnElement[Any],
        direction: sa.ColumnElement[str],
        *where: sa.ColumnElement[bool],
    ) -> list[Count]:
        bucket_us = int(bucket_s) * 1_000_000
        # a literal, since PostgreSQL takes the same expression with two parameters for two expressions
        bucket = (EVENTS.c.began // sa.literal_column(str(bucket_us), sa.BigInteger())).label("bucket")
        chosen = (bucket, EVENTS.c.camera, name.label("what"), direction.label("way"))
        query = sa.select(*chosen, sa.func.count().label("number")).where(
            *where, *_conditions(Search(since=since, until=until, camera=camera))
        )
        order = [sa.text(column) for column in ("bucket", "camera", "what", "way")]  # no column's name
        with self._reading() as connection:
            rows = connection.execute(query.group_by(*order).order_by(*order)).all()
        return [
            Count(
                start=_moment(row.bucket * bucket_us),
                camera=row.camera,
                name=row.what,
                direction=row.way,
                number=row.number,
            )
            for row in rows
        ]

    # -- where people walk -------------------------------------------------------------------------------------------

    def trod(self, camera: str, at: dt.datetime, feet: Sequence[tuple[float, float]]) -> None:
        """Count where objects stand now, for the heat map; kept in memory until `flush`.

        Args:
            feet: places relative to the picture, 0 to 1; what lies outside is left out.
        """
        if not feet:
            return
        hour = microseconds(at) // _HOUR_US
        with self._lock:
            cells = self._trodden.setdefault((camera, hour), np.zeros((HEAT_ROWS, HEAT_COLUMNS), np.uint32))
            for x, y in feet:
                if 0 <= x <= 1 and 0 <= y <= 1:
                    row, column = int(y * HEAT_ROWS), int(x * HEAT_COLUMNS)
                    cells[min(row, HEAT_ROWS - 1), min(column, HEAT_COLUMNS - 1)] += 1

    def flush(self) -> None:
        """Write what `trod` has counted, say once a minute, and forget what is older than `HEAT_DAYS`."""
        with self._lock:
            counted, self._trodden = self._trodden, {}
        if not counted:
            return
        oldest = microseconds(now()) // _HOUR_US - HEAT_DAYS * 24
        with self._writing() as connection:
            connection.execute(HEAT.delete().where(HEAT.c.hour < oldest))
            for (camera, hour), cells in counted.items():
                if hour >= oldest:
                    _add_heat(connection, camera, hour, cells)

    def heat(self, camera: str, since: dt.datetime | None, until: dt.datetime | None) -> NDArray[np.int64]:
        """[HEAT_ROWS, HEAT_COLUMNS] how often each part of a camera's picture was trodden, by whole hours."""
        where = [HEAT.c.camera == text(camera)]
        if since is not None:
            where.append(HEAT.c.hour >= microseconds(since) // _HOUR_US)
        if until is not None:
            where.append(HEAT.c.hour < -(-microseconds(until) // _HOUR_US))
        total = np.zeros((HEAT_ROWS, HEAT_COLUMNS), np.int64)
        with self._reading() as connection:
            for (cells,) in connection.execute(sa.select(HEAT.c.cells).where(*where)):
                total += _cells(cells)
        return total

    # -- inside ------------------------------------------------------------------------------------------------------

    def _evidence(self, _event_id: str, _camera: str) -> tuple[bool, bool]:
        """Whether there is a snapshot, and a clip."""
        return False, False

    def _told(self, where: Sequence[sa.ColumnElement[bool]], limit: int) -> list[Told]:
        query = sa.select(EVENTS).where(*where).order_by(EVENTS.c.began.desc(), EVENTS.c.event.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).all()
            numbers = [row.id for row in rows]
            marks = connection.execute(sa.select(MARKS).where(MARKS.c.event_id.in_(numbers)).order_by(MARKS.c.id))
            found: dict[tuple[int, str], list[str]] = {}
            for mark in marks:
                found.setdefault((mark.event_id, mark.kind), []).append(mark.value)
            reviews: dict[int, list[Review]] = {}
            of_these = sa.select(REVIEWS).where(REVIEWS.c.event_id.in_(numbers)).order_by(REVIEWS.c.id)
            for said in connection.execute(of_these):
                review = Review(verdict=said.verdict, reason=said.reason, who=said.who, time=said.time)
                reviews.setdefault(said.event_id, []).append(review)
        return [self._one(row, found, reviews.get(row.id, ())) for row in rows]

    def _one(self, row: Any, marks: Mapping[tuple[int, str], list[str]], reviews: Sequence[Review]) -> Told:
        same = (
            "camera",
            "type",
            "rule",
            "severity",
            "start_s",
            "end_s",
            "zone",
            "line",
            "direction",
            "state",
            "locked",
        )
        snapshot, clip = self._evidence(row.event, row.camera)
        return Told(
            id=row.event,
            start=_moment(row.began),
            end=None if row.ended is None else _moment(row.ended),
            labels=tuple(marks.get((row.id, "label"), ())),
            colours=tuple(marks.get((row.id, "colour"), ())),
            track_ids=tuple(json.loads(row.track_ids)),
            why=json.loads(row.why),
            reviews=tuple(reviews),
            has_snapshot=snapshot,
            has_clip=clip,
            **{name: getattr(row, name) for name in same},
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with database.plain_errors(self._url), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with database.plain_errors(self._url), database.in_line(self._url), self._write_engine.begin() as connection:
            yield connection


class KeptArchive(EventStore):
    """Events with their evidence, as `archive.Archive` promises them.

    Args:
        folder: of the evidence, `<home>/cctv/evidence`; may be missing.
    """

    def __init__(self, kept: Records, folder: Path) -> None:
        super().__init__(kept)
        self.evidence = EvidenceFolder(folder)

    def lock(self, event_id: str, locked: bool, who: str) -> None:
        """Keep an event's evidence whatever its age, or no longer.

        Raises:
            BadInput: there is no such event.
            HaechiError: the lock could not be written.
        """
        place = self._place(event_id)
        if place is None:
            raise _unknown(event_id)
        self.evidence.lock(place, locked)
        super().lock(event_id, locked, who)

    def snapshot(self, event_id: str, privacy: Privacy | None) -> bytes | None:
        """Its picture as JPEG; with `privacy`, hidden by it. None: there is none (any more)."""
        place = self._place(event_id)
        return None if place is None else self.evidence.snapshot(place, privacy)

    def clip(self, event_id: str, privacy: Privacy | None) -> Path | None:
        """Its clip; with `privacy`, a copy that hides by it. None: there is none (yet, or any more)."""
        place = self._place(event_id)
        return None if place is None else self.evidence.clip(place, privacy)

    def _place(self, event_id: str) -> Place | None:
        with self._reading() as connection:
            query = sa.select(EVENTS.c.camera, EVENTS.c.event).where(EVENTS.c.event == text(event_id))
            row = connection.execute(query).first()
        return None if row is None else self.evidence.place(row.camera, row.event)

    def _evidence(self, event_id: str, camera: str) -> tuple[bool, bool]:
        place = self.evidence.place(camera, event_id)
        return place.has_snapshot, place.has_clip


def microseconds(moment: dt.datetime) -> int:
    """Since 1970.

    Raises:
        BadInput: the time has no zone.
    """
    if moment.tzinfo is None:
        raise BadInput(f"the time {moment.isoformat()} has no zone; give it in UTC, as 2030-01-31T08:00:00Z.")
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds_: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=microseconds_)


def text(value: str) -> str:
    """Text that PostgreSQL can store: NUL and lone surrogates become U+FFFD."""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: an event must not be lost over a figure that no number is (None), or an array's."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else text(str(value))


def _values(event: Event, ended: bool, began: int, told: int) -> dict[str, Any]:
    """The columns that each message brings."""
    end_s = event.end_s if event.end_s is not None or not ended else event.start_s
    texts = ("camera", "type", "rule", "severity", "zone", "line", "direction")
    return {
        "event": text(event.id),
        **{name: None if (value := getattr(event, name)) is None else text(value) for name in texts},
        "began": began,
        "ended": began + round((end_s - event.start_s) * 1e6) if ended and end_s is not None else None,
        "told": told,
        "start_s": float(event.start_s),
        "end_s": float(end_s) if ended and end_s is not None else None,
        "track_ids": json.dumps([int(number) for number in event.track_ids]),
        "why": json.dumps(plain(event.why), ensure_ascii=False, allow_nan=False),
    }


def _mark(connection: sa.Connection, number: int, seen: Seen | None) -> None:
    if seen is None:
        return
    given = {"label": seen.labels, "colour": seen.colours, "through": seen.through}
    wanted = [(kind, text(value)) for kind, values in given.items() for value in values]
    if not wanted:
        return
    query = sa.select(MARKS.c.kind, MARKS.c.value).where(MARKS.c.event_id == number)
    known = {(row.kind, row.value) for row in connection.execute(query)}
    rows = [
        {"event_id": number, "kind": kind, "value": value}
        for kind, value in dict.fromkeys(wanted)
        if (kind, value) not in known
    ]
    if rows:
        connection.execute(MARKS.insert(), rows)


def _interrupted(row: Any) -> Event:
    return Event(
        id=row.event,
        camera=row.camera,
        clip=None,
        type=row.type,
        rule=row.rule,
        start_s=row.start_s,
        end_s=row.start_s + (row.told - row.began) / 1e6,
        zone=row.zone,
        line=row.line,
        direction=row.direction,
        track_ids=tuple(json.loads(row.track_ids)),
        severity=row.severity,
        why={**json.loads(row.why), "interrupted": True},
    )


def _number_of(connection: sa.Connection, event_id: str) -> int:
    number = connection.execute(sa.select(EVENTS.c.id).where(EVENTS.c.event == text(event_id))).scalar()
    if number is None:
        raise _unknown(event_id)
    return int(number)


def _unknown(event_id: str) -> BadInput:
    return BadInput(f"there is no event {event_id[:64]}; take an id that a search gave.")


def _conditions(search: Search) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = []
    if search.since is not None:
        where.append(EVENTS.c.began >= microseconds(search.since))
    if search.until is not None:
        where.append(EVENTS.c.began < microseconds(search.until))
    for name in ("camera", "type", "severity", "state"):
        value = getattr(search, name)
        if value is not None:
            where.append(EVENTS.c[name] == text(value))
    if search.zone is not None:
        where.append((EVENTS.c.zone == text(search.zone)) | (EVENTS.c.line == text(search.zone)))
    if search.locked is not None:
        where.append(EVENTS.c.locked.is_(search.locked))
    for kind, value in (("label", search.label), ("colour", search.colour), ("through", search.through)):
        if value is not None:
            marked = sa.select(MARKS.c.event_id).where(MARKS.c.kind == kind, MARKS.c.value == text(value))
            where.append(EVENTS.c.id.in_(marked))
    return where


def _older(before: str) -> sa.ColumnElement[bool]:
    given = _CURSOR.fullmatch(before)
    if given is None:
        raise BadInput("before is nothing that an earlier page gave; leave it out for the first page.")
    began, event = int(given[1]), text(given[2])
    return (EVENTS.c.began < began) | ((EVENTS.c.began == began) & (EVENTS.c.event < event))


def _add_heat(connection: sa.Connection, camera: str, hour: int, cells: NDArray[np.uint32]) -> None:
    here = (HEAT.c.camera == text(camera)) & (HEAT.c.hour == hour)
    known = connection.execute(sa.select(HEAT.c.cells).where(here).with_for_update()).scalar()
    if known is None:
        content = cells.astype("<u4").tobytes()
        connection.execute(HEAT.insert().values(camera=text(camera), hour=hour, cells=content))
        return
    total = np.minimum(_cells(known) + cells, np.iinfo(np.uint32).max)
    connection.execute(HEAT.update().where(here).values(cells=total.astype("<u4").tobytes()))


def _cells(content: bytes) -> NDArray[np.int64]:
    return np.frombuffer(content, "<u4").reshape(HEAT_ROWS, HEAT_COLUMNS).astype(np.int64)
