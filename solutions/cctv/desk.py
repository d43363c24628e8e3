"""What the console's pages and the HTTP API of the cameras share: the site, live pictures, events and their evidence.

One for each server, made when a page or a route first needs it. The service that watches the cameras is another
process; the two meet in `<home>/cctv` (`current.json` names the site file, `live/` holds pictures and status,
`evidence/` snapshots and clips) and in the records' database.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared.errors import BadInput
from shared.files import write_json
from shared.serving.errors import NotFound, Unavailable
from shared.serving.keys import Principal
from solutions.cctv import config, console_site
from solutions.cctv.archive import Archive, Bucket, Search, Told, check_range, heat_picture
from solutions.cctv.live import LiveWatcher, Variant

if TYPE_CHECKING:
    from shared.serving.state import ServerState

SOLUTION = "cctv"
_STATES = ("connecting", "live", "ended", "offline")


def folder_of(home: Path) -> Path:
    """Everything that the cameras' service keeps on this machine."""
    return home / SOLUTION


def note_site(home: Path, site: Path) -> None:
    """Remember which site this machine watches, so that the server shows its pages; `haechi cctv run` calls it."""
    write_json(folder_of(home) / "current.json", {"site": str(site.absolute())})


def site_path(home: Path) -> Path | None:
    """The site file that this machine watches, None where none is known."""
    try:
        told = json.loads((folder_of(home) / "current.json").read_bytes())
    except (OSError, ValueError):
        return None
    named = told.get("site") if isinstance(told, dict) else None
    return Path(named) if isinstance(named, str) and named else None


def site_known(home: Path) -> bool:
    """Whether `haechi cctv run` has noted a site."""
    return site_path(home) is not None


class Desk:
    """Thread-safe and blocking: call it through `asyncio.to_thread`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.home = state.settings.home
        self.live = LiveWatcher(folder_of(self.home) / "live")
        self._lock = threading.Lock()
        self._archive: Archive | None = None
        self._read: tuple[tuple[Any, ...], console_site.SiteFile] | None = None

    @property
    def archive(self) -> Archive:
        """What is kept of events.

        Raises:
            Unavailable: nothing is opened here that keeps events.
        """
        if self._archive is None:
            raise Unavailable("events are not kept on this server; see its log.")
        return self._archive

    def keep(self, archive: Archive) -> None:
        """Events and their evidence are read from, and reviews written to, this archive from now on."""
        self._archive = archive

    # -- the site ----------------------------------------------------------------------------------------------------

    def site_file(self) -> console_site.SiteFile:
        """The site that this machine watches; read again only when the file has changed.

        Raises:
            NotFound: none is known.
            Unavailable: its file cannot be used now.
        """
        path = site_path(self.home)
        if path is None:
            raise NotFound("no site is watched on this machine; start one with haechi cctv run SITE.yaml.")
        try:
            stat = path.stat()
            known = (path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
            with self._lock:
                if self._read is None or self._read[0] != known:
                    self._read = (known, console_site.read(path))
                return self._read[1]
        except (BadInput, OSError) as error:
            raise Unavailable(f"the site file cannot be used now: {error}") from error

    def camera(self, name: str) -> config.Camera:
        """A camera of the site.

        Raises:
            NotFound: there is none of this name.
        """
        cameras = self.site_file().site.cameras
        if name not in cameras:
            raise NotFound(f"there is no camera {name[:64]} here.")
        return cameras[name]

    def draw(
        self, camera: str, places: console_site.Places, version: str, who: str
    ) -> tuple[console_site.SiteFile, bool]:
        """Change a camera's drawing in the site file, and note who did; see `console_site.draw`."""
        file, lost = console_site.draw(self.site_file().path, camera, places, version)
        details = {"version": file.version, "sections": list(places)}
        self.state.records.audit(who, "cctv.draw", camera, details)
        return file, lost

    def sees_clear(self, principal: Principal) -> bool:
        """Whether the site's privacy lets this role see pictures as they were taken."""
        return _clear(self.site_file().site.privacy, principal)

    def variant(self, camera: str, principal: Principal, marks: bool = True) -> Variant:
        """Which live view of a camera somebody gets; without `marks`, nothing is drawn into it.

        Raises:
            NotFound: there is no such camera.
        """
        self.camera(camera)
        if self.sees_clear(principal):
            return "clear" if marks else "clear_plain"
        return "hidden" if marks else "hidden_plain"

    def cameras(self) -> list[dict[str, Any]]:
        """Every camera and how it is, as `CameraAnswer` has it; none where no site is known."""
        if not site_known(self.home):
            return []
        return [_health(name, self.live.status(name)) for name in self.site_file().site.cameras]

    # -- events ------------------------------------------------------------------------------------------------------

    def events(self, search: Search, limit: int, before: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
        """A page of events as `EventAnswer` has them, newest first, and what gives the next one."""
        found, following = self.archive.search(search, limit, before)
        return [_event(one) for one in found], following

    def event(self, event_id: str) -> dict[str, Any]:
        """One event.

        Raises:
            NotFound: there is none with this id.
        """
        return _event(self._find(event_id))

    def review(self, event_id: str, verdict: Literal["approve", "dismiss"], reason: str, who: str) -> dict[str, Any]:
        """Note what a person says of an event; the event as it is then.

        Raises:
            NotFound: there is none with this id.
            BadInput: a false alarm without a reason, which nobody could learn from.
        """
        self._find(event_id)
        if verdict == "dismiss" and not reason.strip():
            raise BadInput("reason is empty; say why the event is a false alarm.")
        self.archive.review(event_id, verdict, reason.strip(), who)
        return self.event(event_id)

    def lock(self, event_id: str, locked: bool, who: str) -> dict[str, Any]:
        """Keep an event's evidence whatever its age, or no longer; the event as it is then."""
        self._find(event_id)
        self.archive.lock(event_id, locked, who)
        return self.event(event_id)

    def snapshot(self, event_id: str, principal: Principal) -> bytes | None:
        """An event's picture as this role may see it; None where it is not kept (any more)."""
        self._find(event_id)
        return self.archive.snapshot(event_id, self._hiding(principal))

    def clip(self, event_id: str, principal: Principal) -> Path | None:
        """An event's clip as this role may see it; None where it is not kept (yet, or any more)."""
        self._find(event_id)
        return self.archive.clip(event_id, self._hiding(principal))

    def _find(self, event_id: str) -> Told:
        found = self.archive.get(event_id)
        if found is None:
            raise NotFound(f"there is no event {event_id[:64]}.")
        return found

    def _hiding(self, principal: Principal) -> config.Privacy | None:
        """What must be hidden from this role; None: nothing. Without a site nobody knows: it is not shown at all."""
        privacy = self.site_file().site.privacy
        return None if _clear(privacy, principal) else privacy

    # -- figures -----------------------------------------------------------------------------------------------------

    def counts(self, since: dt.datetime, until: dt.datetime, bucket: Bucket, camera: str | None) -> dict[str, Any]:
        """Events and line crossings over time, as `CountsAnswer` has them.

        Raises:
            BadInput: the times are the wrong way round, or hold too many buckets.
        """
        seconds = check_range(since, until, bucket)
        return {
            "bucket_s": seconds,
            "events": [
                {"start": one.start, "camera": one.camera, "type": one.name, "events": one.number}
                for one in self.archive.counts(since, until, seconds, camera)
            ],
            "crossings": [
                {
                    "start": one.start,
                    "camera": one.camera,
                    "line": one.name,
                    "direction": one.direction,
                    "crossings": one.number,
                }
                for one in self.archive.crossings(since, until, seconds, camera)
            ],
        }

    def heatmap(self, camera: str, since: dt.datetime | None, until: dt.datetime | None) -> bytes:
        """A PNG of where people and things were.

        Raises:
            NotFound: there is no such camera.
        """
        self.camera(camera)
        return heat_picture(self.archive.heat(camera, since, until))


def _event(one: Told) -> dict[str, Any]:
    """An event as `EventAnswer` has it."""
    told = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    base = f"/api/{SOLUTION}/events/{one.id}"
    told |= {name: list(told[name]) for name in ("labels", "colours", "track_ids")}
    told["why"] = dict(one.why)
    told["reviews"] = [dataclasses.asdict(review) for review in one.reviews]
    told["snapshot_url"] = f"{base}/snapshot.jpg" if told.pop("has_snapshot") else None
    told["clip_url"] = f"{base}/clip.mp4" if told.pop("has_clip") else None
    return told


def _clear(privacy: config.Privacy, principal: Principal) -> bool:
    return privacy.hide == "nothing" or principal.role in privacy.clear_for


def _health(name: str, told: Mapping[str, Any] | None) -> dict[str, Any]:
    """A camera's status as the service tells it; what it does not tell is None."""
    told = told or {}
    state = told.get("state")
    return {
        "name": name,
        "state": state if state in _STATES else "unknown",
        **{key: told.get(key) for key in ("since", "at", "error", "fps", "frames", "dropped", "reconnects")},
        "problems": [str(one) for one in told.get("problems") or ()],
        "snapshot_url": f"/api/{SOLUTION}/cameras/{name}/snapshot.jpg",
        "live_url": f"/api/{SOLUTION}/cameras/{name}/live",
    }


_desks: weakref.WeakKeyDictionary[ServerState, Desk] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def desk_of(state: ServerState) -> Desk:
    """The server's desk."""
    with _making:
        found = _desks.get(state)
        if found is None:
            found = _desks[state] = Desk(state)
        return found
