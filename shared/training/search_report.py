"""What a search found: as rows, as a Pareto front, as pictures, and as one HTML page that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared import files
from shared.reports import data_url, escaped, figures, page, section, table
from shared.training.search_chart import course_png, front_png


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    index: int
    """From 0; the name of its folder. A trial that was repeated after its process was killed keeps it."""
    number: int
    """Optuna's."""
    state: str
    """`complete`, `pruned`, `failed`, `under way` or `waiting`."""
    settings: Mapping[str, Any]
    """By their keys with dots."""
    metric: str = ""
    """The task's name of what is called accuracy here."""
    accuracy: float | None = None
    latency_ms: float | None = None
    latency_interval: Sequence[float] | None = None
    """Its 95 % interval: trials whose intervals overlap may be equally quick."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    error: str = ""


@dataclass(frozen=True)
class SearchReport:
    """Everything that is said of a search."""

    metric: str
    by_latency: bool
    rows: Sequence[TrialRow]
    """By index."""
    front: Sequence[int]
    """Indices of the trials that no other beats in both accuracy and latency; empty with one objective."""
    best: int | None
    """Index of the trial to re-train."""
    importances: Mapping[str, Mapping[str, float]]
    """Objective → setting → share."""
    planned: int
    threads: int
    machine: Mapping[str, str]

    def row(self, index: int) -> TrialRow:
        """The trial with this index."""
        return next(row for row in self.rows if row.index == index)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return json.loads(json.dumps(asdict(self), default=str))


def pareto_front(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The rows that no other row beats: none is at least as accurate and as quick, and better in one of the two.

    Equal rows do not beat each other. Rows without a value for both are left out.
    """
    points = [row for row in rows if row.accuracy is not None and row.latency_ms is not None]
    return [row for row in points if not any(_beats(other, row) for other in points)]


def _beats(one: TrialRow, other: TrialRow) -> bool:
    assert one.accuracy is not None
    assert other.accuracy is not None
    assert one.latency_ms is not None
    assert other.latency_ms is not None
    no_worse = one.accuracy >= other.accuracy and one.latency_ms <= other.latency_ms
    return no_worse and (one.accuracy > other.accuracy or one.latency_ms < other.latency_ms)


def write_report(folder: Path, report: SearchReport, final: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html`, the picture beside it (`pareto.png` or `course.png`) and `result.json`; gives the page."""
    name, picture = _picture(report)
    files.write_bytes(folder / name, picture)
    files.write_json(folder / "result.json", report.as_dict() | {"final": final})
    written = folder / "report.html"
    files.write_text(written, render(report, final))
    return written


def _picture(report: SearchReport) -> tuple[str, bytes]:
    complete = [row for row in report.rows if row.accuracy is not None]
    if report.by_latency:
        points = [(row.index, row.latency_ms or 0.0, row.accuracy or 0.0) for row in complete]
        return "pareto.png", front_png(points, set(report.front), report.best, report.metric)
    return "course.png", course_png([(row.index, row.accuracy or 0.0) for row in complete], report.metric)


# -- the page --------------------------------------------------------------------------------------------------------


def render(report: SearchReport, final: Mapping[str, Any] | None = None) -> str:
    """The report as one HTML page. Everything from outside is escaped."""
    parts = [_head(report, final), _figure(report)]
    if report.by_latency:
        front = sorted((report.row(index) for index in report.front), key=lambda row: row.latency_ms or 0.0)
        note = "No other trial is as quick and as accurate as one of these."
        parts.append(section("The front", _soft(note), _trials(report, front)))
    parts += [_importances(report), section("Every trial", _trials(report, ranked(report))), _machine(report)]
    return page("Search", parts)


def ranked(report: SearchReport) -> list[TrialRow]:
    """Complete trials by accuracy, then the others."""
    return sorted(report.rows, key=lambda row: (row.accuracy is None, -(row.accuracy or 0.0), row.index))


def shown(value: Any) -> str:
    """A setting's or a metric's value, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _head(report: SearchReport, final: Mapping[str, Any] | None) -> str:
    counts = {state: sum(row.state == state for row in report.rows) for state in ("complete", "pruned", "failed")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [
        f'<h1>Search</h1><p class="soft">{len(report.rows)} of {report.planned} trials: {said or "none ended"}</p>'
    ]
    if report.best is not None:
        row = report.row(report.best)
        cards = [(shown(row.accuracy), report.metric)]
        if row.latency_ms is not None:
            cards.append((shown(row.latency_ms), f"ms a call, {report.threads} thread{'s' * (report.threads > 1)}"))
        if final is not None and report.metric in final["metrics"]:
            cards.append((shown(final["metrics"][report.metric]), f"{report.metric}, re-trained"))
        settings = ", ".join(f"{key} {shown(value)}" for key, value in row.settings.items())
        lines.append(f"{figures(cards)}<p>Trial {row.index}: {escaped(settings)}</p>")
        if final is not None:
            lines.append(f"<p>Package: <code>{escaped(final['package'])}</code></p>")
    return f"<header>{''.join(lines)}</header>"


def _figure(report: SearchReport) -> str:
    _, picture = _picture(report)
    title = "Accuracy against latency" if report.by_latency else "Course of the search"
    return section(title, f'<img class="chart" alt="{title}" src="{data_url(picture, "png")}">')


def columns(report: SearchReport) -> list[str]:
    """Titles of `cells`."""
    keys = list(report.rows[0].settings) if report.rows else []
    measured = [report.metric, *(["ms", "95 %", "MB"] if report.by_latency else []), "epochs", "s"]
    return ["trial", "state", *measured, *keys]


def cells(report: SearchReport, row: TrialRow) -> list[str]:
    """A trial as a line of a table."""
    measured: list[Any] = [row.accuracy]
    if report.by_latency:
        interval = (
            "-" if row.latency_interval is None else " to ".join(shown(float(each)) for each in row.latency_interval)
        )
        measured += [row.latency_ms, interval, None if row.bytes is None else row.bytes / 1e6]
    measured += [row.epochs, None if row.seconds is None else round(row.seconds, 1)]
    values = [row.settings.get(key, "") for key in (report.rows[0].settings if report.rows else ())]
    state = f"{row.state}: {row.error}" if row.error else row.state
    return [str(row.index), state, *("-" if each is None else shown(each) for each in measured), *map(shown, values)]


def _trials(report: SearchReport, rows: Sequence[TrialRow]) -> str:
    best = next((place for place, row in enumerate(rows) if row.index == report.best), None)
    return table(columns(report), [cells(report, row) for row in rows], words=(1,), chosen=best)


def _importances(report: SearchReport) -> str:
    if not report.importances:
        return ""
    keys = {key: None for shares in report.importances.values() for key in shares}
    names = list(report.importances)
    rows = [[key, *(f"{100 * report.importances[name].get(key, 0.0):.0f} %" for name in names)] for key in keys]
    note = "The share of the differences between trials that each setting explains (fANOVA). Rough with few trials."
    return section("What mattered", _soft(note), table(["setting", *(f"for {name}" for name in names)], rows))


def _soft(note: str) -> str:
    return f'<p class="soft">{escaped(note)}</p>'


def _machine(report: SearchReport) -> str:
    return section("Machine", table(["", ""], list(report.machine.items()), words=(1,)))
