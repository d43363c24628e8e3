"""Pictures as clients have them: an input that is a picture may be sent as BYTES, each element a PNG, JPEG, … file.

Which inputs those are, a model's manifest says under `preprocessing`:

    "encoded_images": {
        "image": {"size": [224, 224], "layout": "NCHW", "scale": 0.00392156862745098,
                  "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    }

`image` is the input's name; see `Picture` for the fields. An input UINT8 [-1, -1, -1, 3], which takes RGB pictures of
any size (inspection models do), needs no entry: its pictures are decoded as `shared.images` decodes them.

A JPEG that is shrunk is decoded at 1/2, 1/4 or 1/8, as long as both sides stay at least as long as wanted, which costs
a fraction of decoding it all. The number of pixels is bounded from the file's header, before memory is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared import images
from shared.errors import BadInput, PackageRefused
from shared.manifest import DATATYPES, Manifest, describe_error

FIELD = "encoded_images"
"""Its name in the manifest's `preprocessing`."""
_ANY_PICTURE = [-1, -1, -1, 3]
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_PIXEL_TYPES = ("UINT8", "FP16", "FP32")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_EXIF = 0xE1
_END_OF_PICTURE = b"\xff\xd9"

Array = NDArray[Any]


class Spec(Protocol):
    name: str
    datatype: str
    shape: list[int]


class Picture(BaseModel):
    """How the files of one input become its tensor: value = (pixel × scale − mean) / std, a pixel being 0 to 255."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    size: tuple[int, int] = Field(description="height and width; the picture is stretched to them")
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    colour: Literal["RGB", "BGR", "GREY"] = "RGB"
    scale: float = 1.0
    mean: list[float] = [0.0]
    """One number, or one for each channel; so is `std`."""
    std: list[float] = [1.0]

    @property
    def channels(self) -> int:
        return 1 if self.colour == "GREY" else 3

    @property
    def shape(self) -> list[int]:
        """Of the tensor, -1 for the number of pictures."""
        height, width = self.size
        return [-1, height, width, self.channels] if self.layout == "NHWC" else [-1, self.channels, height, width]

    @property
    def changes_values(self) -> bool:
        return self.scale != 1 or any(self.mean) or any(value != 1 for value in self.std)

    @model_validator(mode="after")
    def _possible(self) -> Picture:
        if min(self.size) < 1:
            raise ValueError("size must be a height and a width of 1 or more")
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ValueError(f"mean and std must hold one number, or {self.channels}")
        if not all(self.std):
            raise ValueError("std must not be 0")
        return self


def pictures(manifest: Manifest) -> dict[str, Picture]:
    """What the manifest says of its encoded inputs, by name.

    Raises:
        PackageRefused: it says something impossible.
    """
    specs = {spec.name: spec for spec in manifest.inputs}
    told = manifest.preprocessing.get(FIELD, {})
    if not isinstance(told, dict):
        raise PackageRefused(f"model {manifest.name}: preprocessing.{FIELD} must be an object of input names.")
    return {name: _picture(manifest.name, name, entry, specs.get(name)) for name, entry in told.items()}


def _picture(model: str, name: str, entry: Any, spec: Spec | None) -> Picture:
    where = f"model {model}: preprocessing.{FIELD}.{name}"
    if spec is None:
        raise PackageRefused(f"{where}: the model has no such input.")
    try:
        picture = Picture.model_validate(entry)
    except ValidationError as error:
        raise PackageRefused(f"{where}: {describe_error(error)}.") from None
    fits = len(spec.shape) == 4 and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(spec.shape, picture.shape, strict=True)
    )
    if not fits or spec.datatype not in _PIXEL_TYPES:
        raise PackageRefused(
            f"{where}: {picture.layout} of size {list(picture.size)} is no {spec.datatype} {spec.shape}."
        )
    if spec.datatype == "UINT8" and picture.changes_values:
        raise PackageRefused(f"{where}: scale, mean and std are for FP32 and FP16; pixels are UINT8 as they are.")
    return picture


def accepts(manifest: Manifest, spec: Spec) -> bool:
    """True if this input may come as image files. Quick: it is asked for every request with such an input."""
    return spec.name in manifest.preprocessing.get(FIELD, ()) or _any_picture(spec)


def _any_picture(spec: Spec) -> bool:
    return spec.datatype == "UINT8" and spec.shape == _ANY_PICTURE


def decode(manifest: Manifest, inputs: Mapping[str, Array], max_pixels: int) -> Mapping[str, Array]:
    """`inputs` with image files made into tensors; what is a tensor already stays as it is.

    Args:
        inputs: by name; image files are an object array [N] of `bytes`.
        max_pixels: of each picture, and of all pictures of one input together as the model takes them.

    Raises:
        BadInput: a file is no picture or damaged, has too many pixels, or not the size of those beside it.
    """
    if all(array.dtype.kind != "O" for array in inputs.values()):
        return inputs
    told = pictures(manifest)
    decoded = dict(inputs)
    for spec in manifest.inputs:
        array = inputs.get(spec.name)
        if array is None or array.dtype.kind != "O" or spec.datatype == "BYTES":
            continue
        files = array.ravel().tolist()
        if spec.name in told:
            decoded[spec.name] = _resized(files, spec, told[spec.name], max_pixels)
        elif _any_picture(spec):
            decoded[spec.name] = _as_they_are(files, spec.name, max_pixels)
    return decoded


def _as_they_are(files: list[bytes], name: str, max_pixels: int) -> Array:
    """Pictures of one size as uint8 [N, H, W, 3] RGB."""
    found: list[Array] = []
    for index, data in enumerate(files):
        where = f"input {name}: picture {index}"
        found.append(images.decode_image(data, where, max_pixels))
        height, width, _ = found[0].shape
        if found[-1].shape != found[0].shape:
            h, w, _ = found[-1].shape
            raise BadInput(f"{where} is {w}×{h}, the first one {width}×{height}; send sizes of their own alone.")
        if len(files) * height * width > max_pixels:
            raise BadInput(f"input {name}: {len(files)} pictures of {width}×{height} are over {max_pixels:,} pixels.")
    return found[0][None] if len(found) == 1 else np.stack(found) if found else np.zeros((0, 1, 1, 3), np.uint8)


def _resized(files: list[bytes], spec: Spec, wanted: Picture, max_pixels: int) -> Array:
    """Pictures as the model takes them: `wanted.shape`, of the input's datatype."""
    height, width = wanted.size
    if len(files) * height * width > max_pixels:
        raise BadInput(f"input {spec.name}: {len(files)} pictures of {width}×{height} are over {max_pixels:,} pixels.")
    batch = np.empty((len(files), *wanted.shape[1:]), DATATYPES[spec.datatype])
    # One multiplication and one addition for each value: (pixel × scale − mean) / std = pixel × gain + offset.
    std = np.array(wanted.std, np.float32)
    gain, offset = np.float32(wanted.scale) / std, -np.array(wanted.mean, np.float32) / std
    for index, data in enumerate(files):
        pixels = _pixels(data, f"input {spec.name}: picture {index}", wanted, max_pixels)
        # Channel by channel, since numpy takes ten times as long where source and target lie in different orders.
        for channel, plane in enumerate(cv2.split(pixels)):
            target = batch[index, channel] if wanted.layout == "NCHW" else batch[index, ..., channel]
            if not wanted.changes_values:
                target[...] = plane
                continue
            each = channel % len(gain), channel % len(offset)
            np.multiply(plane, gain[each[0]], out=target, casting="same_kind", dtype=np.float32)
            np.add(target, offset[each[1]], out=target, casting="same_kind", dtype=np.float32)
    return batch


def _pixels(data: bytes, where: str, wanted: Picture, max_pixels: int) -> Array:
    """One picture as uint8 [H, W, C] in the wanted size and colour."""
    height, width = wanted.size
    found = _quick_jpeg(data, height, width, max_pixels)
    # What the quick way does not read, or refuses, is for the general one to read or to refuse in a sentence.
    bgr = images.decode_reduced(data, where, max(height, width), max_pixels)[0][..., ::-1] if found is None else found
    if bgr.shape[:2] != (height, width):
        # Averaging over an area keeps fine patterns from turning into coarse ones; below a factor of 2 there are none.
        shrinks = bgr.shape[0] > 2 * height or bgr.shape[1] > 2 * width
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        bgr = cv2.resize(np.ascontiguousarray(bgr), (width, height), interpolation=way)
    if wanted.colour == "GREY":
        return cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2GRAY)[..., None]
    bgr = np.ascontiguousarray(bgr)
    return bgr if wanted.colour == "BGR" else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True, slots=True)
class _Header:
    """Of a JPEG with 8 bits and one or three channels."""

    width: int
    height: int
    scan: int
    """Where its pixels begin."""
    exif: bool
    """Whether it may say that it lies on its side."""


def _quick_jpeg(data: bytes, height: int, width: int, max_pixels: int) -> Array | None:
    """A usual JPEG as uint8 [h, w, 3] BGR, upright, and no smaller than wanted where it was not; else None.

    The pixels are those of `shared.images.decode_reduced`: both use libjpeg-turbo.
    """
    header = _jpeg_header(data)
    # A truncated file has no end, and must not be a picture with a grey lower half.
    if header is None or header.width * header.height > max_pixels or data.rfind(_END_OF_PICTURE, header.scan) < 0:
        return None
    if header.exif:
        times = min(header.width, header.height) / max(width, height)
    else:
        times = min(header.width / width, header.height / height)
    shrink = next((by for by in (8, 4, 2) if times >= by), 1)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED.get(shrink, cv2.IMREAD_COLOR))
    except cv2.error:
        return None
    return None if decoded is None else np.asarray(decoded)


def _jpeg_header(data: bytes) -> _Header | None:
    """What stands before a JPEG's pixels; None for every other kind of file."""
    if data[:2] != b"\xff\xd8":
        return None
    at, size, exif = 2, None, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN:
            return None if size is None else _Header(*size, at, exif)
        if marker in _START_OF_FRAME:
            segment = data[at + 4 : at + 10]
            if len(segment) < 6 or segment[0] != 8 or segment[5] not in (1, 3):
                return None
            size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
        exif = exif or marker == _EXIF
        at += 2 + length
    return None
