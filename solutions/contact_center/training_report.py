"""What a bot's package carries for people: `report.html` with its recipes, thresholds and what to expect of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from shared import reports
from shared.manifest import Manifest
from solutions.contact_center.thresholds import Chosen, CurvePoint, Judged

if TYPE_CHECKING:
    from shared.training.recipes import Candidate

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 48, 32
_BINS = 10


def page(manifest: Manifest, candidates: Sequence[Candidate], chosen: Chosen, judged: Judged) -> str:
    """The page, in HTML."""
    metrics = manifest.metrics
    cards = [
        (f"{metrics['accuracy']:.1%}", "accuracy, cross-validated"),
        (f"{metrics['macro_f1']:.3f}", "macro F1"),
        (f"{metrics['ece']:.3f}", "calibration error"),
        (f"{len(manifest.labels)}", "intents and questions"),
        (f"{metrics['examples']:.0f}", "examples"),
    ]
    limits = [(name, f"{each.value:.2f}", each.method) for name, each in manifest.thresholds.items()]
    parts = [
        f"<h1>{reports.escaped(manifest.name)}</h1><p>{reports.escaped(manifest.description)}</p>",
        reports.figures(cards),
        reports.section("Recipes", _candidates(candidates)),
        reports.section(
            "Thresholds",
            reports.table(("threshold", "probability", "chosen by"), limits, words=(2,)),
            "<p>Cost of a message over the probability from which the bot answers, on messages that the model had "
            "not seen; the line is the chosen threshold.</p>",
            _curve(chosen.curve, manifest.thresholds["answer"].value),
            _expected(chosen.curve),
        ),
        reports.section("Is a confidence what it says?", _reliability(judged)),
        reports.section("Made from", _lineage(manifest)),
    ]
    return reports.page(f"Bot: {manifest.name}", parts)


def _candidates(candidates: Sequence[Candidate]) -> str:
    rows = [
        (
            each.recipe.name,
            each.recipe.says,
            "" if each.accuracy is None else f"{each.accuracy:.1%}",
            f"{each.milliseconds:.1f}",
        )
        for each in candidates
    ]
    chosen = next(index for index, each in enumerate(candidates) if each.chosen)
    return reports.table(("recipe", "reads", "accuracy", "ms (p99)"), rows, words=(1,), chosen=chosen)


def _curve(points: Sequence[CurvePoint], answer: float) -> str:
    """Cost over the threshold, as SVG."""
    top = max(point.cost for point in points) or 1.0
    high = _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + value * (_WIDTH - _LEFT - 8)

    def y(value: float) -> float:
        return high - value / top * (high - 10)

    line = " ".join(f"{x(point.answer):.1f},{y(point.cost):.1f}" for point in points)
    ticks = "".join(
        f'<text x="{x(step):.1f}" y="{_HEIGHT - 12}" font-size="11" text-anchor="middle">{step:.1f}</text>'
        for step in np.arange(0, 1.01, 0.2)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="cost over threshold">'
        f'<polyline points="{line}" fill="none" stroke="#407cb4" stroke-width="2"/>'
        f'<line x1="{x(answer):.1f}" x2="{x(answer):.1f}" y1="10" y2="{high}" stroke="#b01828" stroke-dasharray="5 3"/>'
        f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{high}" y2="{high}" stroke="#32363c"/>'
        f'<text x="4" y="16" font-size="11">{top:.2f}</text><text x="4" y="{high}" font-size="11">0</text>{ticks}</svg>'
    )


def _expected(points: Sequence[CurvePoint]) -> str:
    rows = [
        (f"{p.answer:.2f}", f"{p.cost:.3f}", f"{p.answered:.1%}", f"{p.wrong:.2%}", f"{p.asked_back:.1%}")
        for p in points[4::5]
    ]
    return reports.table(("answers from", "cost", "answered", "wrongly", "asked back"), rows)


def _reliability(judged: Judged) -> str:
    """Confidence in bins beside how often it was right, of what is in scope."""
    confidence, right = judged.confidence[judged.inside], judged.right[judged.inside]
    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    rows = []
    for number in range(_BINS):
        members = place == number
        if members.any():
            said, was = f"{confidence[members].mean():.1%}", f"{right[members].mean():.1%}"
            rows.append((f"{number / _BINS:.1f} to {(number + 1) / _BINS:.1f}", int(members.sum()), said, was))
    return reports.table(("confidence", "messages", "said", "was right"), rows)


def _lineage(manifest: Manifest) -> str:
    lineage = manifest.lineage
    rows = [
        ("data", lineage.data_fingerprint),
        ("code", lineage.code_revision),
        ("seed", str(lineage.seed)),
        ("created", lineage.created),
    ]
    return reports.table(("", ""), rows, words=(1,))
