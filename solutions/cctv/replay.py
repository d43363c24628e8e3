"""A clip played through a site's rules, with everything that was seen and decided: for tuning zones and thresholds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from edge.io.frames import Bgr
from edge.io.sources import open_source
from shared.errors import BadInput, HaechiError
from solutions.cctv.config import Camera, Site
from solutions.cctv.detector import Detector
from solutions.cctv.live import annotated
from solutions.cctv.pipeline import CameraPipeline, Outcome
from solutions.cctv.scene import Event, View
from solutions.cctv.service import FILE_FPS

Say = Callable[[str], None]


def replay(
    clip: Path,
    site: Site,
    camera: str | None,
    output: Path | None,
    detector: str | None,
    threads: int | None,
    say: Say,
) -> dict[str, Any]:
    """Play a clip as if the camera had sent it.

    Args:
        output: an MP4 to write, with tracks, zones and what the rules signal drawn in.
        say: told a line for each frame in which something is signalled, starts or ends.

    Returns:
        `frames`: for each frame that was looked at its time, tracks and signals; `events`: as in an events file.

    Raises:
        BadInput: the clip, the camera's name or a package cannot be used.
    """
    name, known = _camera(site, camera)
    eyes = Detector.load(detector or site.detector.package, threads or site.detector.threads)
    pipeline = CameraPipeline(name, known, clip=clip.name, detector=eyes)
    frames: list[dict[str, Any]] = []
    events: list[Event] = []
    with open_source(name, str(clip), fps=FILE_FPS) as source, _film(output) as film:
        for frame in source:
            look = pipeline.plan(pipeline.see(frame))
            found = None if look.regions is None else eyes.detect([look.frame.image], [look.regions])[0]
            outcome = pipeline.judge(pipeline.track(look, found))
            frames.append(_told(outcome, looked=found is not None))
            for message in outcome.messages:
                say(f"{frame.time_s:8.2f} s  {message.kind:6} {message.event.type} {_place(message.event)}")
                events += [message.event] if message.kind == "end" else []
            if film is not None:
                film.add(_drawn(outcome, known))
    events += [message.event for message in pipeline.close()]
    if not frames:
        raise BadInput(f"{clip} holds no picture that can be read; give another file.")
    if output is not None:
        say(f"{output}: {len(frames)} frames")
    return {"camera": name, "frames": frames, "events": [event.as_line() for event in events]}


def _camera(site: Site, asked: str | None) -> tuple[str, Camera]:
    if asked is None and len(site.cameras) == 1:
        return next(iter(site.cameras.items()))
    if asked not in site.cameras:
        raise BadInput(f"--camera must be one of the site's: {', '.join(site.cameras)}.")
    return asked, site.cameras[asked]


def _told(outcome: Outcome, *, looked: bool) -> dict[str, Any]:
    scene = outcome.scene
    return {
        "time_s": round(scene.time_s, 3),
        "detector_asked": looked,
        "motion": round(scene.motion.share, 4) if scene.motion is not None else None,
        "tracks": [
            {"id": track.id, "label": track.label, "score": round(track.score, 3), "box": [round(x) for x in track.box]}
            for track in scene.tracks
        ],
        "signals": [
            {"type": each.type, "place": each.zone or each.line, "tracks": list(each.track_ids), "why": dict(each.why)}
            for each in outcome.signals
        ],
    }


def _drawn(outcome: Outcome, camera: Camera) -> Bgr:
    scene = outcome.scene
    return annotated(
        scene.frame.image.copy(),
        [(track.id, track.label, track.box) for track in scene.tracks],
        [(signal.type, signal.box, signal.zone or signal.line) for signal in outcome.signals],
        View.of(camera, scene.size),
    )


def _place(event: Event) -> str:
    words = (event.zone or event.line, event.direction)
    return " ".join(word for word in words if word)


class _Film:
    """Pictures of one size become an MP4."""

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = None

    def add(self, image: Bgr) -> None:
        """One more picture; H.264 takes even sides alone, so that a row or column may be left out."""
        height, width = (side - side % 2 for side in image.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=round(FILE_FPS * 2) // 2)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        shown = np.ascontiguousarray(image[:height, :width])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(shown, format="bgr24")))

    def close(self) -> None:
        """Write what is held back."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


@contextlib.contextmanager
def _film(output: Path | None) -> Any:
    """Written beside and renamed at the end: a film that was broken off is never taken for a whole one."""
    if output is None:
        yield None
        return
    draft = output.with_name(f".{output.name}.part")
    try:
        film = _Film(draft)
        try:
            yield film
        finally:
            film.close()
        draft.replace(output)
    except (OSError, av.FFmpegError) as error:
        raise HaechiError(f"{output} cannot be written ({error}); check the folder and the free space.") from error
    finally:
        draft.unlink(missing_ok=True)
