"""Many cameras at once, and many hours at speed: is it late, and does it grow?

    .venv/bin/python benchmarks/cameras.py CLIP … --detector PACKAGE [--cameras 10] [--fps 5] [--json F]
    .venv/bin/python benchmarks/cameras.py CLIP … --detector PACKAGE --hours 6

The first plays files at their own pace, each as a camera of its own with zones, lines, falls and things left behind,
and tells how long after a frame was taken its rules had spoken. The second gives the clips' frames again and again to
one camera, as quickly as it takes them, until so many hours of stream have passed, and tells the memory that is
resident (Linux).
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import logging
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file as well as with -m

from benchmarks.figures import print_machine
from edge.io.frames import Bgr, Frame
from edge.io.sources import Source, open_source
from shared.files import write_json
from solutions.cctv.config import Camera, Site
from solutions.cctv.detector import Detector
from solutions.cctv.pipeline import CameraPipeline, Outcome
from solutions.cctv.service import Service

CAMERA: dict[str, Any] = {
    "zones": {"all": [[0, 0], [1, 0], [1, 1], [0, 1]]},
    "lines": {"middle": [[0, 0.5], [1, 0.5]]},
    "rules": [
        {"type": "intrusion", "zones": ["all"]},
        {"type": "line_crossing", "lines": ["middle"]},
        {"type": "fall"},
        {"type": "abandoned_object"},
    ],
}


def main() -> int:
    """Measure and print."""
    options = _options()
    print_machine()
    logging.disable(logging.CRITICAL)
    figures = _hours(options) if options.hours else _at_once(options)
    if options.json:
        write_json(options.json, figures)
    return 0


class _Timed(Service):
    """A service whose files stand for cameras, and that notes how late its rules speak."""

    fps = 5.0

    def __init__(self, site: Site, **others: Any) -> None:
        super().__init__(site, **others)
        self.lags: list[float] = []

    def _open(self, name: str, camera: Camera) -> Source:
        return open_source(name, camera.source, fps=self.fps, live=True)

    def _concluded(self, name: str, outcome: Outcome) -> None:
        super()._concluded(name, outcome)
        taken = outcome.scene.frame.taken_at
        if taken is not None:
            self.lags.append((dt.datetime.now(dt.UTC) - taken).total_seconds())


def _at_once(options: argparse.Namespace) -> dict[str, Any]:
    sources = itertools.islice(itertools.cycle(options.clips), options.cameras)
    cameras = {f"camera_{number}": CAMERA | {"source": str(clip)} for number, clip in enumerate(sources)}
    site = Site.model_validate({"name": "many", "cameras": cameras, "evidence": {"record": False}})
    _Timed.fps = options.fps
    with _Timed(site, detector=options.detector, keep=False) as service:
        started, cpu = time.perf_counter(), time.process_time()
        summary = service.run(until_end=True)
        cores = (time.process_time() - cpu) / (time.perf_counter() - started)
    median, late, latest = (float(each) for each in np.percentile(service.lags, [50, 99, 100]))
    print(
        f"{options.cameras} cameras at {options.fps:g} frames/s: late by {median:.2f} s (median), {late:.2f} s (99 %), "
        f"{latest:.2f} s (most); {summary.dropped} of {summary.dropped + summary.looked_at} frames dropped; "
        f"{cores:.2f} cores busy; {summary.detector_runs} detector runs"
    )
    return {"lag_s": {"p50": median, "p99": late, "max": latest}, "cores": cores, **summary.as_dict()}


def _hours(options: argparse.Namespace) -> dict[str, Any]:
    pictures = [picture for clip in options.clips for picture in _pictures(clip, options.fps)]
    camera = Camera.model_validate(CAMERA | {"source": "unused"})
    detector = Detector.load(options.detector)
    pipeline = CameraPipeline("long", camera, detector=detector)
    megabytes: list[float] = []
    events = 0
    total = int(options.hours * 3600 * options.fps)
    for index in range(total):
        frame = Frame("long", index, index / options.fps, pictures[index % len(pictures)], None)
        look = pipeline.plan(pipeline.see(frame))
        found = None if look.regions is None else detector.detect([frame.image], [look.regions])[0]
        events += len(pipeline.judge(pipeline.track(look, found)).messages)
        if (index + 1) % (total // 20) == 0:
            megabytes.append(_resident_mb())
            print(f"{(index + 1) / options.fps / 3600:5.1f} h  {megabytes[-1]:7.1f} MB  {events} messages", flush=True)
    grown = megabytes[-1] / megabytes[1] - 1
    print(f"from a tenth of the way to its end: {grown:+.1%}")
    return {"hours": options.hours, "megabytes": megabytes, "grown": grown, "messages": events}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def _pictures(clip: Path, fps: float) -> Iterator[Bgr]:
    with av.open(str(clip)) as container:
        next_s = 0.0
        for frame in container.decode(video=0):
            if frame.time >= next_s:
                next_s += 1 / fps
                yield frame.to_ndarray(format="bgr24")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--detector", help="package; without: the one Haechi brings")
    parser.add_argument("--cameras", type=int, default=10)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
