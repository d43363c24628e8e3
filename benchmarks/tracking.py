"""Identity and cost of the tracker beside those of the library `trackers`, on the same boxes.

    .venv/bin/python benchmarks/tracking.py [--mot FOLDER …] [--sequences 12] [--seed 0] [--tracks FOLDER] [--json F]

A folder is one sequence in the form of the MOTChallenge (`det/det.txt`, `seqinfo.ini`, and `gt/gt.txt` where the truth
is known), or holds several. Without one, crowds are simulated (benchmarks/crowds.py). Every tracker gets all detections
of the file with the scores that stand there, at the settings that its authors chose, and the sequence's frame rate;
those that would look at the picture to follow the camera do not. What is scored are the boxes of confirmed tracks that
were detected in the frame; milliseconds are the tracker's call alone.
"""

from __future__ import annotations

import argparse
import configparser
import inspect
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import supervision as sv

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file as well as with -m

from benchmarks import crowds
from benchmarks.figures import print_machine
from shared import machine
from shared.errors import BadInput
from shared.files import write_json, write_text
from solutions.cctv.hota import Boxes, Counts, read_mot, score
from solutions.cctv.scene import MOVING
from solutions.cctv.tracking import Tracker

OURS = "Haechi"
Step = Callable[[sv.Detections, float], list[tuple[float, ...]]]
"""Detections and the time in seconds → [id, left, top, right, bottom] of each track that was detected."""


def main() -> int:
    """Measure and print."""
    options = _options()
    print_machine()
    makers = _makers()
    counts: dict[str, Counts] = defaultdict(Counts)
    cost: dict[str, list[float]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    for sequence in _sequences(options):
        each = len(sequence.detections.id) / sequence.frames
        print(f"\n{sequence.name}: {sequence.frames} frames, {each:.1f} boxes in each")
        for name, make in makers.items():
            tracks, seconds = _track(sequence, make(sequence))
            if options.tracks:
                _write_tracks(options.tracks / name / f"{sequence.name}.txt", tracks)
            cost[name] += seconds
            figures = {"tracker": name, "sequence": sequence.name, **_cost(seconds)}
            if sequence.truth is not None:
                found = score(sequence.truth, tracks)
                counts[name] += found
                figures |= _figures(found)
            rows.append(figures)
            print(_line(figures), flush=True)
    totals = [{"tracker": name, **_figures(counts[name]), **_cost(cost[name])} for name in makers if name in cost]
    print("\nall together")
    for total in totals:
        print(_line(total))
    if options.json:
        write_json(options.json, {"machine": machine.facts(), "sequences": rows, "together": totals})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mot", type=Path, nargs="+", metavar="FOLDER", help="sequences, or folders of sequences")
    parser.add_argument("--sequences", type=int, default=12, help="how many are simulated, without --mot")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    parser.add_argument("--tracks", type=Path, metavar="FOLDER", help="write each tracker's tracks there, as MOT files")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


# -- sequences ---------------------------------------------------------------------------------------------------------


def _sequences(options: argparse.Namespace) -> Iterator[crowds.Sequence]:
    if not options.mot:
        yield from map(crowds.simulate, crowds.settings(options.sequences, options.seed))
        return
    for folder in options.mot:
        several = sorted(found.parent.parent for found in folder.glob("*/det/det.txt"))
        for each in several or [folder]:
            yield read_sequence(each)


def read_sequence(folder: Path) -> crowds.Sequence:
    """A folder as the MOTChallenge has it.

    Raises:
        BadInput: detections cannot be read, or `seqinfo.ini` lacks a figure.
    """
    detections = read_mot(folder / "det" / "det.txt")
    parser = configparser.ConfigParser()
    try:
        parser.read_string((folder / "seqinfo.ini").read_text(encoding="utf-8"))
        about = parser["Sequence"]
        fps, size = float(about["frameRate"]), (int(about["imWidth"]), int(about["imHeight"]))
        frames = int(about.get("seqLength", detections.frame.max(initial=1)))
    except (OSError, configparser.Error, KeyError, ValueError) as error:
        raise BadInput(
            f"{folder / 'seqinfo.ini'}: needs [Sequence] with frameRate, imWidth, imHeight ({error})."
        ) from error
    truth = folder / "gt" / "gt.txt"
    return crowds.Sequence(
        name=folder.name,
        size=size,
        fps=fps,
        frames=frames,
        detections=detections,
        truth=read_mot(truth) if truth.is_file() else None,
    )


# -- trackers ----------------------------------------------------------------------------------------------------------


def _makers() -> dict[str, Callable[[crowds.Sequence], Step]]:
    import trackers

    others = {
        name.removesuffix("Tracker"): getattr(trackers, name) for name in trackers.__all__ if name.endswith("Tracker")
    }
    return {OURS: _ours} | {name: _maker(kind) for name, kind in others.items()}


def _ours(sequence: crowds.Sequence) -> Step:
    tracker = Tracker(sequence.size)

    def step(detections: sv.Detections, time_s: float) -> list[tuple[float, ...]]:
        tracks = tracker.update(detections, time_s)
        return [(track.id, *track.box) for track in tracks if track.seen_s == time_s and track.label != MOVING]

    return step


def _maker(kind: Any) -> Callable[[crowds.Sequence], Step]:
    def make(sequence: crowds.Sequence) -> Step:
        known = inspect.signature(kind).parameters
        wanted = {"frame_rate": sequence.fps, "enable_cmc": False}
        tracker = kind(**{name: value for name, value in wanted.items() if name in known})

        def step(detections: sv.Detections, time_s: float) -> list[tuple[float, ...]]:
            del time_s  # they go by the frame rate
            found = tracker.update(detections)
            ids = [] if found.tracker_id is None else found.tracker_id.tolist()
            return [(one, *box) for one, box in zip(ids, found.xyxy.tolist(), strict=False) if one >= 0]

        return step

    return make


def _track(sequence: crowds.Sequence, step: Step) -> tuple[Boxes, list[float]]:
    """Tracks, and seconds of each call."""
    order = np.argsort(sequence.detections.frame, kind="stable")
    borders = np.searchsorted(sequence.detections.frame[order], np.arange(1, sequence.frames + 2))
    rows: list[tuple[float, ...]] = []
    seconds: list[float] = []
    for frame in range(1, sequence.frames + 1):
        chosen = order[borders[frame - 1] : borders[frame]]
        detections = sv.Detections(
            xyxy=sequence.detections.box[chosen].astype(np.float32),
            confidence=sequence.detections.score[chosen].astype(np.float32),
            class_id=np.zeros(len(chosen), dtype=int),
            data={"class_name": np.full(len(chosen), "person")},
        )
        begin = time.perf_counter()
        tracks = step(detections, (frame - 1) / sequence.fps)
        seconds.append(time.perf_counter() - begin)
        rows += [(frame, *track) for track in tracks]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    count = len(table)
    return (
        Boxes(
            frame=table[:, 0].astype(np.int64),
            id=table[:, 1].astype(np.int64),
            box=table[:, 2:],
            score=np.ones(count),
            kind=np.full(count, -1, dtype=np.int64),
        ),
        seconds,
    )


# -- what is told ------------------------------------------------------------------------------------------------------


def _figures(counts: Counts) -> dict[str, float]:
    if not counts.true_boxes:
        return {}
    return {
        "hota": counts.hota,
        "det_a": counts.det_a,
        "ass_a": counts.ass_a,
        "idf1": counts.idf1,
        "mota": counts.mota,
        "switches": counts.switches,
    }


def _cost(seconds: Iterable[float]) -> dict[str, float]:
    each = list(seconds)
    return {"ms_mean": 1e3 * sum(each) / len(each), "ms_median": 1e3 * median(each)}


def _line(figures: dict[str, Any]) -> str:
    parts = [f"{figures['tracker']:<10}"]
    for name in ("hota", "det_a", "ass_a", "idf1", "mota"):
        if name in figures:
            parts.append(f"{name.upper().replace('_', '')} {100 * figures[name]:5.1f}")
    if "switches" in figures:
        parts.append(f"switches {figures['switches']:5d}")
    return "  ".join([*parts, f"{figures['ms_mean']:6.2f} ms a frame (median {figures['ms_median']:.2f})"])


def _write_tracks(path: Path, tracks: Boxes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{frame},{one},{box[0]:.2f},{box[1]:.2f},{box[2] - box[0]:.2f},{box[3] - box[1]:.2f},1,-1,-1,-1"
        for frame, one, box in zip(tracks.frame.tolist(), tracks.id.tolist(), tracks.box.tolist(), strict=True)
    ]
    write_text(path, "\n".join(lines) + "\n" * bool(lines))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
