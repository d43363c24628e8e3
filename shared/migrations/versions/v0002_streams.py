"""Streams of events: conversations and whatever else is the sum of what happened to it.

`stream_events` refuses UPDATE, and DELETE too unless its stream has been marked `erased` first: personal data must be
deletable by law, and nothing else may be. `streams` holds each stream's head (how many events, whose, in what status
since when).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.errors import HaechiError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEYED = sa.text("key IS NOT NULL")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "streams",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("solution", sa.String(), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.Column("since", moment, nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("updated", moment, nullable=False),
        sa.UniqueConstraint("solution", "stream", name="streams_by_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "stream_events",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("stream_id", number, sa.ForeignKey("streams.id"), nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("time", moment, nullable=False),
        # text and not JSONB, which would reorder the keys: an event comes back byte for byte
        sa.Column("data", sa.Text(), nullable=False),
        sa.UniqueConstraint("stream_id", "seq", name="stream_events_in_order"),
        sqlite_autoincrement=True,
    )
    op.create_index("streams_by_status", "streams", ["solution", "status", "since"])
    op.create_index("streams_by_owner", "streams", ["solution", "owner"])
    op.create_index(
        "stream_events_by_key",
        "stream_events",
        ["stream_id", "key"],
        unique=True,
        sqlite_where=_KEYED,
        postgresql_where=_KEYED,
    )
    op.create_index("stream_events_by_kind", "stream_events", ["kind", "id"])
    _refuse_changes()


def _refuse_changes() -> None:
    kept = "SELECT 1 FROM streams WHERE id = OLD.stream_id AND status = 'erased'"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER stream_events_refuse_update BEFORE UPDATE ON stream_events "
            "BEGIN SELECT RAISE(ABORT, 'stream_events is append-only'); END"
        )
        op.execute(
            f"CREATE TRIGGER stream_events_refuse_delete BEFORE DELETE ON stream_events WHEN NOT EXISTS ({kept}) "
            "BEGIN SELECT RAISE(ABORT, 'stream_events is append-only'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION haechi_refuse_unless_erased() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NOT EXISTS ({kept}) THEN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END IF; "
        "RETURN OLD; END $$"
    )
    op.execute(
        "CREATE TRIGGER stream_events_refuse_change BEFORE UPDATE OR TRUNCATE ON stream_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION haechi_refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER stream_events_refuse_delete BEFORE DELETE ON stream_events "
        "FOR EACH ROW EXECUTE FUNCTION haechi_refuse_unless_erased()"
    )


def downgrade() -> None:
    raise HaechiError("records are never taken away; restore the database from a copy instead.")
