"""An archive in memory, for tests of what is shown: the same promises as the one on the records' database."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from solutions.cctv.archive import Count, Review, Search, Told
from solutions.cctv.config import Privacy
from solutions.cctv.live import encode
from tests.solutions.cctv.pictures import picture


class MemoryArchive:
    """Events as they are put in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: dict[str, Told] = {}
        self.through: dict[str, tuple[str, ...]] = {}

    def search(self, search: Search, limit: int, before: str | None = None) -> tuple[list[Told], str | None]:
        if before is not None and not before.isdigit():
            raise BadInput("before is nothing that an earlier page gave; leave it out.")
        first = int(before or 0)
        found = [
            one for one in sorted(self.events.values(), key=lambda one: one.start)[::-1] if self._fits(one, search)
        ]
        more = len(found) > first + limit
        return found[first : first + limit], str(first + limit) if more else None

    def _fits(self, one: Told, search: Search) -> bool:
        equal = ("camera", "type", "severity", "state", "locked")
        return (
            all(getattr(search, name) in (None, getattr(one, name)) for name in equal)
            and (search.since is None or one.start >= search.since)
            and (search.until is None or one.start < search.until)
            and search.zone in (None, one.zone, one.line)
            and (search.label is None or search.label in one.labels)
            and (search.colour is None or search.colour in one.colours)
            and (search.through is None or search.through in self.through.get(one.id, ()))
        )

    def get(self, event_id: str) -> Told | None:
        return self.events.get(event_id)

    def review(self, event_id: str, verdict: Literal["approve", "dismiss"], reason: str, who: str) -> None:
        one = self.events[event_id]
        said = Review(verdict=verdict, reason=reason, who=who, time=dt.datetime.now(dt.UTC))
        state: Literal["approved", "dismissed"] = "approved" if verdict == "approve" else "dismissed"
        self.events[event_id] = dataclasses.replace(one, state=state, reviews=(*one.reviews, said))

    def lock(self, event_id: str, locked: bool, who: str) -> None:
        self.events[event_id] = dataclasses.replace(self.events[event_id], locked=locked)

    def snapshot(self, event_id: str, privacy: Privacy | None) -> bytes | None:
        if not self.events[event_id].has_snapshot:
            return None
        return encode(picture() if privacy is None else np.zeros_like(picture()))

    def clip(self, event_id: str, privacy: Privacy | None) -> Path | None:
        path = self.folder / f"{event_id}{'' if privacy is None else '.hidden'}.mp4"
        return path if path.exists() else None

    def counts(self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None) -> list[Count]:
        return self._counted(since, until, bucket_s, camera, lines=False)

    def crossings(self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None) -> list[Count]:
        return self._counted(since, until, bucket_s, camera, lines=True)

    def _counted(
        self, since: dt.datetime, until: dt.datetime, bucket_s: int, camera: str | None, *, lines: bool
    ) -> list[Count]:
        counts: Counter[tuple[dt.datetime, str, str, str]] = Counter()
        for one in self.search(Search(since=since, until=until, camera=camera), 10_000)[0]:
            start = dt.datetime.fromtimestamp(one.start.timestamp() // bucket_s * bucket_s, dt.UTC)
            if not lines:
                counts[start, one.camera, one.type, ""] += 1
            elif one.line is not None:
                counts[start, one.camera, one.line, one.direction or ""] += 1
        return [
            Count(start=start, camera=camera, name=name, direction=direction, number=number)
            for (start, camera, name, direction), number in sorted(counts.items())
        ]

    def heat(self, camera: str, since: dt.datetime | None, until: dt.datetime | None) -> NDArray[Any]:
        cells = np.zeros((18, 32))
        cells[9, 4:20] = 5
        return cells
