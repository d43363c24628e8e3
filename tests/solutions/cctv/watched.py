"""A real server on a machine that watches a site; pictures are published as the cameras' service does."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np

from edge.io.frames import Frame
from shared.serving.app import RouterFactory
from shared.serving.keys import Role
from shared.serving.server import RunningServer, running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from solutions.cctv import config
from solutions.cctv.archive import Told
from solutions.cctv.desk import desk_of, folder_of, note_site
from solutions.cctv.live import LiveHub
from solutions.cctv.scene import Scene, Track, View
from tests.solutions.cctv.kept_in_memory import MemoryArchive
from tests.solutions.cctv.pictures import SIZE, picture

API = "/api/cctv"
SITE = """\
# The shop on the corner.
name: shop
privacy: {hide: persons, how: pixelate, clear_for: [operator, engineer, admin]}
cameras:
  door:
    source: rtsp://10.0.0.7/main  # over the door
    zones:
      entry: [[0.1, 0.2], [0.6, 0.2], [0.6, 0.9], [0.1, 0.9]]
    lines:
      gate: [[0.7, 0.1], [0.7, 0.9]]
    # What is announced.
    rules:
      - type: intrusion
        zones: [entry]
  yard:
    source: yard.mp4
"""


NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
EVENT: dict[str, Any] = {
    "camera": "door",
    "type": "intrusion",
    "rule": "intrusion",
    "severity": "warning",
    "start": NOW - dt.timedelta(minutes=5),
    "end": NOW - dt.timedelta(minutes=4),
    "start_s": 12.4,
    "end_s": 72.4,
    "zone": "entry",
    "line": None,
    "direction": None,
    "labels": ("person",),
    "colours": ("red", "black"),
    "track_ids": (3,),
    "why": {"inside_s": 0.4, "score": 0.81},
    "state": "new",
    "locked": False,
    "reviews": (),
    "has_snapshot": True,
    "has_clip": False,
}


@dataclass
class Watched:
    """The server and its site."""

    running: RunningServer
    site: Path
    hub: LiveHub

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def home(self) -> Path:
        return self.running.state.settings.home

    @property
    def archive(self) -> MemoryArchive:
        found = desk_of(self.running.state).archive
        assert isinstance(found, MemoryArchive)
        return found

    def announce(self, event_id: str, *, through: tuple[str, ...] = (), clip: bool = False, **more: Any) -> Told:
        """Keep an event, as the cameras' service does."""
        one = Told(**{**EVENT, "id": event_id, **more})
        if clip:
            write_clip(self.archive.folder / f"{event_id}.mp4")
            one = dataclasses.replace(one, has_clip=True)
        self.archive.events[event_id], self.archive.through[event_id] = one, through
        return one

    def client(self, role: Role = "engineer") -> httpx.Client:
        key = self.running.state.auth.store.create(f"some {role}", role)
        return httpx.Client(base_url=self.url + API, headers={"X-Api-Key": key}, timeout=20)


@contextlib.contextmanager
def watched(folder: Path, routers: list[RouterFactory], text: str = SITE) -> Iterator[Watched]:
    """A server with these routes, whose home knows the site."""
    site = folder / "site.yaml"
    site.write_text(text, encoding="utf-8")
    settings = Settings(home=folder / "home", database_url=f"sqlite:///{folder / 'records.db'}", threads=1)
    note_site(settings.home, site)
    read = config.load(site)
    with (
        LiveHub(folder_of(settings.home) / "live", read.privacy) as hub,
        running(ServerOptions(), settings, routers=routers) as server,
    ):
        server.wait_ready()
        desk_of(server.state).keep(MemoryArchive(folder))
        yield Watched(server, site, hub)


def scene(camera: str, index: int, person: tuple[int, int] = (100, 60)) -> Scene:
    """What is seen at frame `index` of five a second: one person."""
    left, top = person
    box = (float(left), float(top), left + 40.0, top + 80.0)
    track = Track(3, "person", box, 0.9, 0.0, index / 5)
    return Scene(Frame(camera, index, index / 5, picture(person)), SIZE, (track,))


@contextlib.contextmanager
def publishing(server: Watched, camera: str = "door") -> Iterator[None]:
    """Publish pictures of a camera, and that it is live, until the block ends."""
    site = config.load(server.site)
    view = View.of(site.cameras[camera], SIZE)
    ended = threading.Event()

    def go_on() -> None:
        index = 0
        while not ended.wait(0.05):
            index += 1
            server.hub.publish(camera, scene(camera, index), (), view)
            server.hub.report(camera, {"state": "live", "fps": 5.0, "frames": index, "dropped": 1, "reconnects": 0})

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def decoded(content: bytes) -> np.ndarray:
    """The picture of a JPEG or PNG."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def write_clip(path: Path, seconds: int = 2) -> None:
    """A small playable film."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = (*SIZE, "yuv420p")
        for index in range(5 * seconds):
            frame = av.VideoFrame.from_ndarray(picture((20 + 8 * index, 60)), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
