"""The pictures of a search, drawn with Pillow: accuracy against latency with the Pareto front, or the course of it."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

_OTHER: Colour = (168, 178, 189)
_FRONT: Colour = (47, 110, 165)
_BEST: Colour = (214, 96, 52)
_INK: Colour = (50, 54, 60)
_GRID: Colour = (226, 229, 233)
_SCALE = 2  # drawn at twice the size asked for, so that it is sharp on a dense screen
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 44, 50


def front_png(
    points: Sequence[tuple[int, float, float]], front: Collection[int], best: int | None, metric: str
) -> bytes:
    """PNG of trials (index, milliseconds, accuracy): those of the front are joined and carry their index."""
    chart = _Chart([x for _, x, _ in points], [y for _, _, y in points], "ms a call", metric)
    steps = sorted((x, y) for index, x, y in points if index in front)
    chart.stairs(steps, _FRONT)
    for index, x, y in sorted(points, key=lambda each: (each[0] in front, each[0] == best)):
        colour = _BEST if index == best else _FRONT if index in front else _OTHER
        chart.dot((x, y), colour, str(index) if index in front or index == best else "")
    chart.legend([("trials", _OTHER), ("Pareto front", _FRONT), *([("chosen", _BEST)] if best is not None else [])])
    return chart.png()


def course_png(points: Sequence[tuple[int, float]], metric: str) -> bytes:
    """PNG of complete trials (index, accuracy) in their order, and the best so far as a line."""
    chart = _Chart([float(index) for index, _ in points], [y for _, y in points], "trial", metric)
    so_far: list[Point] = []
    for index, y in points:
        so_far.append((float(index), max(y, so_far[-1][1]) if so_far else y))
    chart.stairs(so_far, _FRONT)
    best = max(points, key=lambda each: each[1])[0] if points else None
    for index, y in points:
        chart.dot((float(index), y), _BEST if index == best else _OTHER, str(index) if index == best else "")
    chart.legend([("trials", _OTHER), ("best so far", _FRONT)])
    return chart.png()


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or max(abs(low) * 0.05, 1e-6)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`, four to ten of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (5, 2, 1) if (high - low) / (power * factor) >= 4)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Chart:
    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str) -> None:
        self._width, self._height = 860 * _SCALE, 420 * _SCALE
        self._x, self._y = _range(xs), _range(ys)
        self._image = Image.new("RGB", (self._width, self._height), (255, 255, 255))
        self._draw = ImageDraw.Draw(self._image, "RGBA")
        self._font = ImageFont.load_default(size=12 * _SCALE)
        self._axes(x_title, y_title)

    def _at(self, point: Point) -> Point:
        across = self._width - (_LEFT + _RIGHT) * _SCALE
        up = self._height - (_TOP + _BOTTOM) * _SCALE
        x = _LEFT * _SCALE + (point[0] - self._x[0]) / (self._x[1] - self._x[0]) * across
        y = self._height - _BOTTOM * _SCALE - (point[1] - self._y[0]) / (self._y[1] - self._y[0]) * up
        return x, y

    def _axes(self, x_title: str, y_title: str) -> None:
        left, floor = self._at((self._x[0], self._y[0]))
        right, top = self._at((self._x[1], self._y[1]))
        for value in _ticks(*self._y):
            y = self._at((self._x[0], value))[1]
            self._draw.line([(left, y), (right, y)], _GRID, _SCALE)
            self._draw.text((left - 8 * _SCALE, y), f"{value:.4g}", _INK, self._font, anchor="rm")
        for value in _ticks(*self._x):
            x = self._at((value, self._y[0]))[0]
            self._draw.line([(x, floor), (x, floor + 5 * _SCALE)], _INK, _SCALE)
            self._draw.text((x, floor + 8 * _SCALE), f"{value:.4g}", _INK, self._font, anchor="mt")
        self._draw.line([(left, floor), (right, floor)], _INK, _SCALE)
        self._draw.text(((left + right) / 2, floor + 28 * _SCALE), x_title, _INK, self._font, anchor="mt")
        self._draw.text((left, top - 10 * _SCALE), y_title, _INK, self._font, anchor="lb")

    def stairs(self, points: Sequence[Point], colour: Colour) -> None:
        """Along, then up: between two points the value of the left one is what can be had."""
        corners: list[Point] = []
        for point in points:
            if corners:
                corners.append((point[0], corners[-1][1]))
            corners.append(point)
        self._draw.line([self._at(corner) for corner in corners], (*colour, 150), 2 * _SCALE)

    def dot(self, point: Point, colour: Colour, label: str) -> None:
        x, y = self._at(point)
        radius = 5 * _SCALE
        self._draw.ellipse([x - radius, y - radius, x + radius, y + radius], (*colour, 230), (255, 255, 255), _SCALE)
        if label:
            self._draw.text((x + 8 * _SCALE, y - 8 * _SCALE), label, _INK, self._font, anchor="lb")

    def legend(self, entries: Sequence[tuple[str, Colour]]) -> None:
        x = self._width - _RIGHT * _SCALE
        for text, colour in reversed(entries):
            x -= int(self._draw.textlength(text, self._font))
            self._draw.text((x, 16 * _SCALE), text, _INK, self._font, anchor="lm")
            self._draw.ellipse([x - 16 * _SCALE, 11 * _SCALE, x - 6 * _SCALE, 21 * _SCALE], (*colour, 230))
            x -= 34 * _SCALE

    def png(self) -> bytes:
        target = io.BytesIO()
        self._image.save(target, "PNG", optimize=True)
        return target.getvalue()
