"""What is to be sent, kept on disk until it has been: an outbox for sinks that may be down for days.

One SQLite file in write-ahead mode. `accept` returns when a message is on disk for each of its sinks, so that a kill or
a power cut loses nothing accepted; a message is taken out when its sink says that it was sent, so that it may be sent
twice and is never sent zero times: receivers tell doubles by its key. Each sink has its own order and its own waiting,
so that one which is down delays no other.

The bound: when all that waits is over `max_bytes`, the oldest message of the sink that keeps most goes first, and is
counted. A sink that refuses a message for good (`refuse`) has it set aside, where it is counted in the bound too and
goes before anything that still may be sent. What is refused or dropped can be read in `standing`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import HaechiError
from shared.log import get_logger

MAX_BYTES = 256 << 20
_BUSY_S = 15
_OVERHEAD = 128
"""Bytes that a row costs beside its body, roughly."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    size INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    refused TEXT,
    UNIQUE (sink, key)
);
CREATE INDEX IF NOT EXISTS queue_by_sink ON queue (sink, refused, id);
CREATE TABLE IF NOT EXISTS dropped (sink TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """A message that waits for a sink."""

    id: int
    sink: str
    key: str
    """The same whenever it is sent: receivers tell doubles by it."""
    body: bytes
    tries: int
    due: float
    """Unix seconds before which it is not tried again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a sink stands."""

    waiting: int
    bytes: int
    refused: int
    dropped: int
    """Since the file was made."""


class Outbox:
    """Thread-safe; one process at a time writes a file.

    Args:
        path: of the file; its folder is made. A damaged file is set aside under another name, and a new one begun.
        max_bytes: that may wait, all sinks together.

    Raises:
        HaechiError: the file cannot be made.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._opened()
            self._bytes = int(self._database.execute("SELECT coalesce(sum(size), 0) FROM queue").fetchone()[0])
        except (OSError, sqlite3.Error) as error:
            raise HaechiError(f"the outbox {path} cannot be used: {error}; check its folder and the disk.") from error

    def close(self) -> None:
        """Give the file back. Safe to call again."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing -----------------------------------------------------------------------------------------------------

    def accept(self, key: str, body: bytes, sinks: Sequence[str]) -> None:
        """Take a message for these sinks; it is on disk when the call returns. A key that still waits is not doubled.

        Raises:
            HaechiError: it could not be kept: the disk is full, or the message alone is over the bound.
        """
        size = len(body) + len(key) + _OVERHEAD
        if size * len(sinks) > self.max_bytes:
            raise HaechiError(f"the message {key} of {len(body)} bytes is over the outbox's bound of {self.max_bytes}.")
        with self._writing(f"the message {key} cannot be kept") as database:
            added = sum(
                database.execute(
                    "INSERT INTO queue (sink, key, body, size) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (sink, key, body, size),
                ).rowcount
                for sink in dict.fromkeys(sinks)
            )
            after = self._within(database, self._bytes + size * added, newest=key)
        with self._changed:
            self._bytes = after
            self._changed.notify_all()

    def done(self, item: Item) -> None:
        """It was sent."""
        with self._writing("an outbox entry cannot be removed") as database:
            gone = database.execute("DELETE FROM queue WHERE id = ? RETURNING size", (item.id,)).fetchall()
        with self._lock:
            self._bytes -= sum(size for (size,) in gone)

    def later(self, item: Item, wait_s: float) -> None:
        """It could not be sent now; try again after `wait_s`. What stands behind it waits too: order is kept."""
        with self._writing("an outbox entry cannot be changed") as database:
            due = time.time() + wait_s
            database.execute("UPDATE queue SET tries = tries + 1, due = ? WHERE id = ?", (due, item.id))

    def refuse(self, item: Item, why: str) -> None:
        """The receiver will never take it: set it aside, so that others can be sent."""
        with self._writing("an outbox entry cannot be changed") as database:
            database.execute("UPDATE queue SET refused = ?, tries = tries + 1 WHERE id = ?", (why[:500], item.id))

    # -- reading -----------------------------------------------------------------------------------------------------

    def head(self, sink: str) -> Item | None:
        """The oldest message that waits for a sink, due or not."""
        with self._lock:
            row = self._database.execute(
                "SELECT id, sink, key, body, tries, due FROM queue "
                "WHERE sink = ? AND refused IS NULL ORDER BY id LIMIT 1",
                (sink,),
            ).fetchone()
        return None if row is None else Item(*row)

    def wait(self, sink: str, timeout_s: float) -> Item | None:
        """Like `head`, but waits for a message to come; None where none came in time."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while (item := self.head(sink)) is None:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return None
        return item

    def wake(self) -> None:
        """Let all that wait look again."""
        with self._changed:
            self._changed.notify_all()

    def standing(self, sink: str) -> Standing:
        """How a sink stands."""
        with self._lock:
            waiting, size, refused = self._database.execute(
                "SELECT count(*) FILTER (WHERE refused IS NULL), coalesce(sum(size), 0), "
                "count(*) FILTER (WHERE refused IS NOT NULL) FROM queue WHERE sink = ?",
                (sink,),
            ).fetchone()
            dropped = self._database.execute("SELECT number FROM dropped WHERE sink = ?", (sink,)).fetchone()
        return Standing(waiting, size, refused, dropped[0] if dropped else 0)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _within(self, database: sqlite3.Connection, total: int, newest: str) -> int:
        """Drop until the bound holds; bytes that are left. The newest message stays."""
        while total > self.max_bytes:
            row = database.execute(
                "SELECT id, sink, size FROM queue WHERE key != ? ORDER BY refused IS NULL, "
                "(SELECT sum(size) FROM queue q WHERE q.sink = queue.sink) DESC, id LIMIT 1",
                (newest,),
            ).fetchone()
            if row is None:
                break
            database.execute("DELETE FROM queue WHERE id = ?", (row[0],))
            database.execute(
                "INSERT INTO dropped VALUES (?, 1) ON CONFLICT (sink) DO UPDATE SET number = number + 1", (row[1],)
            )
            total -= row[2]
            _log.warning("outbox_dropped", sink=row[1], max_bytes=self.max_bytes)
        return total

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when the block has ended."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise HaechiError(f"{what} in {self.path}: {error}; free some space or check the disk.") from error

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, not writable: not damaged
                raise
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
            _log.error("outbox_damaged", path=str(self.path), kept_as=str(aside), error=str(error))
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.executescript(_SCHEMA)
            if database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("its pages do not hold together")
        except BaseException:
            database.close()
            raise
        return database
