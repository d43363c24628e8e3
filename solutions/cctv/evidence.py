"""What is kept to prove an event: a snapshot, the same picture without marks, a clip, and a manifest, in one folder.

    <folder>/<camera>/<event>/manifest.json   what it is, when, and how its clip stands
                             snapshot.jpg     as it began, with the box of what it is about
                             clean.jpg        the same picture as it was taken
                             clip.mp4         cut from the recording, as it was recorded
                             persons.json     where persons were meanwhile, to hide them from some roles
                             hidden-…         copies made for such roles when they asked
                             locked           never deleted while this is here

`EvidenceFolder` finds, shows and locks it, from any process. `keeping.py` writes it and makes room. Who locks and who
deletes take turns by a lock on a file, so that nothing is deleted after it has been locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shared.errors import BadInput, HaechiError
from shared.files import write_bytes
from shared.yaml_files import NAME
from solutions.cctv.config import Privacy
from solutions.cctv.live import encode
from solutions.cctv.privacy import Persons, by_role, hide_clip

try:
    import fcntl
except ImportError:  # Windows: one process only
    fcntl = None  # type: ignore[assignment]

QUALITY = 90
"""Of the JPEGs."""
_EVENT = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")


@dataclass(frozen=True)
class Place:
    """Where an event's evidence lies, or would."""

    folder: Path

    @property
    def manifest(self) -> Path:
        """What it is, and how its clip stands."""
        return self.folder / "manifest.json"

    @property
    def snapshot(self) -> Path:
        """With the box drawn."""
        return self.folder / "snapshot.jpg"

    @property
    def clean(self) -> Path:
        """Without."""
        return self.folder / "clean.jpg"

    @property
    def clip(self) -> Path:
        """As recorded."""
        return self.folder / "clip.mp4"

    @property
    def persons(self) -> Path:
        """Where persons were during the clip."""
        return self.folder / "persons.json"

    @property
    def lock(self) -> Path:
        """Its presence says that the evidence is locked."""
        return self.folder / "locked"

    @property
    def has_snapshot(self) -> bool:
        """Whether it is there."""
        return self.snapshot.exists()

    @property
    def has_clip(self) -> bool:
        """Whether it is there."""
        return self.clip.exists()

    @property
    def locked(self) -> bool:
        """Whether it must not be deleted."""
        return self.lock.exists()

    def read(self) -> dict[str, Any] | None:
        """The manifest; None: there is none that can be read."""
        return _json(self.manifest)


class EvidenceFolder:
    """Of one machine. Thread-safe and blocking; any number of processes may share it.

    Args:
        folder: may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hiding = threading.Lock()

    def place(self, camera: str, event_id: str) -> Place:
        """Where an event's evidence lies, or would.

        Raises:
            BadInput: the camera or the event is not named as ours are, and might lead out of the folder.
        """
        if not re.fullmatch(NAME, camera):
            raise BadInput(f"the camera {camera[:64]!r} is no name; use small letters, digits and _.")
        if not _EVENT.fullmatch(event_id):
            raise BadInput(f"the event {event_id[:64]!r} is no id; take one that a search gave.")
        return Place(self.folder / camera / event_id)

    def lock(self, place: Place, locked: bool) -> None:
        """Keep an event's evidence, that which is still to come too, whatever its age; or no longer.

        Raises:
            HaechiError: it could not be noted on disk.
        """
        try:
            with self.alone():
                if not locked:
                    place.lock.unlink(missing_ok=True)
                    return
                place.folder.mkdir(parents=True, exist_ok=True)
                with place.lock.open("ab") as handle:
                    os.fsync(handle.fileno())
                _sync(place.folder)
                _sync(place.folder.parent)
        except OSError as error:
            raise HaechiError(f"{place.lock} could not be written: {error.strerror}; free some space.") from error

    def snapshot(self, place: Place, privacy: Privacy | None) -> bytes | None:
        """The picture as JPEG, with `privacy` hidden by it; None: there is none."""
        try:
            if privacy is None or privacy.hide == "nothing":
                return place.snapshot.read_bytes()
            image = cv2.imdecode(np.frombuffer(place.clean.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        except OSError:
            return None
        if image is None:
            return None
        told = place.read() or {}
        known = told.get("persons")
        persons = None if known is None else [tuple(box) for box in known]
        return encode(marked(by_role(np.asarray(image, np.uint8), persons, privacy), told.get("box")), QUALITY)

    def for_sinks(self, place: Place, privacy: Privacy) -> Path | None:
        """A file with the picture as anybody may see it, for a mail; None: there is none.

        Raises:
            HaechiError: the copy could not be written.
        """
        if privacy.hide == "nothing":
            return place.snapshot if place.has_snapshot else None
        copy = place.folder / f"hidden-{privacy.hide}-{privacy.how}.jpg"
        if not copy.exists():
            content = self.snapshot(place, privacy)
            if content is None:
                return None
            write_bytes(copy, content)
        return copy

    def clip(self, place: Place, privacy: Privacy | None) -> Path | None:
        """The clip, with `privacy` a copy that is hidden by it, made when first asked for; None: there is none.

        Raises:
            HaechiError: the copy could not be made.
        """
        if not place.has_clip:
            return None
        if privacy is None or privacy.hide == "nothing":
            return place.clip
        copy = place.folder / f"hidden-{privacy.hide}-{privacy.how}.mp4"
        with self._hiding:  # one at a time: encoding takes all cores
            if not copy.exists():
                clip = (place.read() or {}).get("clip") or {}
                hide_clip(place.clip, copy, _persons(place), float(clip.get("first_unix", 0.0)), privacy)
        return copy

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else locks or deletes meanwhile, in this process or another.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def marked(image: np.ndarray[Any, np.dtype[np.uint8]], box: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A copy with a box drawn, where there is one.

    Args:
        box: left, top, right, bottom, relative to the picture.
    """
    if not box:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = (
        round(float(value) * side) for value, side in zip(box, (width, height) * 2, strict=True)
    )
    drawn = image.copy()
    cv2.rectangle(drawn, (left, top), (right, bottom), (40, 40, 220), max(2, height // 240))
    return drawn


def _persons(place: Place) -> Persons | None:
    told = _json(place.persons)
    if told is None:
        return None
    try:
        times = tuple(float(time_s) for time_s, _ in told["seen"])
        boxes = tuple(tuple(tuple(box) for box in found) for _, found in told["seen"])
    except (KeyError, TypeError, ValueError):
        return None
    return Persons(times, boxes)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, Mapping) else None  # type: ignore[return-value]


def _sync(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
