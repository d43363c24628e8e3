"""The figures of an evaluation: their names and how they are written, in tables and in the report alike."""

from __future__ import annotations

import math
from typing import Any

FIGURES = (
    ("image_auroc", "image AUROC", "share"),
    ("aupro", "AUPRO (FPR ≤ 0.3)", "share"),
    ("pixel_auroc", "pixel AUROC", "share"),
    ("overkill", "overkill: good parts judged NG", "percent"),
    ("good_not_ok", "good parts judged REVIEW or NG", "percent"),
    ("escape", "escape: defective parts judged OK", "percent"),
    ("review", "review: parts sent to a person", "percent"),
    ("latency_ms_p50", "latency, median", "ms"),
    ("latency_ms_p95", "latency, 95th percentile", "ms"),
    ("images", "pictures judged", ""),
    ("package_bytes", "package", "bytes"),
    ("model", "model", ""),
)
"""Key in `Evaluation.metrics`, what people call it, and its kind for `number`."""


def number(value: Any, kind: str = "") -> str:
    """A figure for people; a dash where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if not isinstance(value, int | float):
        return str(value)
    shown = {
        "share": f"{value:.4f}",
        "percent": f"{100 * value:.2f} %" if 0 < value < 0.1 else f"{100 * value:.1f} %",
        "ms": f"{value:.1f} ms",
        "s": f"{value:.1f} s",
        "bytes": f"{value / 1e6:.1f} MB",
    }
    return shown.get(kind, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")


def interval(bounds: Any, kind: str) -> str:
    """`95 %: 0.9 to 1.0`, or nothing where there is no interval."""
    return f"95 %: {number(bounds[0], kind)} to {number(bounds[1], kind)}" if bounds else ""
