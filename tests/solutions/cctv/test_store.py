"""Events as they are kept: on SQLite always, and the same tests on PostgreSQL where one answers (`-m services`)."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.io.frames import Frame
from shared.errors import BadInput
from shared.records import Records
from solutions.cctv.archive import COLOURS, Archive, Count, Search
from solutions.cctv.config import Camera
from solutions.cctv.scene import Scene, Step, Track, View
from solutions.cctv.sighting import clothing_colours, look
from solutions.cctv.store import HEAT_COLUMNS, HEAT_ROWS, EventStore, KeptArchive
from tests.shared.test_records import raw_engine, records, url  # noqa: F401 - fixtures
from tests.solutions.cctv.told import EVENT, ZERO, message, seen

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def archive(records: Records, tmp_path: Path) -> KeptArchive:  # noqa: F811
    return KeptArchive(records, tmp_path / "evidence")


def filled(archive: KeptArchive, number: int = 5) -> list[str]:
    """Events a minute apart; their ids, oldest first."""
    ids = [f"event-{at}" for at in range(number)]
    for at, name in enumerate(ids):
        archive.announce(message(id=name, start_s=60.0 * at), seen())
    return ids


def test_it_is_what_the_console_asks(archive: KeptArchive) -> None:
    asked: Archive = archive
    assert asked.search(Search(), 10) == ([], None)
    assert asked.get("nothing") is None
    assert asked.snapshot("nothing", None) is None
    assert asked.clip("nothing", None) is None


def test_an_event_is_told_from_start_to_end(archive: KeptArchive) -> None:
    archive.announce(message(), seen(colours=("red", "blue")))
    told = archive.get(EVENT.id)
    assert told is not None
    assert (told.start, told.end, told.start_s, told.end_s) == (ZERO + dt.timedelta(seconds=12.5), None, 12.5, None)
    assert (told.camera, told.type, told.rule, told.zone, told.line) == ("gate", "intrusion", "night", "yard", None)
    assert (told.labels, told.colours, told.track_ids) == (("person",), ("red", "blue"), (3,))
    assert (told.state, told.locked, told.reviews, told.has_snapshot, told.has_clip) == ("new", False, (), False, False)
    archive.announce(message("update", track_ids=(3, 4), why={"score": 0.9}), seen(labels=("person", "car")))
    archive.announce(message("end", track_ids=(3, 4), end_s=20.0), seen(zero=ZERO + dt.timedelta(seconds=3)))
    told = archive.get(EVENT.id)
    assert told is not None
    assert told.start == ZERO + dt.timedelta(seconds=12.5), "the beginning stays where it was first said to be"
    assert told.end == ZERO + dt.timedelta(seconds=20)
    assert (told.end_s, told.track_ids, told.labels) == (20.0, (3, 4), ("person", "car"))


def test_messages_may_come_twice_and_late(archive: KeptArchive, records: Records) -> None:  # noqa: F811
    for one in (message(), message(), message("end", end_s=14.0), message("update", end_s=None), message()):
        archive.announce(one, seen())
    told = archive.get(EVENT.id)
    assert told is not None
    assert (told.end_s, told.end) == (14.0, ZERO + dt.timedelta(seconds=14))
    assert len(archive.search(Search(), 10)[0]) == 1
    assert [one.details["message"] for one in records.events(solution="cctv")] == [
        "start", "update", "end", "start", "start",
    ]  # fmt: skip


def test_an_event_whose_beginning_was_lost_is_kept(archive: KeptArchive) -> None:
    archive.announce(message("end", end_s=30.0), seen())
    told = archive.get(EVENT.id)
    assert told is not None
    assert (told.start_s, told.end_s) == (12.5, 30.0)


def test_what_no_json_is_does_not_lose_the_event(archive: KeptArchive) -> None:
    odd = {"n": float("nan"), "a": np.arange(2), "f": np.float32(0.5), "p": Path("x"), 3: "\0"}
    archive.announce(message(why=odd, zone="a\0\ud800"), seen())
    told = archive.get(EVENT.id)
    assert told is not None
    assert told.why == {"n": None, "a": [0, 1], "f": 0.5, "p": "x", "3": "\ufffd"}


def test_pages_give_every_event_once_newest_first(archive: KeptArchive) -> None:
    ids = filled(archive, 7)
    archive.announce(message(id="event-same", start_s=180.0), seen())  # the same moment as event-3
    found: list[str] = []
    before = None
    while True:
        page, before = archive.search(Search(), 3, before)
        found += [one.id for one in page]
        if before is None:
            break
    assert found == [*ids[:3:-1], "event-same", *ids[3::-1]]
    assert archive.search(Search(), 8)[1] is None


def test_a_page_that_nobody_gave_is_refused(archive: KeptArchive) -> None:
    for before in ("", "x", "1", "1-", "-", "1-a b", "99999999999999999999-a", "1' or 1=1 --"):
        with pytest.raises(BadInput, match="before"):
            archive.search(Search(), 3, before)


def test_a_time_without_zone_and_a_limit_out_of_range_are_refused(archive: KeptArchive) -> None:
    with pytest.raises(BadInput, match="no zone"):
        archive.search(Search(since=dt.datetime(2026, 1, 1)), 3)
    for limit in (0, 5000):
        with pytest.raises(BadInput, match="limit"):
            archive.search(Search(), limit)


def test_every_filter_chooses(archive: KeptArchive) -> None:
    archive.announce(message(), seen(colours=("red",), through=("yard", "path")))
    other = {"camera": "hall", "type": "line_crossing", "severity": "info", "zone": None, "line": "door"}
    archive.announce(message(id="b", start_s=3600.0, **other), seen(labels=("car",)))
    archive.review("b", "dismiss", "a cat", "kim")
    archive.lock("b", True, "kim")
    moment = ZERO + dt.timedelta(seconds=600)
    first: list[dict[str, Any]] = [
        {"until": moment}, {"camera": "gate"}, {"type": "intrusion"}, {"severity": "warning"}, {"zone": "yard"},
        {"label": "person"}, {"colour": "red"}, {"through": "path"}, {"state": "new"}, {"locked": False},
    ]  # fmt: skip
    second: list[dict[str, Any]] = [
        {"since": moment}, {"camera": "hall"}, {"type": "line_crossing"}, {"severity": "info"}, {"zone": "door"},
        {"label": "car"}, {"state": "dismissed"}, {"locked": True}, {"camera": "hall", "label": "car"},
    ]  # fmt: skip
    for wanted, name in [*((one, EVENT.id) for one in first), *((one, "b") for one in second)]:
        assert [one.id for one in archive.search(Search(**wanted), 10)[0]] == [name], wanted
    assert archive.search(Search(camera="hall", colour="red"), 10)[0] == []
    assert archive.search(Search(zone="\0'; drop table cctv_events --"), 10)[0] == []


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_search_finds_what_a_plain_filter_finds(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    names = st.sampled_from(["a", "b"])
    rows = data.draw(st.lists(st.tuples(st.integers(0, 3), names, names, st.sets(names)), max_size=6))
    with Records.open(f"sqlite:///{tmp_path_factory.mktemp('search') / 'r.db'}") as opened:
        store = EventStore(opened)
        for number, (at, camera, kind, through) in enumerate(rows):
            changes: dict[str, Any] = {"id": f"e{number}", "start_s": float(at), "camera": camera, "type": kind}
            store.announce(message(**changes), seen(through=tuple(through)))
        asked = {name: data.draw(st.none() | names) for name in ("camera", "type", "through")}
        since = data.draw(st.none() | st.integers(0, 3))
        found, _ = store.search(
            Search(since=None if since is None else ZERO + dt.timedelta(seconds=since), **asked), 100
        )
    wanted = [
        (at, f"e{number}")
        for number, (at, camera, kind, through) in enumerate(rows)
        if asked["camera"] in (None, camera)
        and asked["type"] in (None, kind)
        and (asked["through"] is None or asked["through"] in through)
        and (since is None or at >= since)
    ]
    assert [(one.start_s, one.id) for one in found] == sorted(wanted, reverse=True)


def test_reviews_add_up_and_the_newest_decides(archive: KeptArchive, records: Records, url: str) -> None:  # noqa: F811
    archive.announce(message(), seen())
    archive.review(EVENT.id, "approve", "", "kim")
    archive.review(EVENT.id, "dismiss", "shadow", "lee")
    told = archive.get(EVENT.id)
    assert told is not None
    assert told.state == "dismissed"
    assert [(one.verdict, one.reason, one.who) for one in told.reviews] == [
        ("approve", "", "kim"),
        ("dismiss", "shadow", "lee"),
    ]
    archive.announce(message("end", end_s=13.0), seen())
    told = archive.get(EVENT.id)
    assert told is not None
    assert told.state == "dismissed", "an end does not undo what a person said"
    with pytest.raises(BadInput, match="no event"):
        archive.review("unknown", "approve", "", "kim")
    with pytest.raises(BadInput, match="no event"):
        archive.lock("unknown", True, "kim")
    with pytest.raises(BadInput, match="verdict"):
        archive.review(EVENT.id, "maybe", "", "kim")  # type: ignore[arg-type]
    engine = raw_engine(url)
    for statement in ("UPDATE cctv_reviews SET who = 'x'", "DELETE FROM cctv_reviews"):
        with pytest.raises(sa.exc.DBAPIError, match="is append-only"), engine.begin() as connection:
            connection.execute(sa.text(statement))
    engine.dispose()


def test_who_locks_is_in_the_audit_trail(archive: KeptArchive, records: Records) -> None:  # noqa: F811
    archive.announce(message(), seen())
    archive.lock(EVENT.id, True, "kim")
    archive.lock(EVENT.id, False, "lee")
    said = [(one.who, one.action, one.subject) for one in records.audit_entries()]
    assert said == [("lee", "cctv.unlock", EVENT.id), ("kim", "cctv.lock", EVENT.id)]


def test_counts_and_crossings_fall_into_buckets(archive: KeptArchive) -> None:
    for number, (at, way) in enumerate([(5.0, "left"), (6.0, "right"), (7.0, "left"), (3700.0, "left")]):
        over = {"type": "line_crossing", "zone": None, "line": "door", "direction": way}
        archive.announce(message(id=f"c{number}", start_s=at, **over), seen())
    archive.announce(message(camera="hall"), seen())
    until = ZERO + 2 * HOUR
    assert archive.counts(ZERO, until, 3600, None) == [
        Count(start=ZERO, camera="gate", name="line_crossing", number=3),
        Count(start=ZERO, camera="hall", name="intrusion", number=1),
        Count(start=ZERO + HOUR, camera="gate", name="line_crossing", number=1),
    ]
    assert archive.crossings(ZERO, until, 86400, None) == [
        Count(start=ZERO.replace(hour=0), camera="gate", name="door", direction="left", number=3),
        Count(start=ZERO.replace(hour=0), camera="gate", name="door", direction="right", number=1),
    ]
    assert archive.counts(ZERO, until, 3600, "hall") == [Count(start=ZERO, camera="hall", name="intrusion", number=1)]
    assert archive.counts(ZERO, ZERO + dt.timedelta(seconds=5), 3600, None) == []


def test_heat_adds_up_and_forgets(archive: KeptArchive) -> None:
    present = dt.datetime.now(dt.UTC)
    for _ in range(3):
        archive.trod("gate", present, [(0.0, 0.0), (1.0, 1.0), (1.2, 0.5)])
        archive.flush()
    archive.trod("gate", present - dt.timedelta(hours=30), [(0.5, 0.5)])
    archive.trod("gate", present - dt.timedelta(days=400), [(0.5, 0.5)])
    archive.trod("hall", present, [(0.5, 0.5)])
    archive.flush()
    cells = archive.heat("gate", None, None)
    assert cells.shape == (HEAT_ROWS, HEAT_COLUMNS)
    assert (cells[0, 0], cells[-1, -1], cells[9, 16], cells.sum()) == (3, 3, 1, 7)
    assert archive.heat("gate", present - HOUR, None).sum() == 6
    assert archive.heat("gate", None, present - 25 * HOUR).sum() == 1
    assert archive.heat("nowhere", None, None).sum() == 0


def test_what_a_kill_left_open_is_ended_once(archive: KeptArchive) -> None:
    archive.announce(message(), seen())
    archive.announce(message(id="over", camera="hall"), seen())
    archive.announce(message("end", id="over", camera="hall", end_s=13.0), seen())
    assert archive.settle(["hall"]) == []
    ended = archive.settle(["gate", "hall"])
    assert [(one.kind, one.event.id, one.event.why["interrupted"]) for one in ended] == [("end", EVENT.id, True)]
    assert archive.settle(["gate", "hall"]) == []
    told = archive.get(EVENT.id)
    assert told is not None
    assert told.end is not None
    assert told.end >= told.start


def test_nothing_announced_is_lost_when_killed(tmp_path: Path) -> None:
    """The process says what it has announced only afterwards, and is killed in the midst of it."""
    program = (
        "import sys\n"
        "from shared.records import Records\n"
        "from solutions.cctv.store import EventStore\n"
        "from tests.solutions.cctv.told import message, seen\n"
        "store = EventStore(Records.open(sys.argv[1]))\n"
        "for n in range(100000):\n"
        "    store.announce(message(id=f'k{n}'), seen())\n"
        "    print(f'k{n}', flush=True)\n"
    )
    path = f"sqlite:///{tmp_path / 'r.db'}"
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().split()
    process.wait()
    process.stdout.close()
    with Records.open(path) as opened:
        store = EventStore(opened)
        assert all(store.get(name) is not None for name in said if name.startswith("k"))
        assert len(said) >= 25


@pytest.mark.parametrize(
    ("name", "bgr"),
    {
        "black": (20, 20, 20), "white": (240, 240, 240), "grey": (120, 120, 125), "red": (30, 30, 200),
        "orange": (20, 120, 240), "yellow": (30, 220, 230), "green": (40, 160, 50), "blue": (190, 80, 30),
        "purple": (170, 40, 130), "pink": (180, 90, 240), "brown": (30, 65, 120),
    }.items(),
)  # fmt: skip
def test_clothing_has_a_name(name: str, bgr: tuple[int, int, int]) -> None:
    assert name in COLOURS
    image = np.full((200, 100, 3), 128, np.uint8)
    image[20:110, 30:70] = bgr
    image[110:190, 30:70] = (20, 20, 20)
    assert clothing_colours(image, (25, 5, 75, 195)) == (name, "black")


def test_dark_clothing_keeps_a_strong_hue() -> None:
    jeans = np.full((200, 100, 3), (66, 40, 25), np.uint8)
    assert clothing_colours(jeans, (0, 0, 100, 200)) == ("blue", "blue")
    shadow = np.full((200, 100, 3), (50, 44, 42), np.uint8)
    assert clothing_colours(shadow, (0, 0, 100, 200)) == ("black", "black")


@pytest.mark.parametrize("box", [(500, 500, 600, 700), (-90, -90, -10, -10), (10, 10, 14, 20), (50, 50, 50, 50)])
def test_too_little_has_no_colour(box: tuple[float, float, float, float]) -> None:
    assert clothing_colours(np.zeros((200, 100, 3), np.uint8), box) == ("", "")


def test_a_scene_says_who_wore_what_and_walked_where() -> None:
    camera = Camera(
        source="x", zones={"left": [(0, 0), (0.4, 0), (0.4, 1), (0, 1)], "right": [(0.9, 0), (1, 0), (1, 1)]}
    )
    image = np.full((200, 400, 3), 128, np.uint8)
    image[0:200, 200:260] = (200, 60, 20)
    track = Track(3, "person", (200, 10, 260, 190), 0.8, 0.0, 5.0)
    track.path.extend([Step(1.0, (20, 10, 80, 190), True), Step(5.0, track.box, True)])
    stranger = Track(4, "car", (0, 0, 50, 50), 0.8, 0.0, 5.0)
    taken = ZERO + dt.timedelta(seconds=5)
    scene = Scene(Frame("gate", 1, 5.0, image, taken), (400, 200), (track, stranger))
    found = look(EVENT, scene, View.of(camera, (400, 200)))
    assert (found.zero, found.labels, found.colours, found.through) == (ZERO, ("person",), ("blue",), ("left",))
