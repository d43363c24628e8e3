"""Writes evidence as events begin and end, cuts their clips when they are due, and makes room: `evidence.py`'s writer.

What is still to be done is written in the manifests: after a kill, the next process finds there which clips to cut.
How much is kept is measured on disk when it starts and whenever room is made, so that no crash can leave it wrong.

A full disk is no error here: room is made from the oldest evidence, and where that is not enough `on_full` is told,
once, and once more when writing succeeds again.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edge.io.clips import Clip
from edge.io.frames import Bgr
from shared.errors import HaechiError
from shared.files import TEMPORARY_PREFIX, write_bytes, write_json
from shared.log import get_logger
from solutions.cctv.config import Evidence
from solutions.cctv.evidence import QUALITY, EvidenceFolder, Place, marked
from solutions.cctv.live import encode
from solutions.cctv.privacy import mask_clip
from solutions.cctv.scene import Box, Event

Cut = Callable[[str, float, float, Path], Clip]
"""Camera, from and to in Unix seconds, file to write: `edge.io.clips.RecordingIndex.cut`."""
MAX_CLIP_S = 600.0
"""Of an event; a longer one is shown as it began."""
SLACK_S = 2.0
"""After the post-roll, until the recorder has written it."""
_TRIES, _AGAIN_S = 6, 10.0
_NOTE_EVERY_S = 0.2
_LITTER_S = 3600.0
_SETTLED_S = 60.0
"""After a start, until somebody has told the end of what an interrupted run left open."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GB = 1e9
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """What is kept."""

    events: int
    bytes: int
    locked_bytes: int


@dataclass(frozen=True, slots=True)
class _Kept:
    place: Place
    start_unix: float
    bytes: int
    locked: bool
    wanted: bool
    ended: bool


class EvidenceStore(EvidenceFolder):
    """The service's side; one for each folder. Thread-safe; `start` gives it a thread of its own for clips and room.

    Args:
        cut: None: nothing is recorded, and events have snapshots alone.
        private: of each camera, areas painted over in its clips, relative to the picture.
        on_full: called with True and why when evidence cannot be kept for want of room, with False when it can again;
            from whichever thread notices.
    """

    def __init__(
        self,
        folder: Path,
        config: Evidence,
        cut: Cut | None = None,
        *,
        private: Mapping[str, Sequence[Sequence[tuple[float, float]]]] | None = None,
        on_full: Callable[[bool, str], None] | None = None,
    ) -> None:
        super().__init__(folder)
        self.config = config
        self._cut = cut if config.record else None
        self._private, self._on_full = private or {}, on_full
        self._lock = threading.RLock()
        self._full = self._crowded = False
        self._seen: dict[str, deque[tuple[float, tuple[Box, ...]]]] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        kept = list(self._scan())
        self._bytes = sum(one.bytes for one in kept)
        soon = time.time() + _SETTLED_S
        self._due: dict[Place, float] = {one.place: 0.0 if one.ended else soon for one in kept if one.wanted}
        self._aged = 0.0

    # -- what happens ------------------------------------------------------------------------------------------------

    def begin(self, event: Event, start: dt.datetime, image: Bgr | None, persons: Sequence[Box] | None = None) -> bool:
        """Keep the picture of an event that begins; False where there was no room.

        Args:
            start: when it began.
            image: without private areas; None: there is none (an offline camera).
            persons: boxes of all persons in it, in pixels; None: not known, so that roles that may not see persons see
                nothing of it.
        """
        place = self.place(event.camera, event.id)
        box = None if image is None or event.box is None else _relative(event.box, image)
        told: dict[str, Any] = {
            "event": event.id,
            "camera": event.camera,
            "type": event.type,
            "start_unix": start.timestamp(),
            "end_unix": None,
            "box": box,
            "persons": None if persons is None or image is None else [_relative(one, image) for one in persons],
            "clip": {"state": "none" if self._cut is None or image is None else "wanted", "tries": 0},
        }
        with self._lock:
            if place.manifest.exists():  # the same event told twice
                return True
            pictures = {}
            if image is not None:
                pictures = {place.clean: encode(image, QUALITY), place.snapshot: encode(marked(image, box), QUALITY)}
            if not self._written({**pictures, place.manifest: told}):
                return False
            if told["clip"]["state"] == "wanted":
                self._due[place] = start.timestamp() + MAX_CLIP_S + self.config.post_s + SLACK_S
        return True

    def finish(self, event: Event, end: dt.datetime) -> None:
        """An event has ended: its clip is due when the post-roll has been recorded."""
        place = self.place(event.camera, event.id)
        with self._lock:
            told = place.read()
            if told is None or told["end_unix"] is not None:
                return
            told["end_unix"] = max(end.timestamp(), told["start_unix"])
            self._written({place.manifest: told})
            if place in self._due:
                last = min(told["end_unix"], told["start_unix"] + MAX_CLIP_S)
                self._due[place] = last + self.config.post_s + SLACK_S

    def note_persons(self, camera: str, at: dt.datetime, boxes: Sequence[Box], size: tuple[int, int]) -> None:
        """Where persons are now, for clips that hide them; call it for every picture that was looked at.

        Args:
            boxes: in pixels; empty: nobody.
            size: width and height of the picture.
        """
        now = at.timestamp()
        seen = self._seen.setdefault(camera, deque())
        if seen and now - seen[-1][0] < _NOTE_EVERY_S:
            return
        width, height = size
        relative = tuple((a / width, b / height, c / width, d / height) for a, b, c, d in boxes)
        with self._lock:
            seen.append((now, relative))
            while seen[0][0] < now - MAX_CLIP_S - self.config.pre_s - 2 * self.config.post_s - 60:
                seen.popleft()

    # -- what is to be done ------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Do `work` every second in a thread, until `close`."""
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread; clips that are not due yet are cut by the next process. Safe to call again."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(30)

    def work(self, now: dt.datetime | None = None) -> int:
        """Cut the clips that are due, and keep within age and bytes; how many clips were cut."""
        moment = time.time() if now is None else now.timestamp()
        with self._lock:
            due = [place for place, at in self._due.items() if at <= moment]
        cut = sum(self._keep_clip(place, moment) for place in due)
        if self._bytes > self.config.gigabytes * _GB or abs(moment - self._aged) > 60:
            self._aged = moment
            self.make_room(moment)
        return cut

    def usage(self) -> Usage:
        """Measured on disk."""
        kept = list(self._scan())
        return Usage(len(kept), sum(one.bytes for one in kept), sum(one.bytes for one in kept if one.locked))

    def make_room(self, now: float | None = None, share: float = 1.0) -> int:
        """Delete what is too old, and the oldest of what is too much; never what is locked or still being made.

        Args:
            now: Unix seconds.
            share: of what may be kept; less makes more room.

        Returns:
            How many bytes were freed.
        """
        now = time.time() if now is None else now
        limit = self.config.gigabytes * _GB
        kept = sorted(self._scan(), key=lambda one: (one.start_unix, one.place.folder.name))
        total = sum(one.bytes for one in kept)
        over = total > limit
        target = limit * self.config.low_water if over else limit
        if share < 1.0:
            target = min(target, total * share)
        freed = 0
        for one in kept:
            old = one.start_unix < now - self.config.days * 86400
            if (old or total - freed > target) and not one.locked and not one.wanted and self._delete(one.place):
                freed += one.bytes
        self._bytes = total - freed
        if freed:
            _log.info("evidence_deleted", bytes=freed, kept=self._bytes)
        locked = sum(one.bytes for one in kept if one.locked)
        self._crowded = locked > limit * self.config.low_water
        if self._crowded:
            self._say_full(True, "locked evidence fills what may be kept; unlock some, or raise evidence.gigabytes")
        return freed

    # -- inside ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.wait(1.0):
            try:
                self.work()
            except (HaechiError, OSError, ValueError) as error:
                _log.error("evidence_failed", error=str(error))

    def _keep_clip(self, place: Place, now: float) -> bool:
        told = place.read()
        if told is None or self._cut is None or place.clip.exists():
            if told is not None and place.clip.exists() and told["clip"]["state"] == "wanted":
                told["clip"]["state"] = "kept"  # killed between the clip and this note
                self._written({place.manifest: told})
            self._due.pop(place, None)
            return False
        first = told["start_unix"]
        last = min(told["end_unix"] or now, first + MAX_CLIP_S)
        raw = place.folder / f"{TEMPORARY_PREFIX}raw.mp4"
        try:
            clip = self._cut(told["camera"], first - self.config.pre_s, last + self.config.post_s, raw)
            self._take(place, told, raw, clip)
        except (HaechiError, OSError) as error:
            self._not_cut(place, told, error, now)
            return False
        finally:
            raw.unlink(missing_ok=True)
        self._due.pop(place, None)
        self._say_full(False, "")
        return True

    def _take(self, place: Place, told: dict[str, Any], raw: Path, clip: Clip) -> None:
        """What was cut becomes the clip: without private areas, with what hides its persons, and noted."""
        camera = told["camera"]
        if self._private.get(camera):
            mask_clip(raw, raw, self._private[camera])
        with self._lock:
            seen = [(at, boxes) for at, boxes in self._seen.get(camera, ()) if clip.start_s - 5 <= at <= clip.end_s + 5]
        if seen:
            write_json(place.persons, {"seen": seen})
        told["clip"] |= {"first_unix": clip.start_s, "last_unix": clip.end_s}
        write_json(place.manifest, told)  # before the clip: without its first time it could not be hidden rightly
        os.replace(raw, place.clip)
        told["clip"]["state"] = "kept"
        write_json(place.manifest, told)  # which brings the folder to disk too
        self._bytes += place.clip.stat().st_size

    def _not_cut(self, place: Place, told: dict[str, Any], error: Exception, now: float) -> None:
        if _is_full(error):
            self._due[place] = now + _AGAIN_S
            if not self.make_room(now, self.config.low_water):
                self._say_full(True, str(error))
            return
        told["clip"]["tries"] += 1
        if told["clip"]["tries"] >= _TRIES:
            told["clip"] |= {"state": "lost", "why": str(error)}
            self._due.pop(place, None)
            _log.warning("clip_lost", event_id=told["event"], camera=told["camera"], error=str(error))
        else:
            self._due[place] = now + _AGAIN_S
        self._written({place.manifest: told})

    def _written(self, files: Mapping[Path, bytes | dict[str, Any]]) -> bool:
        """Write files in their order; on a full disk make room and try once more. False: there is none."""
        for attempt in (1, 2):
            try:
                for path, content in files.items():
                    if isinstance(content, bytes):
                        write_bytes(path, content)
                        self._bytes += len(content)
                    else:
                        write_json(path, content)
            except HaechiError as error:
                if not _is_full(error):
                    raise
                if attempt == 1 and self.make_room(share=self.config.low_water):
                    continue
                self._say_full(True, str(error))
                return False
            self._say_full(False, "")
            return True
        return False

    def _say_full(self, full: bool, why: str) -> None:
        if full == self._full or (self._crowded and not full):
            return
        self._full = full
        _log.warning("disk_full" if full else "disk_has_room", why=why)
        if self._on_full is not None:
            self._on_full(full, why)

    def _delete(self, place: Place) -> bool:
        """Take one event's evidence away, unless it has been locked meanwhile."""
        gone = place.folder.parent / f"{TEMPORARY_PREFIX}gone-{secrets.token_hex(4)}"
        try:
            with self.alone():
                if place.locked:
                    return False
                os.rename(place.folder, gone)
        except OSError as error:
            _log.error("evidence_not_deleted", path=str(place.folder), error=error.strerror)
            return False
        shutil.rmtree(gone, ignore_errors=True)
        with self._lock:
            self._due.pop(place, None)
        return True

    def _scan(self) -> Iterator[_Kept]:
        """Everything that is kept; what killed processes left half-written or half-deleted is cleared away."""
        for camera in _folders(self.folder):
            for folder in _folders(camera):
                if folder.name.startswith(TEMPORARY_PREFIX):
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                place, size = Place(folder), _size(folder)
                told = place.read() or {}
                with contextlib.suppress(OSError):
                    began = float(told.get("start_unix") or folder.stat().st_mtime)
                    wanted = (told.get("clip") or {}).get("state") == "wanted"
                    yield _Kept(
                        place, began, size, place.locked, wanted and self._cut is not None, bool(told.get("end_unix"))
                    )


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as found:
            return sorted(Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _size(folder: Path) -> int:
    """Bytes of a folder's files, without litter of killed processes, which is removed."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            status = entry.stat(follow_symlinks=False)
            if entry.name.startswith(TEMPORARY_PREFIX) and time.time() - status.st_mtime > _LITTER_S:
                os.unlink(entry.path)
            else:
                total += status.st_size
    return total


def _relative(box: Box, image: Bgr) -> list[float]:
    height, width = image.shape[:2]
    return [round(value / side, 5) for value, side in zip(box, (width, height) * 2, strict=True)]


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that there is no room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False
