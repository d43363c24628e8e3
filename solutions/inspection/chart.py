"""The histogram of scores, drawn with Pillow: good and defective parts, and where the thresholds lie."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

GOOD: Colour = (64, 124, 180)
BAD: Colour = (214, 96, 52)
_INK: Colour = (50, 54, 60)
_GRID: Colour = (226, 229, 233)
_LINES: dict[str, Colour] = {"review": (190, 130, 0), "ng": (176, 24, 40)}
_SCALE = 2  # drawn at twice the size asked for, so that it is sharp on a dense screen
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 40, 44


def histogram_png(
    good: ArrayLike,
    bad: ArrayLike | None = None,
    thresholds: Mapping[str, float] | None = None,
    *,
    width: int = 860,
    height: int = 320,
    bins: int = 48,
) -> bytes:
    """PNG bytes of a score histogram, 2·width × 2·height pixels, RGB.

    Args:
        good: scores of good parts.
        bad: scores of defective parts, if any.
        thresholds: values of `review` and `ng`, drawn as lines; other names are ignored.
        bins: columns over the whole range of scores and thresholds.

    Each set is scaled to its own tallest column, since defective parts are mostly few.
    """
    sets = [np.asarray(values if values is not None else [], dtype=np.float64).ravel() for values in (good, bad)]
    lines = {name: float(value) for name, value in (thresholds or {}).items() if name in _LINES}
    low, high = _range(np.concatenate([*sets, list(lines.values())]))
    chart = _Chart(width, height, low, high)
    edges = np.linspace(low, high, bins + 1)
    for values, colour in zip(sets, (GOOD, BAD), strict=True):
        if len(values):
            chart.columns(np.histogram(values, edges)[0], edges, colour)
    chart.axis()
    for place, (name, value) in enumerate(sorted(lines.items(), key=lambda pair: pair[1])):
        chart.line(value, f"{name} {value:.4g}", _LINES[name], place)
    chart.legend([(f"good ({len(sets[0])})", GOOD), (f"defective ({len(sets[1])})", BAD)][: 2 if len(sets[1]) else 1])
    return chart.png()


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.03 * (high - low) or max(abs(low) * 0.05, 1e-6)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`, four to ten of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (5, 2, 1) if (high - low) / (power * factor) >= 4)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


class _Chart:
    def __init__(self, width: int, height: int, low: float, high: float) -> None:
        self._size = (width * _SCALE, height * _SCALE)
        self._low, self._high = low, high
        self._image = Image.new("RGB", self._size, (255, 255, 255))
        self._draw = ImageDraw.Draw(self._image, "RGBA")
        self._font = ImageFont.load_default(size=12 * _SCALE)
        self._floor = (height - _BOTTOM) * _SCALE
        self._room = (height - _BOTTOM - _TOP) * _SCALE
        for share in (0.25, 0.5, 0.75, 1.0):
            y = self._floor - share * self._room
            self._draw.line([(_LEFT * _SCALE, y), (self._size[0] - _RIGHT * _SCALE, y)], _GRID, _SCALE)

    def _x(self, value: float) -> float:
        span = self._size[0] - (_LEFT + _RIGHT) * _SCALE
        return _LEFT * _SCALE + (value - self._low) / (self._high - self._low) * span

    def columns(self, counts: NDArray[np.int64], edges: NDArray[np.float64], colour: Colour) -> None:
        tallest = max(int(counts.max()), 1)
        for count, left, right in zip(counts, edges, edges[1:], strict=False):
            if count:
                top = self._floor - max(count / tallest * self._room, 3 * _SCALE)
                box = [self._x(left) + 1, top, self._x(right) - 1, self._floor]
                self._draw.rectangle(box, (*colour, 150), (*colour, 255), _SCALE)

    def axis(self) -> None:
        y = self._floor
        self._draw.line([(_LEFT * _SCALE, y), (self._size[0] - _RIGHT * _SCALE, y)], _INK, _SCALE)
        for value in _ticks(self._low, self._high):
            x = self._x(value)
            self._draw.line([(x, y), (x, y + 5 * _SCALE)], _INK, _SCALE)
            self._draw.text((x, y + 8 * _SCALE), f"{value:.4g}", _INK, self._font, anchor="mt")
        middle = (self._x(self._low) + self._x(self._high)) / 2
        self._draw.text((middle, y + 26 * _SCALE), "score", _INK, self._font, anchor="mt")
        top = self._floor - self._room
        self._draw.text(((_LEFT - 8) * _SCALE, top), "most", _INK, self._font, anchor="rm")
        self._draw.text(((_LEFT - 8) * _SCALE, y), "0", _INK, self._font, anchor="rm")

    def line(self, value: float, text: str, colour: Colour, place: int) -> None:
        x, top = self._x(value), (_TOP - 6) * _SCALE
        for y in range(int(top), int(self._floor), 8 * _SCALE):
            self._draw.line([(x, y), (x, min(y + 5 * _SCALE, self._floor))], colour, 2 * _SCALE)
        # The lower threshold is named to the left of its line, the upper to the right, unless there is no room.
        width = self._draw.textlength(text, self._font) + 5 * _SCALE
        left = (place == 0 and x - width > _LEFT * _SCALE) or x + width > self._size[0]
        at = (x - 5 * _SCALE, top) if left else (x + 5 * _SCALE, top)
        self._draw.text(at, text, colour, self._font, anchor="rm" if left else "lm")

    def legend(self, entries: list[tuple[str, Colour]]) -> None:
        x = float(_LEFT * _SCALE)
        for text, colour in entries:
            y = 12 * _SCALE
            self._draw.rectangle(
                [x, y - 6 * _SCALE, x + 12 * _SCALE, y + 6 * _SCALE], (*colour, 150), (*colour, 255), _SCALE
            )
            self._draw.text((x + 18 * _SCALE, y), text, _INK, self._font, anchor="lm")
            x += self._draw.textlength(text, self._font) + 40 * _SCALE

    def png(self) -> bytes:
        target = io.BytesIO()
        self._image.save(target, "PNG", optimize=True)
        return target.getvalue()
