"""The records' schema and the steps that lead to it, applied by `shared.records.Records.open` without anyone's help.

Each step is a module in `versions/`, found by alembic through `env.py`; they are ordinary modules of this package, so
an installed wheel carries them. `bring_up_to_date` may be called by any number of processes at once: the first takes a
lock (SQLite: the write lock of `BEGIN IMMEDIATE`; PostgreSQL: an advisory lock), the others wait, find nothing left to
do and go on. All steps run in one transaction, so that a process killed half-way leaves the old schema.

A new step: copy the newest file in `versions/`, give it the next number, set its `down_revision` to the one before it
and `NEWEST` below to its own. Steps only add; rows already written are never changed, because the tables refuse it (see
`versions/v0001_records.py`).
"""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table, text

from shared.errors import HaechiError

NEWEST = "0003"
"""The last step in `versions/`, kept here so that a database which is up to date is opened without loading alembic."""

VERSION_TABLE = "haechi_schema"
"""Not alembic's default name, under which other programs (MLflow, say) may keep theirs in the same database."""

LOCK_KEY = 0x4861656368
"""The advisory lock's number on PostgreSQL: `Haech` in ASCII."""

LOCK_WAIT_S = 30


def schema_version(connection: Connection) -> str | None:
    """The step the database is at, or None where it is empty."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalar_one_or_none()


def bring_up_to_date(engine: Engine, write_engine: Engine, name: str) -> None:
    """Apply every step that the database lacks.

    Args:
        engine: for the first look, which takes no lock and loads no alembic.
        write_engine: the same database; its transactions begin as writers.
        name: the database as a person may see it, without its password.

    Raises:
        HaechiError: the database was written by a newer Haechi.
    """
    with engine.connect() as connection:
        if _stands_at(connection, name) == NEWEST:
            return
    with write_engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        if _stands_at(connection, name) != NEWEST:  # another process may have been first
            _upgrade(connection)


def _stands_at(connection: Connection, name: str) -> str | None:
    version = schema_version(connection)
    if version is not None and version > NEWEST:
        raise HaechiError(
            f"the records in {name} have schema {version}, which is newer than this Haechi knows ({NEWEST}); "
            "upgrade Haechi, or point HAECHI_DATABASE_URL at another database."
        )
    return version


def _upgrade(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a person's first start need not read of DDL

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
