"""The whole of CCTV beside the usual wiring, on the same clip, with the same detector, in the same run.

    .venv/bin/python benchmarks/pipeline.py CLIP TRUTH.json --detector PACKAGE [--runs 3] [--json F]

The usual wiring: every frame is decoded, shown whole to the detector, tracked by ByteTrack of the library `trackers`,
and asked for lines and zones of `supervision`. Ours: what `haechi cctv judge` does without the scoring, at default
settings; of the annotated types those that the usual wiring has too, or all with `--all`. Frames a second are those of
the clip, whether they were all looked at or not; runs take turns, the median counts.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import supervision as sv

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file as well as with -m

from benchmarks.figures import print_machine
from shared.files import write_json
from solutions.cctv import judging, service
from solutions.cctv.config import Site
from solutions.cctv.detector import Detector
from solutions.cctv.evaluation import read_truth

COMMON = ("intrusion", "line_crossing")
LEAST_SCORE = 0.25
"""Below, the usual wiring drops a detection."""


def main() -> int:
    """Measure and print."""
    options = _options()
    print_machine()
    logging.disable(logging.CRITICAL)
    clip = options.clip
    truth = read_truth(options.truth)
    if not options.all:
        truth = replace(truth, types=tuple(each for each in truth.types if each in COMMON))
    site = judging.site_of(truth, clip, service.size_of(clip), options.detector)
    taken: dict[str, list[dict[str, Any]]] = {"usual": [], "haechi": []}
    for number in range(options.runs):
        for name, run in (("usual", _usual), ("haechi", _ours)):
            figures = run(clip, site, options)
            taken[name].append(figures)
            print(
                f"run {number + 1}  {name:6s}  {figures['fps']:7.1f} frames/s  {figures['cpu_ms']:5.1f} CPU-ms a frame"
                f"  {figures['detector_runs']} detector runs  {figures['crossings']} crossings"
            )
    ratio = median(each["fps"] for each in taken["haechi"]) / median(each["fps"] for each in taken["usual"])
    cpu = median(each["cpu_ms"] for each in taken["usual"]) / median(each["cpu_ms"] for each in taken["haechi"])
    print(f"{clip.name}: {ratio:.2f} times the frames a second, {cpu:.2f} times less CPU time")
    if options.json:
        write_json(options.json, {"clip": clip.name, "ratio": ratio, "cpu_ratio": cpu, "runs": taken})
    return 0


def _usual(clip: Path, site: Site, options: argparse.Namespace) -> dict[str, Any]:
    from trackers import ByteTrackTracker

    (camera,) = site.cameras.values()
    width, height = service.size_of(clip)
    scale = np.array([width, height])
    lines = [
        sv.LineZone(sv.Point(*(points[0] * scale)), sv.Point(*(points[1] * scale)))
        for points in map(np.array, camera.lines.values())
    ]
    zones = [sv.PolygonZone((np.array(points) * scale).astype(int)) for points in camera.zones.values()]
    detector = Detector.load(options.detector)
    with av.open(str(clip)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
        tracker = ByteTrackTracker(frame_rate=rate)
        frames, started, cpu = 0, time.perf_counter(), time.process_time()
        for frame in container.decode(video=0):
            (found,) = detector.detect([frame.to_ndarray(format="bgr24")])
            found = tracker.update(found[found.confidence > LEAST_SCORE])
            for watch in (*lines, *zones):
                watch.trigger(found)
            frames += 1
    crossings = sum(line.in_count + line.out_count for line in lines)
    return _figures(frames, started, cpu, detector.runs, crossings)


def _ours(clip: Path, site: Site, options: argparse.Namespace) -> dict[str, Any]:
    with service.Service(site, clip=clip.name, keep=False, detector=options.detector) as watching:
        started, cpu = time.perf_counter(), time.process_time()
        summary = watching.run(until_end=True)
        crossings = sum(line["type"] == "line_crossing" for line in summary.lines)
        return _figures(summary.frames, started, cpu, summary.detector_runs, crossings)


def _figures(frames: int, started: float, cpu: float, runs: int, crossings: int) -> dict[str, Any]:
    spent, used = time.perf_counter() - started, time.process_time() - cpu
    return {
        "fps": frames / spent,
        "cpu_ms": 1000 * used / frames,
        "frames": frames,
        "detector_runs": runs,
        "crossings": crossings,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("truth", type=Path, help="zones, lines and types, as for haechi cctv judge")
    parser.add_argument("--detector", help="package; without: the one Haechi brings")
    parser.add_argument("--all", action="store_true", help="every annotated type, not only intrusion and line crossing")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
