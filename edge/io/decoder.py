"""Packets to pictures, at no more cost than is needed, and never a crash for what a packet holds.

Colour conversion costs as much as decoding, so it is done only for frames that somebody wants. Pictures that would not
fit a bounded memory are refused; libav refuses them too (`max_pixels`), before it allocates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edge.io.frames import Bgr

MAX_PIXELS = 40_000_000
"""Of one picture: more than 8K (33 million)."""
_PATIENCE = 250
"""Packets without a key frame after which decoding begins anyway: some cameras refresh piece by piece."""


class PictureRefused(Exception):
    """A picture is too large to hold."""


class Decoder:
    """Of one video stream."""

    def __init__(self, stream: Any, *, live: bool, max_pixels: int = MAX_PIXELS) -> None:
        """
        Args:
            stream: libav's video stream.
            live: no frame may wait for the next ones, so one thread; files are decoded by several.
        """
        self._context = stream.codec_context
        self._max_pixels = max_pixels
        self._context.options = {**self._context.options, "max_pixels": str(max_pixels)}
        if live:
            self._context.thread_count = 1
        else:
            self._context.thread_type = "AUTO"
        self._begun = not live
        self._passed = 0
        self._keys_only = False

    def keys_only(self, wanted: bool) -> None:
        """Decode key frames alone, to catch up; all others again from the key frame that comes after `False`."""
        if wanted and not self._keys_only:
            self._context.skip_frame = "NONKEY"
        self._keys_only = wanted

    @property
    def catching_up(self) -> bool:
        """Packets other than key frames are passed over."""
        return not self._begun or str(self._context.skip_frame) != "DEFAULT"

    def frames(self, packet: Any) -> Iterator[Any]:
        """libav's frames of a packet (None flushes).

        Raises:
            av.FFmpegError: the packet is broken; go on with the next.
            PictureRefused: its pictures are too large.
        """
        if packet is not None and not self._wanted(packet):
            return
        for frame in self._context.decode(packet):
            if frame.width * frame.height > self._max_pixels:
                raise PictureRefused(f"a picture of {frame.width} x {frame.height} is larger than allowed")
            if not frame.is_corrupt:
                yield frame

    def _wanted(self, packet: Any) -> bool:
        if packet.is_keyframe and not self._keys_only and str(self._context.skip_frame) != "DEFAULT":
            self._context.skip_frame = "DEFAULT"
        self._passed += 1
        self._begun = self._begun or packet.is_keyframe or self._passed > _PATIENCE
        return self._begun


def picture(frame: Any, max_side: int | None = None) -> Bgr:
    """A frame as [H, W, 3] blue, green, red, read-only.

    Args:
        max_side: larger pictures are reduced to this many pixels on their longer side while they are converted.
    """
    width, height = frame.width, frame.height
    if max_side is not None and max(width, height) > max_side:
        scale = max_side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    image: Bgr = frame.to_ndarray(format="bgr24", width=width, height=height)
    if image.dtype != np.uint8:
        image = image.astype(np.uint8)
    image.flags.writeable = False
    return image


class Sampler:
    """Keeps frames at a rate, chosen by time, so that it does not matter how many there were."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._taken = -1

    def wants(self, time_s: float) -> bool:
        """Whether the frame at this time is the first of its 1/fps of a second."""
        if self._fps is None:
            return True
        place = int(time_s * self._fps + 1e-3)  # stamps are rounded: 0.19999 s is the second frame at 5 per second
        if place <= self._taken:
            return False
        self._taken = place
        return True
