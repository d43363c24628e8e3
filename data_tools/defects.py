"""Painting defects on pictures of good parts, with masks.

Two uses: the synthetic data set of `data_tools.synthesize`, and the choice between models when no defective part
exists, where defects are painted on held-out good pictures of any surface and any size. Contrast follows what is around
the place, so that a defect is neither invisible on rough casting nor glaring on polish; grey pictures get grey defects;
where the part lies on an even background, the defect lies on the part. Sizes are log-uniform from 1 % to 25 % of the
shorter side. The idea of painted anomalies is that of CutPaste (Li et al., 2021) and DRAEM (Zavrtanik et al., 2021).

Every painter takes and returns uint8 [H, W, 3] RGB, and returns the mask as bool [H, W]; the picture given is not
changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.images import Rgb

Mask = NDArray[np.bool_]
Field = NDArray[np.floating[Any]]

SMALLEST = 0.01
LARGEST = 0.25
_STAINS = ((0.95, 1.0, 1.05), (0.6, 1.0, 1.35), (1.15, 1.0, 0.8))  # what oil, rust and heat take from red, green, blue


@dataclass(frozen=True)
class _Spot:
    """Where a defect goes: centre in pixels, extent in pixels, contrast in grey levels, pixels of a thin line."""

    x: int
    y: int
    extent: float
    contrast: float
    line: float
    grey: bool


def foreground(image: Rgb) -> tuple[Mask, bool]:
    """The part, bool [H, W], and whether there is a background at all.

    Background is what joins the frame of the picture and resembles it, where that frame is even; otherwise the whole
    picture is part.
    """
    height, width = image.shape[:2]
    part, has_background = _coarse_foreground(image)
    return cv2.resize(part.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0, has_background


def _coarse_foreground(image: Rgb) -> tuple[Mask, bool]:
    """`foreground` at 128 pixels on the longer side, or at the picture's own size where that is less."""
    scale = min(1.0, 128 / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    edge = max(1, round(min(small.shape[:2]) * 0.04))
    frame = np.ones(small.shape[:2], dtype=bool)
    frame[edge:-edge, edge:-edge] = False
    whole = np.ones(small.shape[:2], dtype=bool)
    background, tolerance = _smooth_through(small, frame)
    away = np.abs(small - background).max(axis=2)
    alike = away <= tolerance
    if alike[frame].mean() < 0.7:
        return whole, False
    _, labels = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)
    touching = np.setdiff1d(np.unique(labels[frame]), [0])
    part = ~np.isin(labels, touching)
    opened = cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    # Crumbs, reflections and the edge of the table are smaller than the part and are left out.
    _, labels, about, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    areas = about[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return whole, False
    part = np.isin(labels, 1 + np.flatnonzero(areas >= 0.15 * areas.max()))
    # A streak of a surface that fills the picture touches the frame, or is hardly unlike the rest; a part is neither.
    stands_out = float(np.median(away[part])) > 2.8 * tolerance and part[frame].mean() < 0.25
    return (part, True) if stands_out and 0.05 <= part.mean() <= 0.92 else (whole, False)


def _smooth_through(small: Field, frame: Mask) -> tuple[Field, float]:
    """A quadratic surface for each channel through the frame's pixels, stray ones left out, and how far it may be off.

    Light falls off across a table, so that one colour for the whole background would be too strict.
    """
    height, width = frame.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    points, colours = terms[frame], small[frame]
    distance = np.abs(colours - np.median(colours, axis=0)).max(axis=1)
    kept = distance <= max(30.0, float(np.median(distance)))
    tolerance, ridge = 30.0, 1e-3 * np.eye(points.shape[1], dtype=np.float32)
    for _ in range(4):
        inside = points[kept]
        fit = np.linalg.solve(inside.T @ inside + ridge, inside.T @ colours[kept])
        distance = np.abs(colours - points @ fit).max(axis=1)
        tolerance = float(np.clip(5 * np.median(distance[kept]), 12.0, 36.0))
        kept = distance <= max(tolerance, float(np.median(distance)))
    surface: Field = terms @ fit
    return surface, tolerance


def _anywhere(image: Rgb, rng: np.random.Generator, part: Mask, margin: float) -> tuple[int, int]:
    """A random pixel (x, y) of the part (coarse), where possible `margin` pixels from its edge."""
    height, width = image.shape[:2]
    rows, columns = part.shape
    reach = max(1, round(margin * rows / height))
    inner = cv2.erode(part.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8), borderValue=0)
    places = np.flatnonzero(inner) if inner.any() else np.flatnonzero(part)
    row, column = divmod(int(places[rng.integers(len(places))]), columns)
    y, x = (row + rng.random()) * height / rows, (column + rng.random()) * width / columns
    return min(int(x), width - 1), min(int(y), height - 1)


def soft_noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float) -> Field:
    """Smooth noise of `shape` (height, width), mean 0, deviation 1, with features of about `grain` pixels."""
    height, width = shape
    rows, columns = max(2, round(height / grain)) + 1, max(2, round(width / grain)) + 1
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    fine: Field = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    normal: Field = (fine - fine.mean()) / max(float(fine.std()), 1e-6)
    return normal


def _spot(image: Rgb, rng: np.random.Generator, strength: float, low: float = SMALLEST, high: float = LARGEST) -> _Spot:
    height, width = image.shape[:2]
    side = min(height, width)
    extent = max(3.0, side * float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    part, _ = _coarse_foreground(image)
    x, y = _anywhere(image, rng, part, min(extent / 2, side / 12))
    radius = round(max(8.0, extent))
    around = image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
    deviation = float(cv2.cvtColor(around, cv2.COLOR_RGB2GRAY).std())
    contrast = strength * float(np.clip(2.2 * deviation, 22.0, 80.0)) * float(rng.uniform(0.8, 1.4))
    line = max(1.0, side / 256 * float(rng.uniform(0.8, 1.8)))
    sample = image[:: max(1, height // 64), :: max(1, width // 64)].astype(np.int16)
    grey = int(np.abs(sample - sample[..., :1]).max()) <= 4
    return _Spot(x, y, extent, contrast, line, grey)


def _sign(image: Rgb, rng: np.random.Generator, spot: _Spot, dark: float) -> float:
    """-1 or 1: darker with probability `dark`, unless there is no room left on that side."""
    level = float(image[spot.y, spot.x].mean())
    if level < spot.contrast:
        return 1.0
    if level > 255 - spot.contrast:
        return -1.0
    return -1.0 if rng.random() < dark else 1.0


def _window(image: Rgb, spot: _Spot, half: float) -> tuple[slice, slice, Field, Field]:
    """The square of ± `half` pixels about the spot, cut at the picture's edges, and its pixels' offsets (y, x)."""
    height, width = image.shape[:2]
    reach = int(np.ceil(half))
    rows = slice(max(0, spot.y - reach), min(height, spot.y + reach + 1))
    columns = slice(max(0, spot.x - reach), min(width, spot.x + reach + 1))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    return rows, columns, y - spot.y, x - spot.x


def _shift(image: Rgb, rows: slice, columns: slice, change: Field) -> Rgb:
    """Add `change` in grey levels, [h, w] or [h, w, 3], to a window of a copy."""
    out = image.copy()
    wide = change[..., None] if change.ndim == 2 else change
    out[rows, columns] = np.clip(np.rint(out[rows, columns] + wide), 0, 255).astype(np.uint8)
    return out


def _replace(image: Rgb, rows: slice, columns: slice, content: Field, alpha: Field) -> Rgb:
    """Blend `content` [h, w, 3] into a window of a copy, by `alpha` [h, w]."""
    return _shift(image, rows, columns, (content - image[rows, columns]) * alpha[..., None])


def _masked(image: Rgb, rows: slice, columns: slice, inside: Mask) -> Mask:
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[rows, columns] = inside
    return mask


def _blob(rng: np.random.Generator, dy: Field, dx: Field, extent: float, softness: float) -> Field:
    """An irregular patch of about `extent` pixels across, alpha 0 to 1; `softness`: the rim's share of the radius."""
    turn = float(rng.uniform(0, np.pi))
    squeeze = float(rng.uniform(0.6, 1.0))
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    radius = np.hypot(along, across / squeeze) / (extent / 2)
    ragged = radius + 0.14 * soft_noise(rng, dy.shape, grain=max(2.0, extent / 4))
    alpha: Field = np.clip((1.0 - ragged) / max(softness, 1.5 / max(extent, 3.0)) + 0.5, 0.0, 1.0).astype(np.float32)
    return alpha


def _strokes(shape: tuple[int, ...], paths: list[Field], widths: list[float]) -> Field:
    """Lines through points (x, y), drawn with soft edges: alpha 0 to 1, [h, w]."""
    canvas = np.zeros(shape, dtype=np.uint8)
    for path, width in zip(paths, widths, strict=True):
        points = np.rint(path * 16).astype(np.int32).reshape(-1, 1, 2)
        level = int(255 * min(1.0, width))
        cv2.polylines(canvas, [points], False, level, max(1, round(width)), cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


def _walk(rng: np.random.Generator, x: float, y: float, turn: float, length: float, wander: float) -> Field:
    """Points (x, y) of a path from x, y in direction `turn` that changes course by `wander` rad at each step."""
    steps = max(4, int(length / 3))
    turns = turn + np.cumsum(rng.normal(0, wander, steps))
    stride = length / steps
    xs, ys = x + np.cumsum(np.cos(turns)) * stride, y + np.cumsum(np.sin(turns)) * stride
    return np.stack([np.r_[x, xs], np.r_[y, ys]], axis=1).astype(np.float32)


def paint_scratch(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A thin, slightly bent line with a bright and a dark flank, sometimes two side by side."""
    spot = _spot(image, rng, strength, 0.05, LARGEST)
    length = spot.extent * float(rng.uniform(1.0, 2.0))
    turn = float(rng.uniform(0, 2 * np.pi))
    rows, columns, dy, dx = _window(image, spot, length * 0.6 + 4 * spot.line)
    x, y = -float(dx[0, 0]), -float(dy[0, 0])
    x, y = x - np.cos(turn) * length / 2, y - np.sin(turn) * length / 2
    path = _walk(rng, x, y, turn, length, 0.035)
    paths, widths = [path], [spot.line]
    if rng.random() < 0.35:
        gap = spot.line * float(rng.uniform(2, 4))
        beside = np.array([-np.sin(turn) * gap, np.cos(turn) * gap], dtype=np.float32)
        paths.append(path[len(path) // 5 : -max(1, len(path) // 4)] + beside)
        widths.append(spot.line * 0.7)
    core = _strokes(dy.shape, paths, widths)
    offset = spot.line * np.array([-np.sin(turn), np.cos(turn)], dtype=np.float32)
    flank = _strokes(dy.shape, [path + offset for path in paths], widths)
    fade = np.clip(1.0 + 0.35 * soft_noise(rng, dy.shape, grain=max(4.0, length / 5)), 0.35, 1.4)
    sign = _sign(image, rng, spot, dark=0.4)
    change = spot.contrast * fade * sign * (1.2 * core - 0.6 * np.clip(flank - core, 0, 1))
    return _shift(image, rows, columns, change), _masked(image, rows, columns, (core > 0.2) | (flank > 0.5))


def paint_dent(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A shallow hollow: bright on the side that faces the light, dark on the other, dull in the middle."""
    spot = _spot(image, rng, strength, 0.04, 0.2)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.8)
    turn, squeeze = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.65, 1.0))
    along, across = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / squeeze
    wobble = 1 + 0.08 * soft_noise(rng, dy.shape, grain=max(3.0, spot.extent / 3))
    radius = np.hypot(along, across) / (spot.extent / 2) * wobble
    # The slope of a bowl with a rounded rim: nothing in the middle, steepest near 0.7 of the radius.
    slope = radius * np.exp(-((radius / 0.75) ** 4))
    light = float(rng.uniform(0, 2 * np.pi))
    facing = (dx * np.cos(light) + dy * np.sin(light)) / np.maximum(np.hypot(dx, dy), 1e-3)
    change = spot.contrast * (1.9 * slope * facing - 0.25 * np.exp(-((radius / 0.6) ** 2)))
    return _shift(image, rows, columns, change.astype(np.float32)), _masked(image, rows, columns, radius < 1.0)


def paint_stain(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """An irregular film (oil, rust, water) that darkens or tints the surface but not its texture; darker at the rim."""
    spot = _spot(image, rng, strength, 0.05, LARGEST)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.8)
    alpha = _blob(rng, dy, dx, spot.extent, softness=float(rng.uniform(0.15, 0.5)))
    rim = 4 * alpha * (1 - alpha)
    uneven = 1 + 0.2 * soft_noise(rng, dy.shape, grain=max(3.0, spot.extent / 5))
    sign = _sign(image, rng, spot, dark=0.85)
    tint = np.ones(3, dtype=np.float32)
    if not spot.grey and sign < 0:
        tint = np.array(_STAINS[rng.integers(len(_STAINS))], dtype=np.float32) * rng.uniform(0.9, 1.1, 3).astype(
            np.float32
        )
    amount = spot.contrast * 0.75 * sign * (alpha * uneven + 0.4 * rim)
    return _shift(image, rows, columns, amount[..., None] * tint), _masked(image, rows, columns, alpha > 0.3)


def paint_spot(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A small round pit, such as a blowhole: dark inside, with a thin bright lip on one side."""
    spot = _spot(image, rng, strength, SMALLEST, 0.07)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.9 + 2)
    alpha = _blob(rng, dy, dx, spot.extent, softness=0.3)
    light = float(rng.uniform(0, 2 * np.pi))
    distance = np.maximum(np.hypot(dx, dy), 1e-3)
    ring = np.exp(-(((distance / (spot.extent / 2) - 1.05) / 0.18) ** 2))
    lip = ring * np.clip((dx * np.cos(light) + dy * np.sin(light)) / distance, 0, 1)
    sign = _sign(image, rng, spot, dark=0.9)
    change = spot.contrast * sign * (1.5 * alpha - 0.5 * lip * (1 - alpha))
    return _shift(image, rows, columns, change.astype(np.float32)), _masked(image, rows, columns, alpha > 0.3)


def paint_crack(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A thin, dark, wandering line that may branch."""
    spot = _spot(image, rng, strength, 0.06, LARGEST)
    length = spot.extent * float(rng.uniform(1.0, 2.0))
    turn = float(rng.uniform(0, 2 * np.pi))
    rows, columns, dy, dx = _window(image, spot, length * 0.75)
    x, y = -float(dx[0, 0]) - np.cos(turn) * length / 2, -float(dy[0, 0]) - np.sin(turn) * length / 2
    trunk = _walk(rng, x, y, turn, length, 0.28)
    paths, widths = [trunk], [spot.line]
    for _ in range(int(rng.integers(0, 4))):
        at = int(rng.integers(1, len(trunk) - 1))
        course = turn + float(rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.1))
        paths.append(_walk(rng, trunk[at, 0], trunk[at, 1], course, length * float(rng.uniform(0.15, 0.45)), 0.3))
        widths.append(spot.line * 0.75)
    alpha = _strokes(dy.shape, paths, widths)
    fade = np.clip(1.0 + 0.3 * soft_noise(rng, dy.shape, grain=max(4.0, length / 6)), 0.4, 1.4)
    sign = _sign(image, rng, spot, dark=0.9)
    return _shift(image, rows, columns, 1.3 * spot.contrast * sign * alpha * fade), _masked(
        image, rows, columns, alpha > 0.2
    )


def _background_like(image: Rgb, rng: np.random.Generator, part: Mask, shape: tuple[int, ...]) -> Field:
    """Something that looks like the background of `image`, float [h, w, 3]."""
    pixels = image[~part]
    grain = rng.normal(0, min(6.0, float(pixels.std(axis=0).mean()) * 0.5), (*shape[:2], 1))
    like: Field = (np.median(pixels, axis=0) + grain).astype(np.float32)
    return like


def paint_chip(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A bite out of the part's edge; on a surface without an edge in view, a frayed place: torn, displaced texture."""
    spot = _spot(image, rng, strength, 0.03, 0.15)
    part, has_background = foreground(image)
    if has_background:
        edge = np.flatnonzero(part & (cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0))
        y, x = divmod(int(edge[rng.integers(len(edge))]), image.shape[1])
        spot = _Spot(x, y, spot.extent, spot.contrast, spot.line, spot.grey)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.8)
    alpha = _blob(rng, dy, dx, spot.extent, softness=0.1)
    if has_background:
        alpha = alpha * cv2.blur(part[rows, columns].astype(np.float32), (3, 3))
        content = _background_like(image, rng, part, dy.shape)
        return _replace(image, rows, columns, content, alpha), _masked(image, rows, columns, alpha > 0.3)
    reach = max(2.0, spot.extent * 0.25)
    grain = max(2.0, spot.extent / 6)
    ragged_x = dx + spot.x + reach * soft_noise(rng, dy.shape, grain=grain)
    ragged_y = dy + spot.y + reach * soft_noise(rng, dy.shape, grain=grain)
    torn = cv2.remap(image, ragged_x, ragged_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    rough = spot.contrast * 0.6 * soft_noise(rng, dy.shape, grain=2.0)[..., None]
    shade = 0.35 * spot.contrast * _sign(image, rng, spot, dark=0.6)
    return _replace(image, rows, columns, torn + rough + shade, alpha), _masked(image, rows, columns, alpha > 0.3)


def paint_patch(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A piece of the same picture, turned, in a place where it does not belong (CutPaste)."""
    spot = _spot(image, rng, strength, 0.04, LARGEST)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.7)
    here = image[rows, columns].astype(np.float32)
    height, width = dy.shape
    part, _ = _coarse_foreground(image)
    best, difference = here, -1.0
    for _ in range(4):
        x, y = _anywhere(image, rng, part, 0.0)
        y, x = min(y, image.shape[0] - height), min(x, image.shape[1] - width)
        piece = image[y : y + height, x : x + width].astype(np.float32)
        piece = piece[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
        if float(np.abs(piece - here).mean()) > difference:
            best, difference = piece, float(np.abs(piece - here).mean())
    if difference < spot.contrast / 2:  # an even surface: the piece alone would not show
        best = best + 0.8 * spot.contrast * _sign(image, rng, spot, dark=0.6)
    alpha = _blob(rng, dy, dx, spot.extent, softness=0.08) * min(1.0, strength)
    return _replace(image, rows, columns, best, alpha), _masked(image, rows, columns, alpha > 0.3 * min(1.0, strength))


def paint_missing(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """Something is not there: background where the part should be, or, without one, a smooth patch without detail."""
    spot = _spot(image, rng, strength, 0.06, LARGEST)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.8)
    alpha = _blob(rng, dy, dx, spot.extent, softness=0.12)
    part, has_background = foreground(image)
    if has_background:
        alpha = alpha * part[rows, columns]
        content = _background_like(image, rng, part, dy.shape)
    else:
        around = image[rows, columns].astype(np.float32)
        content = np.broadcast_to(around.mean(axis=(0, 1)), around.shape) + 0.5 * spot.contrast * _sign(
            image, rng, spot, 0.7
        )
        content = content + rng.normal(0, 1.5, (*dy.shape, 1))
    alpha = alpha * min(1.0, strength)
    out = _replace(image, rows, columns, content.astype(np.float32), alpha)
    return out, _masked(image, rows, columns, alpha > 0.3 * min(1.0, strength))


def paint_smear(image: Rgb, rng: np.random.Generator, strength: float = 1.0) -> tuple[Rgb, Mask]:
    """A place wiped in one direction: its texture is drawn out, and it is a little duller or brighter."""
    spot = _spot(image, rng, strength, 0.06, LARGEST)
    rows, columns, dy, dx = _window(image, spot, spot.extent * 0.8)
    alpha = _blob(rng, dy, dx, spot.extent, softness=0.4)
    length = int(max(5, spot.extent * 0.6)) | 1
    turn = float(rng.uniform(0, np.pi))
    middle = (length - 1) / 2
    end = np.array([np.cos(turn), np.sin(turn)], dtype=np.float32) * middle
    line = np.stack(
        [np.array([middle, middle], dtype=np.float32) - end, np.array([middle, middle], dtype=np.float32) + end]
    )
    kernel = _strokes((length, length), [line], [1.0])
    wiped = cv2.filter2D(image[rows, columns], -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT).astype(
        np.float32
    )
    wiped += 0.5 * spot.contrast * _sign(image, rng, spot, dark=0.5)
    return _replace(image, rows, columns, wiped, alpha), _masked(image, rows, columns, alpha > 0.3)


Painter = Callable[[Rgb, np.random.Generator, float], tuple[Rgb, Mask]]
PAINTERS: dict[str, Painter] = {
    "scratch": paint_scratch,
    "dent": paint_dent,
    "stain": paint_stain,
    "spot": paint_spot,
    "crack": paint_crack,
    "chip": paint_chip,
    "patch": paint_patch,
    "missing": paint_missing,
    "smear": paint_smear,
}


def defect_on(
    image: Rgb, rng: np.random.Generator, kind: str | None = None, strength: float = 1.0
) -> tuple[Rgb, Mask, str]:
    """Paint one defect on a picture of a good part.

    Args:
        image: uint8 [H, W, 3] RGB, at least 32×32; it is not changed.
        rng: the only source of chance; the same state gives the same defect.
        kind: one of `PAINTERS`; None draws one.
        strength: 1 is a defect that a careful inspector sees; 0.5 is faint, 2 is plain.

    Returns:
        the picture, the mask bool [H, W] (never empty, only pixels near a visible change), and the kind.
    """
    if kind is not None and kind not in PAINTERS:
        raise ValueError(f"unknown kind of defect {kind}; known: {', '.join(PAINTERS)}")
    visible = max(2.0, 5.0 * strength)
    out, mask = image, np.zeros(image.shape[:2], dtype=bool)
    for attempt in range(6):
        drawn = kind or str(rng.choice(list(PAINTERS)))
        out, mask = PAINTERS[drawn](image, rng, strength * (1 + 0.25 * attempt))
        mask, change = _visible_part(image, out, mask)
        if mask.sum() >= 4 and change >= visible:
            break
    if not mask.any():
        mask = np.any(out != image, axis=2)
    return out, mask, drawn


def _visible_part(image: Rgb, out: Rgb, mask: Mask) -> tuple[Mask, float]:
    """The mask without what lies far from any change, and the mean change inside it in grey levels."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return mask, 0.0
    rows, columns = slice(y, y + height), slice(x, x + width)
    change = cv2.absdiff(out[rows, columns], image[rows, columns]).max(axis=2)
    near = cv2.morphologyEx((change >= 3).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    inside = mask[rows, columns] & near
    return _masked(image, rows, columns, inside), float(change[inside].mean()) if inside.any() else 0.0
