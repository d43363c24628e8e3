"""Results, what people said of them, events and the audit trail: four tables that only grow.

The database itself refuses UPDATE and DELETE (and TRUNCATE on PostgreSQL), so that a stray script or a mistaken query
cannot rewrite what was decided. Whoever must erase rows by law drops the trigger first, which is a deliberate act.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.errors import HaechiError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("results", "reviews", "events", "audit")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    moment = sa.DateTime(timezone=True)

    def column(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
        return sa.Column(name, kind, nullable=False)

    def identity() -> sa.Column[int]:
        return sa.Column("id", number, primary_key=True, autoincrement=True)

    op.create_table(
        "results",
        identity(),
        column("time", moment),
        column("solution", sa.String()),
        column("source", sa.String()),
        column("input_fingerprint", sa.String()),
        column("package", sa.String()),
        column("package_version", sa.String()),
        column("package_fingerprint", sa.String()),
        column("score", sa.Double()),
        column("thresholds", json),
        column("verdict", sa.String()),
        column("regions", json),
        column("latency_ms", sa.Double()),
        column("request_id", sa.String()),
        column("actor", sa.String()),
        column("details", json),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reviews",
        identity(),
        sa.Column("result_id", number, sa.ForeignKey("results.id"), nullable=False),
        column("time", moment),
        column("verdict", sa.String()),
        column("who", sa.String()),
        column("note", sa.String()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        identity(),
        column("time", moment),
        column("solution", sa.String()),
        column("source", sa.String()),
        column("kind", sa.String()),
        column("details", json),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit",
        identity(),
        column("time", moment),
        column("who", sa.String()),
        column("action", sa.String()),
        column("subject", sa.String()),
        column("details", json),
        sqlite_autoincrement=True,
    )
    op.create_index("results_by_solution", "results", ["solution", "verdict", "id"])
    op.create_index("results_by_input", "results", ["input_fingerprint"])
    op.create_index("results_by_time", "results", ["time"])
    op.create_index("reviews_by_result", "reviews", ["result_id"])
    op.create_index("events_by_solution", "events", ["solution", "kind", "id"])
    _refuse_changes()


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in TABLES:
            for verb in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION haechi_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION haechi_refuse_change()"
        )


def downgrade() -> None:
    raise HaechiError("records are never taken away; restore the database from a copy instead.")
