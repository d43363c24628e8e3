"""What the workers of one server know of one another: metrics added up, and models loaded and unloaded alike.

Everything goes through small files in the folder of `workers.Place`, each written by one worker and replaced in one
step. A worker that has died leaves its metrics of the last second behind; the one in its place goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.serving.workers import Place

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$")
_SUFFIX = re.compile(r"_(bucket|sum|count|created|total)$")
_LARGEST = frozenset({"process_start_time_seconds", "process_max_fds", "process_virtual_memory_max_bytes"})
"""Samples of which the largest counts, and not the sum."""
_OURS = ("haechi_", "nv_")
_GAUGES = frozenset({"nv_inference_pending_request_count", "haechi_http_body_bytes_in_flight"})
"""What is of the moment: it dies with a process."""


class Agreement:
    """One worker's side.

    Args:
        place: of this worker.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        before = self._read(self._metrics_file(place.index))
        self._carried = {
            key: value for key, value in _samples(before).items() if key.startswith(_OURS) and _name(key) not in _GAUGES
        }

    # -- metrics -----------------------------------------------------------------------------------------------------

    def publish(self, text: bytes) -> None:
        """Leave this worker's metrics where the others find them."""
        path = self._metrics_file(self.place.index)
        temporary = path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: the others see older figures
            temporary.write_text(_with(text.decode(), self._carried), encoding="utf-8")
            os.replace(temporary, path)

    def together(self, text: bytes) -> bytes:
        """This worker's metrics, in Prometheus' text format, with those of all others added."""
        total = dict(self._carried)
        for index in range(self.place.count):
            if index == self.place.index:
                continue
            for key, value in _samples(self._read(self._metrics_file(index))).items():
                total[key] = max(total.get(key, value), value) if _name(key) in _LARGEST else total.get(key, 0) + value
        lines = ["# HELP haechi_process_restarts Worker processes that were replaced"]
        lines += ["# TYPE haechi_process_restarts counter"]
        restarts = self._read(self.place.folder / "restarts.txt").splitlines()
        for worker, _, number in (each.partition(" ") for each in restarts):
            lines += [f'haechi_process_restarts{{worker="{worker}"}} {number}'] if number else []
        return (_with(text.decode(), total) + "\n".join(lines) + "\n").encode()

    def _metrics_file(self, index: int) -> Path:
        return self.place.folder / f"metrics-{index}.txt"

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            return ""

    # -- models ------------------------------------------------------------------------------------------------------

    def order(self, name: str, *, load: bool) -> int:
        """Tell the others that a model was loaded (anew), or unloaded; the order's number."""
        with self._orders() as orders:
            number = int(orders.get(name, {}).get("number", 0)) + 1
            orders[name] = {"number": number, "load": load}
        return number

    def orders(self) -> dict[str, tuple[int, bool]]:
        """For each model that was loaded or unloaded since the server started: the order's number, and which it was."""
        try:
            found = json.loads(self._read(self._orders_file) or "{}")
        except ValueError:
            return {}
        return {name: (entry["number"], entry["load"]) for name, entry in found.items()}

    @property
    def _orders_file(self) -> Path:
        return self.place.folder / "orders.json"

    @contextlib.contextmanager
    def _orders(self) -> Iterator[dict[str, dict[str, Any]]]:
        """The orders, to be changed; one worker at a time."""
        with (self.place.folder / "orders.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            orders: dict[str, dict[str, Any]] = json.loads(self._read(self._orders_file) or "{}")
            yield orders
            temporary = self._orders_file.with_suffix(".new")
            temporary.write_text(json.dumps(orders), encoding="utf-8")
            os.replace(temporary, self._orders_file)


def _name(key: str) -> str:
    return key.partition("{")[0]


def _samples(text: str) -> dict[str, float]:
    """Value by name and labels, as they are written."""
    found = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line) if not line.startswith("#") else None
        if match is not None:
            found[f"{match[1]}{match[2] or ''}"] = float(match[3])
    return found


def _with(text: str, more: dict[str, float]) -> str:
    """The text with `more` added to its samples; samples that only `more` has follow those of their family."""
    left, lines = dict(more), []
    for line in text.splitlines():
        match = _SAMPLE.match(line) if not line.startswith("#") else None
        if match is None:
            lines.append(line)
            continue
        key = f"{match[1]}{match[2] or ''}"
        other = left.pop(key, None)
        if other is None:
            lines.append(line)
        elif _name(key) in _LARGEST:
            lines.append(f"{key} {max(other, float(match[3])):g}")
        else:
            lines.append(f"{key} {_number(other + float(match[3]))}")
    for key, value in left.items():
        if _name(key) not in _GAUGES:
            lines.insert(_place_in(lines, key), f"{key} {_number(value)}")
    return "\n".join(lines) + "\n"


def _place_in(lines: list[str], key: str) -> int:
    """Behind the last line of the family of `key`: Prometheus wants a family in one piece."""
    family = _SUFFIX.sub("", _name(key))
    for index in range(len(lines) - 1, -1, -1):
        words = lines[index].split(None, 3)
        name = words[2] if words[:1] == ["#"] and len(words) > 2 else _name(lines[index].partition(" ")[0])
        if _SUFFIX.sub("", name) == family:
            return index + 1
    return len(lines)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
