"""One measured value beside its limit; what every benchmark prints and writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import machine
from shared.files import write_json

ROOT = Path(__file__).resolve().parent.parent
HAECHI = Path(sys.executable).with_name("haechi")


@dataclass(frozen=True)
class Figure:
    """One measured value. `limit` None: for information; `least`: the limit is the least it should be, not the most."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    how: str = ""
    least: bool = False

    def line(self) -> str:
        return f"{self.name:<34} {self.value:>9.3f} {self.unit:<6} {self._against():<14} {self.how}".rstrip()

    def _against(self) -> str:
        if self.limit is None:
            return ""
        holds = self.value >= self.limit if self.least else self.value <= self.limit
        return f"{'within' if holds else 'MISSES'} {self.limit:g}"


def print_machine() -> None:
    """Figures without the CPU they were taken on mean nothing, so it is named first."""
    print("\n".join(f"{key:<10} {value}" for key, value in machine.facts().items()), flush=True)


def write(path: Path, options: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    """Everything that was printed, as JSON."""
    settings = {key: str(value) for key, value in options.items() if key != "json"}
    write_json(
        path, {"machine": machine.facts(), "options": settings, "figures": [asdict(figure) for figure in figures]}
    )
