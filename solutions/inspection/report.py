"""The report of an inspection model: one HTML file that needs nothing beside it, not even a network.

Everything that comes from outside (file names, settings, names of defects) is escaped; pictures are embedded. The page
forbids scripts and foreign content by its own policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_tools.dataset import DatasetReport
from shared.files import write_text
from shared.images import Rgb, draw_boxes, draw_contour, encode_jpeg, heatmap_overlay, read_image, read_mask
from shared.manifest import Manifest, Threshold
from shared.reports import data_url, escaped, page, section
from solutions.inspection.chart import histogram_png
from solutions.inspection.figures import FIGURES, interval, number
from solutions.inspection.thresholds import FEWEST, threshold_table

if TYPE_CHECKING:
    from solutions.inspection.evaluation import Evaluation, Judge, Judged

_STYLE = Path(__file__).with_name("report.css")
_THUMBNAIL = 360  # pixels on the longer side
_LISTED = 200


@dataclass(frozen=True)
class Sample:
    """One picture in a gallery: uint8 [H, W, 3], its heat map in raw units, and the true mask where there is one."""

    name: str
    image: Rgb
    heatmap: NDArray[np.float32]
    score: float
    verdict: str
    label: str = "good"
    mask: NDArray[np.bool_] | None = None
    boxes: Sequence[tuple[int, int, int, int]] = ()


@dataclass
class Contents:
    """What a report shows; a part that is empty or None is left out."""

    title: str
    manifest: Manifest | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    good_scores: Sequence[float] = ()
    bad_scores: Sequence[float] = ()
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    worst_good: Sequence[Sample] = ()
    best_bad: Sequence[Sample] = ()
    candidates: Sequence[Mapping[str, Any]] = ()
    """One row for each model that was tried, all with the same keys; a true `chosen` marks the one that won."""
    data: DatasetReport | None = None
    notes: Sequence[str] = ()


def contents_of(
    judge: Judge,
    evaluation: Evaluation,
    manifest: Manifest,
    *,
    candidates: Sequence[Mapping[str, Any]] = (),
    samples: int = 9,
) -> Contents:
    """The report of an evaluation; the pictures shown are read and judged once more."""
    return Contents(
        title=f"Inspection: {manifest.name} {manifest.version}",
        manifest=manifest,
        metrics=evaluation.metrics,
        good_scores=evaluation.good_scores,
        bad_scores=evaluation.bad_scores,
        thresholds=manifest.thresholds,
        worst_good=[_sample(judge, one) for one in evaluation.worst_good(samples)],
        best_bad=[_sample(judge, one) for one in evaluation.best_bad(samples)],
        candidates=candidates,
        data=evaluation.data,
    )


def _sample(judge: Judge, judged: Judged) -> Sample:
    item = judged.item
    image = read_image(item.path)
    decision = judge.inspect(image)
    mask = read_mask(item.mask) if item.mask is not None else None
    boxes = [region.box for region in decision.regions]
    return Sample(item.name, image, decision.heatmap, judged.score, judged.verdict, item.label, mask, boxes)


def write_report(path: Path | str, contents: Contents) -> None:
    """Write the report as HTML, in one step. HaechiError if it cannot be written."""
    write_text(path, render(contents))


def render(contents: Contents) -> str:
    """The report as one HTML page."""
    parts = [
        _header(contents),
        _headline(contents),
        _scores(contents),
        _candidates(contents.candidates),
        _kinds(contents.metrics.get("kinds") or {}),
        _gallery(
            "Good parts with the highest scores", "What the next false alarm will look like.", contents, "worst_good"
        ),
        _gallery(
            "Defective parts with the lowest scores",
            "What will escape first. Green: the true defect.",
            contents,
            "best_bad",
        ),
        _data(contents.data),
        _lineage(contents.manifest),
    ]
    return page(contents.title, parts, _STYLE.read_text(encoding="utf-8"))


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = (), chosen: int | None = None
) -> str:
    """A table of cells that are HTML already; columns in `words` hold text and align left; row `chosen` stands out."""
    style = ['class="words"' if index in words else "" for index in range(len(head))]
    lines = [
        "<tr>" + "".join(f"<th {kind}>{escaped(name)}</th>" for kind, name in zip(style, head, strict=True)) + "</tr>"
    ]
    for index, row in enumerate(rows):
        cells = "".join(f"<td {kind}>{cell}</td>" for kind, cell in zip(style, row, strict=True))
        lines.append(f'<tr class="chosen">{cells}</tr>' if index == chosen else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table>\n{"".join(lines)}\n</table></div>'


def _number(value: object, kind: str = "") -> str:
    return escaped(number(value, kind))


def _header(contents: Contents) -> str:
    manifest = contents.manifest
    about = []
    if manifest is not None:
        model = manifest.lineage.settings.get("model")
        about = [f"model {model}"] if model else []
        about.append(f"made {manifest.lineage.created[:16].replace('T', ' ')} UTC")
    if contents.data is not None:
        about.append(f"data {contents.data.root.name}")
    return f'<header><h1>{escaped(contents.title)}</h1><div class="soft">{escaped(" · ".join(about))}</div></header>'


def _headline(contents: Contents) -> str:
    cards = []
    for key, label, kind in FIGURES:
        if key not in contents.metrics:
            continue
        between = interval(contents.metrics.get(f"{key}_interval"), kind)
        below = f"<span>{escaped(between)}</span>" if between else ""
        value = _number(contents.metrics[key], kind)
        cards.append(f'<div class="figure"><b>{value}</b><span>{escaped(label)}</span>{below}</div>')
    review = contents.thresholds.get("review")
    promise = review.details.get("promise") if review is not None else None
    said = [f'<p class="promise">{escaped(sentence)}</p>' for sentence in [promise, *contents.notes] if sentence]
    if not cards and not said:
        return ""
    return section("Headline", f'<div class="figures">{"".join(cards)}</div>' if cards else "", *said)


def _scores(contents: Contents) -> str:
    if not len(contents.good_scores) and not len(contents.bad_scores):
        return ""
    values = {name: threshold.value for name, threshold in contents.thresholds.items()}
    chart = histogram_png(contents.good_scores, contents.bad_scores, values)
    picture = f'<img class="chart" alt="Histogram of scores" src="{data_url(chart, "png")}">'
    return section("Scores and thresholds", picture, _threshold_rows(contents), _threshold_methods(contents.thresholds))


def _threshold_rows(contents: Contents) -> str:
    if len(contents.good_scores) < FEWEST:
        return '<p class="soft">Too few good parts for a table over thresholds.</p>'
    rows = threshold_table(contents.good_scores, contents.bad_scores or None, thresholds=contents.thresholds or None)
    cells = [
        [
            _number(row.threshold),
            f"<b>{escaped(row.name)}</b>" if row.name else "",
            _number(row.overkill, "percent"),
            _number(row.overkill_bound, "percent"),
            _number(row.review, "percent"),
            _number(row.escape, "percent"),
            _number(row.escape_bound, "percent"),
        ]
        for row in rows
    ]
    head = [
        "lower threshold",
        "",
        "good not OK, expected",
        "at most (95 %)",
        "good to review",
        "defective OK",
        "at most (95 %)",
    ]
    return "<h3>What to expect over thresholds</h3>" + _table(head, cells, words=[1])


def _threshold_methods(thresholds: Mapping[str, Threshold]) -> str:
    if not thresholds:
        return ""
    rows = [
        [escaped(name), _number(threshold.value), escaped(threshold.method)] for name, threshold in thresholds.items()
    ]
    return "<h3>How they were chosen</h3>" + _table(["threshold", "value", "method"], rows, words=[2])


def _candidates(candidates: Sequence[Mapping[str, Any]]) -> str:
    if not candidates:
        return ""
    keys = [key for key in candidates[0] if key != "chosen"]
    chosen = next((index for index, row in enumerate(candidates) if row.get("chosen")), None)
    rows = [[_number(row.get(key)) for key in keys] for row in candidates]
    return section("Models compared", _table([key.replace("_", " ") for key in keys], rows, chosen=chosen))


def _kinds(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    if not kinds:
        return ""
    rows = [
        [
            escaped(name),
            _number(found.get("images")),
            _number(found.get("image_auroc"), "share"),
            _number(found.get("escape"), "percent"),
            _number(found.get("review"), "percent"),
        ]
        for name, found in kinds.items()
    ]
    return section("Kinds of defect", _table(["kind", "pictures", "image AUROC", "judged OK", "sent to review"], rows))


def _gallery(title: str, why: str, contents: Contents, which: str) -> str:
    samples: Sequence[Sample] = getattr(contents, which)
    if not samples:
        return ""
    low, high = _colour_range(contents)
    figures = "\n".join(_figure(sample, low, high) for sample in samples)
    return section(title, f'<p class="soft">{escaped(why)}</p>', f'<div class="gallery">{figures}</div>')


def _colour_range(contents: Contents) -> tuple[float, float]:
    """One scale for all heat maps: nothing at good parts' usual level, full colour well above the pixel threshold."""
    shown = [*contents.worst_good, *contents.best_bad]
    usual = contents.worst_good or contents.best_bad
    low = float(np.median([np.median(sample.heatmap) for sample in usual]))
    pixel = contents.thresholds.get("pixel")
    if pixel is not None and pixel.value > low:
        return low, low + 1.5 * (pixel.value - low)
    return low, max(float(np.percentile([sample.heatmap.max() for sample in shown], 75)), low + 1e-6)


def _figure(sample: Sample, low: float, high: float) -> str:
    scale = min(1.0, _THUMBNAIL / max(sample.image.shape[:2]))
    small = cv2.resize(sample.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    hot = heatmap_overlay(small, sample.heatmap, low, high)
    boxes = [
        (round(x0 * scale), round(y0 * scale), round(x1 * scale), round(y1 * scale)) for x0, y0, x1, y1 in sample.boxes
    ]
    hot = draw_boxes(hot, boxes, (255, 255, 255))
    plain = small if sample.mask is None else draw_contour(small, sample.mask)
    hot = hot if sample.mask is None else draw_contour(hot, sample.mask)
    name = escaped(sample.name)
    images = "".join(
        f'<img alt="{name}{escaped(what)}" src="{data_url(encode_jpeg(picture), "jpeg")}">'
        for picture, what in ((plain, ""), (hot, " with heat map"))
    )
    verdict = f'<span class="verdict {escaped(sample.verdict)}">{escaped(sample.verdict)}</span>'
    label = "" if sample.label == "good" else f" · {escaped(sample.label)}"
    return (
        f"<figure><div>{images}</div><figcaption>{verdict} · {sample.score:.4g}{label}<br>{name}</figcaption></figure>"
    )


def _data(data: DatasetReport | None) -> str:
    if data is None:
        return ""
    counts = _table(["pictures", "count"], [[escaped(name), str(count)] for name, count in data.counts.items()])
    sizes = ", ".join(f"{size} ({count})" for size, count in list(data.sizes.items())[:6])
    more = len(data.sizes) - 6
    sizes += f" and {more} more" if more > 0 else ""
    about = f'<p class="soft">Layout {escaped(data.layout)}; sizes {escaped(sizes)}.</p>'
    notes = "".join(f"<li>{escaped(sentence)}</li>" for sentence in data.warnings)
    left = ""
    if data.left_out:
        rows = [[escaped(data.relative(path)), escaped(reason)] for path, reason in data.left_out[:_LISTED]]
        left = f"<h3>{len(data.left_out)} files left out</h3>" + _table(["file", "reason"], rows, words=[1])
        if len(data.left_out) > _LISTED:
            left += f'<p class="soft">The first {_LISTED} are shown.</p>'
    fingerprint = f"<p>Fingerprint <code>{escaped(data.fingerprint)}</code></p>"
    return section("Data", counts, about, f"<ul>{notes}</ul>" if notes else "", left, fingerprint)


def _lineage(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    lineage = manifest.lineage
    rows = [
        ("package", f"{manifest.name} {manifest.version}"),
        ("data fingerprint", lineage.data_fingerprint),
        ("parent", lineage.parent or "–"),
        ("code revision", lineage.code_revision),
        ("seed", lineage.seed),
        ("created", lineage.created),
        *((f"setting {name}", value) for name, value in lineage.settings.items()),
        *(
            (f"weights {weight.name}", f"{weight.licence}; SHA-256 {weight.sha256}; {weight.source}")
            for weight in manifest.weights
        ),
    ]
    return section(
        "Lineage", _table(["what", "value"], [[escaped(name), escaped(value)] for name, value in rows], words=[1])
    )
