"""What pictures and clips must not show: private areas for anybody, persons or faces for roles that may not see them.

A clip is hidden by what was known of persons while it was recorded (`Persons`). Where nothing was noted about a moment
its whole picture is hidden: not knowing must not show anybody. Persons who were never found are not hidden.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr
from shared.errors import HaechiError
from shared.files import TEMPORARY_PREFIX
from solutions.cctv.config import Privacy
from solutions.cctv.live import hidden
from solutions.cctv.scene import Box

How = Literal["blur", "pixelate"]
NEAR_S = 0.6
"""Wherever a person was within so long before or after a moment is hidden at that moment."""
UNKNOWN_S = 2.0
"""Farther than this from anything noted, nobody knows who is in the picture."""
_COARSE = 12
"""Cells across a picture that is hidden as a whole."""


@dataclass(frozen=True)
class Persons:
    """Where persons were, by time."""

    times: tuple[float, ...]
    """Unix seconds, rising."""
    boxes: tuple[tuple[Box, ...], ...]
    """For each time, relative to the picture (0 to 1); empty: looked, and nobody was there."""

    def around(self, time_s: float) -> list[Box] | None:
        """Boxes to hide at a moment; None: nothing is known of it."""
        first = bisect.bisect_left(self.times, time_s - NEAR_S)
        last = bisect.bisect_right(self.times, time_s + NEAR_S)
        if first < last:
            return [box for boxes in self.boxes[first:last] for box in boxes]
        beside = [abs(self.times[at] - time_s) for at in (first - 1, first) if 0 <= at < len(self.times)]
        if not beside or min(beside) > UNKNOWN_S:
            return None
        return [box for at in (first - 1, first) if 0 <= at < len(self.times) for box in self.boxes[at]]


def mask_private(image: Bgr, view_polygons: Sequence[NDArray[Any]]) -> Bgr:
    """A copy with polygons painted black; the picture itself where there are none.

    Args:
        view_polygons: [P, 2] each, in pixels of this picture.
    """
    if not view_polygons:
        return image
    masked = image.copy()
    for polygon in view_polygons:  # one by one: where two overlap, a joint fill would leave a hole
        cv2.fillPoly(masked, [np.rint(polygon).astype(np.int32)], (0, 0, 0))
    return masked


def hide(image: Bgr, boxes: Sequence[Box], how: How, what: Literal["faces", "persons"] = "persons") -> Bgr:
    """A copy in which persons, or their faces, cannot be recovered.

    Args:
        boxes: of persons, in pixels.
    """
    return hidden(image.copy(), boxes, Privacy(hide=what, how=how))


def hide_all(image: Bgr, how: How) -> Bgr:
    """The whole picture reduced to a few cells."""
    height, width = image.shape[:2]
    down = max(1, round(_COARSE * height / width))
    cells = cv2.resize(image, (_COARSE, down), interpolation=cv2.INTER_AREA)
    enlarge = cv2.INTER_NEAREST if how == "pixelate" else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(cells, (width, height), interpolation=enlarge), np.uint8)


def by_role(image: Bgr, boxes: Sequence[Box] | None, privacy: Privacy) -> Bgr:
    """A picture as those see it who may not see it clear.

    Args:
        boxes: of persons, relative to the picture; None: not known, so that all of it is hidden.
    """
    if privacy.hide == "nothing":
        return image
    if boxes is None:
        return hide_all(image, privacy.how)
    height, width = image.shape[:2]
    placed = [(left * width, top * height, right * width, bottom * height) for left, top, right, bottom in boxes]
    return hide(image, placed, privacy.how, privacy.hide)


def hide_clip(source: Path, out: Path, persons: Persons | None, start_s: float, privacy: Privacy) -> None:
    """Write a copy of a clip as those see it who may not see it clear; the source stays as it is.

    Args:
        persons: None: nothing is known, and all of it is hidden.
        start_s: Unix seconds of the clip's first picture.

    Raises:
        HaechiError: the clip cannot be read, or the copy cannot be written.
    """

    def change(image: Bgr, time_s: float) -> Bgr:
        return by_role(image, None if persons is None else persons.around(start_s + time_s), privacy)

    rewrite(source, out, change)


def mask_clip(source: Path, out: Path, polygons: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Write a copy of a clip with private areas painted over; `out` may be the source.

    Args:
        polygons: relative to the picture.

    Raises:
        HaechiError: as `hide_clip`.
    """

    def change(image: Bgr, _time_s: float) -> Bgr:
        size = np.array([image.shape[1], image.shape[0]])
        return mask_private(image, [np.array(points) * size for points in polygons])

    rewrite(source, out, change)


def rewrite(source: Path, out: Path, change: Callable[[Bgr, float], Bgr]) -> None:
    """Decode a clip, change each picture, and encode it as H.264 in MP4, one picture at a time.

    Args:
        out: replaced in one step; never seen half written.
        change: of a picture and its seconds since the clip's first.

    Raises:
        HaechiError: the clip cannot be read, or the copy cannot be written.
    """
    temporary = out.parent / f"{TEMPORARY_PREFIX}{out.name}-{os.getpid()}-{secrets.token_hex(4)}.mp4"
    try:
        with av.open(str(source)) as read, av.open(str(temporary), "w", options={"movflags": "+faststart"}) as made:
            if not _recoded(read, made, change):
                raise HaechiError(f"{source} holds no picture that can be read; its disk may be failing.")
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, out)
    except (av.FFmpegError, OSError) as error:
        raise HaechiError(f"{out} could not be made from {source.name}: {error}; free some space.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _recoded(read: Any, made: Any, change: Callable[[Bgr, float], Bgr]) -> int:
    """How many pictures there were."""
    stream = read.streams.video[0]
    stream.thread_type = "AUTO"
    target: Any = None
    first_s, count = 0.0, 0
    for frame in read.decode(stream):
        if frame.pts is None:
            continue
        if target is None:
            first_s = float(frame.time)
            target = _encoder(made, stream, frame.width - frame.width % 2, frame.height - frame.height % 2)
        image = change(frame.to_ndarray(format="bgr24"), float(frame.time) - first_s)
        changed = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        changed = changed.reformat(target.width, target.height, "yuv420p")
        changed.pts, changed.time_base = frame.pts, frame.time_base
        for packet in target.encode(changed):
            made.mux(packet)
        count += 1
    if target is not None:
        for packet in target.encode(None):
            made.mux(packet)
    return count


def _encoder(made: Any, stream: Any, width: int, height: int) -> Any:
    options = {"crf": "26", "preset": "veryfast", "bf": "0"}
    add = functools.partial(made.add_stream, _codec(), rate=stream.average_rate or 25)
    target = add(options=options) if _codec() == "libx264" else add()
    target.width, target.height, target.pix_fmt = width, height, "yuv420p"
    target.codec_context.time_base = stream.time_base
    return target


@functools.cache
def _codec() -> str:
    """H.264 where this libav can encode it, else what every one can."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"
