"""Recording a camera's packets as they come, into short segments that a kill at any moment leaves whole.

Segments begin at key frames. Transport stream and clustered Matroska need no ending, and every packet is handed to the
system as it comes, so what a killed process wrote plays to its last packet. The oldest segments are deleted when there
are too many bytes or they are too old. A full disk pauses recording, says so, and ends by itself.

How the files lie and how clips are cut is told in `edge/io/clips.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av

from edge.io import clips, clock
from edge.io.addresses import parse
from edge.io.clips import Segment
from edge.io.health import Health, Status
from edge.io.rtsp import Connection, Patience, Stamped
from shared import files
from shared.errors import BadInput, HaechiError
from shared.log import get_logger

_log = get_logger(__name__)
_TRANSPORT = ("h264", "hevc", "mpeg4", "mpeg2video")
_TICKS = 90_000
_GAP_S = 5.0
"""A pause longer than this begins a new segment."""
_LOOK_S = 1.0
"""Free space is looked at so often."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one camera's recordings may take."""

    bytes: int = 20_000_000_000
    seconds: float = 86_400.0
    segment_s: float = 10.0
    """A segment is at least so long, and ends at the next key frame."""
    min_free_bytes: int = 200_000_000
    """With less on the disk, recording pauses."""
    retry_s: float = 5.0
    """So long after a failure it is tried again, if there is room."""


@dataclass(frozen=True, slots=True)
class RecorderState:
    """What a recorder does at a moment."""

    camera: str
    paused: str | None
    """Why nothing is written; None: it is, or waits for a key frame."""
    disk_full: bool


Told = Callable[[RecorderState], None]


class Recorder:
    """Writes one camera's packets. It is a connection's handler: its own (`record`), or shared with a source."""

    def __init__(
        self, camera: str, folder: Path, *, limits: Limits | None = None, on_state: Told | None = None
    ) -> None:
        """
        Args:
            folder: of all cameras' recordings.
            on_state: told, from the camera's thread, when recording pauses and when it goes on.

        Raises:
            BadInput: the camera's name cannot be a folder's.
        """
        if not re.fullmatch(r"[\w][\w.-]*", camera):
            raise BadInput(f"camera {camera!r} cannot name a folder; use letters, digits, '-' and '_'.")
        self.camera, self.folder, self.limits = camera, Path(folder) / camera, limits or Limits()
        self.health = Health()
        self._on_state = on_state
        self._state = RecorderState(camera, None, False)
        self._writer: _SegmentWriter | None = None
        self._segments: list[Segment] = []
        self._ready = False
        self._looked_s = self._retry_s = float("-inf")
        self._lock = threading.Lock()

    @property
    def state(self) -> RecorderState:
        """Whether it is paused, and why."""
        return self._state

    def opened(self, stream: Any) -> None:  # noqa: ARG002 - a handler's signature
        """A new connection: a new segment."""
        self.closed()

    def closed(self) -> None:
        """The connection is over: the segment is finished."""
        with self._lock, contextlib.suppress(av.FFmpegError, OSError):
            self._finish()

    def packet(self, stamped: Stamped) -> bool:
        """Write one; True where it was written. What fails pauses recording and never raises."""
        with self._lock:
            try:
                if not self._may(stamped.arrived_s):
                    return self._state.paused is not None  # a full disk is no fault of the connection
                written = self._write(stamped)
            except (av.FFmpegError, OSError, ValueError) as error:
                self._pause(stamped.arrived_s, str(error), full=getattr(error, "errno", None) == 28)
                return True
        if written:
            self.health.seen()
        return written

    def close(self) -> None:
        """Finish the segment."""
        self.closed()
        self.health.ended()

    def _may(self, now_s: float) -> bool:
        """Whether there is room. Looks now and then; notices both a disk that fills and one that has room again."""
        if now_s < self._retry_s:
            return False
        if self._state.disk_full or now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < self.limits.min_free_bytes:
                self._pause(now_s, f"only {free / 1e6:.0f} MB are free on the disk of {self.folder}", full=True)
                return False
        return True

    def _write(self, stamped: Stamped) -> bool:
        if not self._ready:
            self._segments = _recovered(self.folder)
            self._ready = True
        packet = stamped.packet
        if self._writer is not None and self._writer.ends_before(stamped, self.limits.segment_s):
            self._finish()
        if self._writer is None:
            if not packet.is_keyframe:
                return False
            self._writer = _SegmentWriter(self.folder, stamped)
            if self._state.paused is not None:
                self._tell(None, full=False)
        self._writer.write(stamped)
        return True

    def _finish(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        segment = writer.finish()
        if segment is not None:
            self._segments.append(segment)
            _append(self.folder, segment)
        self._prune(writer.last_s)

    def _prune(self, now_s: float) -> None:
        """Delete the oldest beyond the limits; files first, so that the index never hides one."""
        total = sum(each.bytes for each in self._segments)
        gone = 0
        for segment in self._segments:
            if total <= self.limits.bytes and segment.end_s >= now_s - self.limits.seconds:
                break
            (self.folder / segment.file).unlink(missing_ok=True)
            total -= segment.bytes
            gone += 1
        if gone:
            del self._segments[:gone]
            files.write_text(self.folder / clips.INDEX, "".join(each.as_line() for each in self._segments))

    def _pause(self, now_s: float, why: str, *, full: bool) -> None:
        self._retry_s = now_s + self.limits.retry_s
        with contextlib.suppress(av.FFmpegError, OSError, HaechiError):
            self._finish()
        if self._state.paused is None:
            _log.warning("recording_paused", camera=self.camera, why=why)
        self._tell(why, full=full)

    def _tell(self, why: str | None, *, full: bool) -> None:
        before, self._state = self._state, RecorderState(self.camera, why, full)
        if self._on_state is not None and (before.paused is None) != (why is None):
            self._on_state(self._state)


class Recording:
    """A recorder with a connection of its own."""

    def __init__(self, recorder: Recorder, connection: Connection) -> None:
        self.recorder, self._connection = recorder, connection

    @property
    def status(self) -> Status:
        """Of the connection; `frames` counts packets."""
        return self.recorder.health.status()

    @property
    def state(self) -> RecorderState:
        """Whether recording is paused."""
        return self.recorder.state

    def close(self) -> None:
        """Stop and finish the segment."""
        self._connection.close()
        self.recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def record(
    camera: str,
    source: str,
    folder: Path,
    *,
    limits: Limits | None = None,
    on_state: Told | None = None,
    patience: Patience | None = None,
) -> Recording:
    """Record a camera over a connection of its own, until closed: the main stream, while another is looked at.

    Raises:
        BadInput: the address cannot be used, or is not a camera's.
    """
    address = parse(source)
    if address.kind not in ("rtsp", "http", "usb"):
        raise BadInput(f"source {address} of {camera} is no camera; only rtsp, http and usb sources are recorded.")
    recorder = Recorder(camera, folder, limits=limits, on_state=on_state)
    return Recording(
        recorder, Connection(f"{camera}-record", address, recorder, recorder.health, patience or Patience())
    )


class _SegmentWriter:
    """One file, from its first key frame."""

    def __init__(self, folder: Path, first: Stamped) -> None:
        self.codec = str(first.stream.codec_context.name)
        transport = self.codec in _TRANSPORT
        micros = round(first.time_s * 1e6)
        self._start_s = micros / 1e6
        self._path = folder / f"{micros:017d}{'.ts' if transport else '.mkv'}"
        form, options = ("mpegts", {}) if transport else ("matroska", {"cluster_time_limit": "500"})
        options |= {"flush_packets": "1"}
        self._container = av.open(str(self._path), "w", format=form, options=options)
        self._stream = self._container.add_stream_from_template(first.stream)
        self._stream.time_base = Fraction(1, _TICKS)
        self._tick = -1
        self._step_s = 0.0
        self.last_s = first.time_s

    def ends_before(self, stamped: Stamped, segment_s: float) -> bool:
        """Whether this packet belongs to a new segment."""
        if stamped.time_s - self.last_s > _GAP_S or str(stamped.stream.codec_context.name) != self.codec:
            return True
        return bool(stamped.packet.is_keyframe) and stamped.time_s - self._start_s >= segment_s

    def write(self, stamped: Stamped) -> None:
        """One packet; the caller may not use it any more."""
        packet = stamped.packet
        ahead_s = 0.0
        if packet.pts is not None and packet.dts is not None:
            ahead_s = float((packet.pts - packet.dts) * packet.time_base)
        self._tick = max(self._tick + 1, round((stamped.time_s - self._start_s) * _TICKS))
        clips.stamp(packet, self._stream, self._tick, ahead_s if ahead_s < clock.AHEAD_S else 0.0)
        self._container.mux_one(packet)
        self._step_s, self.last_s = stamped.time_s - self.last_s, stamped.time_s

    def finish(self) -> Segment | None:
        """Close the file; None where nothing was written."""
        self._container.close()
        if self._tick < 0:
            self._path.unlink(missing_ok=True)
            return None
        with self._path.open("rb") as handle:
            os.fsync(handle.fileno())
        end_s = self.last_s + min(self._step_s, 1.0)
        return Segment(self._path.name, self._start_s, end_s, self._path.stat().st_size, self.codec)


def _append(folder: Path, segment: Segment) -> None:
    with (folder / clips.INDEX).open("a", encoding="utf-8") as handle:
        handle.write(segment.as_line())
        handle.flush()
        os.fsync(handle.fileno())


def _recovered(folder: Path) -> list[Segment]:
    """What earlier processes recorded; segments that a kill left without a line in the index get theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {segment.file: segment for segment in clips.finished(folder)}
    found = []
    for name in sorted(filter(clips.is_segment, os.listdir(folder))):
        segment = known.get(name) or clips.measured(folder / name)
        if segment is None:
            (folder / name).unlink(missing_ok=True)
        else:
            found.append(segment)
    files.write_text(folder / clips.INDEX, "".join(segment.as_line() for segment in found))
    return found
