"""A camera over the network (or USB): open, read, and open again for as long as it takes.

Each camera has a thread and a connection of its own, so that a dead one holds up nobody. Every wait has an end: opening
and reading time out, a stream whose packets give no picture counts as lost, and attempts follow one another after
waits that double up to a few seconds, with jitter, so that a hundred cameras do not return at one moment.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import av

from edge.io import clock
from edge.io.addresses import Address
from edge.io.health import Health
from shared.log import get_logger

_log = get_logger(__name__)
_BURST = 250
"""Packets at most that are held until a connection's clock is set."""
_UNSTAMPED = 3
"""Packets without a stamp that are waited for one."""
_Arrival = tuple[Any, float | None, float]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may last, in seconds. A camera that is gone is known to be after `read_s`, and is back within
    `open_s` + 1.25 × `longest_wait_s` of its return."""

    open_s: float = 8.0
    read_s: float = 8.0
    """Without a packet."""
    picture_s: float = 10.0
    """With packets of which no use could be made: garbage, or another codec than was announced."""
    first_wait_s: float = 0.5
    longest_wait_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Stamped:
    """A packet with its time."""

    packet: Any
    """libav's; only for the moment of the call."""
    stream: Any
    time_s: float
    """Unix seconds of its decoding stamp, strictly rising."""
    arrived_s: float
    late_s: float
    """By how much it is behind the quickest packets of this connection."""


class Handler(Protocol):
    """What is done with a camera's packets."""

    def opened(self, stream: Any) -> None:
        """A connection stands; what was learned of the last one's stream no longer holds."""

    def packet(self, stamped: Stamped) -> bool:
        """One packet, in decoding order. True: it was of use."""

    def closed(self) -> None:
        """The connection is over."""


class Lost(Exception):
    """The connection gives nothing any more."""


class Connection:
    """Runs in a thread of its own until `close`."""

    def __init__(self, name: str, address: Address, handler: Handler, health: Health, patience: Patience) -> None:
        self.clock = clock.LiveClock()
        self._name, self._address, self._handler, self._health = name, address, handler, health
        self._patience = patience
        self._used = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)
        self._thread.start()

    def close(self, wait_s: float = 2.0) -> None:
        """Stop; a read that is under way ends by itself at its time-out at the latest."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(wait_s)

    def _run(self) -> None:
        wait_s = self._patience.first_wait_s
        while not self._stop.is_set():
            self._used = False
            try:
                self._once()
            except (av.FFmpegError, OSError, ValueError, Lost, MemoryError, EOFError) as error:
                self._report(error)
            except Exception as error:  # whatever a library throws at odd bytes must not end the camera
                _log.exception("camera_reader_failed", camera=self._name, error=self._address.mask(error))
                self._health.lost(self._address.mask(error))
            if self._used:  # a camera that worked is tried again at once
                wait_s = self._patience.first_wait_s
            self._stop.wait(wait_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, self._patience.longest_wait_s)

    def _report(self, error: BaseException) -> None:
        said = self._address.mask(error) or type(error).__name__
        if not self._stop.is_set():
            self._health.lost(said)
            _log.warning("camera_lost", camera=self._name, source=str(self._address), error=said)

    def _once(self) -> None:
        try:
            container = _open(self._address, self._patience)
        except av.error.ExitError:
            raise Lost(f"no answer within {self._patience.open_s:g} s") from None
        try:
            if not container.streams.video:
                raise Lost("the source has no video")
            stream = container.streams.video[0]
            self.clock.reopen()
            self._handler.opened(stream)
            try:
                self._read(container, stream)
            finally:
                self._handler.closed()
        finally:
            container.close()

    def _read(self, container: Any, stream: Any) -> None:
        by_arrival = self._address.kind != "rtsp"  # MJPEG over HTTP has no stamps; libav makes them up
        useful_s = clock.now()
        for packet, stamp_s, arrived_s in _anchored(self._arrivals(container, stream, by_arrival), self.clock):
            time_s = self.clock.at(stamp_s, arrived_s)
            late_s = 0.0 if stamp_s is None else self.clock.late_s
            if self._handler.packet(Stamped(packet, stream, time_s, arrived_s, late_s)):
                useful_s, self._used = arrived_s, True
            elif arrived_s - useful_s > self._patience.picture_s:
                raise Lost(f"no picture for {self._patience.picture_s:g} s, though data comes")
        if not self._stop.is_set():
            raise Lost("the stream ended")

    def _arrivals(self, container: Any, stream: Any, by_arrival: bool) -> Iterator[_Arrival]:
        """(packet, its stamp, when it came)"""
        try:
            for packet in container.demux(stream):
                if self._stop.is_set():
                    return
                if packet.size:
                    stamp_s = None if packet.dts is None or by_arrival else float(packet.dts * packet.time_base)
                    yield packet, stamp_s, clock.now()
        except av.error.ExitError:
            raise Lost(f"no data for {self._patience.read_s:g} s") from None


def _anchored(arrivals: Iterator[_Arrival], times: clock.LiveClock) -> Iterator[_Arrival]:
    """The same, after the clock was set by the burst that opens a connection.

    While a stream is probed, and where a camera sends what it has held since its last key frame, the first packets
    come late and all at once. The last of them tells when they were taken.
    """
    held: list[_Arrival] = []
    stamps: list[tuple[float, float]] = []
    for arrival in arrivals:
        held.append(arrival)
        _, stamp_s, arrived_s = arrival
        if stamp_s is not None:
            stamps.append((stamp_s, arrived_s))
        if len(stamps) > 1:
            (before_s, earlier_s), (last_s, latest_s) = stamps[-2:]
            if latest_s - earlier_s >= (last_s - before_s) / 2:
                break
        if len(held) >= (_BURST if stamps else _UNSTAMPED):
            break
    times.anchor(stamps)
    yield from _filled(held, stamps)
    yield from arrivals


def _filled(held: list[_Arrival], stamps: list[tuple[float, float]]) -> Iterator[_Arrival]:
    """With stamps for what precedes the first that has one: libav gives the first packet of a stream none."""
    step_s = stamps[1][0] - stamps[0][0] if len(stamps) > 1 else 0.04
    bare = next((place for place, (_, stamp_s, _) in enumerate(held) if stamp_s is not None), 0)
    for place, (packet, stamp_s, arrived_s) in enumerate(held):
        if place < bare:
            stamp_s = stamps[0][0] - (bare - place) * max(0.0, step_s)
        yield packet, stamp_s, arrived_s


def _open(address: Address, patience: Patience) -> Any:
    options: dict[str, str] = {}
    if address.kind == "rtsp":
        options = {"rtsp_transport": "tcp", "allowed_media_types": "video", "analyzeduration": "2000000"}
        options["fpsprobesize"] = "2"  # the rate is of no use here, and finding it takes a second
    elif address.kind == "usb":
        return av.open(f"/dev/video{address.url}", format="v4l2", timeout=(patience.open_s, patience.read_s))
    return av.open(address.url, options=options, timeout=(patience.open_s, patience.read_s))
