"""Falls of real people who were cut out of real clips and are played on other backgrounds, beside everyday motions.

    .venv/bin/python benchmarks/falls.py CLIPS --detector PACKAGE [--seed 11] [--json F]

CLIPS is the folder of the sample videos (`../shared/data/cctv/intel_sample_videos`). No recording of falls was at hand,
and drawn figures say nothing of a detector. So people are cut out of the sample clips (GrabCut, Rother et al. 2004,
inside the detector's box), walk in, and are turned or shortened as a fall does, under camera noise and H.264, in clips
of 3 to 8 s. That is not the real thing: clothes do not fold, arms do not reach out. Each clip goes the way of
`haechi cctv judge`, at default settings.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file as well as with -m

from benchmarks.figures import print_machine
from edge.io.frames import Bgr
from shared.files import write_json
from solutions.cctv.config import Camera, Fall, Site
from solutions.cctv.detector import Detector
from solutions.cctv.service import Service

SIZE, FPS = (640, 480), 30
WALKERS = ("worker-zone-detection.gif", "store-aisle-detection.gif")
ROOMS = ("people-detection.gif", "person-bicycle-car-detection.gif")
KINDS = {"sideways": 12, "towards": 6, "aslant": 6, "sits": 5, "crouches": 5, "bends": 4, "lies down": 4, "walks": 3}
FALLS = ("sideways", "towards", "aslant")


@dataclass(frozen=True, slots=True)
class CutOut:
    """A person without the background."""

    picture: Bgr
    opacity: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pose:
    """How a cut-out stands in a picture at a moment."""

    foot: tuple[float, float]
    height: float
    angle: float = 0.0
    """Degrees from upright, about the feet."""
    short: float = 1.0
    wide: float = 1.0
    walks: bool = False


Play = Callable[[float], Pose]


def main() -> int:
    """Measure and print."""
    options = _options()
    print_machine()
    logging.disable(logging.CRITICAL)
    finder = Detector.load(options.cutter)
    people = [found for found in (_people(options.clips / name, finder) for name in WALKERS) if found]
    rooms = [_empty(options.clips / name) for name in ROOMS] + [_furnished(wall) for wall in (190, 140)]
    rng, number = np.random.default_rng(options.seed), 0
    said = dict.fromkeys(KINDS, 0)
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in KINDS.items():
            for _ in range(count):
                play, seconds = _story(kind, rng)
                clip = Path(folder) / f"{number}.mp4"
                _film(clip, rooms[number % len(rooms)], people[number // 2 % len(people)], play, seconds, number)
                said[kind] += _is_announced(clip, options.detector)
                number += 1
            print(f"{kind:10s} {said[kind]} of {count} announced as falls", flush=True)
    found = sum(said[kind] for kind in FALLS)
    wrong = sum(said.values()) - found
    print(f"falls found: {found} of {sum(KINDS[kind] for kind in FALLS)}; others announced: {wrong}")
    if options.json:
        write_json(options.json, {"announced": said, "of": KINDS, "seed": options.seed})
    return 0


def _is_announced(clip: Path, detector: str | None) -> bool:
    camera = Camera(source=str(clip), rules=(Fall(type="fall"),))
    site = Site.model_validate({"name": "falls", "cameras": {"clip": camera}, "evidence": {"record": False}})
    with Service(site, detector=detector, clip=clip.name, keep=False) as service:
        return any(line["type"] == "fall" for line in service.run(until_end=True).lines)


# -- people and rooms ------------------------------------------------------------------------------------------------


def _frames(clip: Path) -> list[Bgr]:
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def _empty(clip: Path) -> Bgr:
    middle = np.median(np.stack(_frames(clip)[::3]), axis=0).astype(np.uint8)
    return np.asarray(cv2.resize(middle, SIZE, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _furnished(wall: int) -> Bgr:
    image = np.full((SIZE[1], SIZE[0], 3), wall, dtype=np.uint8)
    image[230:] = wall // 2
    for y in range(230, SIZE[1], 18):
        cv2.line(image, (0, y), (SIZE[0], y + 6), (wall // 2 - 10,) * 3, 1)
    for left, top, right, bottom, colour in (
        (40, 150, 200, 300, (60, 80, 110)),
        (45, 155, 195, 215, (80, 100, 140)),
        (480, 60, 600, 260, (100, 130, 160)),
        (495, 75, 585, 160, (200, 210, 220)),
    ):
        cv2.rectangle(image, (left, top), (right, bottom), colour, -1)
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0), dtype=np.uint8)


def _people(clip: Path, finder: Detector) -> list[CutOut]:
    """Whole people of a clip, each time they are seen well."""
    found = []
    for image in _frames(clip)[::2]:
        (seen,) = finder.detect([image])
        for box, score, name in zip(seen.xyxy, seen.confidence, seen.data["class_name"], strict=True):
            left, top, right, bottom = (int(each) for each in box)
            inside = left > 3 and right < image.shape[1] - 3 and bottom < image.shape[0] - 3
            if name == "person" and score > 0.75 and bottom - top > 110 and inside:
                cut = _cut(image, (left, top, right, bottom))
                if cut is not None and 0.25 < cut.opacity.shape[1] / cut.opacity.shape[0] < 0.75:
                    found.append(cut)
    return found


def _cut(image: Bgr, box: tuple[int, int, int, int]) -> CutOut | None:
    left, top, right, bottom = box
    mask = np.zeros(image.shape[:2], np.uint8)
    rest = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, mask, (left, top, right - left, bottom - top), *rest, 6, cv2.GC_INIT_WITH_RECT)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask & 1).astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, width, height = (int(each) for each in stats[largest, :4])
    if height < 100:
        return None
    solid = cv2.morphologyEx((labels == largest).astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    part = np.s_[y : y + height, x : x + width]
    return CutOut(image[part].copy(), np.asarray(cv2.GaussianBlur(solid, (3, 3), 0), dtype=np.uint8)[part])


# -- stories ---------------------------------------------------------------------------------------------------------


def _story(kind: str, rng: np.random.Generator) -> tuple[Play, float]:
    """What somebody does, and how long the clip is."""
    tall, start, stop, floor = (rng.uniform(*span) for span in ((150, 260), (-20, 120), (220, 420), (360, 450)))
    walked_s, quick_s, down_s = (rng.uniform(*span) for span in ((1.2, 2.2), (0.6, 1.1), (0.6, 2.0)))
    way, flat = float(rng.choice([-1, 1])), rng.uniform(78, 95)

    def after(now: float) -> Pose:
        fallen = min(max((now - walked_s) / quick_s, 0), 1) ** 2
        since = now - walked_s
        there_and_back = float(np.sin(np.pi * min(since / 2.2, 1)))
        slowly = min(max(since - 1.2, 0) / 2.3, 1)
        seated = min(since / 1.1, 1)
        return {
            "sideways": Pose((stop - way * 0.25 * tall * fallen, floor), tall, angle=way * flat * fallen),
            "towards": Pose((stop, floor + 0.12 * tall * fallen), tall, 0, 1 - 0.62 * fallen, 1 + 0.25 * fallen),
            "aslant": Pose(
                (stop - way * 0.15 * tall * fallen, floor + 0.05 * tall * fallen),
                tall * (1 - 0.2 * fallen),
                angle=way * 65 * fallen,
            ),
            "sits": Pose((stop, floor), tall, 0, 1 - 0.33 * seated, 1 + 0.15 * seated),
            "crouches": Pose((stop, floor), tall, 0, 1 - 0.48 * there_and_back, 1 + 0.2 * there_and_back),
            "bends": Pose((stop, floor), tall, 0, 1 - 0.4 * there_and_back, 1 + 0.7 * there_and_back),
            "lies down": Pose((stop, floor), tall, 85 * slowly, 1 - 0.4 * min(since / 1.2, 1)),
            "walks": Pose((stop + 160 * since, floor), tall, walks=True),
        }[kind]

    def play(now: float) -> Pose:
        if now < walked_s:
            return Pose((start + (stop - start) * now / walked_s, floor), tall, walks=True)
        return after(now)

    return play, walked_s + (quick_s + down_s if kind in FALLS else 6.0 if kind == "lies down" else 4.0)


def _film(path: Path, room: Bgr, people: Sequence[CutOut], play: Play, seconds: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        (stream.width, stream.height), stream.pix_fmt, stream.options = SIZE, "yuv420p", {"crf": "26"}
        for index in range(int(seconds * FPS)):
            pose = play(index / FPS)
            image = room.astype(np.float32)
            _paste(image, people[int(index / FPS * 8) % len(people) if pose.walks else 0], pose)
            image += 2.5 * rng.standard_normal(image.shape, dtype=np.float32)
            frame = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _paste(image: NDArray[np.float32], person: CutOut, pose: Pose) -> None:
    """Turned about the feet, and let down until the lowest point is on the floor."""
    tall, broad = pose.height * pose.short, pose.height * pose.wide * person.opacity.shape[1] / person.opacity.shape[0]
    by = np.array([broad / person.opacity.shape[1], tall / person.opacity.shape[0]])
    turn = np.deg2rad(pose.angle)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * by
    foot = np.array([person.opacity.shape[1] / 2, person.opacity.shape[0]])
    corners = np.array([[0, 0], [2 * foot[0], 0], [0, foot[1]], [2 * foot[0], foot[1]]]) - foot
    lowest = float((corners @ turned.T)[:, 1].max())
    shift = np.array(pose.foot) - turned @ foot - (0, lowest)
    matrix = np.hstack([turned, shift[:, None]])
    shown = cv2.warpAffine(person.picture, matrix, SIZE, flags=cv2.INTER_LINEAR).astype(np.float32)
    opacity = cv2.warpAffine(person.opacity, matrix, SIZE).astype(np.float32)[..., None] / 255
    image += opacity * (shown - image)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of the sample clips")
    parser.add_argument("--detector", help="package; without: the one Haechi brings")
    parser.add_argument("--cutter", help="the package that finds the people to cut out; without: the one Haechi brings")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
