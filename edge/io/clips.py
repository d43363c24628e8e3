"""What was recorded, and clips cut from it without encoding anything anew.

A camera's folder holds segments of some seconds, named by the microsecond (Unix time) of their first packet:

    RECORDINGS/gate/01700000000123456.ts     H.264, HEVC: MPEG transport stream, whole at any moment
    RECORDINGS/gate/01700000010123456.mkv    other codecs (Motion JPEG): Matroska in clusters of half a second
    RECORDINGS/gate/index.jsonl              one line for each segment that is finished

The time of any packet is the name plus how far its stamp lies behind the segment's first. Segments that the index does
not know are being written, or were when the process was killed; they are read as far as they go.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from shared.errors import HaechiError
from shared.files import TEMPORARY_PREFIX

INDEX = "index.jsonl"
SUFFIXES = (".ts", ".mkv")
_TICKS = 90_000
"""Per second, of clips: as RTP counts."""
_BROKEN = (av.FFmpegError, OSError, ValueError, EOFError)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a recording. Times are Unix seconds."""

    file: str
    start_s: float
    end_s: float
    bytes: int
    codec: str
    finished: bool = True

    def as_line(self) -> str:
        """For the index."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "finished"}) + "\n"


@dataclass(frozen=True, slots=True)
class Clip:
    """What was cut. It begins at a key frame, so at or before what was asked where that was recorded."""

    path: Path
    start_s: float
    """Unix time of its first picture."""
    end_s: float
    """Of its last."""
    packets: int


class RecordingIndex:
    """Reads recordings while they are being written, from this process or another."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def segments(self, camera: str) -> list[Segment]:
        """Oldest first; what is still being written is last, as far as it goes now."""
        folder = self.folder / camera
        try:
            present = sorted(name for name in os.listdir(folder) if is_segment(name))
        except FileNotFoundError:
            return []
        known = {segment.file: segment for segment in finished(folder)}
        found = [known.get(name) or measured(folder / name) for name in present]
        return [segment for segment in found if segment is not None]

    def cut(self, camera: str, start_s: float, end_s: float, out: Path) -> Clip:
        """Write a span of the recording as MP4, packets unchanged, from the key frame at or before its start.

        Args:
            start_s, end_s: Unix seconds (`Frame.taken_at.timestamp()`), pre- and post-roll included.
            out: replaced in one step; never seen half written.

        Raises:
            HaechiError: nothing of the span was recorded, or the clip could not be written.
        """
        if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s < end_s):
            raise HaechiError(f"a clip of {camera} from {start_s} to {end_s} has no length; its end must come later.")
        chosen = [each for each in self.segments(camera) if each.end_s > start_s and each.start_s < end_s]
        codecs = {each.codec for each in chosen}
        if len(codecs) > 1:  # a file holds one; keep what lasts longest
            best = max(codecs, key=lambda codec: sum(s.end_s - s.start_s for s in chosen if s.codec == codec))
            chosen = [each for each in chosen if each.codec == best]
        if not chosen:
            raise HaechiError(
                f"nothing of {camera} was recorded from {start_s:.3f} to {end_s:.3f}; see the recorder's status."
            )
        paths = [self.folder / camera / each.file for each in chosen]
        return _written(paths, _key_before(paths[0], start_s), end_s, Path(out), camera)


def cut_clip(folder: Path, camera: str, start_s: float, end_s: float, out: Path) -> Path:
    """`RecordingIndex(folder).cut(…)`, for its path alone."""
    return RecordingIndex(folder).cut(camera, start_s, end_s, out).path


def is_segment(name: str) -> bool:
    """Whether a file's name is one of a segment's."""
    stem, suffix = os.path.splitext(name)
    return suffix in SUFFIXES and stem.isdigit()


def finished(folder: Path) -> list[Segment]:
    """The index of a camera's folder; a last line that a kill cut off is passed over."""
    try:
        lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    segments = []
    for line in lines:
        try:
            segments.append(Segment(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return segments


def measured(path: Path) -> Segment | None:
    """A segment by its packets; None: nothing of it can be read."""
    end_s, step_s, count, codec = 0.0, 0.04, 0, ""
    for time_s, packet in packets_of(path):
        if count:
            step_s = max(0.0, time_s - end_s)
        end_s, count = max(end_s, time_s), count + 1
        codec = packet.stream.codec_context.name
    if not count:
        return None
    return Segment(path.name, start_of(path), end_s + min(step_s, 1.0), path.stat().st_size, codec, finished=False)


def start_of(path: Path) -> float:
    """Unix seconds of a segment's first packet."""
    return int(path.stem) / 1e6


def packets_of(path: Path) -> Iterator[tuple[float, Any]]:
    """(Unix seconds of the decoding stamp, libav's packet) of a segment, to where it can be read."""
    try:
        with av.open(str(path)) as container:
            first: int | None = None
            for packet in container.demux(video=0):
                if packet.size == 0 or packet.dts is None:
                    continue
                first = packet.dts if first is None else first
                yield start_of(path) + float((packet.dts - first) * packet.time_base), packet
    except _BROKEN:  # the end of what a killed process wrote, or a segment that the ring has just deleted
        return


def _key_before(path: Path, start_s: float) -> float:
    found: float | None = None
    for time_s, packet in packets_of(path):
        if found is not None and time_s > start_s + 1e-6:
            break
        if packet.is_keyframe:
            found = time_s
    return start_s if found is None else found


def _written(paths: list[Path], start_s: float, end_s: float, out: Path, camera: str) -> Clip:
    temporary = out.parent / f"{TEMPORARY_PREFIX}{out.name}-{os.getpid()}.mp4"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clip = _remuxed(paths, start_s, end_s, temporary, out)
        if clip is None:
            raise HaechiError(f"the recording of {camera} at {start_s:.3f} cannot be read; its disk may be failing.")
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, out)
        return clip
    except _BROKEN as error:
        raise HaechiError(f"{out} could not be written: {error}; free space or choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remuxed(paths: list[Path], start_s: float, end_s: float, temporary: Path, out: Path) -> Clip | None:
    target: Any = None
    made: Any = None
    first_s, last_s, count, last_tick = 0.0, 0.0, 0, -1
    try:
        for path in paths:
            for time_s, packet in packets_of(path):
                if time_s < start_s - 1e-6 or (made is None and not packet.is_keyframe):
                    continue
                ahead_s = 0.0 if packet.pts is None else float((packet.pts - packet.dts) * packet.time_base)
                if time_s >= end_s and time_s + ahead_s > last_s:  # what is shown before a picture that is in, is in
                    break
                if target is None:
                    target = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
                    made = target.add_stream_from_template(packet.stream)
                    made.time_base = packet.time_base
                    origin_s, first_s = time_s, time_s + ahead_s
                tick = max(last_tick + 1, round((time_s - origin_s) * _TICKS))
                stamp(packet, made, tick, ahead_s)
                target.mux_one(packet)
                last_tick, last_s, count = tick, max(last_s, time_s + ahead_s), count + 1
    finally:
        if target is not None:
            target.close()
    return Clip(out, first_s, last_s, count) if count else None


def stamp(packet: Any, stream: Any, tick: int, ahead_s: float) -> None:
    """Prepare a packet for another file: its decoding stamp in 1/90000 s, shown `ahead_s` later."""
    packet.stream = stream
    packet.time_base = Fraction(1, _TICKS)
    packet.dts = tick
    packet.pts = tick + max(0, round(ahead_s * _TICKS))
    packet.duration = 0
