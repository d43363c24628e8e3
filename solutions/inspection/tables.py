"""What the inspection verbs print as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from solutions.inspection.figures import FIGURES, interval, number

if TYPE_CHECKING:
    from shared.manifest import Threshold
    from solutions.inspection.thresholds import TableRow

_UNITS = {"seconds": "s", "bytes": "bytes", "package_bytes": "bytes", "latency_ms": "ms"}


def show(*tables: Table | None) -> None:
    """Print tables to stdout, with an empty line after each."""
    # A log has no width: there every line stays whole.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    for table in tables:
        if table is not None:
            console.print(table)
            console.print()


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = (0,)) -> Table:
    """A plain table of text; columns in `words` align left, the others right."""
    named = any(head)
    made = Table(title=title or None, show_edge=False, show_header=named, title_justify="left", title_style="bold")
    for index, name in enumerate(head):
        made.add_column(name, justify="left" if index in words else "right", overflow="fold")
    for row in rows:
        made.add_row(*[Text(cell) for cell in row])
    return made


def candidates(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """The models that were tried; an arrow marks the one that was kept."""
    if not rows:
        return None
    keys = [key for key in rows[0] if key != "chosen"]
    cells = [
        ["→" if row.get("chosen") else "", *(number(row.get(key), _UNITS.get(key, "")) for key in keys)] for row in rows
    ]
    return table("models", ["", *(key.replace("_", " ") for key in keys)], cells, words=(0, 1))


def thresholds(values: Mapping[str, Threshold]) -> Table:
    """Each threshold and how it was chosen."""
    rows = [[name, number(threshold.value), threshold.method] for name, threshold in values.items()]
    return table("thresholds", ["", "score", "chosen by"], rows, words=(0, 2))


def expected(rows: Sequence[TableRow]) -> Table | None:
    """What to expect over thresholds."""
    if not rows:
        return None
    with_bad = any(row.escape is not None for row in rows)
    head = ["lower threshold", "", "good not OK", "at most (95 %)", "good to review"]
    head += ["defective OK", "at most (95 %)"] if with_bad else []
    cells = []
    for row in rows:
        shares = [row.overkill, row.overkill_bound, row.review]
        shares += [row.escape, row.escape_bound] if with_bad else []
        cells.append([number(row.threshold), row.name, *(number(share, "percent") for share in shares)])
    return table("expected over thresholds", head, cells, words=(1,))


def metrics(values: Mapping[str, Any]) -> Table:
    """The figures of an evaluation, with their intervals."""
    rows = []
    for key, label, kind in FIGURES:
        rows.append([label, number(values.get(key), kind), interval(values.get(f"{key}_interval"), kind)])
    return table("", ["", "", ""], rows, words=(0, 2))


def kinds(values: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row for each kind of defect."""
    rows = [
        [
            name,
            number(found["images"]),
            number(found["image_auroc"], "share"),
            number(found["escape"], "percent"),
            number(found["review"], "percent"),
        ]
        for name, found in values.items()
    ]
    return table("", ["kind of defect", "pictures", "image AUROC", "judged OK", "sent to review"], rows)
