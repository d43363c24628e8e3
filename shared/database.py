"""Opening the records' database: SQLite for one machine, PostgreSQL for many, told apart by the URL alone.

Two rules hold for every message made here: it is one sentence that names the mend, and it never shows the password,
neither the one in `user:password@host` nor one given as `?password=`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from shared.errors import BadInput, HaechiError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BUSY_TIMEOUT_S = 15
"""How long a SQLite writer waits for another process's transaction. Ours take milliseconds."""

CONNECT_TIMEOUT_S = 10

_WRITER = "haechi_writer"


def parse_url(given: str) -> URL:
    """The database URL, with the driver that Haechi uses filled in.

    Raises:
        BadInput: it is no URL, or names a database Haechi does not speak to. The URL itself is not repeated, since a
            mistyped one may carry its password in any place.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise BadInput(
            "the database URL (HAECHI_DATABASE_URL) cannot be read; write sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME, "
            "with special characters of the password percent-encoded."
        ) from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise BadInput(
                "the database URL (HAECHI_DATABASE_URL) names no file; "
                "write sqlite:///FILE, because records must outlive the process."
            )
        return url.set(drivername="sqlite+pysqlite")
    if kind in ("postgresql", "postgres"):
        if "@" in (url.host or ""):
            raise BadInput("the password in the database URL (HAECHI_DATABASE_URL) holds an @; write it as %40.")
        if not url.database:
            raise BadInput(
                "the database URL (HAECHI_DATABASE_URL) names no database; write postgresql://USER:PASSWORD@HOST:PORT/NAME."
            )
        return url.set(drivername="postgresql+psycopg")
    raise BadInput("the database URL (HAECHI_DATABASE_URL) must begin with sqlite:/// or postgresql://.")


def describe(url: URL) -> str:
    """The database as a person may see it: no password, no query part."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()


def connect(url: URL) -> tuple[Engine, Engine]:
    """The engine for reading and the same one for writing; no connection is made yet, except to set SQLite's journal.

    A SQLite writer begins with `BEGIN IMMEDIATE`: a transaction that starts as a reader and turns writer later fails at
    once when another process wrote in between, and no waiting helps it.

    Raises:
        HaechiError: the folder cannot be made, the file is no database, or the driver is missing.
    """
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(Path(str(url.database)))
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    else:
        try:
            # pre-ping: a connection that died with a restarted PostgreSQL is replaced instead of failing one request
            engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
        except (ImportError, NoSuchModuleError) as error:
            raise HaechiError(
                "PostgreSQL needs the psycopg driver; install it with: pip install 'haechi[postgres]'."
            ) from error
    return engine, engine.execution_options(**{_WRITER: True})


def _prepare_sqlite(path: Path) -> None:
    """Make the folder and switch the file to write-ahead logging, which lets readers and one writer work at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HaechiError(
            f"the folder {path.parent} for the records cannot be made: {error.strerror or error}."
        ) from error
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.Error as error:
            # the switch to WAL asks for an exclusive lock without waiting for it, so two first starts may collide
            if "locked" in str(error) and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise HaechiError(_sentence(str(path), str(error))) from error


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin or commit on its own: see _on_sqlite_begin
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(
        "PRAGMA synchronous=FULL"
    )  # a committed decision outlives a power cut, not only a killed process


def _on_sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITER) else "BEGIN")


@contextlib.contextmanager
def in_line(url: URL) -> Iterator[None]:
    """Wait for one's turn to write, among all processes that write to the same SQLite file.

    SQLite itself lets who finds the file locked look again after a sleep, up to 100 ms at a time, and gives it to
    whoever looks first: of several servers some then wait for seconds. The system's file locks wake the next in line at
    once, and are let go when their process dies. For PostgreSQL, and where there is no such lock, nothing is done.
    """
    if fcntl is None or url.get_backend_name() != "sqlite":
        yield
        return
    try:
        line = os.open(f"{url.database}-line", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # the folder may not be written to; the database itself will say so, if it matters
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks: SQLite's own way remains
            fcntl.flock(line, fcntl.LOCK_EX)
        yield
    finally:
        os.close(line)


@contextlib.contextmanager
def plain_errors(url: URL) -> Iterator[None]:
    """Turn the driver's errors inside the block into one sentence.

    Raises:
        HaechiError: with the database's name and the mend, and without its password.
    """
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
        if isinstance(error, DBAPIError) and (code := getattr(error.orig, "sqlstate", None)):
            cause = f"{code} {cause}"
        raise HaechiError(_sentence(describe(url), _without_secrets(url, cause))) from None


def _without_secrets(url: URL, message: str) -> str:
    secrets = [url.password] if isinstance(url.password, str) else []
    for key in ("password", "sslpassword"):
        value = url.query.get(key, ())
        secrets += [value] if isinstance(value, str) else list(value)
    for secret in filter(None, secrets):
        message = message.replace(secret, "***")
    return message


_MENDS = (
    # part of the driver's message or its SQLSTATE, in lower case; what it means; the mend
    (("disk is full", "53100"), "the disk is full", "free some space and try again"),
    (("readonly", "read-only", "25006"), "it is read-only", "make the file and its folder writable for this user"),
    (("database is locked", "55p03"), "another process holds it locked", "end the process that does not let go of it"),
    (("disk i/o error",), "the disk refused to read or write", "check its free space and its health"),
    (
        ("not a database", "malformed"),
        "the file is damaged or no database",
        "restore it from a copy, or name another file",
    ),
    (
        ("unable to open database file",),
        "the file cannot be opened",
        "check its path and that this user may write there",
    ),
    (
        ("28p01", "28000", "password authentication failed"),
        "the user name or password is wrong",
        "correct HAECHI_DATABASE_URL",
    ),
    (
        ("3d000", "does not exist"),
        "the database, user or table does not exist",
        "create it, or correct HAECHI_DATABASE_URL",
    ),
    (
        ("42501", "permission denied"),
        "the user lacks the rights",
        "grant CREATE on the schema and SELECT and INSERT on its tables",
    ),
    (
        ("already exists",),
        "a table of that name belongs to another program",
        "give Haechi a database or schema of its own",
    ),
    (
        ("connection", "timeout", "could not translate", "resolve host", "57p0"),
        "the server cannot be reached",
        "check host, port and that it is running",
    ),
)


def _sentence(name: str, cause: str) -> str:
    low = cause.lower()
    for marks, meaning, mend in _MENDS:
        if any(mark in low for mark in marks):
            return f"the records in {name} cannot be used: {meaning}; {mend}."
    first = " ".join(cause.partition("\n")[0].split())[:200].rstrip(".")
    return f"the records in {name} cannot be used: {first}; check the database."
