"""What cameras saw: events as they stand, what may be searched for in them, reviews, and where people walked.

`cctv_events` holds each event as it stands now and changes while the event goes on; the append-only `events` keep every
message of it. `cctv_reviews` refuses changes: what a person said of an event stays said.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.errors import HaechiError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

    def identity() -> sa.Column[int]:
        return sa.Column("id", number, primary_key=True, autoincrement=True)

    def told() -> list[sa.Column[str]]:
        texts = ("camera", "type", "rule", "severity", "state")
        return [sa.Column(name, sa.String(), nullable=False) for name in texts]

    def event() -> sa.Column[int]:
        return sa.Column("event_id", number, sa.ForeignKey("cctv_events.id"), nullable=False)

    op.create_table(
        "cctv_events",
        identity(),
        sa.Column("event", sa.String(), nullable=False),
        *told(),
        # microseconds since 1970: whole numbers divide into the same buckets in both engines
        sa.Column("began", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.Column("told", sa.BigInteger(), nullable=False),
        sa.Column("start_s", sa.Double(), nullable=False),
        sa.Column("end_s", sa.Double(), nullable=True),
        *(sa.Column(name, sa.String(), nullable=True) for name in ("zone", "line", "direction")),
        sa.Column("track_ids", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("locked", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("event", name="cctv_events_by_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "cctv_marks",
        identity(),
        event(),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.UniqueConstraint("event_id", "kind", "value", name="cctv_marks_once"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "cctv_reviews",
        identity(),
        event(),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("verdict", "who", "reason")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "cctv_heat",
        identity(),
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("cells", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("camera", "hour", name="cctv_heat_by_hour"),
        sqlite_autoincrement=True,
    )
    op.create_index("cctv_events_by_time", "cctv_events", ["began", "event"])
    op.create_index("cctv_events_by_camera", "cctv_events", ["camera", "began", "event"])
    op.create_index("cctv_events_by_type", "cctv_events", ["type", "began", "event"])
    op.create_index("cctv_marks_by_value", "cctv_marks", ["kind", "value", "event_id"])
    op.create_index("cctv_reviews_by_event", "cctv_reviews", ["event_id"])
    _refuse_changes()


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER cctv_reviews_refuse_{verb.lower()} BEFORE {verb} ON cctv_reviews "
                "BEGIN SELECT RAISE(ABORT, 'cctv_reviews is append-only'); END"
            )
        return
    op.execute(
        "CREATE TRIGGER cctv_reviews_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON cctv_reviews "
        "FOR EACH STATEMENT EXECUTE FUNCTION haechi_refuse_change()"
    )


def downgrade() -> None:
    raise HaechiError("records are never taken away; restore the database from a copy instead.")
