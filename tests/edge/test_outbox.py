"""The outbox: kept in order, killed at any moment, cut short on disk, bounded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.outbox import Outbox
from shared.errors import HaechiError


def taken(outbox: Outbox, sink: str) -> list[str]:
    """Send all that waits for a sink; the keys in their order."""
    keys = []
    while (item := outbox.head(sink)) is not None:
        keys.append(item.key)
        outbox.done(item)
    return keys


def test_each_sink_has_its_own_order_and_its_own_waiting(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.db") as outbox:
        for number in range(5):
            outbox.accept(f"m{number}", f"{number}".encode(), ["mqtt", "webhook"])
        first = outbox.head("mqtt")
        assert first is not None
        assert (first.key, first.body, first.tries) == ("m0", b"0", 0)
        outbox.later(first, 60)
        again = outbox.head("mqtt")
        assert again is not None
        assert (again.key, again.tries, again.due > 60) == ("m0", 1, True), "what stands behind it waits too"
        assert taken(outbox, "webhook") == [f"m{number}" for number in range(5)]
        assert taken(outbox, "mqtt") == [f"m{number}" for number in range(5)]
        assert outbox.head("mqtt") is None
        assert outbox.standing("mqtt").bytes == 0


def test_a_key_that_waits_is_not_doubled(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.db") as outbox:
        for _ in range(3):
            outbox.accept("m", b"x", ["a", "b", "a"])
        assert (taken(outbox, "a"), taken(outbox, "b")) == (["m"], ["m"])


def test_what_waits_outlives_the_process(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.db") as outbox:
        outbox.accept("m", b"\0\xff", ["a"])
    with Outbox(tmp_path / "o.db") as outbox:
        item = outbox.head("a")
        assert item is not None
        assert item.body == b"\0\xff"


def test_refused_messages_let_others_pass(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.db") as outbox:
        outbox.accept("bad", b"x", ["a"])
        outbox.accept("good", b"y", ["a"])
        item = outbox.head("a")
        assert item is not None
        outbox.refuse(item, "400 Bad Request")
        assert taken(outbox, "a") == ["good"]
        standing = outbox.standing("a")
        assert (standing.waiting, standing.refused, standing.dropped) == (0, 1, 0)


def test_the_bound_drops_the_oldest_of_who_keeps_most_and_says_so(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.db", max_bytes=10_000) as outbox:
        outbox.accept("quiet", bytes(100), ["quick"])
        for number in range(30):
            outbox.accept(f"m{number:02}", bytes(1000), ["down"])
        down = taken(outbox, "down")
        assert down == [f"m{number:02}" for number in range(30)][-len(down) :]
        assert 5 <= len(down) <= 9
        assert taken(outbox, "quick") == ["quiet"], "a sink that keeps up loses nothing to one that is down"
        assert outbox.standing("down").dropped == 30 - len(down)
        with pytest.raises(HaechiError, match="over the outbox's bound"):
            outbox.accept("huge", bytes(11_000), ["a"])
    with Outbox(tmp_path / "o.db") as outbox:
        assert outbox.standing("down").dropped == 30 - len(down)


def test_whoever_waits_is_woken(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.db") as outbox:
        found = []
        thread = threading.Thread(target=lambda: found.append(outbox.wait("a", 30)))
        thread.start()
        outbox.accept("m", b"x", ["a"])
        thread.join(30)
        assert [one.key for one in found] == ["m"]
        assert outbox.wait("b", 0.01) is None


def test_killed_at_any_moment_nothing_accepted_is_lost(tmp_path: Path) -> None:
    """The process says that it has accepted only afterwards; what it had taken out stays out."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "for n in range(1000000):\n"
        "    outbox.accept(f'{n:07}', bytes(500), ['a', 'b'])\n"
        "    print('in', n, flush=True)\n"
        "    if n % 3 == 0:\n"
        "        item = outbox.head('a'); outbox.done(item)\n"
        "        print('out', int(item.key), flush=True)\n"
    )
    for rounds in (5, 40):
        path = tmp_path / f"{rounds}.db"
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(rounds)]
        os.kill(process.pid, signal.SIGKILL)
        said += process.communicate()[0].splitlines()
        accepted = [int(line.split()[1]) for line in said if line.startswith("in ") and line.strip()[-1].isdigit()]
        sent = {int(line.split()[1]) for line in said if line.startswith("out ") and line.strip()[-1].isdigit()}
        with Outbox(path) as outbox:
            left = [int(key) for key in taken(outbox, "a")]
            assert left == sorted(left)
            assert set(accepted) - sent - set(left) <= {max(sent, default=-1) + 1}, "taken out, but not yet said"
            assert not sent & set(left)
            assert set(accepted) <= {int(key) for key in taken(outbox, "b")}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_short_on_disk_it_opens_with_the_first_of_what_was_accepted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    outbox = Outbox(folder / "o.db")
    keys = [f"m{number}" for number in range(data.draw(st.integers(1, 8)))]
    for key in keys:
        outbox.accept(key, key.encode() * 50, ["a"])
    crashed = folder / "crashed"
    crashed.mkdir()
    for name in ("o.db", "o.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, crashed / name)
    outbox.close()
    name = data.draw(st.sampled_from(sorted(path.name for path in crashed.iterdir())))
    size = (crashed / name).stat().st_size
    os.truncate(crashed / name, data.draw(st.integers(0, size)))
    with Outbox(crashed / "o.db") as opened:
        found = taken(opened, "a")
        assert found == keys[: len(found)]
        opened.accept("new", b"x", ["a"])
        assert taken(opened, "a") == ["new"]


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"no database at all" * 1000)
    with Outbox(path) as outbox:
        outbox.accept("m", b"x", ["a"])
        assert taken(outbox, "a") == ["m"]
    assert [kept.read_bytes()[:11] for kept in tmp_path.glob("o.db.damaged-*")] == [b"no database"]


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HaechiError, match="outbox"):
        Outbox(tmp_path / "file" / "o.db")
