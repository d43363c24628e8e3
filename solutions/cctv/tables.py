"""The tables of events in the records' database, as `shared/migrations/versions/v0003_cctv_events.py` makes them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from shared.records import Utc, metadata

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _table(name: str, *more: sa.schema.SchemaItem, **columns: sa.types.TypeEngine[Any]) -> sa.Table:
    """Columns that may be empty are those an event can lack."""
    made = [sa.Column(key, kind, nullable=key in _MAY_LACK) for key, kind in columns.items()]
    return sa.Table(name, metadata, sa.Column("id", _NUMBER, primary_key=True, autoincrement=True), *made, *more)


_MAY_LACK = ("ended", "end_s", "zone", "line", "direction")
EVENTS = _table(
    "cctv_events",
    sa.UniqueConstraint("event", name="cctv_events_by_name"),
    event=sa.String(),
    camera=sa.String(),
    type=sa.String(),
    rule=sa.String(),
    severity=sa.String(),
    state=sa.String(),
    began=sa.BigInteger(),
    ended=sa.BigInteger(),
    told=sa.BigInteger(),
    start_s=sa.Double(),
    end_s=sa.Double(),
    zone=sa.String(),
    line=sa.String(),
    direction=sa.String(),
    track_ids=sa.Text(),
    why=sa.Text(),
    locked=sa.Boolean(),
)
"""One row for each event, as it stands now. `began`, `ended`, `told`: microseconds since 1970."""
MARKS = _table(
    "cctv_marks",
    sa.ForeignKeyConstraint(["event_id"], ["cctv_events.id"]),
    sa.UniqueConstraint("event_id", "kind", "value", name="cctv_marks_once"),
    event_id=_NUMBER,
    kind=sa.String(),
    value=sa.String(),
)
"""What an event can be found by beside its own columns: `label`, `colour`, `through`."""
REVIEWS = _table(
    "cctv_reviews",
    sa.ForeignKeyConstraint(["event_id"], ["cctv_events.id"]),
    event_id=_NUMBER,
    time=Utc(),
    verdict=sa.String(),
    who=sa.String(),
    reason=sa.String(),
)
HEAT = _table(
    "cctv_heat",
    sa.UniqueConstraint("camera", "hour", name="cctv_heat_by_hour"),
    camera=sa.String(),
    hour=sa.BigInteger(),
    cells=sa.LargeBinary(),
)
"""How often each part of a camera's picture was trodden in an hour: little-endian uint32, row by row."""
