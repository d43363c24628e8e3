"""Everything that becomes of an event beside the event itself: kept, proven, sent. One for each running site.

    message → store (on disk) → pictures (on disk) → outbox (on disk) → sinks, whenever they can be reached

Each step is on disk before the next, and each may be repeated: killed between any two, nothing announced is lost. The
loop that watches the cameras calls `seen` for every picture and `tell` for every message; neither waits for a network,
and neither fails for want of room: what the disk does not take is told again later.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from edge.outbox import Outbox
from shared.errors import HaechiError
from shared.log import get_logger
from shared.records import Records, now
from solutions.cctv.config import PERSON, Site
from solutions.cctv.keeping import Cut, EvidenceStore
from solutions.cctv.machine import new_id
from solutions.cctv.scene import Event, Message, Scene, View
from solutions.cctv.sighting import Seen, look
from solutions.cctv.sinks.dispatcher import Dispatcher
from solutions.cctv.sinks.opening import open_sinks
from solutions.cctv.sinks.post import Post
from solutions.cctv.store import KeptArchive

SITE = "site"
"""In the place of a camera, for events of the machine itself."""
_TREAD_S, _FLUSH_S, _AGAIN_S = 1.0, 60.0, 5.0
_UNTOLD = 10_000
"""Messages that are remembered while the records cannot be written."""
_log = get_logger(__name__)


class Keeper:
    """Not thread-safe, except where its parts are: one loop calls it.

    Args:
        folder: `<home>/cctv`.
        cut: of the recordings, see `keeping.Cut`; None: nothing is recorded.
        beside: in which relative paths of sinks are meant: the site file's folder.

    Raises:
        BadInput: a sink of the site cannot be used.
        HaechiError: the folder cannot be written.
    """

    def __init__(
        self, site: Site, records: Records, folder: Path, *, cut: Cut | None = None, beside: Path | None = None
    ) -> None:
        self._site = site
        self.store = KeptArchive(records, folder / "evidence")
        private = {name: list(camera.private.values()) for name, camera in site.cameras.items() if camera.private}
        self.evidence = EvidenceStore(folder / "evidence", site.evidence, cut, private=private, on_full=self._on_full)
        self._outbox = Outbox(folder / "outbox.db")
        try:
            self.sinks = Dispatcher(self._outbox, open_sinks(site, beside))
        except BaseException:
            self._outbox.close()
            raise
        self._started = now()
        self._zeros: dict[str, dt.datetime] = {}
        self._trodden_s: dict[str, float] = {}
        self._untold: deque[tuple[Message, Seen, Scene | None]] = deque(maxlen=_UNTOLD)
        self._full: Event | None = None
        self._next_flush = self._next_try = 0.0

    def start(self) -> Self:
        """End what an interrupted run left open, and begin to cut and to send."""
        for message in self.store.settle([*self._site.cameras, SITE]):
            told = self.store.get(message.event.id)
            if told is not None and told.end is not None:
                self._ended(message.event, told.end)
                self._send(message, told.start)
        self.evidence.start()
        self.sinks.start()
        return self

    def close(self) -> None:
        """Stop; what is not cut or sent yet waits for the next run. Safe to call again."""
        self._flush()
        self.evidence.close()
        self.sinks.close()
        self._outbox.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def seen(self, camera: str, scene: Scene) -> None:
        """What a camera shows: where persons are and where it is trodden. Before the messages of the same picture."""
        zero = self._zero(camera, scene)
        at = zero + dt.timedelta(seconds=scene.time_s)
        self.evidence.note_persons(camera, at, list(_persons(scene)), scene.size)
        if scene.time_s - self._trodden_s.get(camera, -_TREAD_S) >= _TREAD_S:
            self._trodden_s[camera] = scene.time_s
            width, height = scene.size
            self.store.trod(camera, at, [(x / width, y / height) for x, y in (track.foot for track in scene.tracks)])
        if time.monotonic() >= self._next_flush:
            self._flush()
        if self._untold and time.monotonic() >= self._next_try:
            self._tell_all()

    def tell(self, message: Message, scene: Scene | None = None, view: View | None = None) -> None:
        """An event starts, changes or ends.

        Args:
            scene, view: the picture that made it so; None: there is none, as when a camera is offline.
        """
        event = message.event
        zero = self._zeros.get(event.camera, self._started)
        if scene is None or view is None or scene.frame.image.size == 0:
            self._untold.append((message, Seen(zero=zero), None))
        else:
            zero = self._zero(event.camera, scene)
            self._untold.append((message, look(event, scene, view, zero), scene if message.kind == "start" else None))
        self._tell_all()

    def _tell_all(self) -> None:
        """In their order; what the disk does not take waits."""
        try:
            while self._untold:
                self._tell_one(*self._untold[0])
                self._untold.popleft()
        except HaechiError as error:
            self._next_try = time.monotonic() + _AGAIN_S
            _log.error("event_not_kept_yet", waiting=len(self._untold), error=str(error))

    def _tell_one(self, message: Message, seen: Seen, scene: Scene | None) -> None:
        event = message.event
        self.store.announce(message, seen)
        start = seen.moment(event.start_s)
        if scene is not None:
            self.evidence.begin(event, start, scene.frame.image, list(_persons(scene)))
        if message.kind == "end":
            self._ended(event, start + dt.timedelta(seconds=(event.end_s or event.start_s) - event.start_s))
        self._send(message, start)

    def _ended(self, event: Event, end: dt.datetime) -> None:
        if event.camera in self._site.cameras:
            self.evidence.finish(event, end)

    def _send(self, message: Message, start: dt.datetime) -> None:
        snapshot = None
        if message.kind == "start" and message.event.camera in self._site.cameras:
            place = self.evidence.place(message.event.camera, message.event.id)
            snapshot = self.evidence.for_sinks(place, self._site.privacy)
        self.sinks.tell(Post.of(message, start, snapshot))

    def _flush(self) -> None:
        self._next_flush = time.monotonic() + _FLUSH_S
        try:
            self.store.flush()
        except HaechiError as error:
            _log.error("heat_lost", error=str(error))

    def _zero(self, camera: str, scene: Scene) -> dt.datetime:
        """When the camera's clock stood at 0: by the picture itself, or for a file when it was first seen."""
        taken = scene.frame.taken_at
        if taken is not None:
            self._zeros[camera] = taken.astimezone(dt.UTC) - dt.timedelta(seconds=scene.time_s)
        return self._zeros.setdefault(camera, now() - dt.timedelta(seconds=scene.time_s))

    def _on_full(self, full: bool, why: str) -> None:
        """The disk is full, or no longer: an event like any other. Called from whichever thread noticed."""
        moment = (now() - self._started).total_seconds()
        if full:
            self._full = Event(
                id=new_id(), camera=SITE, clip=None, type="disk_full", rule="evidence", start_s=moment, end_s=None,
                zone=None, line=None, direction=None, track_ids=(), severity="critical", why={"error": why},
            )  # fmt: skip
        elif self._full is not None:
            self._full.end_s = moment
        if self._full is None:
            return
        message = Message("start" if full else "end", self._full)
        try:
            self._tell_one(message, Seen(zero=self._started), None)
        except HaechiError as error:  # the records lie on the same disk
            _log.error("disk_full_not_kept", error=str(error))


def _persons(scene: Scene) -> Iterator[tuple[float, float, float, float]]:
    return (track.box for track in scene.tracks if track.label == PERSON)
