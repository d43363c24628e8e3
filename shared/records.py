"""What the system decided, and what people said of it: an append-only store that never forgets.

Four tables, written by any number of threads and processes at once:

- *results*: one row for each decision: input fingerprint, package, raw score, thresholds, verdict, latency, who asked.
- *reviews*: what a person said of a result. A second opinion is a second row; the newest counts, none is lost.
- *events*: what happened over time rather than to one input (an alarm, a camera lost).
- *audit*: who did what to the system itself (a key made, a model promoted).

There is no call that changes or deletes a row, and the database refuses both (see `shared/migrations`). Each write is
its own transaction, on disk when the call returns. SQLite at `<home>/records.db` is the default; a `postgresql://` URL
in `HAECHI_DATABASE_URL` moves everything there, with nothing else to change.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from shared import database, migrations, settings
from shared.errors import BadInput, HaechiError

MAX_PAGE = 1000
"""Most rows one query gives; ask for the next page with `before_id`."""


def now() -> dt.datetime:
    """The present moment in UTC, to the microsecond."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One decision, as the solution that made it tells it. Times are UTC-aware, fingerprints SHA-256 in hex."""

    solution: str
    source: str
    """The file's name or the camera's."""
    input_fingerprint: str
    package: str
    package_version: str
    package_fingerprint: str
    score: float
    """Raw, before any threshold; finite."""
    thresholds: Mapping[str, float]
    verdict: str
    regions: Sequence[Mapping[str, Any]] = ()
    latency_ms: float
    request_id: str = ""
    actor: str = ""
    """Who asked: the name of the API key or of the person signed in."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What only this solution needs, as JSON values."""
    time: dt.datetime = field(default_factory=now)


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a person said of one result."""

    id: int
    result_id: int
    verdict: str
    who: str
    note: str
    time: dt.datetime


@dataclass(frozen=True, kw_only=True)
class StoredResult(Result):
    """A result read back, with its number and its reviews, oldest first."""

    id: int
    reviews: tuple[Review, ...] = ()

    @property
    def reviewed_verdict(self) -> str | None:
        """What the newest review says, None without one."""
        return self.reviews[-1].verdict if self.reviews else None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened. `id` is None until it is stored."""

    solution: str
    source: str
    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)
    time: dt.datetime = field(default_factory=now)
    id: int | None = None


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who did what to what."""

    id: int
    who: str
    action: str
    subject: str
    details: Mapping[str, Any]
    time: dt.datetime


class Utc(sa.TypeDecorator[dt.datetime]):
    """UTC on both engines: SQLite forgets the zone, PostgreSQL answers in the session's."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
metadata = sa.MetaData()


def _table(name: str, /, **columns: Any) -> sa.Table:
    """A table of NOT NULL columns with an id that is never given twice; `migrations` makes the real one."""
    made = [
        sa.Column(key, *(kind if isinstance(kind, tuple) else (kind,)), nullable=False) for key, kind in columns.items()
    ]
    return sa.Table(
        name, metadata, sa.Column("id", _NUMBER, primary_key=True, autoincrement=True), *made, sqlite_autoincrement=True
    )


RESULTS = _table(
    "results",
    time=Utc(),
    solution=sa.String(),
    source=sa.String(),
    input_fingerprint=sa.String(),
    package=sa.String(),
    package_version=sa.String(),
    package_fingerprint=sa.String(),
    score=sa.Double(),
    thresholds=_JSON,
    verdict=sa.String(),
    regions=_JSON,
    latency_ms=sa.Double(),
    request_id=sa.String(),
    actor=sa.String(),
    details=_JSON,
)
REVIEWS = _table(
    "reviews",
    result_id=(_NUMBER, sa.ForeignKey("results.id")),
    time=Utc(),
    verdict=sa.String(),
    who=sa.String(),
    note=sa.String(),
)
EVENTS = _table("events", time=Utc(), solution=sa.String(), source=sa.String(), kind=sa.String(), details=_JSON)
AUDIT = _table("audit", time=Utc(), who=sa.String(), action=sa.String(), subject=sa.String(), details=_JSON)


def _clean(value: Any, name: str) -> Any:
    """`value` as both engines can store it.

    Text: NUL and lone surrogates, which PostgreSQL refuses and a client may put into a file name, become U+FFFD: losing
    a decision over its label would be worse. Numbers must be finite, because no threshold compares with NaN.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    if isinstance(value, Mapping):
        return {_clean(str(key), name): _clean(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item, name) for item in value]
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            raise BadInput(f"the record's {name} has no time zone; give it in UTC.")
        try:
            value.astimezone(dt.UTC)
        except OverflowError:
            raise BadInput(
                f"{name} is {value.isoformat()}, which has no equal in UTC; give a time of this age."
            ) from None
        return value
    if value is None or isinstance(value, (bool, int)):
        return value
    try:
        number = float(value)  # numpy's scalars too
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"the record's {name} is a {type(value).__name__}; only text, numbers, lists and tables can be stored."
        ) from error
    if not math.isfinite(number):
        raise BadInput(f"the record's {name} is {number}; only finite numbers can be stored.")
    return number


class Records:
    """The store. One per process is enough; it may be used from any thread, and closed twice without harm."""

    def __init__(self, url: sa.URL, engine: sa.Engine, write_engine: sa.Engine) -> None:
        self._url = url
        self._engine = engine
        self._write_engine = write_engine

    @classmethod
    def open(cls, url: str | None = None) -> Records:
        """Connect, and bring the schema up to date if it is not.

        Args:
            url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`; by default the setting `database_url`.

        Raises:
            BadInput: the URL cannot be used.
            HaechiError: the database cannot be reached or written, or was made by a newer Haechi.
        """
        parsed = database.parse_url(url or settings.load().database_url)
        engine, write_engine = database.connect(parsed)
        try:
            with database.plain_errors(parsed):
                migrations.bring_up_to_date(engine, write_engine, database.describe(parsed))
        except BaseException:
            engine.dispose()
            raise
        return cls(parsed, engine, write_engine)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> tuple[sa.URL, sa.Engine, sa.Engine]:
        """The URL and the engines for reading and writing, for `shared.streams`, which lives in the same database."""
        return self._url, self._engine, self._write_engine

    @property
    def name(self) -> str:
        """The database as a person may see it, without its password."""
        return database.describe(self._url)

    # -- writing -----------------------------------------------------------------------------------------------------

    def add_result(self, result: Result) -> int:
        """Store one decision; its number is given back once the row is on disk.

        Raises:
            BadInput: a number that is not finite, or a time without a zone.
            HaechiError: the database refused (full disk, unreachable server).
        """
        return self._insert(RESULTS, {f.name: getattr(result, f.name) for f in dataclasses.fields(Result)})

    def review(self, result_id: int, verdict: str, who: str, note: str = "") -> int:
        """Store what a person says of a result, beside what others said before.

        Raises:
            BadInput: there is no such result.
            HaechiError: the database refused.
        """
        if self.result(result_id) is None:
            raise BadInput(f"there is no result {result_id} to review.")
        return self._insert(
            REVIEWS, {"result_id": result_id, "time": now(), "verdict": verdict, "who": who, "note": note}
        )

    def add_event(self, event: Event) -> int:
        """Store one event. Raises as `add_result`."""
        values = dataclasses.asdict(event)
        del values["id"]
        return self._insert(EVENTS, values)

    def audit(self, who: str, action: str, subject: str, details: Mapping[str, Any] | None = None) -> int:
        """Store that `who` did `action` to `subject`, say `admin`, `key.create`, `line-3`. Raises as `add_result`."""
        return self._insert(
            AUDIT, {"time": now(), "who": who, "action": action, "subject": subject, "details": details or {}}
        )

    def _insert(self, table: sa.Table, values: Mapping[str, Any]) -> int:
        clean = {name: _clean(value, name) for name, value in values.items()}
        with (
            database.plain_errors(self._url),
            database.in_line(self._url),
            self._write_engine.begin() as connection,
        ):
            inserted = connection.execute(table.insert().values(**clean)).inserted_primary_key
        if inserted is None:
            raise HaechiError(f"the records in {self.name} gave the new row no number; check the database.")
        return int(inserted[0])

    # -- reading -----------------------------------------------------------------------------------------------------

    def result(self, result_id: int) -> StoredResult | None:
        """One result with its reviews, or None where there is no such number."""
        if not 0 < result_id < 2**63:
            return None
        found = self._results([RESULTS.c.id == result_id], 1)
        return found[0] if found else None

    def results(
        self,
        limit: int = 50,
        before_id: int | None = None,
        solution: str | None = None,
        verdict: str | None = None,
        *,
        package: str | None = None,
        source: str | None = None,
        input_fingerprint: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
    ) -> list[StoredResult]:
        """Results that match every filter given, newest first.

        Args:
            limit: 1 to `MAX_PAGE`.
            before_id: only older ones than this; the last id of a page gives the next page.
            since, until: from this time on, and before this one; with a zone.

        Raises:
            BadInput: the limit is out of range, or a time has no zone.
        """
        where = self._equals(
            RESULTS,
            solution=solution,
            verdict=verdict,
            package=package,
            source=source,
            input_fingerprint=input_fingerprint,
        )
        where += self._bounds(RESULTS, before_id, since, until)
        return self._results(where, _page(limit))

    def reviews(self, result_id: int) -> list[Review]:
        """All that was said of one result, oldest first."""
        return [
            Review(**row) for row in self._rows(REVIEWS, [REVIEWS.c.result_id == result_id], None, newest_first=False)
        ]

    def events(
        self,
        limit: int = 50,
        before_id: int | None = None,
        solution: str | None = None,
        kind: str | None = None,
        *,
        since: dt.datetime | None = None,
    ) -> list[Event]:
        """Events that match, newest first. Arguments and errors as `results`."""
        where = self._equals(EVENTS, solution=solution, kind=kind) + self._bounds(EVENTS, before_id, since, None)
        return [Event(**row) for row in self._rows(EVENTS, where, _page(limit))]

    def audit_entries(
        self,
        limit: int = 50,
        before_id: int | None = None,
        who: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> list[AuditEntry]:
        """Audit rows that match, newest first. Arguments and errors as `results`."""
        where = self._equals(AUDIT, who=who, action=action, subject=subject) + self._bounds(
            AUDIT, before_id, None, None
        )
        return [AuditEntry(**row) for row in self._rows(AUDIT, where, _page(limit))]

    def _results(self, where: Iterable[sa.ColumnElement[bool]], limit: int) -> list[StoredResult]:
        rows = self._rows(RESULTS, where, limit)
        said: dict[int, list[Review]] = {row["id"]: [] for row in rows}
        if said:
            for row in self._rows(REVIEWS, [REVIEWS.c.result_id.in_(list(said))], None, newest_first=False):
                said[row["result_id"]].append(Review(**row))
        return [StoredResult(**row, reviews=tuple(said[row["id"]])) for row in rows]

    def _rows(
        self, table: sa.Table, where: Iterable[sa.ColumnElement[bool]], limit: int | None, newest_first: bool = True
    ) -> list[dict[str, Any]]:
        query = sa.select(table).where(*where).order_by(table.c.id.desc() if newest_first else table.c.id).limit(limit)
        with database.plain_errors(self._url), self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @staticmethod
    def _equals(table: sa.Table, **values: str | None) -> list[sa.ColumnElement[bool]]:
        return [table.c[name] == _clean(value, name) for name, value in values.items() if value is not None]

    @staticmethod
    def _bounds(
        table: sa.Table, before_id: int | None, since: dt.datetime | None, until: dt.datetime | None
    ) -> list[sa.ColumnElement[bool]]:
        where: list[sa.ColumnElement[bool]] = []
        if before_id is not None:
            where.append(table.c.id < max(0, min(before_id, 2**63 - 1)))
        if since is not None:
            where.append(table.c.time >= _clean(since, "since"))
        if until is not None:
            where.append(table.c.time < _clean(until, "until"))
        return where


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise BadInput(f"limit is {limit}; ask for 1 to {MAX_PAGE} rows and page on with before_id.")
    return limit
