"""The live loop: sources → pipelines → events. One detector serves all cameras; none waits for another.

Each source has a thread of its own and keeps its newest frame; the loop takes one from each camera that has one, asks
the detector about all of them at once, and goes on. A file gives every frame and waits instead.
"""

from __future__ import annotations

import datetime as dt
import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import supervision as sv

from edge.io.sources import Source, open_source
from shared.errors import BadInput, HaechiError
from shared.log import get_logger
from shared.runtime import default_threads
from solutions.cctv.config import Camera, Site
from solutions.cctv.detector import Detector
from solutions.cctv.pipeline import CameraPipeline, Look, Outcome
from solutions.cctv.reporting import Reporter, is_live
from solutions.cctv.scene import Event, Message, Scene, View

_log = get_logger(__name__)
FILE_FPS = 12.5
"""Frames per second of stream time that are looked at in a file: what happens between them no rule would see."""
_REGIONS_AT_ONCE = 16
"""In a round. Where cameras want more, those that want more than their share are looked at whole: seeing small things
worse is better than seeing everything late."""
_IDLE_S = 0.02


@dataclass
class Summary:
    """What a run was like. Times are means in milliseconds."""

    frames: int = 0
    """That the sources gave; of a file with many frames a second not all are looked at."""
    looked_at: int = 0
    dropped: int = 0
    """Of a live source: newer ones came before they could be looked at."""
    seconds: float = 0.0
    detector_runs: int = 0
    detector_s: float = 0.0
    association_s: float = 0.0
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Each event as it was when it ended."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "frames": self.frames,
            "looked_at": self.looked_at,
            "fps": round(self.frames / self.seconds, 2) if self.seconds else 0.0,
            "dropped": self.dropped,
            "detector_ms": round(1000 * self.detector_s / max(self.detector_runs, 1), 3),
            "detector_runs": self.detector_runs,
            "association_ms": round(1000 * self.association_s / max(self.looked_at, 1), 3),
            "peak_rss_mb": round(_peak_mb(), 1),
            "events": len(self.lines),
        }

    def sentences(self) -> Iterator[str]:
        """For the terminal."""
        told = self.as_dict()
        yield (
            f"{told['frames']} frames at {told['fps']:g} a second, {told['dropped']} dropped; detector asked "
            f"{told['detector_runs']} times, {told['detector_ms']:g} ms each; {told['events']} events"
        )
        for line in self.lines:
            place = line.get("line") or line.get("zone") or ""
            end = "" if line["end_s"] is None else f" to {line['end_s']:.1f}"
            yield f"  {line['start_s']:8.2f}{end} s  {line['camera']}  {line['type']} {place} {line['direction'] or ''}"


@dataclass(frozen=True, slots=True)
class _Pending:
    """Frames of a round that the detector is looking at."""

    looks: dict[str, Look]
    asked: tuple[str, ...]
    """The cameras that it was asked about."""
    answer: Future[list[sv.Detections]] | None
    """For each of them; None: it was not asked."""


class Service:
    """A site at work."""

    def __init__(
        self,
        site: Site,
        *,
        site_file: Path | None = None,
        detector: str | None = None,
        threads: int | None = None,
        events: Path | None = None,
        clip: str | None = None,
        keep: bool = True,
    ) -> None:
        """
        Args:
            site_file: where it was read from; relative sources and packages are looked for beside it.
            detector: in place of the site's.
            events: file for the events' JSON lines, written anew.
            clip: what events say they are of (a clip that is judged).
            keep: store events and evidence, as the site says; False: only tell them.

        Raises:
            BadInput: a source, a package, or the time zone cannot be used.
        """
        self.site, self._keep = site, keep
        self.summary = Summary()
        self._events_path, self._clip = events, clip
        self._folder = site_file.parent if site_file is not None else None
        self._detector = Detector.load(
            self._package(detector), threads or site.detector.threads or _threads(len(site.cameras))
        )
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="detector")
        self._pending: _Pending | None = None
        zone = _zone(site.time_zone)
        self.pipelines = {
            name: CameraPipeline(name, camera, clip=clip, zone=zone, detector=self._detector)
            for name, camera in site.cameras.items()
        }
        self._sources: dict[str, Source] = {}
        self._reporter = Reporter(site, site_file) if keep else None
        self._events: TextIO | None = None
        self._stopped = threading.Event()
        self._started = self._watched = time.monotonic()
        self._seen: dict[str, tuple[float, float]] = {}
        """The last frame of each camera: its time, and when it came."""
        self._going_on: dict[str, Event] = {}

    def __enter__(self) -> Self:
        try:
            if self._events_path is not None:
                self._events = _opened(self._events_path)
            for name, camera in self.site.cameras.items():
                self._sources[name] = self._open(name, camera)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of sources and files. Safe to call again."""
        self._asking.shutdown(cancel_futures=True)
        for source in self._sources.values():
            source.close()
        if self._reporter is not None:
            self._reporter.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    def run(self, *, until_end: bool = False) -> Summary:
        """Watch until stopped, or with `until_end` until every source has ended."""
        started = time.perf_counter()
        with self._stops():
            while not self._stopped.is_set():
                if not self.step() and until_end and all(source.ended for source in self._sources.values()):
                    break
        for name, scene in self._tracked().items():
            self._concluded(name, self.pipelines[name].judge(scene))
        for name, pipeline in self.pipelines.items():
            self._tell(name, pipeline.close())
        self._finish(time.perf_counter() - started)
        return self.summary

    def step(self) -> int:
        """One turn of the loop; 0 where there was nothing to do."""
        self._watch_sources()
        return self._round()

    def open_events(self, camera: str) -> list[Event]:
        """What is going on at a camera."""
        return [event for event in self._going_on.values() if event.camera == camera]

    def stop(self) -> None:
        """End `run` after the frames in hand."""
        self._stopped.set()

    def _round(self) -> int:
        """One frame of each camera that has a new one, while the detector looks at those of the round before.

        Nothing is decided differently from one frame after the other: what the detector is asked waits for the tracks
        of the frame before; only the gate of the new frames and the rules of the old ones run beside it.
        """
        looks = self._new_looks()
        scenes = self._tracked()
        if looks:
            self._pending = self._ask({name: self.pipelines[name].plan(look) for name, look in looks.items()})
        for name, scene in scenes.items():
            self._concluded(name, self.pipelines[name].judge(scene))
        if not looks and not scenes and len(self._sources) > 1:
            time.sleep(_IDLE_S / 4)
        return len(looks) + len(scenes)

    def _new_looks(self) -> dict[str, Look]:
        """Of each camera with a new frame; waits a moment where there is nothing else to do."""
        wait_s = _IDLE_S if len(self._sources) == 1 and self._pending is None else 0.0
        looks = {}
        for name, source in self._sources.items():
            frame = source.read(wait_s)
            if frame is not None:
                looks[name] = self.pipelines[name].see(frame)
                self._seen[name] = (frame.time_s, time.monotonic())
        return looks

    def _ask(self, looks: dict[str, Look]) -> _Pending:
        asked = {name: look for name, look in looks.items() if look.regions is not None}
        if not asked:
            return _Pending(looks, (), None)
        share = max(_REGIONS_AT_ONCE // len(asked), 1)
        asked = {name: look if len(look.regions or ()) <= share else look.whole for name, look in asked.items()}
        looks |= asked
        images, regions = [each.frame.image for each in asked.values()], [each.regions for each in asked.values()]
        return _Pending(looks, tuple(asked), self._asking.submit(self._detector.detect, images, regions))

    def _tracked(self) -> dict[str, Scene]:
        """Of the frames that the detector was asked about in the round before."""
        pending, self._pending = self._pending, None
        if pending is None:
            return {}
        answers = [] if pending.answer is None else pending.answer.result()
        found = dict(zip(pending.asked, answers, strict=True))
        return {name: self.pipelines[name].track(look, found.get(name)) for name, look in pending.looks.items()}

    def _watch_sources(self) -> None:
        """Once a second: how each camera is, and an event for one that has been gone for too long."""
        now = time.monotonic()
        if now - self._watched < 1.0:
            return
        self._watched = now
        for name, source in self._sources.items():
            if self._reporter is not None:
                self._reporter.report(name, source)
            last_s, seen = self._seen.get(name, (0.0, self._started))
            gone = now - seen
            if source.live and gone >= self.pipelines[name].offline_after_s:
                at = dt.datetime.now(dt.UTC)
                self._tell(name, self.pipelines[name].offline(last_s + gone, last_s, at, source.status.error))

    def _concluded(self, name: str, outcome: Outcome) -> None:
        self.summary.looked_at += 1
        view = self.pipelines[name].view
        if self._reporter is not None:
            self._reporter.seen(name, outcome, view)
        self._tell(name, outcome.messages, outcome.scene, view)

    def _tell(
        self, name: str, messages: tuple[Message, ...], scene: Scene | None = None, view: View | None = None
    ) -> None:
        for message in messages:
            _log.info(f"event_{message.kind}", camera=name, id=message.event.id, type=message.event.type)
            if self._reporter is not None:
                self._reporter.tell(message, scene, view)
            self._going_on[message.event.id] = message.event
            if message.kind == "end":
                del self._going_on[message.event.id]
                line = message.event.as_line()
                self.summary.lines.append(line)
                if self._events is not None:
                    self._events.write(json.dumps(line, ensure_ascii=False) + "\n")
                    self._events.flush()

    def _finish(self, seconds: float) -> None:
        summary = self.summary
        summary.seconds = seconds
        summary.frames = sum(source.status.frames for source in self._sources.values())
        summary.dropped = sum(source.status.dropped for source in self._sources.values())
        summary.detector_runs, summary.detector_s = self._detector.runs, self._detector.total_s
        summary.association_s = sum(pipeline.association_s for pipeline in self.pipelines.values())
        summary.lines.sort(key=lambda line: (line["start_s"], line["id"]))
        for source in self._sources.values():
            if source.status.error and not summary.looked_at:
                raise HaechiError(f"camera {source.camera} gave no frame: {source.status.error}.")

    def _open(self, name: str, camera: Camera) -> Source:
        return open_source(name, self._beside(camera.source), fps=self._fps(camera))

    def _fps(self, camera: Camera) -> float:
        return camera.fps if is_live(camera.source) else FILE_FPS

    def _beside(self, source: str) -> str:
        """A relative path of a site file is meant from that file's folder."""
        if self._folder is not None and "://" not in source and (self._folder / source).exists():
            return str(self._folder / source)
        return source

    def _package(self, asked: str | None) -> str | None:
        package = asked or self.site.detector.package
        return package if package is None else self._beside(package)

    @contextmanager
    def _stops(self) -> Iterator[None]:
        """SIGTERM ends the run as an interrupt does: sources are closed, open events are ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def size_of(clip: Path) -> tuple[int, int]:
    """Width and height of a clip's pictures.

    Raises:
        BadInput: it cannot be read.
    """
    with open_source("clip", str(clip)) as source:
        frame = source.read(30.0)
        if frame is None:
            raise BadInput(f"{clip} holds no picture that can be read; give another file.")
        return frame.image.shape[1], frame.image.shape[0]


def _threads(cameras: int) -> int:
    """Of the detector: with several cameras one core is for the gates, the rules and the decoders."""
    return max(1, default_threads() - (cameras > 1))


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}; give another --events file.") from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(f"time_zone {name!r} is unknown; write it as Asia/Seoul.") from error


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024
