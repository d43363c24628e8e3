"""Moving pictures that carry their number, encoded for real, so that a test can say which one it sees."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 10


def numbered(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3]: the number as black and white columns, lowest bit left; they outlive any encoder."""
    width, height = size
    image = np.full((height, width, 3), 96, dtype=np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[: height // 2, left:right] = 230 if number >> bit & 1 else 20
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """What `numbered` wrote."""
    height, width = image.shape[:2]
    number = 0
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        block = image[height // 8 : height * 3 // 8, left + 3 : right - 3]
        number |= int(block.mean() > 128) << bit
    return number


@dataclass(frozen=True)
class Coded:
    """One encoded picture, Annex B."""

    data: bytes
    key: bool


@dataclass(frozen=True)
class Clip:
    """What the test's server plays, over and over."""

    codec: str
    fps: int
    size: tuple[int, int]
    pictures: list[Coded]


def encoded(codec: str = "h264", *, frames: int = 50, fps: int = 25, gop: int = 10, size: tuple[int, int]) -> Clip:
    """Encode numbered pictures without reordering, as cameras do."""
    context = av.CodecContext.create({"h264": "libx264", "hevc": "libx265"}[codec], "w")
    context.width, context.height = size
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, fps)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(gop), "forced-idr": "1"}
    if codec == "hevc":
        context.options |= {"x265-params": f"keyint={gop}:log-level=none:bframes=0:repeat-headers=1:pools=none"}
    packets = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(numbered(number, size), format="bgr24")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return Clip(codec, fps, size, [Coded(bytes(packet), packet.is_keyframe) for packet in packets])


def written(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 50,
    fps: int = 25,
    size: tuple[int, int] = (160, 96),
    stamps: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A file of numbered pictures; `stamps` in 1/1000 s instead of the rate's."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(number, size), format="bgr24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
