"""Reading and augmenting pictures to train on, in numpy and OpenCV; all randomness from the generator that is given.

A picture is decoded once, shrunk to little more than the network sees, and kept in memory as uint8 up to a bound, since
on a CPU decoding costs as much as a small network. What then happens to it, in this order: crop and resize to the
training size, flip, rotation, a policy's operations, colour, blur, an erased rectangle; and across a batch mixup or
CutMix (in `mix`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from shared.images import Rgb, decode_reduced, read_file
from shared.labelled import Picture
from shared.training.config import Strict

Side = Annotated[int, Field(ge=32, le=2048)]
_CACHE_FACTOR = 8 / 7  # what is kept is a little larger than what is seen, so that a crop is not blurred
_ERASED = (0.02, 0.25)  # share of the area
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Augment(Strict):
    """The section `augment` of a training on pictures."""

    size: Side | list[Side] | None = None
    """Side in training; several are taken one after the other over the epochs (small pictures first are quick ones).
    Default: the model's `image_size`."""
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of the picture's area in a crop (Inception's random-resized crop); 1: the whole picture."""
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Instead of `crop`: how large things appear, against how large validation shows them. A crop that is always
    blown up teaches a network things larger than it will be asked about (Touvron et al., 2019, "FixRes"); with
    `[0.7, 1.4]` they have the right size on average, at any training size."""
    stretch: Annotated[float, Field(ge=1)] = 4 / 3
    """Largest change of a crop's aspect ratio."""
    flip: bool = True
    vertical_flip: bool = False
    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Degrees, either way."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """`trivial`: one random operation of any strength (Müller and Hutter, 2021); `rand`: `operations` of them at
    `strength` (Cubuk et al., 2020)."""
    operations: Annotated[int, Field(ge=1)] = 2
    strength: Annotated[float, Field(ge=0, le=1)] = 0.3
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Brightness, contrast and saturation are multiplied by 1 ± this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the colour circle, either way."""
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of a Gaussian blur."""
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a rectangle is greyed out (Zhong et al., 2020)."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup (Zhang et al., 2018); 0: none."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of CutMix (Yun et al., 2019); 0: none. With both, each batch takes one of them."""
    mix_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the batches that are mixed at all."""

    @model_validator(mode="after")
    def _one_way_to_crop(self) -> Augment:
        if self.crop is not None and self.zoom is not None:
            raise ValueError("crop and zoom are two ways to do the same; give one of them")
        if self.zoom is not None and self.zoom[0] > self.zoom[1]:
            raise ValueError("zoom is [smallest, largest]")
        if isinstance(self.size, list) and not self.size:
            raise ValueError("size is empty")
        return self

    def size_in(self, epoch: int, epochs: int, image_size: int) -> int:
        """Side in epoch `epoch` (from 0) of `epochs`."""
        if isinstance(self.size, list):
            return self.size[min(epoch * len(self.size) // max(epochs, 1), len(self.size) - 1)]
        return self.size or image_size


class Cache:
    """Decoded pictures at reduced size, by index; safe from several threads. Beyond the bound they are read anew."""

    def __init__(self, pictures: Sequence[Picture], side: int, most_bytes: int) -> None:
        self._pictures, self._side, self._left = pictures, max(1, round(_CACHE_FACTOR * side)), most_bytes
        self._kept: dict[int, Rgb] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Rgb:
        """uint8 [H, W, 3] RGB with the shorter side no longer than is useful. BadInput if the file has gone."""
        found = self._kept.get(index)
        if found is not None:
            return found
        picture = self._pictures[index]
        image = shrunk(decode_reduced(read_file(picture.path), picture.name, self._side)[0], self._side)
        with self._lock:
            if image.nbytes <= self._left and index not in self._kept:
                self._left -= image.nbytes
                self._kept[index] = image
        return image


def shrunk(image: Rgb, side: int) -> Rgb:
    """The picture with its shorter side at most `side`, its shape kept."""
    height, width = image.shape[:2]
    factor = side / min(height, width)
    if factor >= 1:
        return image
    return _resized(image, max(1, round(width * factor)), max(1, round(height * factor)))


def _resized(image: Rgb, width: int, height: int) -> Rgb:
    shrinks = image.shape[1] > width or image.shape[0] > height
    resized: Any = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized


def augmented(image: Rgb, settings: Augment, size: int, seen: int, generator: np.random.Generator) -> Rgb:
    """A random variant of the picture.

    Args:
        image: uint8 [H, W, 3] RGB of any size.
        size: side of the result, in pixels.
        seen: side to which validation squashes the whole picture, in pixels; `zoom` is relative to it.

    Returns:
        uint8 [size, size, 3] RGB.
    """
    left, top, width, height = _box(image.shape[1], image.shape[0], settings, size / seen, generator)
    image = _resized(image[top : top + height, left : left + width], size, size)
    if settings.flip and generator.random() < 0.5:
        image = image[:, ::-1]
    if settings.vertical_flip and generator.random() < 0.5:
        image = image[::-1]
    image = np.ascontiguousarray(image)
    if settings.rotate and generator.random() < 0.5:
        image = _rotated(image, generator.uniform(-settings.rotate, settings.rotate))
    image = _by_policy(image, settings, generator)
    image = _coloured(image, settings, generator)
    if generator.random() < settings.blur:
        image = _array(cv2.GaussianBlur(image, (0, 0), generator.uniform(0.3, 1.5)))
    if generator.random() < settings.erase:
        image = _erased(image, generator)
    return image


def _box(
    width: int, height: int, settings: Augment, scale: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """The crop: left, top, width, height. `scale`: training size against the size in validation."""
    if settings.zoom is not None:
        low, high = (math.log(max(each, scale)) for each in settings.zoom)
        share = scale / math.exp(generator.uniform(low, high)) if high > low else min(1.0, scale / settings.zoom[1])
    elif settings.crop is not None and settings.crop < 1:
        share = math.sqrt(generator.uniform(settings.crop, 1.0))
    else:
        return 0, 0, width, height
    ratio = math.exp(generator.uniform(-1, 1) * math.log(settings.stretch) / 2)
    wide = min(width, max(1, round(width * share * ratio)))
    high_ = min(height, max(1, round(height * share / ratio)))
    return int(generator.integers(0, width - wide + 1)), int(generator.integers(0, height - high_ + 1)), wide, high_


def _array(image: Any) -> Rgb:
    return np.asarray(image, dtype=np.uint8)


def _affine(image: Rgb, matrix: NDArray[Any]) -> Rgb:
    size = (image.shape[1], image.shape[0])
    return _array(cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _rotated(image: Rgb, degrees: float) -> Rgb:
    centre = (image.shape[1] / 2, image.shape[0] / 2)
    return _affine(image, cv2.getRotationMatrix2D(centre, degrees, 1.0))


def _coloured(image: Rgb, settings: Augment, generator: np.random.Generator) -> Rgb:
    if settings.hue:
        hsv = _array(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)).copy()
        turn = round(180 * generator.uniform(-settings.hue, settings.hue))
        hsv[..., 0] = ((hsv[..., 0].astype(np.int16) + turn) % 180).astype(np.uint8)
        image = _array(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    if not settings.colour:
        return image
    brightness, contrast, saturation = generator.uniform(1 - settings.colour, 1 + settings.colour, 3)
    # All three are linear, so that one matrix does them; the mean is that of the picture as it came.
    mean = float((image.reshape(-1, 3).mean(axis=0) @ _GREY) * brightness)
    mix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1)))
    matrix = np.concatenate([mix, np.full((3, 1), mean * (1 - contrast))], axis=1)
    return _array(cv2.transform(image, matrix))


def _erased(image: Rgb, generator: np.random.Generator) -> Rgb:
    height, width = image.shape[:2]
    area = generator.uniform(*_ERASED) * height * width
    ratio = math.exp(generator.uniform(-0.7, 0.7))
    high, wide = (min(side, max(1, round(math.sqrt(area * r)))) for side, r in ((height, ratio), (width, 1 / ratio)))
    top, left = int(generator.integers(0, height - high + 1)), int(generator.integers(0, width - wide + 1))
    image = image.copy()
    image[top : top + high, left : left + wide] = 127
    return image


# -- policies --------------------------------------------------------------------------------------------------------


def _sheared(image: Rgb, x: float, y: float) -> Rgb:
    height, width = image.shape[:2]
    return _affine(image, np.array([[1.0, x, -x * height / 2], [y, 1.0, -y * width / 2]]))


def _moved(image: Rgb, x: float, y: float) -> Rgb:
    return _affine(image, np.array([[1.0, 0.0, x * image.shape[1]], [0.0, 1.0, y * image.shape[0]]]))


def _blend(image: Rgb, other: NDArray[Any], amount: float) -> Rgb:
    """`other` at -1, the picture at 0, as far beyond it at 1."""
    wide = other.astype(np.float32)
    return np.clip(wide + (1 + amount) * (image.astype(np.float32) - wide), 0, 255).astype(np.uint8)


def _equalised(image: Rgb) -> Rgb:
    return np.stack([_array(cv2.equalizeHist(np.ascontiguousarray(image[..., c]))) for c in range(3)], axis=2)


def _stretched(image: Rgb) -> Rgb:
    low, high = (np.float32(f(image, axis=(0, 1))) for f in (np.min, np.max))
    return np.clip((image - low) * (255.0 / np.maximum(high - low, 1.0)), 0, 255).astype(np.uint8)


def _solarised(image: Rgb, strength: float) -> Rgb:
    return np.where(image >= 256 - round(128 * strength), 255 - image, image).astype(np.uint8)


def _posterised(image: Rgb, strength: float) -> Rgb:
    return np.bitwise_and(image, np.uint8(0xFF << round(5 * strength) & 0xFF))


# Each takes the picture and a strength from -1 to 1.
_OPERATIONS: tuple[Callable[[Rgb, float], Rgb], ...] = (
    lambda image, _s: image,
    lambda image, s: _rotated(image, 40 * s),
    lambda image, s: _sheared(image, 0.4 * s, 0.0),
    lambda image, s: _sheared(image, 0.0, 0.4 * s),
    lambda image, s: _moved(image, 0.25 * s, 0.0),
    lambda image, s: _moved(image, 0.0, 0.25 * s),
    lambda image, s: _blend(image, np.zeros_like(image), 0.7 * s),
    lambda image, s: _blend(image, np.full_like(image, round(float(image.mean()))), 0.7 * s),
    lambda image, s: _blend(image, np.repeat((image @ _GREY)[..., None], 3, axis=2), 0.9 * s),
    lambda image, s: _blend(image, _array(cv2.blur(image, (3, 3))), 1.5 * s),
    lambda image, s: _solarised(image, abs(s)),
    lambda image, s: _posterised(image, abs(s)),
    lambda image, _s: _equalised(image),
    lambda image, _s: _stretched(image),
)


def _by_policy(image: Rgb, settings: Augment, generator: np.random.Generator) -> Rgb:
    if settings.policy == "none":
        return image
    trivial = settings.policy == "trivial"
    for _ in range(1 if trivial else settings.operations):
        operation = _OPERATIONS[int(generator.integers(len(_OPERATIONS)))]
        strength = generator.uniform(0, 1) if trivial else settings.strength
        image = operation(image, strength if generator.random() < 0.5 else -strength)
    return image


# -- batches ---------------------------------------------------------------------------------------------------------


def as_tensor(images: Sequence[Rgb]) -> Tensor:
    """Pictures uint8 [S, S, 3] → float32 [N, 3, S, S], 0 to 255, channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32)


def mix(images: Tensor, targets: Tensor, settings: Augment, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix over a batch, or neither.

    Args:
        images: float32 [N, 3, S, S].
        targets: probabilities float32 [N, C].
    """
    alphas = [alpha for alpha in (settings.mixup, settings.cutmix) if alpha > 0]
    if not alphas or len(images) < 2 or generator.random() >= settings.mix_probability:
        return images, targets
    cuts = settings.cutmix > 0 and (settings.mixup == 0 or generator.random() < 0.5)
    share = float(generator.beta(*2 * (settings.cutmix if cuts else settings.mixup,)))
    others = torch.from_numpy(generator.permutation(len(images)))
    if cuts:
        height, width = images.shape[2:]
        high, wide = (round(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = int(generator.integers(0, height - high + 1)), int(generator.integers(0, width - wide + 1))
        mixed = images.clone()
        mixed[:, :, top : top + high, left : left + wide] = images[others, :, top : top + high, left : left + wide]
        share = 1 - high * wide / (height * width)
    else:
        mixed = share * images + (1 - share) * images[others]
    return mixed, share * targets + (1 - share) * targets[others]
