"""What a person wears, at one look: by a detector of helmets and vests, by a classifier of persons, or by colour.

By colour, a helmet is a saturated (or white: then unclear, for so are walls and hair) patch where the head is; a vest
is fluorescent yellow, green, orange or red over much of the torso.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from edge.io.frames import Bgr
from shared import runtime
from shared.errors import BadInput
from shared.package import open_package
from shared.registry import locate
from solutions.cctv.detector import Detector
from solutions.cctv.rules.subjects import clip_box
from solutions.cctv.scene import Track

ITEMS = ("helmet", "vest")
Look = dict[str, bool | None]
"""For each item: worn, missing, or unclear."""
Reader = Callable[[Bgr, Track], Look]
_SURE_DETECTED, _SURE_CLASSIFIED = 0.3, 0.6
_AROUND = 0.1
"""Heights of the person that are shown around the box: helmets stick out of it."""


def reader_for(package: str | None) -> Reader:
    """What reads a person's picture: a package by name or path; None: the colours.

    Raises:
        BadInput: it neither detects nor classifies, or knows neither helmets nor vests.
        PackageRefused: it failed its checks.
    """
    if package is None:
        return by_colour
    model = runtime.load(open_package(locate(package)))
    if not any(meanings_of(label) for label in model.manifest.labels):
        raise BadInput(
            f"package {package} knows neither helmets nor vests: it knows {', '.join(model.manifest.labels[:8])}. "
            "Labels such as helmet, no_helmet, vest, no_vest or helmet_no_vest are understood."
        )
    outputs = {spec.name for spec in model.manifest.outputs}
    if "boxes" in outputs:
        return _ByDetector(Detector(model)).look
    if "probabilities" in outputs:
        return _ByClassifier(model).look
    raise BadInput(f"package {package} neither detects nor classifies; it gives {', '.join(sorted(outputs))}.")


class _ByDetector:
    """The surest box of each item decides."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def look(self, image: Bgr, track: Track) -> Look:
        """What is seen on the person and a little around it. No box of an item's labels: unclear."""
        found = self._detector.detect([_around(image, track)])[0]
        scores = found.confidence if found.confidence is not None else np.ones(len(found))
        best: dict[str, tuple[float, bool]] = {}
        for name, score in zip(found.data.get("class_name", ()), scores, strict=True):
            for item, worn in meanings_of(str(name)).items():
                if score >= max(_SURE_DETECTED, best.get(item, (0.0, True))[0]):
                    best[item] = (float(score), worn)
        return {item: best[item][1] if item in best else None for item in ITEMS}


class _ByClassifier:
    """The shares of the labels that say worn, and of those that say missing, decide."""

    def __init__(self, model: runtime.Model) -> None:
        self._model = model
        self._input = model.manifest.inputs[0].name
        meanings = [meanings_of(label) for label in model.manifest.labels]
        self._says = {
            item: tuple(np.array([each.get(item) is worn for each in meanings]) for worn in (True, False))
            for item in ITEMS
        }

    def look(self, image: Bgr, track: Track) -> Look:
        """What it says of the person and a little around it."""
        picture = np.ascontiguousarray(_around(image, track)[:, :, ::-1])
        shares = self._model.run({self._input: picture[None]})["probabilities"][0]
        look: Look = {}
        for item, (worn, missing) in self._says.items():
            for says, share in ((True, float(shares[worn].sum())), (False, float(shares[missing].sum()))):
                if share >= _SURE_CLASSIFIED:
                    look[item] = says
        return {item: look.get(item) for item in ITEMS}


def meanings_of(label: str) -> dict[str, bool]:
    """Items that a label speaks of and whether they are worn: "NO-Hardhat", "no_vest", "head", "helmet_no_vest"."""
    plain = label.lower().replace("_", " ").replace("-", " ").replace("hard hat", "helmet").replace("hardhat", "helmet")
    if plain.strip() == "head":
        return {"helmet": False}
    words, found = plain.split(), dict[str, bool]()
    for index, word in enumerate(words):
        for item in ITEMS:
            if item in word:
                without = index > 0 and words[index - 1] in ("no", "without")
                found[item] = not (without or words[index + 1 : index + 2] == ["missing"])
    return found


def _around(image: Bgr, track: Track) -> Bgr:
    left, top, right, bottom = track.box
    side = _AROUND * (bottom - top)
    x0, y0, x1, y1 = clip_box((left - side, top - side, right + side, bottom + side), image.shape[1], image.shape[0])
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def by_colour(image: Bgr, track: Track) -> Look:
    """What the colours of an upright person's head and torso say."""
    left, top, right, bottom = track.box
    width, height = right - left, bottom - top
    head = _hsv(image, (left + 0.25 * width, top, right - 0.25 * width, top + 0.13 * height))
    torso = _hsv(image, (left + 0.22 * width, top + 0.2 * height, right - 0.22 * width, top + 0.5 * height))
    return {"helmet": _helmet(head), "vest": _vest(torso)}


def _hsv(image: Bgr, box: tuple[float, float, float, float]) -> np.ndarray:
    x0, y0, x1, y1 = clip_box(box, image.shape[1], image.shape[0])
    if x1 - x0 < 3 or y1 - y0 < 3:
        return np.zeros((0, 3), dtype=np.uint8)
    return cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_BGR2HSV).reshape(-1, 3)


def _helmet(pixels: np.ndarray) -> bool | None:
    """Saturated enough is worn; hair and skin alone are not; much white or little saturation is unclear."""
    if len(pixels) < 12:
        return None
    hue, saturation, value = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    skin_like = (hue <= 17) & (saturation < 165)
    coloured = float(np.mean((saturation >= 110) & (value >= 100) & ~skin_like))
    white = float(np.mean((saturation < 45) & (value >= 190)))
    if coloured >= 0.2:
        return True
    return False if coloured <= 0.06 and white <= 0.25 else None


def _vest(pixels: np.ndarray) -> bool | None:
    if len(pixels) < 30:
        return None
    hue, saturation, value = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    warm = (hue <= 45) | (hue >= 172)
    share = float(np.mean(warm & (saturation >= 120) & (value >= 130)))
    if share >= 0.18:
        return True
    return False if share <= 0.04 else None
