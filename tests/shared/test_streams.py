"""Event streams on SQLite always, and the same tests on PostgreSQL where one answers (`-m services`)."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.errors import BadInput
from shared.records import Records
from shared.streams import Clash, StreamEvent, Streams
from tests.shared.test_records import SERVER, raw_engine

NOW = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.db'}"
        return
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


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    with Records.open(url) as opened:
        yield opened


@pytest.fixture
def streams(records: Records) -> Streams:
    return Streams(records)


def event(kind: str = "said", time: dt.datetime = NOW, **data: object) -> StreamEvent:
    return StreamEvent(kind, data, time)


def test_events_come_back_in_order_and_as_they_were_given(streams: Streams) -> None:
    text = "요금제 바꿔 주세요 \0 \U0001f600 {slot}"
    assert streams.append("bot", "c1", 0, [event("user", text=text, share=0.1), event()], key="m1") == 2
    assert streams.append("bot", "c1", 2, [event("said", big=10**15, none=None, deep={"b": [1.0], "a": 1})]) == 3
    found = streams.read("bot", "c1")
    assert [one.seq for one in found] == [1, 2, 3]
    assert found[0].data == {"text": text, "share": 0.1}
    assert found[2].data == {"big": 10**15, "none": None, "deep": {"b": [1.0], "a": 1}}
    assert (found[0].key, found[1].key, found[0].time, found[0].stream) == ("m1", "", NOW, "c1")
    assert [one.seq for one in streams.read("bot", "c1", after=2)] == [3]
    assert streams.read("bot", "c2") == streams.read("tutor", "c1") == []


def test_the_second_of_two_writers_is_told(streams: Streams) -> None:
    streams.append("bot", "c1", 0, [event()])
    for expected in (0, 2, 7):
        with pytest.raises(Clash):
            streams.append("bot", "c1", expected, [event()])
    with pytest.raises(Clash):
        streams.append("bot", "unknown", 3, [event()])
    assert len(streams.read("bot", "c1")) == 1


def test_a_key_is_taken_once_in_a_stream(streams: Streams) -> None:
    streams.append("bot", "c1", 0, [event()], key="m1")
    with pytest.raises(Clash):
        streams.append("bot", "c1", 1, [event()], key="m1")
    assert streams.append("bot", "c1", 1, [event()], key="m2") == 2
    assert streams.append("bot", "c2", 0, [event()], key="m1") == 1


@pytest.mark.parametrize(
    "bad", [[], [StreamEvent("said", {}, NOW.replace(tzinfo=None))], [event(x=float("nan"))], [event(x=object())]]
)
def test_what_cannot_be_stored_is_refused_whole(streams: Streams, bad: list[StreamEvent]) -> None:
    with pytest.raises(BadInput):
        streams.append("bot", "c1", 0, [event(), *bad] if bad else [])
    assert streams.head("bot", "c1") is None


def test_heads_say_whose_and_how_they_stand(streams: Streams) -> None:
    streams.append("bot", "a", 0, [event(time=NOW)], owner="kim", status="bot")
    streams.append("bot", "b", 0, [event(time=NOW + dt.timedelta(1))], status="waiting")
    streams.append("bot", "b", 1, [event(time=NOW + dt.timedelta(2))], owner="lee")
    streams.append("tutor", "a", 0, [event()], owner="kim")
    assert [head.stream for head in streams.list_streams("bot")] == ["b", "a"]
    assert [head.stream for head in streams.list_streams("bot", status="waiting")] == ["b"]
    assert [head.stream for head in streams.list_streams("bot", owner="kim", status=["bot", "ended"])] == ["a"]
    assert [head.stream for head in streams.list_streams("bot", updated_before=NOW + dt.timedelta(1))] == ["a"]
    assert [head.stream for head in streams.list_streams("bot", updated_since=NOW + dt.timedelta(1))] == ["b"]
    assert [head.stream for head in streams.list_streams("bot", oldest_first=True, limit=1)] == ["a"]
    head = streams.head("bot", "b")
    assert head is not None
    assert (head.owner, head.status, head.seq, head.updated) == ("lee", "waiting", 2, NOW + dt.timedelta(2))


def test_a_queue_is_in_the_order_of_arrival(streams: Streams) -> None:
    for place, name in enumerate("cab"):
        streams.append("bot", name, 0, [event(time=NOW)], status="bot")
        streams.append("bot", name, 1, [event(time=NOW + dt.timedelta(minutes=place))], status="waiting")
    streams.append("bot", "c", 2, [event(time=NOW + dt.timedelta(hours=1))], status="waiting")
    streams.append("bot", "a", 2, [event(time=NOW + dt.timedelta(hours=1))])
    assert [streams.before("bot", "waiting", name) for name in "cabx"] == [0, 1, 2, 3]
    streams.append("bot", "c", 3, [event(time=NOW + dt.timedelta(hours=2))], status="agent")
    assert [streams.before("bot", "waiting", name) for name in "abc"] == [0, 1, 2]


def test_a_scan_goes_over_all_streams(streams: Streams) -> None:
    for number in range(5):
        streams.append("bot", f"c{number}", 0, [event("user"), event("said", time=NOW + dt.timedelta(number))])
    streams.append("tutor", "x", 0, [event("user")])
    assert [one.stream for one in streams.scan("bot", kinds={"user"})] == [f"c{number}" for number in range(5)]
    page = streams.scan("bot", limit=4)
    rest = streams.scan("bot", after_id=page[-1].id)
    assert (len(page), len(rest)) == (4, 6)
    late = streams.scan("bot", kinds=["said"], since=NOW + dt.timedelta(3), until=NOW + dt.timedelta(4))
    assert [one.stream for one in late] == ["c3"]


def test_the_database_refuses_changes(url: str, streams: Streams) -> None:
    streams.append("bot", "c1", 0, [event(a=1)])
    engine = raw_engine(url)
    for statement in ("UPDATE stream_events SET data = '{}'", "DELETE FROM stream_events"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(statement))
    engine.dispose()
    assert streams.read("bot", "c1")[0].data == {"a": 1}


def test_an_owner_is_forgotten_and_only_they(streams: Streams, records: Records) -> None:
    for name, owner in (("a", "kim"), ("b", "kim"), ("c", "lee")):
        streams.append("bot", name, 0, [event(), event()], owner=owner)
    streams.append("tutor", "a", 0, [event()], owner="kim")
    assert streams.delete_by_owner("bot", "kim", who="admin") == 2
    assert [head.stream for head in streams.list_streams("bot")] == ["c"]
    assert streams.read("bot", "a") == []
    assert len(streams.read("tutor", "a")) == 1
    entry = records.audit_entries(action="streams.forget")[0]
    assert (entry.who, entry.details) == ("admin", {"solution": "bot", "streams": 2, "events": 4})
    assert "kim" not in entry.subject
    assert streams.append("bot", "a", 0, [event()]) == 1, "the name may begin anew"
    assert streams.delete_by_owner("bot", "nobody", who="admin") == 0
    assert len(records.audit_entries(action="streams.forget")) == 2
    with pytest.raises(BadInput):
        streams.delete_by_owner("bot", "", who="admin")


def test_old_streams_go_when_their_time_is_over(streams: Streams, records: Records) -> None:
    streams.append("bot", "old", 0, [event(time=NOW)])
    streams.append("bot", "new", 0, [event(time=NOW)])
    streams.append("bot", "new", 1, [event(time=NOW + dt.timedelta(days=10))])
    assert streams.delete_older_than("bot", NOW + dt.timedelta(days=1), who="retention") == 1
    assert [head.stream for head in streams.list_streams("bot")] == ["new"]
    assert len(streams.read("bot", "new")) == 2
    assert streams.delete_older_than("bot", NOW + dt.timedelta(days=1), who="retention") == 0
    assert len(records.audit_entries(action="streams.expire")) == 1


def _add_until_done(streams: Streams, stream: str, writer: int, count: int) -> int:
    clashes = 0
    for number in range(count):
        while True:
            seq = len(streams.read("bot", stream))
            try:
                streams.append("bot", stream, seq, [event(writer=writer, number=number)], key=f"{writer}-{number}")
                break
            except Clash:
                clashes += 1
    return clashes


def test_threads_that_fight_over_one_stream_lose_nothing(streams: Streams) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        clashes = sum(pool.map(lambda writer: _add_until_done(streams, "c", writer, 15), range(6)))
    found = streams.read("bot", "c")
    assert [one.seq for one in found] == list(range(1, 91))
    assert len({one.key for one in found}) == 90
    assert clashes > 0, "they were meant to fight"


def test_threads_with_streams_of_their_own_do_not_clash(streams: Streams) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: [streams.append("bot", f"s{name}", n, [event()]) for n in range(5)], range(40)))
    assert {head.seq for head in streams.list_streams("bot")} == {5}
    assert len(streams.list_streams("bot")) == 40


_WRITER = """
import datetime, sys
from shared.records import Records
from shared.streams import Clash, StreamEvent, Streams
streams = Streams(Records.open(sys.argv[1]))
number = 0
while True:
    seq = len(streams.read("bot", "c"))
    try:
        streams.append("bot", "c", seq, [StreamEvent("n", {"n": number}, datetime.datetime.now(datetime.UTC))] * 2)
    except Clash:
        continue
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_leaves_whole_appends_only(url: str, streams: Streams) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    told = [0, 0]
    for index, process in enumerate(processes):
        assert process.stdout is not None
        process.stdout.readline()
        told[index] += 1
    time.sleep(1.0)
    for index, process in enumerate(processes):
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        told[index] += len(process.stdout.read().splitlines())
        process.wait()
        process.stdout.close()
    found = streams.read("bot", "c")
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    assert len(found) % 2 == 0
    assert 0 <= len(found) // 2 - sum(told) <= 2, "what was told is there; at most the one under way is besides"
