"""Records on SQLite always, and the same tests on PostgreSQL where one answers (`-m services`)."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared import migrations, settings, streams
from shared.errors import BadInput, HaechiError
from shared.records import MAX_PAGE, Event, Records, Result, metadata
from solutions.cctv import tables

SERVER = (
    f"postgresql+psycopg://{os.environ.get('PGUSER', 'postgres')}@{os.environ.get('PGHOST', '127.0.0.1')}:"
    f"{os.environ.get('PGPORT', '5432')}/postgres"
)


def make(**changes: object) -> Result:
    values: dict[str, object] = {
        "solution": "inspection",
        "source": "part-1.png",
        "input_fingerprint": "a" * 64,
        "package": "gear",
        "package_version": "3",
        "package_fingerprint": "b" * 64,
        "score": 1.25,
        "thresholds": {"review": 1.0, "ng": 2.0},
        "verdict": "REVIEW",
        "regions": [{"box": [1, 2, 30, 40], "score": 1.25, "area": 900}],
        "latency_ms": 12.5,
        "request_id": "r-1",
        "actor": "line-3",
        "details": {"width": 640, "height": 480},
    }
    return Result(**(values | changes))  # type: ignore[arg-type]


def _throw_away_database() -> Iterator[str]:
    server = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 2})
    name = f"haechi_{secrets.token_hex(6)}"
    try:
        with server.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    except sa.exc.OperationalError:
        server.dispose()
        pytest.skip("no PostgreSQL lets us make a database on 127.0.0.1:5432 or the PGHOST and PGPORT given")
    yield server.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.db'}"
    else:
        yield from _throw_away_database()


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    with Records.open(url) as opened:
        yield opened


def raw_engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def test_a_result_comes_back_as_it_was_given(records: Records) -> None:
    given = make()
    number = records.add_result(given)
    found = records.result(number)
    assert found is not None
    assert (found.id, found.source, found.score, found.verdict) == (number, "part-1.png", 1.25, "REVIEW")
    assert found.thresholds == {"review": 1.0, "ng": 2.0}
    assert found.regions == [{"box": [1, 2, 30, 40], "score": 1.25, "area": 900}]
    assert found.details == {"width": 640, "height": 480}
    assert found.time == given.time
    assert found.time.utcoffset() == dt.timedelta(0)
    assert (found.actor, found.request_id, found.reviews, found.reviewed_verdict) == ("line-3", "r-1", (), None)
    assert records.result(number + 1) is None
    assert records.result(0) is None
    assert records.result(2**70) is None


def test_rows_outlive_the_process(url: str) -> None:
    with Records.open(url) as first:
        number = first.add_result(make())
    with Records.open(url) as second:
        assert second.result(number) is not None
        assert second.add_result(make()) > number


def test_newest_first_in_pages_without_a_gap(records: Records) -> None:
    numbers = [records.add_result(make(source=f"{i}.png")) for i in range(25)]
    seen: list[int] = []
    before: int | None = None
    while page := records.results(limit=10, before_id=before):
        seen += [found.id for found in page]
        before = page[-1].id
    assert seen == sorted(numbers, reverse=True)


def test_filters(records: Records) -> None:
    old = records.add_result(make(verdict="OK", time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)))
    new = records.add_result(make(verdict="NG", package="bolt", source="cam-1", input_fingerprint="c" * 64))
    other = records.add_result(make(solution="cctv"))

    def ids(**filters: object) -> list[int]:
        return [found.id for found in records.results(**filters)]  # type: ignore[arg-type]

    assert ids(solution="inspection") == [new, old]
    assert ids(solution="cctv") == [other]
    assert ids(verdict="OK") == [old]
    assert ids(package="bolt") == ids(source="cam-1") == ids(input_fingerprint="c" * 64) == [new]
    seoul = dt.timezone(dt.timedelta(hours=9))
    assert ids(until=dt.datetime(2026, 1, 1, 9, 0, 1, tzinfo=seoul)) == [old]
    assert ids(until=dt.datetime(2026, 1, 1, 9, 0, 0, tzinfo=seoul)) == []
    assert ids(since=dt.datetime(2026, 1, 2, tzinfo=dt.UTC)) == [other, new]
    assert ids(verdict="' OR 1=1 --") == []


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
def test_a_page_has_bounds(records: Records, limit: int) -> None:
    with pytest.raises(BadInput, match="limit is"):
        records.results(limit=limit)


def test_a_correction_is_a_new_row(records: Records) -> None:
    number = records.add_result(make(verdict="NG"))
    records.review(number, "OK", "kim", "only a reflection")
    records.review(number, "NG", "lee", "no, a dent")
    found = records.result(number)
    assert found is not None
    assert found.verdict == "NG", "the decision itself stays as it was"
    assert [(review.verdict, review.who, review.note) for review in found.reviews] == [
        ("OK", "kim", "only a reflection"),
        ("NG", "lee", "no, a dent"),
    ]
    assert found.reviewed_verdict == "NG"
    assert records.reviews(number) == list(found.reviews)
    with pytest.raises(BadInput, match=r"no result 999999\b"):
        records.review(999999, "OK", "kim")


def test_events_and_audit(records: Records) -> None:
    records.add_event(Event(solution="cctv", source="gate", kind="camera.lost", details={"seconds": 4.5}))
    late = records.add_event(Event(solution="cctv", source="gate", kind="camera.back"))
    assert [event.kind for event in records.events()] == ["camera.back", "camera.lost"]
    assert [event.details for event in records.events(kind="camera.lost")] == [{"seconds": 4.5}]
    assert [event.kind for event in records.events(before_id=late)] == ["camera.lost"]
    records.audit("admin", "key.create", "line-3", {"role": "operator"})
    records.audit("admin", "key.revoke", "line-3")
    newest, oldest = records.audit_entries(who="admin", subject="line-3")
    assert (newest.action, oldest.action, oldest.details) == ("key.revoke", "key.create", {"role": "operator"})
    assert records.audit_entries(action="nothing") == []


def test_odd_text_is_kept_and_odd_numbers_are_refused(records: Records) -> None:
    found = records.result(records.add_result(make(source="부품\0\ud800.png", details={"메모": "가\0나"})))
    assert found is not None
    assert found.source.startswith("부품\ufffd")
    assert found.source.endswith(".png")
    assert found.details == {"메모": "가\ufffd나"}
    for broken in (float("nan"), float("inf")):
        with pytest.raises(BadInput, match="score"):
            records.add_result(make(score=broken))
        with pytest.raises(BadInput, match=r"thresholds\.ng"):
            records.add_result(make(thresholds={"ng": broken}))
    with pytest.raises(BadInput, match="time zone"):
        records.add_result(make(time=dt.datetime(2026, 1, 1)))
    with pytest.raises(BadInput, match="details"):
        records.add_result(make(details={"picture": object()}))


@pytest.mark.parametrize("table", ["results", "reviews", "events", "audit"])
def test_the_database_refuses_to_change_rows(records: Records, url: str, table: str) -> None:
    records.review(records.add_result(make()), "OK", "kim")
    records.add_event(Event(solution="cctv", source="gate", kind="alarm"))
    records.audit("admin", "serve.start", "server")
    engine = raw_engine(url)
    statements = [f"UPDATE {table} SET time = time", f"DELETE FROM {table}"]
    if engine.dialect.name == "postgresql":
        statements.append(f"TRUNCATE {table} CASCADE")
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="is append-only"), engine.begin() as connection:
            connection.execute(sa.text(statement))
    with engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() == 1
    engine.dispose()


def test_there_is_no_call_that_changes_or_deletes() -> None:
    calls = {name for name in vars(Records) if not name.startswith("_")}
    assert calls == {
        "open", "close", "name", "add_result", "review", "add_event", "audit", "result", "results", "reviews", "events",
        "audit_entries", "connections",
    }  # fmt: skip


def test_the_migrated_schema_is_the_one_the_code_reads(records: Records, url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = raw_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE})
        differences = [found for found in compare_metadata(context, metadata) if found[0] != "remove_index"]
        assert differences == []
        assert {streams.__name__, tables.__name__} <= sys.modules.keys(), "their tables are among those compared"
        assert migrations.schema_version(connection) == migrations.NEWEST
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == migrations.NEWEST
    assert {step.revision for step in script.walk_revisions()} <= {
        f"{n:04}" for n in range(1, int(migrations.NEWEST) + 1)
    }


def test_a_newer_schema_is_refused(records: Records, url: str) -> None:
    engine = raw_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9042'"))
    engine.dispose()
    with pytest.raises(HaechiError, match=r"schema 9042, which is newer than this Haechi knows .*; upgrade Haechi"):
        Records.open(url)


def test_a_table_of_another_program_is_named(url: str) -> None:
    engine = raw_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE results (x INTEGER)"))
    with pytest.raises(HaechiError, match="another program"):
        Records.open(url)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["results"], "nothing of ours was left behind half-made"
    engine.dispose()


def test_eight_threads_write_at_once(records: Records) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda i: records.add_result(make(source=str(i))), range(80)))
    assert len(set(numbers)) == 80
    assert {found.source for found in records.results(limit=100)} == {str(i) for i in range(80)}


WRITER = """
import sys
from shared.records import Records, Result
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
records = Records.open(url)
for i in range(count):
    number = records.add_result(Result(
        solution=name, source=str(i), input_fingerprint="f", package="p", package_version="1",
        package_fingerprint="g", score=float(i), thresholds={}, verdict="OK", latency_ms=1.0,
    ))
    print(number, flush=True)
"""


def start_writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, name, str(count)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_open_a_new_database_at_once_and_write(url: str) -> None:
    writers = [start_writer(url, f"writer-{i}", 40) for i in range(3)]
    printed: list[int] = []
    for writer in writers:
        out, err = writer.communicate(timeout=60)
        assert writer.returncode == 0, err
        printed += [int(line) for line in out.split()]
    assert len(set(printed)) == 120
    with Records.open(url) as records:
        for i in range(3):
            found = records.results(limit=100, solution=f"writer-{i}")
            assert [row.source for row in found] == [str(n) for n in reversed(range(40))]


def test_kill_9_leaves_what_was_committed(url: str) -> None:
    Records.open(url).close()
    writer = start_writer(url, "victim", 1_000_000)
    assert writer.stdout is not None
    committed = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    committed += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    with Records.open(url) as records:
        found = {row.id for row in records.results(limit=MAX_PAGE, solution="victim")}
        assert set(committed[-MAX_PAGE + 1 :]) <= found
        assert len(found) - len(committed) in (0, 1), "at most the row whose number was not yet printed"
        assert records.add_result(make()) > max(committed)


def test_kill_9_during_the_first_opening_is_mended_by_the_next(tmp_path: Path) -> None:
    for round_number in range(3):
        url = f"sqlite:///{tmp_path / f'{round_number}.db'}"
        writer = start_writer(url, "victim", 1)
        deadline = time.monotonic() + 30
        while not (tmp_path / f"{round_number}.db").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05 * round_number)
        writer.kill()
        writer.communicate()
        with Records.open(url) as records:
            assert records.add_result(make()) >= 1


# -- errors are one sentence, and never show a password ---------------------------------------------------------------


def test_the_default_is_a_file_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAECHI_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HAECHI_DATABASE_URL", raising=False)
    settings.load.cache_clear()
    try:
        with Records.open() as records:
            records.add_result(make())
        assert (tmp_path / "home" / "records.db").exists()
    finally:
        settings.load.cache_clear()


def test_a_full_disk(tmp_path: Path) -> None:
    with Records.open(f"sqlite:///{tmp_path / 'records.db'}") as records:
        number = records.add_result(make())
        # SQLite's own page limit runs the very path of a full disk, down to the error it raises
        sa.event.listen(
            records._engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=30")
        )
        records._engine.dispose()
        with pytest.raises(HaechiError, match="the disk is full; free some space") as caught:
            records.add_result(make(details={"filler": "x" * 400_000}))
        assert "\n" not in str(caught.value)
        assert records.result(number) is not None


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"this is a text file, not a database" * 100)
    with pytest.raises(HaechiError, match=r"records\.db cannot be used: the file is damaged or no database"):
        Records.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is a text file")


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(HaechiError, match=r"folder .*file/below for the records cannot be made"):
        Records.open(f"sqlite:///{tmp_path / 'file' / 'below' / 'records.db'}")
    (tmp_path / "records.db").mkdir()
    with pytest.raises(HaechiError, match="the file cannot be opened"):
        Records.open(f"sqlite:///{tmp_path / 'records.db'}")


def test_another_process_that_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.database.BUSY_TIMEOUT_S", 0.2)
    path = tmp_path / "records.db"
    with Records.open(f"sqlite:///{path}") as records:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(HaechiError, match="another process holds it locked"):
            records.add_result(make())
        assert records.results() == [], "readers go on meanwhile"
        holder.execute("ROLLBACK")
        holder.close()
        assert records.add_result(make()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://haechi:s3cr3t-w0rd@127.0.0.1:1/haechi",
        "postgresql://haechi@127.0.0.1:1/haechi?password=s3cr3t-w0rd",
        "postgres://haechi:s3cr3t-w0rd@no-such-host.invalid/haechi",
        "postgresql://haechi:s3cr3t-w0rd@127.0.0.1:1/haechi?no_such_option=1",
    ],
)
def test_an_unreachable_server_without_its_password(url: str) -> None:
    with pytest.raises(HaechiError) as caught:
        Records.open(url)
    message = str(caught.value)
    assert "s3cr3t" not in message
    assert "\n" not in message
    assert "haechi@" in message
    assert message.endswith(".")
    assert caught.value.__cause__ is None, "the driver's own error, which may hold the password, is not chained"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "cannot be read"),
        ("postgresql://haechi:x@host:s3cr3t/db", "cannot be read"),
        ("postgresql://haechi:s3cr3t@x@host/db", "%40"),
        ("postgresql://haechi:s3cr3t@host", "names no database"),
        ("mysql://haechi:s3cr3t@host/db", "must begin with"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        Records.open(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.services
def test_a_server_that_restarts_costs_no_request() -> None:
    for url in _throw_away_database():
        with Records.open(url) as records:
            records.add_result(make())
            engine = raw_engine(SERVER)
            name = sa.make_url(url).database
            with engine.connect() as connection:  # what a restart does to connections that were open
                query = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
                connection.execute(query, {"name": name})
            engine.dispose()
            assert records.add_result(make()) == 2
