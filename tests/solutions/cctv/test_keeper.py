"""From a message to the archive, the evidence and the sinks, through real files."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import pytest

from edge.io.clips import Clip
from edge.io.frames import Frame
from shared.errors import HaechiError
from shared.records import Records
from solutions.cctv import store
from solutions.cctv.archive import Search
from solutions.cctv.config import Camera, Privacy, Site
from solutions.cctv.keeper import Keeper
from solutions.cctv.scene import Message, Scene, Track, View
from tests.solutions.cctv.pictures import SIZE, picture
from tests.solutions.cctv.told import EVENT, ZERO, message

CAMERA = Camera(source="x", zones={"yard": [(0, 0), (1, 0), (1, 1), (0, 1)]})
VIEW = View.of(CAMERA, SIZE)


def site(**more: Any) -> Site:
    sinks = [{"type": "jsonl", "path": "events.jsonl"}]
    return Site.model_validate(
        {"cameras": {"gate": CAMERA}, "sinks": sinks, "privacy": Privacy(hide="persons"), **more}
    )


def scene(time_s: float) -> Scene:
    taken = ZERO + dt.timedelta(seconds=time_s)
    track = Track(3, "person", (100, 60, 140, 140), 0.8, 0.0, time_s)
    return Scene(Frame("gate", 1, time_s, picture(), taken), SIZE, (track,))


def cut(camera: str, start_s: float, end_s: float, out: Path) -> Clip:
    out.write_bytes(b"clip")
    return Clip(out, start_s, end_s, 1)


@pytest.fixture
def records(tmp_path: Path) -> Any:
    with Records.open(f"sqlite:///{tmp_path / 'r.db'}") as opened:
        yield opened


def lines(folder: Path, number: int) -> list[dict[str, Any]]:
    """The sink's, once there are so many."""
    path = folder / "events.jsonl"
    until = time.monotonic() + 30
    while not path.exists() or len(path.read_text().splitlines()) < number:
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_kept_proven_and_sent(tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "HEAT_DAYS", 100_000)
    with Keeper(site(), records, tmp_path / "cctv", cut=cut, beside=tmp_path) as keeper:
        for time_s in (12.0, 12.5, 13.5):
            keeper.seen("gate", scene(time_s))
        keeper.tell(message(), scene(12.5), VIEW)
        keeper.tell(message("end", end_s=14.0), scene(14.0), VIEW)
        keeper.evidence.work(ZERO + dt.timedelta(seconds=60))
        keeper.store.flush()
        sent = lines(tmp_path, 2)
        (told,), _ = keeper.store.search(Search(through="yard", label="person"), 10)
        assert told.has_snapshot
        assert told.has_clip
        assert (told.start, told.end) == tuple(ZERO + dt.timedelta(seconds=at) for at in (12.5, 14.0))
        hidden = keeper.store.snapshot(EVENT.id, Privacy(hide="persons"))
        assert hidden not in (None, keeper.store.snapshot(EVENT.id, None))
        assert keeper.store.heat("gate", ZERO, None).sum() == 2, "once a second"
    assert [(one["message"], one["id"]) for one in sent] == [("start", EVENT.id), ("end", EVENT.id)]
    assert sent[0]["time"] == "2026-03-02T10:00:12.500+00:00"


def test_what_was_interrupted_is_ended_and_told_by_the_next_run(tmp_path: Path, records: Records) -> None:
    killed = Keeper(site(), records, tmp_path / "cctv", cut=cut, beside=tmp_path)
    killed.tell(message(), scene(12.5), VIEW)  # and nothing more
    killed._outbox.close()
    with Keeper(site(), records, tmp_path / "cctv", cut=cut, beside=tmp_path) as keeper:
        assert [one["message"] for one in lines(tmp_path, 2)] == ["start", "end"]
        told = keeper.store.get(EVENT.id)
        assert told is not None
        assert told.end is not None
        assert told.why["interrupted"]


def test_a_camera_without_a_picture_is_told_too(tmp_path: Path, records: Records) -> None:
    with Keeper(site(), records, tmp_path / "cctv", beside=tmp_path) as keeper:
        keeper.tell(message(type="camera_offline", rule="camera_health", box=None))
        keeper.tell(message("end", type="camera_offline", rule="camera_health", box=None, end_s=20.0))
        assert [one["type"] for one in lines(tmp_path, 2)] == ["camera_offline"] * 2
        told = keeper.store.get(EVENT.id)
        assert told is not None
        assert not told.has_snapshot


def test_what_the_records_do_not_take_is_told_later_in_its_order(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Keeper(site(), records, tmp_path / "cctv", beside=tmp_path) as keeper:
        announce = keeper.store.announce

        def full(*_: Any) -> None:
            raise HaechiError("the disk is full")

        monkeypatch.setattr(keeper.store, "announce", full)
        keeper.tell(message(), scene(12.5), VIEW)
        keeper.tell(message("end", end_s=14.0), scene(14.0), VIEW)
        monkeypatch.setattr(keeper.store, "announce", announce)
        other = dataclasses.replace(EVENT, id="later", start_s=15.0)
        keeper.tell(Message("start", other), scene(15.0), VIEW)
        assert [(one["message"], one["id"]) for one in lines(tmp_path, 3)] == [
            ("start", EVENT.id), ("end", EVENT.id), ("start", "later"),
        ]  # fmt: skip


def test_a_full_disk_is_an_event(tmp_path: Path, records: Records) -> None:
    def refuses(camera: str, start_s: float, end_s: float, out: Path) -> Clip:
        raise HaechiError("no room") from OSError(28, "No space left on device")

    with Keeper(site(), records, tmp_path / "cctv", cut=refuses, beside=tmp_path) as keeper:
        keeper.tell(message(), scene(12.5), VIEW)
        keeper.tell(message("end", end_s=14.0), scene(14.0), VIEW)
        sent = lines(tmp_path, 3)
        assert [one["type"] for one in sent if one["camera"] == "site"] == ["disk_full"]
        (told,), _ = keeper.store.search(Search(type="disk_full"), 10)
        assert (told.severity, told.end) == ("critical", None)
