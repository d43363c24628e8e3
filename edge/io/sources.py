"""Where frames come from: cameras, files, folders; each in a thread of its own.

A live source keeps the newest frame alone: whoever is slow misses frames and is never behind. A file gives every frame
in order and waits. Times come from presentation stamps (`edge/io/clock.py`), and a rate is kept by choosing frames by
time.

    with open_source("gate", "rtsp://viewer:${GATE_PASSWORD}@10.0.0.5/sub", fps=5, live=True) as source:
        for frame in source:
            ...
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import numpy as np

from edge.io import clock
from edge.io.addresses import Address, parse
from edge.io.decoder import MAX_PIXELS, Decoder, PictureRefused, Sampler, picture
from edge.io.frames import Bgr, Frame
from edge.io.health import Health, Status
from edge.io.rtsp import Connection, Handler, Patience, Stamped
from edge.io.slots import Slot
from shared.errors import BadInput
from shared.log import get_logger

_log = get_logger(__name__)
FOLDER_FPS = 10.0
_AHEAD = 4
"""Frames of a file that wait for the reader."""
_FAR_S, _NEAR_S = 2.0, 0.3
"""So late, only key frames are decoded, until it is so little."""
_QUALITY_STEP, _LEAST_QUALITY = 0.05, 0.3
"""A decoder now and then makes a picture even of noise: useful is a stream of which most packets give one."""
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Source:
    """Frames of one camera. Any thread may read; close it when done."""

    def __init__(self, camera: str, address: Address, *, live: bool) -> None:
        self.camera, self.address, self.live = camera, address, live
        self.epoch_s: float | None = None
        """Unix time of `time_s` 0 where the source is live: what ties frames to recordings. None until it is known."""
        self._slot: Slot[Frame] = Slot(1 if live else _AHEAD, newest=live)
        self._health = Health()
        self._count = 0

    def __repr__(self) -> str:
        return f"Source({self.camera!r}, {str(self.address)!r})"

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame (live: the newest, never one twice).

        Returns:
            None: nothing within the time, or the source has ended (see `ended`).
        """
        return self._slot.get(timeout_s)

    @property
    def ended(self) -> bool:
        """Closed, or a file at its end, and every frame was read."""
        return self._slot.ended

    @property
    def status(self) -> Status:
        """How it is at this moment."""
        return self._health.status(self._slot.dropped)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def close(self) -> None:
        """Stop the thread; reading gives None from now on. Safe to call again."""
        self._slot.close(discard=True)
        self._health.ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_source(
    camera: str,
    source: str,
    *,
    fps: float | None = None,
    live: bool = False,
    patience: Patience | None = None,
    max_side: int | None = None,
    packets: Handler | None = None,
) -> Source:
    """Begin to read a source.

    Args:
        camera: its name, which every frame carries.
        source: rtsp://…, rtsps://…, http(s)://… (MJPEG), usb:N, /dev/videoN, a file, or a folder of pictures.
            `${NAME}` is read from the environment.
        fps: at most so many frames per second of stream time; None: all. A folder's own rate (default 10).
        live: a file or folder plays at its own pace and keeps the newest frame alone, as a camera would. Cameras are
            always live.
        patience: time-outs and waits of a camera's connection.
        max_side: larger pictures are reduced to so many pixels on their longer side.
        packets: gets a camera's packets too: a recorder that shares the connection.

    Raises:
        BadInput: the address cannot be used, or the file cannot be read. A camera that does not answer is no error:
            its status says so.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise BadInput(f"fps {fps:g} of camera {camera} must lie above 0 and at most at 1000.")
    address = parse(source)
    if address.kind in ("rtsp", "http", "usb"):
        return CameraSource(camera, address, fps=fps, patience=patience, max_side=max_side, packets=packets)
    if address.kind == "folder":
        return FileSource(camera, address, _FolderReader(address, fps), fps=None, live=live, max_side=max_side)
    return FileSource(camera, address, _VideoReader(address), fps=fps, live=live, max_side=max_side)


class CameraSource(Source):
    """A connection that is made anew whenever it breaks, decoded into the newest-frame slot."""

    def __init__(
        self,
        camera: str,
        address: Address,
        *,
        fps: float | None,
        patience: Patience | None,
        max_side: int | None,
        packets: Handler | None = None,
    ) -> None:
        super().__init__(camera, address, live=True)
        self._sampler, self._max_side, self._packets = Sampler(fps), max_side, packets
        self._time_s = -clock.STEP_S
        self._connection = Connection(camera, address, self, self._health, patience or Patience())

    def close(self) -> None:
        """Stop; a read that is under way ends at its time-out, and nobody waits for it."""
        super().close()
        self._connection.close()

    def opened(self, stream: Any) -> None:
        """A connection stands."""
        self._decoder, self._quality = Decoder(stream, live=True), 1.0
        if self._packets is not None:
            self._packets.opened(stream)

    def closed(self) -> None:
        """The connection is over."""
        if self._packets is not None:
            self._packets.closed()

    def packet(self, stamped: Stamped) -> bool:
        """Decode one; True where it gave a frame, and most others did. Broken ones are passed over."""
        if stamped.late_s > _FAR_S:
            self._decoder.keys_only(True)
        elif stamped.late_s < _NEAR_S:
            self._decoder.keys_only(False)
        dts, base = stamped.packet.dts, stamped.packet.time_base
        seen = False
        try:
            for frame in self._decoder.frames(stamped.packet):
                seen = True
                ahead = 0.0 if frame.pts is None or dts is None else float((frame.pts - dts) * base)
                self._give(frame, stamped.time_s + (ahead if abs(ahead) < clock.AHEAD_S else 0.0))
        except (av.FFmpegError, PictureRefused, ValueError):
            self._health.bad()
        if self._packets is not None:
            self._packets.packet(stamped)
        if not self._decoder.catching_up:
            self._quality += _QUALITY_STEP * (seen - self._quality)
        return seen and self._quality > _LEAST_QUALITY

    def _give(self, frame: Any, unix_s: float) -> None:
        self._health.seen()
        if self.epoch_s is None:
            self.epoch_s = unix_s
        self._time_s = max(unix_s - self.epoch_s, self._time_s + clock.STEP_S)
        index, self._count = self._count, self._count + 1
        if self._sampler.wants(self._time_s):
            taken = dt.datetime.fromtimestamp(self.epoch_s + self._time_s, dt.UTC)
            self._slot.put(Frame(self.camera, index, self._time_s, picture(frame, self._max_side), taken))


class _VideoReader:
    """Frames of a file and their times."""

    def __init__(self, address: Address) -> None:
        try:
            self._container = av.open(address.url)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadInput(f"{address} cannot be read as a video ({address.mask(error)}); give another file.") from None
        if not self._container.streams.video:
            self._container.close()
            raise BadInput(f"{address} holds no video; give another file.")
        self._stream = self._container.streams.video[0]
        self.broken = 0

    def frames(self) -> Iterator[tuple[float, Any]]:
        """(time in seconds, libav's frame), in order of showing."""
        rate = self._stream.average_rate
        times = clock.FileClock(1 / float(rate) if rate else 1 / 25)
        decoder = Decoder(self._stream, live=False)
        base = self._stream.time_base  # frames that are flushed out at the end carry none
        with self._container:
            packets = self._container.demux(self._stream)
            while True:
                try:
                    packet = next(packets, None)
                except (av.FFmpegError, OSError):  # a file that is cut off ends where it is cut
                    packet = None
                try:
                    for frame in decoder.frames(packet if packet is not None and packet.size else None):
                        stamp = None if frame.pts is None else float(frame.pts * base)
                        yield times.at(stamp), frame
                except EOFError:
                    return
                except (av.FFmpegError, ValueError):
                    self.broken += 1
                if packet is None or packet.size == 0:
                    return


class _FolderReader:
    """Pictures of a folder in their natural order (frame 2 before frame 10)."""

    def __init__(self, address: Address, fps: float | None) -> None:
        self._paths = sorted(
            (path for path in Path(address.url).iterdir() if path.suffix.lower() in _PICTURES), key=_natural
        )
        if not self._paths:
            raise BadInput(f"folder {address} holds no pictures ({', '.join(_PICTURES)}); give another.")
        self._frame_s = 1 / (fps or FOLDER_FPS)
        self.broken = 0

    def frames(self) -> Iterator[tuple[float, Bgr]]:
        """(time in seconds, picture); a picture that cannot be read leaves a gap."""
        for place, path in enumerate(self._paths):
            image = _photograph(path)
            if image is None:
                self.broken += 1
            else:
                yield place * self._frame_s, image


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"([0-9]+)", path.name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _photograph(path: Path) -> Bgr | None:
    from PIL import Image

    try:
        with Image.open(path) as opened:  # reads the header alone
            if opened.width * opened.height > MAX_PIXELS:
                return None
        data = np.fromfile(path, dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except (OSError, ValueError, SyntaxError, cv2.error, Image.DecompressionBombError):
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


class FileSource(Source):
    """A file or folder, read ahead by a few frames; or played at its own pace where it stands for a camera."""

    def __init__(
        self,
        camera: str,
        address: Address,
        reader: _VideoReader | _FolderReader,
        *,
        fps: float | None,
        live: bool,
        max_side: int | None,
    ) -> None:
        super().__init__(camera, address, live=live)
        self._reader, self._sampler, self._max_side = reader, Sampler(fps), max_side
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source-{camera}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, wherever it is."""
        self._stop.set()
        super().close()
        self._thread.join(5.0)

    def _run(self) -> None:
        error = None
        try:
            self._play()
        except PictureRefused as refused:
            error = str(refused)
        except Exception as failed:
            error = self.address.mask(failed)
            _log.exception("source_failed", camera=self.camera, error=error)
        for _ in range(self._reader.broken):
            self._health.bad()
        self._health.ended(error)
        self._slot.close()

    def _play(self) -> None:
        for time_s, shown in self._reader.frames():
            if self._stop.is_set():
                return
            self._health.seen()
            index, self._count = self._count, self._count + 1
            taken = self._wait(time_s) if self.live else None
            if not self._sampler.wants(time_s):
                continue
            image = _ready(shown, self._max_side)
            if not self._slot.put(Frame(self.camera, index, time_s, image, taken)):
                return

    def _wait(self, time_s: float) -> dt.datetime:
        """Until it is time to show the frame."""
        if self.epoch_s is None:
            self.epoch_s = clock.now() - time_s
        self._stop.wait(max(0.0, self.epoch_s + time_s - clock.now()))
        return dt.datetime.fromtimestamp(self.epoch_s + time_s, dt.UTC)


def _ready(shown: Any, max_side: int | None) -> Bgr:
    if not isinstance(shown, np.ndarray):
        return picture(shown, max_side)
    if max_side is not None and max(shown.shape[:2]) > max_side:
        scale = max_side / max(shown.shape[:2])
        size = (max(1, round(shown.shape[1] * scale)), max(1, round(shown.shape[0] * scale)))
        shown = np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    shown.flags.writeable = False
    return shown
