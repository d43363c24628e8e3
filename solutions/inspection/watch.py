"""`haechi inspection run`: judge pictures as a camera or a station drops them into a folder.

Each picture is judged once, when it is complete, and recorded; nothing is moved, renamed or deleted. A picture counts
as complete when two looks in a row find the same size and time, or when it has rested for `REST_SECONDS`. One that
cannot be read then may still be arriving (some copies set the final size first), so it is tried again before it is
given up; a change of the file starts this anew.

What was judged is remembered in the records: after a restart, pictures that are still in the folder are not judged
again unless they changed or the package did.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from shared.errors import BadInput, HaechiError
from shared.images import EXTENSIONS, decode_image, read_file
from shared.log import get_logger
from shared.pictures import PictureStore
from shared.records import Records, Result, StoredResult
from solutions.inspection.pipeline import Inspector
from solutions.inspection.service import SOLUTION, keep_picture

REST_SECONDS = 5.0
"""A file that nobody has written to for this long is complete at the first look."""
TRIES = 3
"""Looks at an unreadable file before it is given up."""

_log = get_logger(__name__)


class Stamp(NamedTuple):
    """What tells one state of a file from another."""

    size: int
    changed_ns: int


@dataclass(frozen=True)
class Arrival:
    """A complete picture. `name` is its path below the folder with `/`; `old`: it was there, as it is, at the start."""

    path: Path
    name: str
    stamp: Stamp
    old: bool


class Folder:
    """The pictures of a folder and of those inside it, each reported once for each state it rests in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._first: dict[str, Stamp] | None = None
        self._done: dict[str, Stamp] = {}
        self._last: dict[str, Stamp] = {}
        self._tries: Counter[str] = Counter()
        self._gone = False

    def look(self) -> list[Arrival]:
        """Complete pictures that were not settled yet, by name. Empty while the folder cannot be reached."""
        if not self.root.is_dir():
            if not self._gone:
                _log.warning("folder_gone", folder=str(self.root), next="waiting for it to come back")
            self._gone = True
            return []
        self._gone = False
        found = dict(self._files())
        if self._first is None:
            self._first = found
        arrivals = []
        for name, stamp in sorted(found.items()):
            if self._done.get(name) == stamp:
                continue
            if self._last.get(name) != stamp:
                self._tries.pop(name, None)
            resting = time.time() - stamp.changed_ns / 1e9 > REST_SECONDS
            if stamp.size and (resting or self._last.get(name) == stamp):
                arrivals.append(Arrival(self.root / name, name, stamp, self._first.get(name) == stamp))
        self._last = found
        # What left the folder is forgotten, so that memory does not grow with the parts of a year.
        self._first = {name: stamp for name, stamp in self._first.items() if name in found}
        self._done = {name: stamp for name, stamp in self._done.items() if name in found}
        self._tries = Counter({name: count for name, count in self._tries.items() if name in found})
        return arrivals

    def settle(self, arrival: Arrival) -> None:
        """Do not report this state of the file again."""
        self._done[arrival.name] = arrival.stamp

    def failed(self, arrival: Arrival) -> bool:
        """Count a look that found the file unreadable; True when that was the last one for this state of it."""
        self._tries[arrival.name] += 1
        if self._tries[arrival.name] >= TRIES:
            self.settle(arrival)
            return True
        return False

    def unsettled(self) -> list[str]:
        """Pictures seen at the last look that are not settled: still being written, or empty."""
        return sorted(name for name, stamp in self._last.items() if self._done.get(name) != stamp)

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        for folder, inner, names in os.walk(self.root):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if name.startswith(".") or path.suffix.lower() not in EXTENSIONS:
                    continue
                try:
                    status = path.stat()
                except OSError:  # it has just been renamed or removed
                    continue
                yield path.relative_to(self.root).as_posix(), Stamp(status.st_size, status.st_mtime_ns)


class Station:
    """Judges arriving pictures with one package and puts every decision on record.

    Args:
        inspector: the model.
        records: where decisions go.
        pictures: where the pictures behind them are kept for the console, within its bound.
        lines: a file to which each decision is appended as one line of JSON.
        say: called with each decision.
        complain: called with a sentence about each file that cannot be judged.
    """

    def __init__(
        self,
        inspector: Inspector,
        records: Records,
        pictures: PictureStore,
        *,
        lines: Path | None = None,
        say: Callable[[StoredResult], None] = lambda _result: None,
        complain: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self.inspector = inspector
        self.records = records
        self.pictures = pictures
        self.lines = lines
        self.verdicts: Counter[str] = Counter()
        self.unreadable = 0
        self.known = 0
        """Pictures found at the start that had been judged before."""
        self._say = say
        self._complain = complain

    def run(self, folder: Folder, stop: Event, *, interval: float, once: bool = False) -> None:
        """Judge what is there and what comes, until `stop` is set; with `once`, only what is there.

        Raises:
            HaechiError: a decision could not be recorded, or the model failed.
        """
        looks = 0
        while not stop.is_set():
            for arrival in folder.look():
                self._take(folder, arrival)
                if stop.is_set():
                    return
            looks += 1
            # Twice at least, to see what rests; as often as an unreadable file is tried, if there is one.
            if once and (not folder.unsettled() or looks >= 1 + TRIES):
                for name in folder.unsettled():
                    self._complain(f"{name} is empty or still being written; it is left for the next run.")
                return
            stop.wait(interval)

    def _take(self, folder: Folder, arrival: Arrival) -> None:
        try:
            data = read_file(arrival.path)
            if _stamp(arrival.path) != arrival.stamp:
                return  # it changed while it was read; the next look decides
            fingerprint = hashlib.sha256(data).hexdigest()
            if arrival.old and self._judged_before(arrival.name, fingerprint):
                self.known += 1
            else:
                self._judge(arrival.name, data, fingerprint)
        except BadInput as error:
            if folder.failed(arrival):
                self.unreadable += 1
                self._complain(str(error))
            return
        folder.settle(arrival)

    def _judged_before(self, name: str, fingerprint: str) -> bool:
        model = self.inspector.model
        earlier = self.records.results(
            100, solution=SOLUTION, source=name, input_fingerprint=fingerprint, package=model.manifest.name
        )
        return any(result.package_fingerprint == model.package.fingerprint for result in earlier)

    def _judge(self, name: str, data: bytes, fingerprint: str) -> None:
        picture = decode_image(data, name)
        decision = self.inspector.inspect(picture)
        model = self.inspector.model
        if not np.isfinite(decision.score):
            raise HaechiError(f"package {model.manifest.name} gave the score {decision.score} for {name}; replace it.")
        result = Result(
            solution=SOLUTION,
            source=name,
            input_fingerprint=fingerprint,
            package=model.manifest.name,
            package_version=model.manifest.version,
            package_fingerprint=model.package.fingerprint,
            score=decision.score,
            thresholds=self.inspector.thresholds,
            verdict=decision.verdict,
            regions=[{"box": list(r.box), "score": r.score, "area": r.area} for r in decision.regions],
            latency_ms=decision.latency_ms,
            actor="haechi inspection run",
            details={"width": picture.shape[1], "height": picture.shape[0]},
        )
        number = self.records.add_result(result)
        stored = StoredResult(**{field: getattr(result, field) for field in Result.__dataclass_fields__}, id=number)
        keep_picture(self.pictures, stored, data, picture, decision.heatmap)
        self.verdicts[decision.verdict] += 1
        if self.lines is not None:
            append_line(self.lines, describe(stored))
        self._say(stored)


def describe(result: StoredResult) -> dict[str, Any]:
    """A decision as one line of the JSON file has it."""
    regions = list(result.regions)
    return {
        "time": result.time.isoformat(timespec="milliseconds"),
        "id": result.id,
        "file": result.source,
        "score": result.score,
        "verdict": result.verdict,
        "regions": regions,
        "box": regions[0]["box"] if regions else None,
        "latency_ms": round(result.latency_ms, 3),
        "package": result.package,
        "version": result.package_version,
    }


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one line of JSON; half a line that a killed process left is ended first, so that the next stands alone.

    Raises:
        HaechiError: the file cannot be written.
    """
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as handle:
            if handle.seek(0, os.SEEK_END):
                handle.seek(-1, os.SEEK_END)
                line = line if handle.read(1) == b"\n" else "\n" + line
            handle.write(line.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise HaechiError(f"{path} could not be written: {error.strerror or error}; free space or name another.") from (
            error
        )


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns)
