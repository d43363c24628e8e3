"""Reports for people: one HTML file that needs nothing beside it, not even a network.

What all of them share is here and in `report.html`: the look, and the policy by which the page itself forbids scripts
and foreign content. Everything from outside (file names, settings, labels) goes through `escaped`.
"""

from __future__ import annotations

import base64
import html
import string
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

_FRAME = Path(__file__).with_name("report.html")


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        parts: of its body, in HTML; empty ones are left out.
        style: CSS of this kind of report, besides that of all.
    """
    frame = string.Template(_FRAME.read_text(encoding="utf-8"))
    return frame.substitute(title=escaped(title), style=style, body="\n".join(part for part in parts if part))


def escaped(value: object) -> str:
    """Plain text for HTML; bytes that are no UTF-8 in a file name become visible escapes."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8"), quote=True)


def section(title: str, *inner: str) -> str:
    """A box with a heading (plain text) and what is inside, in HTML; empty pieces are left out."""
    return f"<section><h2>{escaped(title)}</h2>\n" + "\n".join(part for part in inner if part) + "\n</section>"


def figures(cards: Iterable[tuple[str, str]]) -> str:
    """Figures side by side, each a value and what it is, as plain text."""
    cells = (
        f'<div class="figure"><b>{escaped(value)}</b><span>{escaped(label)}</span></div>' for value, label in cards
    )
    return f'<div class="figures">{"".join(cells)}</div>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: Collection[int] = (),
    chosen: int | None = None,
) -> str:
    """A table of plain text.

    Args:
        words: columns that align left, besides the first; numbers align right.
        chosen: the row that stands out.
    """

    def line(tag: str, cells: Sequence[object], mark: str = "") -> str:
        kinds = (' class="words"' if column in words else "" for column in range(len(cells)))
        inner = "".join(f"<{tag}{kind}>{escaped(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr{mark}>{inner}</tr>"

    lines = [line("th", head)]
    lines += [line("td", row, ' class="chosen"' if place == chosen else "") for place, row in enumerate(rows)]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def data_url(content: bytes, kind: str) -> str:
    """A picture as part of the page.

    Args:
        kind: `png` or `jpeg`.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
