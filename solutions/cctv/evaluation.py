"""Events against truth: precision, recall and F1 for each type, and false alarms per hour.

The measure is that of Korea's KISA certification of intelligent CCTV: an announced event is right if it starts no
earlier than 2 s before and no later than 10 s after the true one; each true event can be found once, each announcement
count once; a type passes from F1 0.90. A truth marked `optional` excuses the announcement that meets it and is not
missed. Place (zone or line) and, of lines, direction must be right where the truth names them. Only what a truth's
`annotated_types` lists is judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from shared.errors import BadInput
from shared.images import read_file

EARLY_S, LATE_S = 2.0, 10.0
PASS_F1 = 0.90
_FAR = 1e9


@dataclass(frozen=True)
class Happening:
    """A true or an announced event."""

    type: str
    start_s: float
    end_s: float | None = None
    zone: str | None = None
    line: str | None = None
    direction: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Truth:
    """What happens in one clip."""

    clip: str
    duration_s: float
    types: tuple[str, ...]
    """That were looked for; others are not judged."""
    events: tuple[Happening, ...]
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The file: zones, lines and params, in pixels of the clip."""


@dataclass
class Tally:
    """Of one type."""

    found: int = 0
    missed: int = 0
    false: int = 0
    hours: float = 0.0
    """Of footage in which the type was looked for."""
    delays: list[float] = field(default_factory=list)
    """Of those found: seconds after the true start."""

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """Shares are None where there is nothing to divide by."""
        precision = _share(self.found, self.found + self.false)
        recall = _share(self.found, self.found + self.missed)
        f1 = _share(2 * self.found, 2 * self.found + self.false + self.missed)
        return {
            "tp": self.found,
            "fp": self.false,
            "fn": self.missed,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "false_alarms_per_hour": _share(self.false, self.hours),
            "mean_delay_s": round(float(np.mean(self.delays)), 3) if self.delays else None,
            "pass": None if f1 is None else f1 >= PASS_F1,
        }


@dataclass(frozen=True)
class Mismatch:
    """What an operator would complain about."""

    clip: str
    kind: str
    """missed or false."""
    event: Happening


@dataclass(frozen=True)
class Evaluation:
    """The result over all clips."""

    types: dict[str, Tally]
    mismatches: tuple[Mismatch, ...]
    hours: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        total = Tally(hours=self.hours)
        for tally in self.types.values():
            total.found += tally.found
            total.missed += tally.missed
            total.false += tally.false
            total.delays += tally.delays
        return {
            **total.as_dict(),
            "hours": round(self.hours, 5),
            "types": {name: tally.as_dict() for name, tally in sorted(self.types.items())},
            "mismatches": [{"clip": one.clip, "kind": one.kind, **_plain(one.event)} for one in self.mismatches],
        }


def judge(
    truths: Iterable[Truth],
    announced: Mapping[str, Sequence[Happening]],
    *,
    early_s: float = EARLY_S,
    late_s: float = LATE_S,
) -> Evaluation:
    """Compare.

    Args:
        announced: by clip; a clip without any may be left out.
        early_s: an announcement may start so long before the true event,
        late_s: and so long after it.
    """
    types: dict[str, Tally] = {}
    wrong: list[Mismatch] = []
    hours = 0.0
    for truth in truths:
        hours += truth.duration_s / 3600
        for type_ in truth.types:
            tally = types.setdefault(type_, Tally())
            tally.hours += truth.duration_s / 3600
            true = [each for each in truth.events if each.type == type_]
            said = [each for each in announced.get(truth.clip, ()) if each.type == type_]
            pairs = _pairs(true, said, early_s, late_s)
            for row, column in pairs.items():
                if not true[row].optional:
                    tally.found += 1
                    tally.delays.append(said[column].start_s - true[row].start_s)
            missed = [each for row, each in enumerate(true) if row not in pairs and not each.optional]
            met = set(pairs.values())
            false = [each for column, each in enumerate(said) if column not in met]
            tally.missed += len(missed)
            tally.false += len(false)
            wrong += [Mismatch(truth.clip, "missed", each) for each in missed]
            wrong += [Mismatch(truth.clip, "false", each) for each in false]
    return Evaluation(types, tuple(wrong), hours)


def _pairs(true: Sequence[Happening], said: Sequence[Happening], early_s: float, late_s: float) -> dict[int, int]:
    """Which announcement is taken for which true event: as many as possible, the nearest, optional ones last."""
    if not true or not said:
        return {}
    cost = np.full((len(true), len(said)), _FAR)
    for row, one in enumerate(true):
        for column, other in enumerate(said):
            delay = other.start_s - one.start_s
            if _same_place(one, other) and -early_s <= delay <= late_s:
                cost[row, column] = abs(delay) + (1e4 if one.optional else 0.0)
    rows, columns = linear_sum_assignment(cost)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if cost[row, column] < _FAR}


def _same_place(true: Happening, said: Happening) -> bool:
    return all(
        getattr(true, name) is None or getattr(true, name) == getattr(said, name)
        for name in ("zone", "line", "direction")
    )


def read_truth(path: Path) -> Truth:
    """One truth file.

    Raises:
        BadInput: it is none; the field is named.
    """
    raw = _json(read_file(path), path.name)
    try:
        events = tuple(
            _happening(each, f"{path.name}: events[{row}]") for row, each in enumerate(raw.get("events", []))
        )
        types = tuple(str(each) for each in raw.get("annotated_types", []))
        size, duration = raw.get("size"), raw.get("duration_s", 0.0)
        if size is not None and not (len(size) == 2 and all(int(side) > 0 for side in size)):
            raise BadInput(f"{path.name}: size must be width and height in pixels, such as [640, 360].")
        return Truth(str(raw.get("clip", path.stem)), float(duration), types, events, raw)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{path.name} is not a truth file ({error}); see ../shared/data/cctv/truth for the form."
        ) from error


def read_truths(path: Path) -> list[Truth]:
    """A truth file, or all of a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path} holds no truth files (*.json).")
    return [read_truth(file) for file in files]


def read_events(path: Path) -> dict[str, list[Happening]]:
    """Announced events of a file of JSON lines, by clip.

    Raises:
        BadInput: a line is no event; file and line are named.
    """
    found: dict[str, list[Happening]] = {}
    for number, line in enumerate(read_file(path).decode("utf-8", "replace").splitlines(), start=1):
        if line.strip():
            where = f"{path.name}:{number}"
            raw = _json(line.encode("utf-8"), where)
            found.setdefault(str(raw.get("clip") or ""), []).append(_happening(raw, where))
    return found


def of_clips(truths: Sequence[Truth], events: Mapping[str, Sequence[Happening]]) -> dict[str, Sequence[Happening]]:
    """Events under the names that the truths give their clips; folder and suffix may differ."""
    by_stem = {Path(name).stem: list(found) for name, found in events.items()}
    if len(truths) == 1 and len(events) == 1:
        return {truths[0].clip: next(iter(events.values()))}
    return {truth.clip: by_stem.get(Path(truth.clip).stem, ()) for truth in truths}


def happenings(lines: Iterable[Mapping[str, Any]]) -> list[Happening]:
    """Of event lines that were just written."""
    return [_happening(line, "event") for line in lines]


def _happening(raw: Any, where: str) -> Happening:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
        raise BadInput(f"{where}: an event needs a type.")
    start, end = raw.get("start_s"), raw.get("end_s")
    numbers = (start,) if end is None else (start, end)
    if not all(isinstance(each, int | float) and np.isfinite(each) for each in numbers):
        raise BadInput(f"{where}: start_s and end_s must be seconds, not {start!r} and {end!r}.")
    texts = {name: None if raw.get(name) is None else str(raw[name]) for name in ("zone", "line", "direction")}
    assert isinstance(start, int | float)
    return Happening(
        raw["type"], float(start), None if end is None else float(end), **texts, optional=bool(raw.get("optional"))
    )


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not JSON ({error}).") from error
    if not isinstance(raw, dict):
        raise BadInput(f"{name} must hold a JSON object.")
    return raw


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None


def _plain(event: Happening) -> dict[str, Any]:
    shown = {"type": event.type, "start_s": round(event.start_s, 3), "zone": event.zone, "line": event.line}
    shown["direction"] = event.direction
    return {name: value for name, value in shown.items() if value is not None}
