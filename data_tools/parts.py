"""Drawing machined steel parts: geometry as signed distances, light on turned or brushed metal, a camera's noise.

A part is drawn at twice the size asked for, in coordinates where the picture's half width is 1, and reduced at the end.
The look of turned metal, the two bright fans that stand opposite each other, comes from the reflection model of Kajiya
and Kay (1989) for thin fibres, applied to the grooves the tool leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data_tools.defects import Field, soft_noise
from shared.images import Rgb

_DRILL = 0.075  # radius of the bolt holes


@dataclass(frozen=True)
class Hole:
    """A round hole; lengths in half widths of the picture."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Part:
    """What is drawn: the outline (signed distance, negative inside), the holes, and how its face was machined."""

    name: str
    outline: Callable[[Field, Field], Field]
    holes: tuple[Hole, ...]
    turned: bool
    may_miss: tuple[int, ...]
    """Indices of the holes that a careless shift may have left undrilled."""


def _disc(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 0.8


def _plate(x: Field, y: Field) -> Field:
    corner = 0.12
    dx, dy = np.abs(x) - (0.82 - corner), np.abs(y) - (0.56 - corner)
    plate = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner
    slot = np.hypot(np.maximum(np.abs(x) - 0.22, 0), y) - 0.11
    return np.maximum(plate, -slot)


def _circle(count: int, radius: float, first: float) -> tuple[Hole, ...]:
    turns = [first + 2 * np.pi * index / count for index in range(count)]
    return tuple(Hole(radius * math.cos(turn), radius * math.sin(turn), _DRILL) for turn in turns)


FLANGE = Part("flange", _disc, (Hole(0.0, 0.0, 0.24), *_circle(6, 0.55, 0.26)), True, tuple(range(1, 7)))
BRACKET = Part(
    "bracket",
    _plate,
    (
        *(Hole(x, y, 0.08) for x in (-0.6, 0.6) for y in (-0.34, 0.34)),
        Hole(-0.58, 0.0, 0.06),
        Hole(0.58, 0.0, 0.06),
    ),
    False,
    tuple(range(6)),
)
PARTS = {part.name: part for part in (FLANGE, BRACKET)}


@dataclass(frozen=True)
class Pose:
    """How one part lies: shift in half widths, turn in radians, size 1 ± a little."""

    x: float
    y: float
    turn: float
    scale: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Pose:
        shift = rng.normal(0, 0.012, 2)
        return Pose(float(shift[0]), float(shift[1]), float(rng.normal(0, 0.035)), float(rng.normal(1, 0.006)))

    def to_part(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Picture coordinates to part coordinates."""
        dx, dy = (x - self.x) / self.scale, (y - self.y) / self.scale
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        return dx * cosine + dy * sine, dy * cosine - dx * sine

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Part coordinates to picture coordinates."""
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        return (x * cosine - y * sine) * self.scale + self.x, (x * sine + y * cosine) * self.scale + self.y


def draw_part(
    part: Part, rng: np.random.Generator, size: int, pose: Pose, missing: int | None = None
) -> tuple[Field, Field]:
    """A clean picture of a part before the camera, and where its metal is.

    Args:
        part: what to draw.
        rng: chance for light, tool marks and the table.
        size: pixels of the final picture on each side.
        pose: how the part lies.
        missing: index of a hole that was not drilled.

    Returns:
        float32 [2·size, 2·size, 3] RGB, 0 to 255, and the metal's share of each pixel, [2·size, 2·size], 0 to 1.
    """
    axis = (np.arange(2 * size, dtype=np.float32) + 0.5) / size - 1
    x, y = np.meshgrid(axis, axis)
    px, py = pose.to_part(x, y)
    outline = part.outline(px, py)
    light = float(rng.normal(-2.2, 0.05))  # direction of the lamp in the picture, upper left
    drilled = [hole for index, hole in enumerate(part.holes) if index != missing]
    nearest, inside = _holes(drilled, pose, px, py, light - pose.turn)
    distance = np.maximum(outline, -nearest)
    pixel = 1.0 / size
    cover = np.clip(0.5 - distance / pixel, 0, 1)
    face = _face(part, rng, px, py, light - pose.turn)
    face = face + _bevels(distance, light, 0.035)
    steel = np.array([0.985, 1.0, 1.02], dtype=np.float32)
    table = _table(rng, x, y, cover, light)
    shown = np.where((nearest < 0)[..., None] & (outline < 0)[..., None], table * inside[..., None], table)
    picture = shown + (face[..., None] * steel - shown) * cover[..., None]
    return np.asarray(np.clip(picture, 0, 255), dtype=np.float32), cover


def _face(part: Part, rng: np.random.Generator, px: Field, py: Field, light: float) -> Field:
    """Grey levels of the machined face under one lamp and a bright ceiling."""
    size = px.shape[0]
    if part.turned:
        radius, angle = np.hypot(px, py), np.arctan2(py, px)
        marks = _marks(rng, radius * size * 0.5, (angle + np.pi) / (2 * np.pi), size)
        across = np.cos(angle - light)
        fan = np.abs(across) ** 7
        level = 118 + 92 * fan + 16 * np.cos(angle - light - 0.5)
        return np.asarray(level * (1 + (0.05 + 0.07 * fan) * marks), dtype=np.float32)
    marks = _marks(rng, (py + 1) * size * 0.5, (px + 1) / 2, size)
    sheen = np.exp(-(((py - 0.35 * math.sin(light)) + 0.1 * px) ** 2) / 0.22)
    level = 112 + 68 * sheen + 14 * (px * math.cos(light) + py * math.sin(light))
    return np.asarray(level * (1 + 0.11 * marks), dtype=np.float32)


def _marks(rng: np.random.Generator, across: Field, along: Field, size: int) -> Field:
    """Tool marks: noise, fine across the grooves (in pixels) and long along them (share of the length, 0 to 1)."""
    count = size + 8
    fine = rng.standard_normal((count, 1)).astype(np.float32) * 0.7
    wide = np.repeat(rng.standard_normal((count // 6 + 1, 1)).astype(np.float32), 6, axis=0)[:count] * 0.5
    streaks = cv2.resize(
        rng.standard_normal((count, 12)).astype(np.float32), (64, count), interpolation=cv2.INTER_CUBIC
    )
    texture = cv2.GaussianBlur(fine + wide + 0.8 * streaks, (1, 3), 0.6)
    where = ((along * 63).astype(np.float32), across.astype(np.float32))
    return np.asarray(cv2.remap(texture, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), dtype=np.float32)


def _bevels(distance: Field, light: float, width: float) -> Field:
    """Grey levels that the chamfers along every edge add: bright where they face the lamp, dark where they do not."""
    across_x = cv2.Sobel(distance, cv2.CV_32F, 1, 0, ksize=3)
    across_y = cv2.Sobel(distance, cv2.CV_32F, 0, 1, ksize=3)
    length = np.maximum(np.hypot(across_x, across_y), 1e-6)
    facing = (across_x * math.cos(light) + across_y * math.sin(light)) / length
    on_bevel = np.clip((distance + width) / (0.25 * width), 0, 1)
    edge = np.exp(-(((distance + width) / 0.006) ** 2))
    return np.asarray(on_bevel * (62 * facing + 34 * np.clip(facing, 0, 1) ** 6 - 14) + 22 * edge, dtype=np.float32)


def _table(rng: np.random.Generator, x: Field, y: Field, cover: Field, light: float) -> Field:
    """The dark mat under the part, with the part's soft shadow on it, [h, w, 3]."""
    size = x.shape[0]
    mat = 46 + 7 * (x * math.cos(light) + y * math.sin(light)) + 2.0 * soft_noise(rng, x.shape, size / 6)
    mat = mat + 2.2 * soft_noise(rng, x.shape, 3.0)
    offset = size * 0.022
    move = np.array([[1, 0, -offset * math.cos(light)], [0, 1, -offset * math.sin(light)]], dtype=np.float32)
    shadow = cv2.warpAffine(cover.astype(np.float32), move, (size, size))
    shadow = cv2.blur(cv2.blur(shadow, (size // 24, size // 24)), (size // 24, size // 24))
    mat = mat * (1 - 0.62 * shadow)
    return np.asarray(mat[..., None] * np.array([0.93, 1.0, 1.07], dtype=np.float32), dtype=np.float32)


def _holes(holes: list[Hole], pose: Pose, px: Field, py: Field, light: float) -> tuple[Field, Field]:
    """Distance to the nearest hole (9 where none is near), and how bright the table looks inside one.

    A hole is dark, with a crescent of lit wall on the side away from the lamp.
    """
    nearest, bright = np.full_like(px, 9.0), np.full_like(px, 0.35)
    size = px.shape[0] / 2
    for hole in holes:
        x, y = pose.to_picture(hole.x, hole.y)
        reach = hole.radius * pose.scale + 0.08  # a hole is felt as far as its chamfer goes
        rows = slice(max(0, int((y - reach + 1) * size)), int((y + reach + 1) * size) + 1)
        columns = slice(max(0, int((x - reach + 1) * size)), int((x + reach + 1) * size) + 1)
        dx, dy = px[rows, columns] - np.float32(hole.x), py[rows, columns] - np.float32(hole.y)
        away = np.hypot(dx, dy)
        nearest[rows, columns] = np.minimum(nearest[rows, columns], away - hole.radius)
        thickness = 0.05
        lit = np.clip((away - hole.radius + thickness) / thickness, 0, 1)
        facing = np.clip(-(dx * math.cos(light) + dy * math.sin(light)) / np.maximum(away, 1e-3), 0, 1)
        bright[rows, columns] = np.where(away < hole.radius, 0.35 + 1.5 * lit * facing, bright[rows, columns])
    return nearest, bright


def photograph(scene: Field, rng: np.random.Generator) -> Rgb:
    """What a camera makes of a scene float32 [2N, 2N, 3]: reduced, a little soft, unevenly exposed, noisy.

    Returns uint8 [N, N, 3].
    """
    size = scene.shape[0] // 2
    picture = cv2.resize(scene, (size, size), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(picture, (3, 3), float(rng.uniform(0.35, 0.55)))
    exposure = float(rng.normal(1.0, 0.025))
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - 0.07 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    picture = picture * (exposure * vignette)[..., None]
    # Shot noise grows with the root of the light; the read noise is the same everywhere.
    sigma = np.sqrt(1.2 + 0.018 * np.maximum(picture.mean(axis=2), 0))[..., None]
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * 0.6 + rng.standard_normal(
        (size, size, 1), dtype=np.float32
    )
    seen: Rgb = np.clip(np.rint(picture + sigma * noise), 0, 255).astype(np.uint8)
    return seen
