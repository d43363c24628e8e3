"""The live wall: the newest picture of each camera with what is seen on it, from the service to whoever watches.

The service that watches the cameras and the server that shows the pages are two processes. Between them stands one
folder, `<home>/cctv/live`, with three kinds of small files, each replaced in one step and never read half-written:

    CAMERA.json             status of the camera                              written by the service
    CAMERA.VIEW.jpg         newest picture, VIEW is a `Variant`               written by the service
    CAMERA.VIEW.watched     touched while somebody looks at this view         written by the server

Pictures cost nothing while nobody looks: `LiveHub.publish` draws and encodes only a view that was asked for within the
last `WATCHED_S` seconds, on a thread of its own, at most `per_second` times a second; what comes faster is skipped, so
that no camera waits and no lag can grow. `hidden` is what roles see that the site's privacy keeps the clear one from.
The folder may lie in memory (`/dev/shm`); nothing in it needs to outlive a restart, so nothing is synced to the disk.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edge.io.frames import Bgr
from shared.log import get_logger
from solutions.cctv.config import PERSON, Privacy
from solutions.cctv.scene import Box, Scene, Signal, View

Variant = Literal["clear", "hidden", "clear_plain", "hidden_plain"]
"""`_plain`: without anything drawn in, for those who draw themselves."""
_VARIANTS: tuple[Variant, ...] = ("clear", "hidden", "clear_plain", "hidden_plain")
WATCHED_S = 10.0
"""A view is made for so long after it was last asked for."""
STALE_S = 15.0
"""A status older than this means that the service has gone."""
MAX_WIDTH = 960
"""Wider pictures are reduced: a wall of cameras needs no more."""
_QUALITY = 78
_CELLS = 5
"""Across a person or face that is hidden."""
_FACE = 0.3
"""Of a standing person's height, from above, in which the face is; generous."""
_COLOURS = ((66, 170, 0), (209, 95, 29), (0, 140, 255), (180, 60, 160), (40, 40, 207), (140, 140, 0))
"""Blue, green, red; a track keeps its colour."""
_ZONE, _LINE, _ALARM = (0, 200, 255), (255, 160, 0), (40, 40, 220)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What one picture shows, copied: tracks go on changing while it is drawn."""

    image: Bgr
    boxes: tuple[tuple[int, str, Box], ...]
    alarms: tuple[tuple[str, Box | None, str | None], ...]
    view: View


class LiveHub:
    """The service's side. Thread-safe; `publish` may be called from every camera's thread.

    Args:
        folder: `<home>/cctv/live`; made if missing.
        privacy: what the hidden view hides.
        per_second: pictures per camera and view, at most.
    """

    def __init__(self, folder: Path, privacy: Privacy | None = None, per_second: float = 8.0) -> None:
        self.folder = folder
        self.privacy = privacy or Privacy()
        self._every_s = 1.0 / per_second
        folder.mkdir(parents=True, exist_ok=True)
        self._wake = threading.Condition()
        self._waiting: dict[str, _Drawn] = {}
        self._next: dict[str, float] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def publish(self, camera: str, scene: Scene, signals: Sequence[Signal], view: View) -> None:
        """Offer what is seen now. Returns at once; costs a look at a clock and two file times when nobody watches."""
        now = time.monotonic()
        if now < self._next.get(camera, 0.0):
            return
        self._next[camera] = now + self._every_s
        if not self._wanted(camera):
            return
        drawn = _Drawn(
            scene.frame.image,
            tuple((track.id, track.label, track.box) for track in scene.tracks),
            tuple((signal.type, signal.box, signal.zone or signal.line) for signal in signals),
            view,
        )
        with self._wake:
            self._waiting[camera] = drawn
            self._wake.notify()

    def report(self, camera: str, status: Mapping[str, Any]) -> None:
        """Say how a camera is: its source's status as JSON values, written with the time; every second or so."""
        told = {"camera": camera, "at": dt.datetime.now(dt.UTC).isoformat(), **status}
        _replace(self.folder / f"{camera}.json", json.dumps(told, default=str).encode())

    def close(self) -> None:
        """End the thread and remove the pictures, so that no old one is taken for live."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(5)
        for path in self.folder.glob("*.jpg"):
            path.unlink(missing_ok=True)

    def __enter__(self) -> LiveHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wanted(self, camera: str) -> tuple[Variant, ...]:
        now = time.time()
        return tuple(view for view in _VARIANTS if now - _touched(_mark(self.folder, camera, view)) < WATCHED_S)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._waiting) or self._stopped)
                if self._stopped:
                    return
                camera = next(iter(self._waiting))
                drawn = self._waiting.pop(camera)
            try:
                for variant in self._wanted(camera):
                    _replace(self.folder / f"{camera}.{variant}.jpg", self._jpeg(drawn, variant))
            except (
                OSError,
                ValueError,
                cv2.error,
            ) as error:  # the wall is not worth a camera: the next picture may succeed
                _log.warning("live_picture_lost", camera=camera, error=str(error))

    def _jpeg(self, drawn: _Drawn, variant: Variant) -> bytes:
        image = drawn.image.copy()
        if variant.startswith("hidden"):
            image = hidden(image, [box for _, label, box in drawn.boxes if label == PERSON], self.privacy)
        if not variant.endswith("_plain"):
            image = annotated(image, drawn.boxes, drawn.alarms, drawn.view)
        return encode(image)


def hidden(image: Bgr, persons: Sequence[Box], privacy: Privacy) -> Bgr:
    """Hide persons or their faces in a picture of its own, beyond recovery: each is reduced to a few cells first.

    A face is taken to be in the upper part of a person. Who is not tracked is not hidden.
    """
    if privacy.hide == "nothing":
        return image
    height, width = image.shape[:2]
    enlarge = cv2.INTER_NEAREST if privacy.how == "pixelate" else cv2.INTER_LINEAR
    for left, top, right, bottom in persons:
        margin = 0.1 * (right - left)
        lower = bottom + margin if privacy.hide == "persons" else top + _FACE * (bottom - top)
        x0, x1 = max(0, int(left - margin)), min(width, int(right + margin) + 1)
        y0, y1 = max(0, int(top - margin)), min(height, int(lower) + 1)
        if x1 - x0 < 1 or y1 - y0 < 1:
            continue
        across = min(_CELLS, x1 - x0)
        down = max(1, min(y1 - y0, round(across * (y1 - y0) / (x1 - x0))))
        cells = cv2.resize(image[y0:y1, x0:x1], (across, down), interpolation=cv2.INTER_AREA)
        image[y0:y1, x0:x1] = cv2.resize(cells, (x1 - x0, y1 - y0), interpolation=enlarge)
    return image


def annotated(
    image: Bgr,
    boxes: Sequence[tuple[int, str, Box]],
    alarms: Sequence[tuple[str, Box | None, str | None]],
    view: View,
) -> Bgr:
    """Draw into a picture of its own: zones and lines (red where something is signalled), tracks, signals' boxes."""
    scale = min(1.0, MAX_WIDTH / image.shape[1])
    if scale < 1.0:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    hot = {place for _, _, place in alarms if place is not None}
    for places, closed, colour in ((view.zones, True, _ZONE), (view.lines, False, _LINE)):
        for name, points in places.items():
            drawn = np.rint(points * scale).astype(np.int32)
            cv2.polylines(image, [drawn], closed, _ALARM if name in hot else colour, 2, cv2.LINE_AA)
            _write(image, name, (int(drawn[0][0]) + 4, int(drawn[0][1]) + 14), _ALARM if name in hot else colour)
    for number, label, box in boxes:
        colour = _COLOURS[number % len(_COLOURS)]
        left, top = _rectangle(image, box, scale, colour, 2)
        _write(image, f"{label} {number}", (left, max(11, top - 4)), colour)
    for kind, alarm_box, _ in alarms:
        if alarm_box is not None:
            left, top = _rectangle(image, alarm_box, scale, _ALARM, 3)
            _write(image, kind, (left, top + 14), _ALARM)
    return image


def _rectangle(image: Bgr, box: Box, scale: float, colour: tuple[int, int, int], width: int) -> tuple[int, int]:
    left, top, right, bottom = (round(value * scale) for value in box)
    cv2.rectangle(image, (left, top), (right, bottom), colour, width)
    return left, top


def _write(image: Bgr, words: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Words with a dark edge, readable on any ground."""
    cv2.putText(image, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def encode(image: Bgr, quality: int = _QUALITY) -> bytes:
    """JPEG of a picture."""
    done, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OSError("the picture cannot be encoded as JPEG")
    return content.tobytes()


class LiveWatcher:
    """The server's side: reads what the service wrote. Blocking, but quick: a file or two in memory.

    Args:
        folder: `<home>/cctv/live`; may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def watch(self, camera: str, variant: Variant) -> None:
        """Ask the service to go on making this view."""
        path = _mark(self.folder, camera, variant)
        with contextlib.suppress(OSError):  # no folder: no service yet, and nothing to look at
            path.touch()

    def newer(self, camera: str, variant: Variant, than: int = 0) -> tuple[int, bytes] | None:
        """The newest picture and its stamp, if it is another than the one with the stamp `than`."""
        path = self.folder / f"{camera}.{variant}.jpg"
        try:
            with path.open("rb") as handle:
                stamp = os.fstat(handle.fileno())
                if stamp.st_mtime_ns == than or time.time() - stamp.st_mtime > WATCHED_S:
                    return None
                return stamp.st_mtime_ns, handle.read()
        except OSError:
            return None

    def status(self, camera: str) -> dict[str, Any] | None:
        """What the service last said of a camera; None where it said nothing, or has been silent for `STALE_S`."""
        path = self.folder / f"{camera}.json"
        try:
            if time.time() - path.stat().st_mtime > STALE_S:
                return None
            told = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) else None


def _mark(folder: Path, camera: str, variant: Variant) -> Path:
    return folder / f"{camera}.{variant}.watched"


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step; unlike `shared.files`, without waiting for the disk several times a second."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as handle:
            handle.write(content)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
