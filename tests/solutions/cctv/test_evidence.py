"""Evidence: real recordings cut, real files locked, deleted and measured, a disk that is really full."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edge.io.clips import Clip, RecordingIndex
from shared.errors import BadInput, HaechiError
from shared.records import Records
from solutions.cctv.config import Evidence, Privacy
from solutions.cctv.evidence import EvidenceFolder
from solutions.cctv.keeping import EvidenceStore
from solutions.cctv.scene import Event
from solutions.cctv.store import KeptArchive
from tests.solutions.cctv.pictures import SIZE, picture
from tests.solutions.cctv.told import EVENT, ZERO, message, seen

START = ZERO + dt.timedelta(seconds=12.5)
END = START + dt.timedelta(seconds=3)
PERSONS = [(100.0, 60.0, 140.0, 140.0)]
HIDDEN = Privacy(hide="persons", how="pixelate")


def later(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def record(folder: Path, seconds: float = 30.0, fps: int = 10) -> RecordingIndex:
    """A recording of camera `gate` from `ZERO` on: a chequered person who walks over grey ground."""
    path = folder / "gate" / f"{round(ZERO.timestamp() * 1e6)}.mkv"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "10", "bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for at in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(picture((100 + at % 20, 60)), format="bgr24")
            frame.pts, frame.time_base = at, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return RecordingIndex(folder)


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def detail(image: np.ndarray) -> float:
    """How much of the chequered pattern is to be seen where the person is."""
    return float(cv2.Laplacian(cv2.cvtColor(image[60:140, 105:135], cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def fake_cut(size: int, error: OSError | None = None) -> Callable[[str, float, float, Path], Clip]:
    """Writes so many bytes instead of a clip: for tests of room."""

    def cut(camera: str, start_s: float, end_s: float, out: Path) -> Clip:
        if error is not None:
            raise HaechiError(f"{out} of {camera} could not be written") from error
        out.write_bytes(bytes(size))
        return Clip(out, start_s, end_s, 1)

    return cut


def events(store: EvidenceStore, number: int, every_s: float = 60.0) -> list[Event]:
    """So many, with clips, one after another."""
    made = [dataclasses.replace(EVENT, id=f"e{at:03}", start_s=at * every_s) for at in range(number)]
    for event in made:
        at = ZERO + dt.timedelta(seconds=event.start_s)
        store.begin(event, at, picture(), [])
        store.finish(event, at)
        store.work(at + dt.timedelta(seconds=30))
    return made


def kept(store: EvidenceStore, made: list[Event]) -> list[str]:
    return [one.id for one in made if store.place("gate", one.id).folder.exists()]


def test_an_event_has_pictures_and_a_clip_with_pre_and_post_roll(tmp_path: Path) -> None:
    index = record(tmp_path / "recordings")
    store = EvidenceStore(tmp_path / "evidence", Evidence(), index.cut)
    assert store.begin(EVENT, START, picture(), PERSONS)
    place = store.place("gate", EVENT.id)
    clean, marked = (cv2.imread(str(path)) for path in (place.clean, place.snapshot))
    assert np.abs(clean.astype(int) - picture()).mean() < 8
    assert marked[20, 60, 2] - int(marked[20, 60, 1]) > 80, "the box is red"
    store.finish(EVENT, END)
    assert store.work(later(3 + 5 + 1)) == 0, "the post-roll is not over"
    assert store.work(later(3 + 5 + 3)) == 1
    told = place.read()
    assert told is not None
    first, last = told["clip"]["first_unix"], told["clip"]["last_unix"]
    assert START.timestamp() - 6.1 <= first <= START.timestamp() - 5
    assert last == pytest.approx(END.timestamp() + 5, abs=0.2)
    assert len(frames(place.clip)) == pytest.approx((last - first) * 10, abs=2)
    assert store.work(later(3600)) == 0


def test_the_same_event_told_twice_is_kept_once(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path, Evidence(), fake_cut(1000))
    for _ in range(2):
        assert store.begin(EVENT, START, picture(), [])
        store.finish(EVENT, END)
    assert store.work(later(60)) == 1
    store.begin(EVENT, START, picture(), [])
    assert store.work(later(2000)) == 0


def test_clips_wanted_when_it_was_killed_are_cut_by_the_next_process(tmp_path: Path) -> None:
    index = record(tmp_path / "recordings")
    before = EvidenceStore(tmp_path / "evidence", Evidence(), index.cut)
    before.begin(EVENT, START, picture(), PERSONS)
    before.finish(EVENT, END)
    after = EvidenceStore(tmp_path / "evidence", Evidence(), index.cut)
    assert after.work(later(60)) == 1
    assert frames(after.place("gate", EVENT.id).clip)


def test_killed_at_any_moment_nothing_is_half_there(tmp_path: Path) -> None:
    program = (
        "import sys, dataclasses\n"
        "from pathlib import Path\n"
        "from solutions.cctv.keeping import EvidenceStore\n"
        "from solutions.cctv.config import Evidence\n"
        "from tests.solutions.cctv import test_evidence as t\n"
        "store = EvidenceStore(Path(sys.argv[1]), Evidence(gigabytes=0.0005), t.fake_cut(50_000))\n"
        "for n in range(100000):\n"
        "    e = dataclasses.replace(t.EVENT, id=f'k{n:06}')\n"
        "    store.begin(e, t.later(n), t.picture(), []); store.finish(e, t.later(n)); store.work(t.later(n + 20))\n"
        "    print(n, flush=True)\n"
    )
    for rounds in (3, 14):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / str(rounds))], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(rounds):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        store = EvidenceStore(tmp_path / str(rounds), Evidence(gigabytes=0.0005), fake_cut(50_000))
        for folder in (tmp_path / str(rounds) / "gate").iterdir():
            place = store.place("gate", folder.name)
            told = place.read()
            if told is not None and told["clip"]["state"] == "kept":
                assert place.clip.stat().st_size == 50_000
            for jpeg in (place.clean, place.snapshot):
                assert not jpeg.exists() or cv2.imread(str(jpeg)) is not None
        on_disk = sum(path.stat().st_size for path in (tmp_path / str(rounds) / "gate").rglob("*") if path.is_file())
        assert store.usage().bytes == on_disk


def test_over_the_bytes_the_oldest_go_down_to_the_low_water_mark(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path, Evidence(gigabytes=0.001, low_water=0.5), fake_cut(100_000))
    made = events(store, 8)
    assert kept(store, made) == [one.id for one in made]
    store.lock(store.place("gate", made[1].id), True)
    made += events(store, 12)[8:]
    left = kept(store, made)
    assert made[1].id in left
    assert made[0].id not in left
    assert made[-1].id in left
    assert left[1:] == [one.id for one in made[-len(left) + 1 :]], "the oldest went first"
    assert store.usage().bytes <= 1_000_000
    assert store.usage().locked_bytes > 100_000


def test_what_is_too_old_goes_but_never_what_is_locked(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path, Evidence(days=1), fake_cut(10))
    made = events(store, 3)
    store.lock(store.place("gate", made[0].id), True)
    store.make_room(ZERO.timestamp() + 86400 + 90)
    assert kept(store, made) == ["e000", "e002"]
    store.lock(store.place("gate", made[0].id), False)
    store.make_room(ZERO.timestamp() + 86400 + 90)
    assert kept(store, made) == ["e002"]


def test_locked_evidence_near_the_limit_is_said_and_kept(tmp_path: Path) -> None:
    said: list[bool] = []
    config = Evidence(gigabytes=0.00035, low_water=0.6)
    store = EvidenceStore(tmp_path, config, fake_cut(100_000), on_full=lambda full, _: said.append(full))
    made = events(store, 2)
    for one in made:
        store.lock(store.place("gate", one.id), True)
    made += events(store, 6)[2:]
    assert kept(store, made)[:2] == ["e000", "e001"]
    assert said == [True], "once, and not taken back by what is written and deleted at once"
    store.lock(store.place("gate", made[0].id), False)
    store.make_room(ZERO.timestamp())
    events(store, 8)
    assert said == [True, False]


def test_a_lock_from_another_process_is_seen(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path, Evidence(days=1), fake_cut(10))
    made = events(store, 2)
    server = EvidenceFolder(tmp_path)
    server.lock(server.place("gate", made[0].id), True)
    store.make_room(ZERO.timestamp() + 10 * 86400)
    assert kept(store, made) == ["e000"]


def test_a_full_disk_is_said_once_and_loses_no_clip(tmp_path: Path) -> None:
    said: list[tuple[bool, str]] = []
    full = fake_cut(0, OSError(28, "No space left on device"))
    store = EvidenceStore(tmp_path, Evidence(), full, on_full=lambda *told: said.append(told))
    store.begin(EVENT, START, picture(), [])
    store.finish(EVENT, END)
    for seconds in (20, 40, 60, 80, 100, 120, 140, 160):
        assert store.work(later(seconds)) == 0
    assert [one for one, _ in said] == [True]
    store._cut = fake_cut(10)  # the disk has room again
    assert store.work(later(200)) == 1
    assert [one for one, _ in said] == [True, False]


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_a_file_system_that_refuses_to_write_does_not_end_the_process(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes real writes fail, in a process of its own."""
    program = (
        "import sys, signal, resource\n"
        "from pathlib import Path\n"
        "from solutions.cctv.keeping import EvidenceStore\n"
        "from solutions.cctv.config import Evidence\n"
        "from tests.solutions.cctv import test_evidence as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "said = []\n"
        "store = EvidenceStore(Path(sys.argv[1]), Evidence(), None, on_full=lambda full, why: said.append(full))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))\n"
        "assert store.begin(t.EVENT, t.START, t.picture(), []) is False\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "assert store.begin(t.EVENT, t.START, t.picture(), []) is True\n"
        "assert said == [True, False], said\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_was_never_recorded_is_given_up_with_its_reason(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "e", Evidence(), RecordingIndex(tmp_path / "none").cut)
    store.begin(EVENT, START, picture(), [])
    store.finish(EVENT, END)
    for tries in range(10):
        store.work(later(100 + 20 * tries))
    told = store.place("gate", EVENT.id).read()
    assert told is not None
    assert told["clip"]["state"] == "lost"
    assert "recorded" in told["clip"]["why"]


@pytest.mark.parametrize(
    ("camera", "event"), [("../gate", "a"), ("gate", ".."), ("gate", "a/b"), ("Gate", "a"), ("", "a"), ("gate", "")]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, camera: str, event: str) -> None:
    with pytest.raises(BadInput):
        EvidenceFolder(tmp_path).place(camera, event)


def test_private_areas_are_not_in_the_clip(tmp_path: Path) -> None:
    index = record(tmp_path / "recordings")
    whole = [(0.2, 0.2), (0.6, 0.2), (0.6, 0.9), (0.2, 0.9)]
    store = EvidenceStore(tmp_path / "evidence", Evidence(), index.cut, private={"gate": [whole]})
    store.begin(EVENT, START, picture(), [])
    store.finish(EVENT, END)
    store.work(later(60))
    shown = frames(store.place("gate", EVENT.id).clip)
    assert len(shown) > 100
    assert max(int(image[70:130, 110:130].max()) for image in shown) < 40


def archive_of(tmp_path: Path, records: Records, notes: bool = True) -> tuple[KeptArchive, EvidenceStore]:
    index = record(tmp_path / "recordings")
    store = EvidenceStore(tmp_path / "evidence", Evidence(), index.cut)
    archive = KeptArchive(records, tmp_path / "evidence")
    archive.announce(message(), seen())
    for at in range(300 if notes else 0):
        walked = at % 20
        box = (100.0 + walked, 60.0, 140.0 + walked, 140.0)
        store.note_persons("gate", ZERO + dt.timedelta(seconds=at / 10), [box], SIZE)
    store.begin(EVENT, START, picture(), PERSONS if notes else None)
    store.finish(EVENT, END)
    assert store.work(later(60)) == 1
    return archive, store


def test_roles_see_what_they_may(tmp_path: Path) -> None:
    with Records.open(f"sqlite:///{tmp_path / 'r.db'}") as records:
        archive, _ = archive_of(tmp_path, records)
        told = archive.get(EVENT.id)
        assert told is not None
        assert (told.has_snapshot, told.has_clip) == (True, True)
        clear, hidden = archive.clip(EVENT.id, None), archive.clip(EVENT.id, HIDDEN)
        assert clear is not None
        assert hidden is not None
        before = clear.read_bytes()
        for one, other in zip(frames(clear), frames(hidden), strict=True):
            assert detail(one) > 20 * detail(other)
            assert np.abs(one[:40].astype(int) - other[:40]).mean() < 6, "the rest is as it was"
        assert clear.read_bytes() == before
        assert archive.clip(EVENT.id, HIDDEN) == hidden
        assert archive.clip(EVENT.id, Privacy(hide="nothing")) == clear
        pictures = [archive.snapshot(EVENT.id, privacy) for privacy in (None, HIDDEN)]
        shown = [cv2.imdecode(np.frombuffer(one or b"", np.uint8), cv2.IMREAD_COLOR) for one in pictures]
        assert detail(shown[0]) > 20 * detail(shown[1])
        mailed = archive.evidence.for_sinks(archive.evidence.place("gate", EVENT.id), HIDDEN)
        assert mailed is not None
        assert mailed.read_bytes() == pictures[1]
        archive.lock(EVENT.id, True, "kim")
        assert archive.evidence.place("gate", EVENT.id).locked
        told = archive.get(EVENT.id)
        assert told is not None
        assert told.locked
        shutil.rmtree(tmp_path / "evidence")
        assert archive.snapshot(EVENT.id, None) is None
        assert archive.clip(EVENT.id, HIDDEN) is None


def test_where_nobody_knows_who_is_there_all_is_hidden(tmp_path: Path) -> None:
    with Records.open(f"sqlite:///{tmp_path / 'r.db'}") as records:
        archive, _ = archive_of(tmp_path, records, notes=False)
        hidden = archive.clip(EVENT.id, HIDDEN)
        assert hidden is not None
        clear = frames(archive.evidence.place("gate", EVENT.id).clip)
        assert all(detail(one) > 20 * detail(other) for one, other in zip(clear, frames(hidden), strict=True))
        content = archive.snapshot(EVENT.id, HIDDEN)
        assert content is not None
        shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert detail(clear[0]) > 5 * detail(shown), "a sharp box is drawn in it"


def test_its_thread_cuts_by_itself(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path, Evidence(post_s=0), fake_cut(10))
    present = dt.datetime.now(dt.UTC)
    store.begin(EVENT, present - dt.timedelta(seconds=10), picture(), [])
    store.finish(EVENT, present - dt.timedelta(seconds=9))
    store.start()
    try:
        for _ in range(100):
            if store.place("gate", EVENT.id).has_clip:
                break
            store._stopped.wait(0.1)
        assert store.place("gate", EVENT.id).has_clip
    finally:
        store.close()
        store.close()
