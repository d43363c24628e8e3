"""Streams of events: things that are the sum of what happened to them, such as a conversation.

    streams = Streams(records)
    head = streams.append("contact_center", "c-1", 0, [StreamEvent("user", {...}, now)], key="message-7")
    events = streams.read("contact_center", "c-1")

Several processes and machines may write the same stream: whoever appends says how many events it has seen, and gets
`Clash` where another was first; it reads what is new, decides again and tries again. A `key` (a message's id) may occur
once in a stream, so that the same message is never taken twice. An append is one transaction, on disk when the call
returns; appends of several threads at once share one on SQLite, where each costs a wait for the disk.

Events are never changed. Whole streams are deleted in two cases only, both for the sake of personal data: their owner
asks for it, or their time is over. The database refuses any other deletion, and each leaves a row in the audit trail.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from shared import database
from shared.errors import BadInput, HaechiError
from shared.records import AUDIT, Records, Utc, metadata, now

ERASED = "erased"
"""The status that a stream has while it is deleted; nobody may give it by hand."""
MAX_BATCH = 64
"""Appends that share one SQLite transaction; more would make the first of them wait."""

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _table(name: str, *more: sa.schema.SchemaItem, **columns: Any) -> sa.Table:
    """As `migrations` makes it; every column but `key` is NOT NULL."""
    made = [sa.Column(key, kind, nullable=key == "key") for key, kind in columns.items()]
    return sa.Table(name, metadata, sa.Column("id", _NUMBER, primary_key=True, autoincrement=True), *made, *more)


_STREAMS = _table(
    "streams",
    sa.UniqueConstraint("solution", "stream", name="streams_by_name"),
    solution=sa.String(),
    stream=sa.String(),
    owner=sa.String(),
    status=sa.String(),
    seq=_NUMBER,
    since=Utc(),
    created=Utc(),
    updated=Utc(),
)
_EVENTS = _table(
    "stream_events",
    sa.ForeignKeyConstraint(["stream_id"], ["streams.id"]),
    sa.UniqueConstraint("stream_id", "seq", name="stream_events_in_order"),
    stream_id=_NUMBER,
    seq=_NUMBER,
    kind=sa.String(),
    key=sa.String(),
    time=Utc(),
    data=sa.Text(),
)


class Clash(HaechiError):
    """Another writer was first, or the key is taken: read what is new, decide again, append again."""


@dataclass(frozen=True)
class StreamEvent:
    """One event as it is stored."""

    kind: str
    data: Mapping[str, Any]
    """JSON; it comes back with its keys sorted."""
    time: dt.datetime
    """With a zone; UTC when it comes back."""
    seq: int = 0
    """1, 2, 3 … within its stream; 0 until it is stored."""
    key: str = ""
    id: int = 0
    """Grows over all streams."""
    stream: str = ""


@dataclass(frozen=True)
class StreamHead:
    """One stream without its events."""

    solution: str
    stream: str
    owner: str
    status: str
    seq: int
    since: dt.datetime
    """When it got its status."""
    created: dt.datetime
    updated: dt.datetime
    id: int


@dataclass
class _Append:
    solution: str
    stream: str
    expected: int
    events: Sequence[StreamEvent]
    key: str
    owner: str
    status: str
    done: bool = False
    error: BaseException | None = None
    data: list[str] = field(default_factory=list)


class Streams:
    """The streams in the records' database. One per process is enough; it may be used from any thread."""

    def __init__(self, records: Records) -> None:
        self._url, self._engine, self._write_engine = records.connections
        self._waiting: list[_Append] = []
        self._turn = threading.Condition()
        self._committing = False
        self._shares_commits = self._engine.dialect.name == "sqlite"

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(
        self,
        solution: str,
        stream: str,
        expected_seq: int,
        events: Sequence[StreamEvent],
        key: str = "",
        *,
        owner: str = "",
        status: str = "",
    ) -> int:
        """Add events to the end of a stream, all or none.

        Args:
            expected_seq: how many events the stream has, as far as the caller knows; 0 begins it.
            key: unique within the stream; it is kept with the first of the events.
            owner: whose personal data it is; kept from the first append that names one.
            status: how the stream stands, for `list_streams`; empty leaves it as it is.

        Returns:
            The number of events that the stream has now.

        Raises:
            Clash: the stream has another number of events, or has this key.
            BadInput: no events, a time without a zone, or data that is no JSON.
            HaechiError: the database refused.
        """
        if not events or status == ERASED or expected_seq < 0:
            raise BadInput("a stream takes one event at least, a number from 0, and a status other than 'erased'.")
        item = _Append(
            _clean(solution), _clean(stream), expected_seq, events, _clean(key), _clean(owner), _clean(status)
        )
        item.data = [_to_json(event) for event in events]
        if self._shares_commits:
            self._append_together(item)
        else:
            with (
                database.plain_errors(self._url),
                database.in_line(self._url),
                self._write_engine.begin() as connection,
            ):
                _write(connection, item)
        return expected_seq + len(events)

    def _append_together(self, item: _Append) -> None:
        """One thread at a time writes what all the waiting ones brought, so that they share the wait for the disk."""
        with self._turn:
            self._waiting.append(item)
            while self._committing and not item.done:
                self._turn.wait()
            batch: list[_Append] = []
            if not item.done:
                self._committing = True
                batch = [item, *(other for other in self._waiting if other is not item)][:MAX_BATCH]
                taken = {id(other) for other in batch}
                self._waiting = [other for other in self._waiting if id(other) not in taken]
        if batch:
            self._commit(batch)
            with self._turn:
                self._committing = False
                self._turn.notify_all()
        if item.error is not None:
            raise item.error

    def _commit(self, batch: Sequence[_Append]) -> None:
        try:
            with (
                database.plain_errors(self._url),
                database.in_line(self._url),
                self._write_engine.begin() as connection,
            ):
                for item in batch:
                    try:
                        _write(connection, item)
                    except Clash as clash:  # found before anything of it was written
                        item.error = clash
        except BaseException as error:
            for item in batch:
                item.error = item.error or error
        finally:
            for item in batch:
                item.done = True

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, solution: str, stream: str, after: int = 0) -> list[StreamEvent]:
        """The events of a stream with a higher `seq` than `after`, in order; none where there is no such stream."""
        return self._events(_READ, {"solution": _clean(solution), "stream": _clean(stream), "after": after})

    def scan(
        self,
        solution: str,
        *,
        after_id: int = 0,
        kinds: Collection[str] | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 10_000,
    ) -> list[StreamEvent]:
        """Events of all streams of a solution, oldest first; go on with the last one's `id` as `after_id`."""
        query = _SELECT.where(_STREAMS.c.solution == _clean(solution), _EVENTS.c.id > after_id)
        if kinds is not None:
            query = query.where(_EVENTS.c.kind.in_(sorted(kinds)))
        if since is not None:
            query = query.where(_EVENTS.c.time >= since)
        if until is not None:
            query = query.where(_EVENTS.c.time < until)
        return self._events(query.order_by(_EVENTS.c.id).limit(limit), {})

    def head(self, solution: str, stream: str) -> StreamHead | None:
        """One stream's head, None where there is no such stream."""
        found = self._heads(_STREAMS.c.solution == _clean(solution), _STREAMS.c.stream == _clean(stream), limit=1)
        return found[0] if found else None

    def list_streams(
        self,
        solution: str,
        *,
        status: str | Collection[str] | None = None,
        owner: str | None = None,
        updated_before: dt.datetime | None = None,
        updated_since: dt.datetime | None = None,
        oldest_first: bool = False,
        limit: int = 100,
    ) -> list[StreamHead]:
        """Streams that match every filter given, the one that changed last first."""
        where = [_STREAMS.c.solution == _clean(solution)]
        if status is not None:
            where.append(_STREAMS.c.status.in_([status] if isinstance(status, str) else sorted(status)))
        if owner is not None:
            where.append(_STREAMS.c.owner == _clean(owner))
        if updated_before is not None:
            where.append(_STREAMS.c.updated < updated_before)
        if updated_since is not None:
            where.append(_STREAMS.c.updated >= updated_since)
        return self._heads(*where, limit=limit, oldest_first=oldest_first)

    def before(self, solution: str, status: str, stream: str) -> int:
        """How many streams have had this status for longer than `stream`; all that have it, where it has not."""
        mine = sa.select(_STREAMS.c.since, _STREAMS.c.id).where(
            _STREAMS.c.solution == _clean(solution), _STREAMS.c.stream == _clean(stream), _STREAMS.c.status == status
        )
        count = sa.select(sa.func.count()).where(_STREAMS.c.solution == _clean(solution), _STREAMS.c.status == status)
        with database.plain_errors(self._url), self._engine.connect() as connection:
            own = connection.execute(mine).first()
            if own is not None:
                earlier = sa.and_(_STREAMS.c.since == own.since, _STREAMS.c.id < own.id)
                count = count.where(sa.or_(_STREAMS.c.since < own.since, earlier))
            return int(connection.execute(count).scalar_one())

    def _heads(self, *where: sa.ColumnElement[bool], limit: int, oldest_first: bool = False) -> list[StreamHead]:
        order = (_STREAMS.c.updated, _STREAMS.c.id)
        query = sa.select(_STREAMS).where(*where).limit(limit)
        query = query.order_by(*(order if oldest_first else [column.desc() for column in order]))
        with database.plain_errors(self._url), self._engine.connect() as connection:
            return [StreamHead(**row) for row in connection.execute(query).mappings()]

    def _events(self, query: sa.Select[Any], values: Mapping[str, Any]) -> list[StreamEvent]:
        with database.plain_errors(self._url), self._engine.connect() as connection:
            rows = connection.execute(query, values).all()
        return [
            StreamEvent(row.kind, json.loads(row.data), row.time, row.seq, row.key or "", row.id, row.stream)
            for row in rows
        ]

    # -- deleting personal data --------------------------------------------------------------------------------------

    def delete_by_owner(self, solution: str, owner: str, who: str) -> int:
        """Delete every stream of an owner who asks for it; how many there were. The audit trail keeps a hash of them.

        Raises:
            BadInput: the owner is empty.
            HaechiError: the database refused.
        """
        if not owner:
            raise BadInput("the owner whose streams are to be deleted is empty; name one.")
        mark = hashlib.sha256(owner.encode("utf-8", "replace")).hexdigest()[:16]
        where = [_STREAMS.c.solution == _clean(solution), _STREAMS.c.owner == _clean(owner)]
        return self._delete(where, who, "streams.forget", f"owner sha256:{mark}", solution)

    def delete_older_than(self, solution: str, before: dt.datetime, who: str) -> int:
        """Delete every stream whose last event is older than `before`; how many there were."""
        where = [_STREAMS.c.solution == _clean(solution), _STREAMS.c.updated < before]
        return self._delete(where, who, "streams.expire", f"before {before.isoformat()}", solution)

    def _delete(
        self, where: Sequence[sa.ColumnElement[bool]], who: str, action: str, subject: str, solution: str
    ) -> int:
        with (
            database.plain_errors(self._url),
            database.in_line(self._url),
            self._write_engine.begin() as connection,
        ):
            marked = connection.execute(sa.update(_STREAMS).where(*where).values(status=ERASED))
            erased = [_STREAMS.c.solution == _clean(solution), _STREAMS.c.status == ERASED]
            ids = sa.select(_STREAMS.c.id).where(*erased).scalar_subquery()
            events = connection.execute(sa.delete(_EVENTS).where(_EVENTS.c.stream_id.in_(ids)))
            connection.execute(sa.delete(_STREAMS).where(*erased))
            details = {"solution": solution, "streams": marked.rowcount, "events": events.rowcount}
            if marked.rowcount or action == "streams.forget":  # a request is recorded even where nothing was kept
                row = {"time": now(), "who": _clean(who), "action": action, "subject": subject, "details": details}
                connection.execute(AUDIT.insert().values(**row))
            return int(marked.rowcount)


_SELECT = sa.select(
    _EVENTS.c.kind, _EVENTS.c.data, _EVENTS.c.time, _EVENTS.c.seq, _EVENTS.c.key, _EVENTS.c.id, _STREAMS.c.stream
).join_from(_EVENTS, _STREAMS, _EVENTS.c.stream_id == _STREAMS.c.id)

_READ = (
    _SELECT.where(_STREAMS.c.solution == sa.bindparam("solution"), _STREAMS.c.stream == sa.bindparam("stream"))
    .where(_EVENTS.c.seq > sa.bindparam("after"))
    .order_by(_EVENTS.c.seq)
)

_BEGIN = sa.text(
    "INSERT INTO streams (solution, stream, owner, status, seq, since, created, updated) "
    "VALUES (:solution, :stream, :owner, :status, :seq, :time, :time, :time) "
    "ON CONFLICT (solution, stream) DO NOTHING RETURNING id"
).bindparams(sa.bindparam("time", type_=Utc()))
_GO_ON = sa.text(
    "UPDATE streams SET seq = :seq, updated = :time, "
    "owner = CASE WHEN owner = '' THEN :owner ELSE owner END, "
    "since = CASE WHEN :status = '' OR :status = status THEN since ELSE :time END, "
    "status = CASE WHEN :status = '' THEN status ELSE :status END "
    "WHERE solution = :solution AND stream = :stream AND seq = :expected "
    "AND NOT EXISTS (SELECT 1 FROM stream_events e WHERE e.stream_id = streams.id AND e.key = :key) RETURNING id"
).bindparams(sa.bindparam("time", type_=Utc()))


def _write(connection: sa.Connection, item: _Append) -> None:
    """Move the head, which locks the stream against other writers, then add the events behind it."""
    head = {
        "solution": item.solution,
        "stream": item.stream,
        "owner": item.owner,
        "status": item.status,
        "seq": item.expected + len(item.events),
        "time": item.events[-1].time,
    }
    if item.expected:
        moved = connection.execute(_GO_ON, {**head, "expected": item.expected, "key": item.key or None})
    else:
        moved = connection.execute(_BEGIN, head)
    row = moved.first()
    if row is None:
        raise Clash(f"the stream {item.stream} has changed since it was read; read it and try again.")
    rows = [
        {
            "stream_id": row[0],
            "seq": item.expected + offset,
            "kind": event.kind,
            "key": (item.key or None) if offset == 1 else None,
            "time": event.time,
            "data": data,
        }
        for offset, (event, data) in enumerate(zip(item.events, item.data, strict=True), 1)
    ]
    connection.execute(_EVENTS.insert(), rows)


def _clean(value: str) -> str:
    """Text that PostgreSQL can store: NUL and lone surrogates become U+FFFD."""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _to_json(event: StreamEvent) -> str:
    if event.time.tzinfo is None:
        raise BadInput(f"the event {event.kind} has no time zone; give its time in UTC.")
    try:
        text = json.dumps(event.data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the data of the event {event.kind} cannot be stored as JSON: {error}.") from error
    # JSON escapes NUL by itself; a lone surrogate would not survive UTF-8
    return text.encode("utf-8", "replace").decode("utf-8")
