"""Looking at pictures: do they decode, do they hold anything, do they fit the rest, does any occur twice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from data_tools.layout import Candidate, printable
from shared.errors import BadInput
from shared.images import Rgb, decode_image, decode_reduced, read_file

SMALLEST_SIDE = 32
"""Pixels; on less, no texture is left for features of stride 16 and 32."""
_WHOLE_BELOW = 2_000_000  # pixels up to which the whole picture is compared; above, JPEG at reduced size
_REDUCED_SIDE = 512
_EMPTY_SPREAD = 4.0  # grey levels between the 0.5 % and 99.5 % points of a 64×64 reduction
_EMPTY_DEVIATION = 3.0  # grey levels, standard deviation at full resolution
_SIDE_FACTOR = 4.0
_ASPECT_FACTOR = 2.5
_MIXED_SHARE = 0.2  # where more pictures than this would be odd, the set is simply mixed


@dataclass(frozen=True)
class Looked:
    """What one picture is like. `problem` is why it cannot be used ("" if it can); `size` is (width, height)."""

    candidate: Candidate
    problem: str = ""
    size: tuple[int, int] = (0, 0)
    sha256: str = ""
    pixels: str = ""
    spread: float = 0.0
    deviation: float = 0.0
    mask_problem: str = ""


def look_at(
    candidates: list[Candidate], threads: int | None, progress: Callable[[int, int], None] | None
) -> list[Looked]:
    """Open every picture, on several threads; the answers are in the order of `candidates`."""
    count = threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    looked: list[Looked] = []
    with ThreadPoolExecutor(max_workers=count) as pool:
        for one in pool.map(_look, candidates):
            looked.append(one)
            if progress is not None:
                progress(len(looked), len(candidates))
    return looked


def _look(candidate: Candidate) -> Looked:
    name = printable(candidate.path.name)
    try:
        data = read_file(candidate.path)
        picture, size = decode_reduced(data, name, _REDUCED_SIDE)
        if picture.shape[:2] != size[::-1] and size[0] * size[1] <= _WHOLE_BELOW:
            picture = decode_image(data, name)
    except BadInput as error:
        return Looked(candidate, problem=printable(str(error)).removeprefix(f"{name} ").removesuffix("."))
    spread, deviation = _contrast(picture)
    pixels = hashlib.sha256(f"{size[0]}×{size[1]}:".encode() + picture.tobytes()).hexdigest()
    if min(size) < SMALLEST_SIDE:
        problem = f"oddly sized: {size[0]}×{size[1]} is under {SMALLEST_SIDE} pixels"
    elif deviation < 0.5 and candidate.split == "train":
        problem = "near-empty: almost one single colour"
    else:
        problem = ""
    return Looked(
        candidate,
        problem,
        size,
        hashlib.sha256(data).hexdigest(),
        pixels,
        spread,
        deviation,
        _look_at_mask(candidate, size),
    )


def _contrast(picture: Rgb) -> tuple[float, float]:
    """Coarse and fine contrast in grey levels: noise vanishes from the first, texture shows in the second."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    low, high = np.percentile(small, (0.5, 99.5))
    return float(high - low), float(grey.std())


def _look_at_mask(candidate: Candidate, size: tuple[int, int]) -> str:
    """Why the mask of a picture cannot be used, or ""."""
    if candidate.mask is None:
        return ""
    try:
        mask = decode_image(read_file(candidate.mask), printable(candidate.mask.name))
    except BadInput as error:
        return f"mask unusable: {error}".removesuffix(".")
    height, width = mask.shape[:2]
    if abs(width * size[1] / (height * size[0]) - 1) > 0.03:
        return f"mask is {width}×{height} but its picture {size[0]}×{size[1]}: another shape"
    return "" if mask.any() else "mask is all black: it marks no defect"


def odd_ones(looked: list[Looked]) -> tuple[dict[str, str], list[str]]:
    """Pictures unlike the rest of those to learn from, {name: reason}, and sentences about the set as a whole.

    Pictures to be judged are kept whatever they look like: a black one may be a part that is missing.
    """
    looked = [one for one in looked if one.candidate.split == "train"]
    if not looked:
        return {}, []
    odd: dict[str, str] = {}
    usual_spread = float(np.median([one.spread for one in looked]))
    for one in looked:
        flat = one.spread < _EMPTY_SPREAD and one.deviation < _EMPTY_DEVIATION
        # On a uniform product (film, glass, paper) every good picture is nearly flat, so that flatness says nothing.
        if flat and one.spread < usual_spread / 4:
            odd[one.candidate.name] = f"near-empty: brightness varies by only {one.spread:.0f} of 255 levels"
    sizes = _odd_sizes([one for one in looked if one.candidate.name not in odd])
    if len(sizes) > _MIXED_SHARE * len(looked):
        return odd, [f"picture sizes are mixed ({len(sizes)} of {len(looked)} are far from the median); all are kept."]
    return odd | sizes, []


def _odd_sizes(looked: list[Looked]) -> dict[str, str]:
    if not looked:
        return {}
    width, height = np.median([one.size for one in looked], axis=0)
    odd: dict[str, str] = {}
    for one in looked:
        scale = float(np.sqrt(one.size[0] * one.size[1] / (width * height)))
        aspect = (one.size[0] / one.size[1]) / (width / height)
        if max(scale, 1 / scale) > _SIDE_FACTOR or max(aspect, 1 / aspect) > _ASPECT_FACTOR:
            odd[one.candidate.name] = (
                f"oddly sized: {one.size[0]}×{one.size[1]}, the set's median is {width:.0f}×{height:.0f}"
            )
    return odd


def repeated(looked: list[Looked]) -> dict[str, str]:
    """Pictures whose pixels occur twice, {name: reason}. One of each group stays, the test one where there is one.

    Where the same pixels are labelled good and bad within one split (or in the flat layout), none can be trusted.
    """
    groups: dict[str, list[Looked]] = defaultdict(list)
    for one in looked:
        groups[one.pixels].append(one)
    reasons: dict[str, str] = {}
    for group in groups.values():
        if len(group) > 1:
            reasons |= _resolve(sorted(group, key=lambda one: one.candidate.name))
    return reasons


def _resolve(group: list[Looked]) -> dict[str, str]:
    train = [one.candidate for one in group if one.candidate.split == "train"]
    test = [one.candidate for one in group if one.candidate.split == "test"]
    flat = all(not one.candidate.name.lower().startswith(("train/", "test/")) for one in group)
    doubtful = train + test if flat else test
    reasons: dict[str, str] = {}
    if len({candidate.label == "good" for candidate in doubtful}) > 1:
        for one in doubtful:
            other = next(other.name for other in doubtful if (other.label == "good") != (one.label == "good"))
            reasons[one.name] = f"the same picture as {other}, which has another label: decide which is right"
    if test and not flat:
        reasons |= {one.name: f"leak: the same picture as {test[0].name} in test" for one in train}
    for same in (train, test):
        reasons |= {one.name: f"duplicate of {same[0].name}" for one in same[1:] if one.name not in reasons}
    return reasons
