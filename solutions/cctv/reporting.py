"""What a running site tells the rest of the house: the live wall, how each camera is, and everything of its events."""

from __future__ import annotations

from pathlib import Path

from edge.io.clips import RecordingIndex
from edge.io.recorder import Limits, Recording, record
from edge.io.sources import Source
from shared import settings
from shared.records import Records
from solutions.cctv.config import Camera, Site
from solutions.cctv.desk import folder_of, note_site
from solutions.cctv.keeper import Keeper
from solutions.cctv.live import LiveHub
from solutions.cctv.pipeline import Outcome
from solutions.cctv.scene import Message, Scene, View

RECORDINGS = "recordings"
_RING_S = 3600.0
"""Of each camera's stream, kept to cut clips from; evidence itself is kept as the site says."""


class Reporter:
    """Of one site. The loop calls it; nothing here waits for a network."""

    def __init__(self, site: Site, site_file: Path | None) -> None:
        """
        Raises:
            BadInput: a sink of the site cannot be used.
        """
        home = settings.load().home
        if site_file is not None:
            note_site(home, site_file)
        folder = folder_of(home)
        beside = None if site_file is None else site_file.parent
        cut = RecordingIndex(folder / RECORDINGS).cut if site.evidence.record else None
        self._keeper = Keeper(site, Records.open(), folder, cut=cut, beside=beside).start()
        self._hub = LiveHub(folder / "live", site.privacy)
        self._problems: dict[str, dict[str, str]] = {}
        self._recordings = [
            self._record(site, name, camera, folder / RECORDINGS)
            for name, camera in site.cameras.items()
            if site.evidence.record and is_live(camera.source)
        ]

    @staticmethod
    def _record(site: Site, name: str, camera: Camera, folder: Path) -> Recording:
        most = int(site.evidence.gigabytes * 1e9 / 2 / len(site.cameras))
        limits = Limits(bytes=most, seconds=max(_RING_S, 4 * (site.evidence.pre_s + site.evidence.post_s)))
        return record(name, camera.record or camera.source, folder, limits=limits)

    def close(self) -> None:
        """Stop recording, cutting and sending; take the pictures away. Safe to call again."""
        for recording in self._recordings:
            recording.close()
        self._recordings = []
        self._keeper.close()
        self._hub.close()

    def seen(self, camera: str, outcome: Outcome, view: View) -> None:
        """What a camera shows; before the messages of the same picture."""
        self._keeper.seen(camera, outcome.scene)
        self._hub.publish(camera, outcome.scene, outcome.signals, view)

    def report(self, camera: str, source: Source) -> None:
        """How a camera is."""
        status = source.status
        told = {name: getattr(status, name) for name in ("state", "since", "error", "fps", "frames", "dropped")}
        told |= {"reconnects": status.reconnects, "problems": sorted(set(self._problems.get(camera, {}).values()))}
        self._hub.report(camera, told)

    def tell(self, message: Message, scene: Scene | None, view: View | None) -> None:
        """An event starts, changes or ends: kept with its evidence, and sent wherever the site says."""
        event = message.event
        open_ = self._problems.setdefault(event.camera, {})
        if event.type.startswith("camera_") and message.kind != "end":
            open_[event.id] = event.type
        else:
            open_.pop(event.id, None)
        self._keeper.tell(message, scene, view)


def is_live(source: str) -> bool:
    """Whether a source is a camera, and no file or folder."""
    return "://" in source or source.startswith(("usb:", "/dev/video"))
