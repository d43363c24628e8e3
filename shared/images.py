"""Pictures in and out: one decoder for training, evaluation, server and edge, so that all see the same pixels.

Every picture becomes uint8 [H, W, 3] RGB. What a file may hold, and what becomes of it:

* PNG, JPEG, BMP, TIFF, recognised by content, not by extension. Of a file with several pages the first is read.
* grey, palette, CMYK: converted to RGB. Alpha: laid over black, since what hides under transparent pixels is arbitrary.
* EXIF orientation is applied, so that a picture stands as a person sees it.
* 16 bit: divided by 257 (65535 becomes 255), never stretched to the file's own range, which would make brightness
  differ from picture to picture. Many cameras put 12 bits into a 16-bit file: where no value exceeds 4095 the file is
  taken as 12 bit and divided by 4095/255. The price: a true 16-bit picture that stays below 1/16 of full scale is read
  brighter than it is.
* 32-bit and floating-point pixels are refused, since their range is not known.

A truncated file raises; it is never a picture with a grey lower half. The number of pixels is checked from the header,
before memory is taken for them.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from shared.errors import BadInput

Rgb = NDArray[np.uint8]
"""A picture: uint8 [H, W, 3], RGB, 0 to 255."""

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff"})
"""Extensions of the formats read here, in lower case."""

MAX_PIXELS = 100_000_000

# Readers register themselves when imported; Pillow alone would import some of them only on demand.
_READERS = (PngImagePlugin, JpegImagePlugin, BmpImagePlugin, TiffImagePlugin)
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TAG_BITS_PER_SAMPLE = 258
# What Pillow warns of reaches the user as our own sentence: damaged TIFF tags, and pictures that are too large.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_LARGEST_12_BIT = 4095


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """The picture in `data` as uint8 [H, W, 3] RGB.

    Args:
        data: the bytes of a PNG, JPEG, BMP or TIFF file.
        name: what to call the picture in a message, usually its file name.
        max_pixels: refuse pictures with more pixels (width × height), before decoding.

    Raises:
        BadInput: not a picture of these formats, truncated, damaged, too large, or with 32-bit pixels.
    """
    return _decode(data, name, max_pixels, side=None)[0]


def decode_reduced(data: bytes, name: str, side: int, max_pixels: int = MAX_PIXELS) -> tuple[Rgb, tuple[int, int]]:
    """A picture at reduced size where the format can do that cheaply, and its true size.

    JPEG decodes at 1/2, 1/4 or 1/8 with both sides still at least `side`; the other formats come at full size. The
    whole file is still read, so that damage is found.

    Returns:
        uint8 [h, w, 3] RGB, and (width, height) of the full picture in pixels after EXIF orientation.

    Raises:
        BadInput: as `decode_image`.
    """
    return _decode(data, name, max_pixels, side=side)


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """The picture in the file at `path`, as `decode_image` gives it. BadInput also if the file cannot be opened."""
    return decode_image(read_file(path), str(path), max_pixels)


def read_file(path: Path | str) -> bytes:
    """The bytes of a file. BadInput, in one sentence, if it is missing, a folder or unreadable."""
    path = Path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist; check the path.") from error
    except IsADirectoryError as error:
        raise BadInput(f"{path} is a folder, not a picture; name a file.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from error


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """A ground-truth mask as bool [H, W]: every pixel that is not black is defect. BadInput as `read_image`."""
    mask: NDArray[np.bool_] = read_image(path).max(axis=2) > 0
    return mask


def _decode(data: bytes, name: str, max_pixels: int, side: int | None) -> tuple[Rgb, tuple[int, int]]:
    if not data:
        raise BadInput(f"{name} is empty (0 bytes); copy it again.")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadInput(
                    f"{name} has {width}×{height} pixels, more than the limit of {max_pixels:,}; scale it down."
                )
            if side is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (side, side))
            if image.format == "PNG":
                _check_png(data, name)
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            rgb = _to_rgb(image, data, name)
    except BadInput:
        raise
    except UnidentifiedImageError as error:
        raise BadInput(f"{name} is not a PNG, JPEG, BMP or TIFF picture; convert it to one of these.") from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{name} has more pixels than the limit of {max_pixels:,}; scale it down.") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        # Pillow's readers raise all of these on damaged headers.
        raise BadInput(f"{name} is damaged or truncated ({error}); copy it again or leave it out.") from error
    except MemoryError as error:
        raise BadInput(f"{name} needs more memory than there is; scale it down.") from error
    return rgb, ((height, width) if turned else (width, height))


def _check_png(data: bytes, name: str) -> None:
    """Compare the checksums of a PNG's pixel data, which Pillow leaves out once it has enough of them. BadInput."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if kind == b"IEND":
            return
        stored = int.from_bytes(data[end : end + 4], "big")
        if kind == b"IDAT" and (end + 4 > len(data) or zlib.crc32(data[place + 4 : end]) != stored):
            break
        place = end + 4
    raise BadInput(f"{name} is damaged or truncated (checksum or end is wrong); copy it again or leave it out.")


def _to_rgb(image: ImageFile.ImageFile, data: bytes, name: str) -> Rgb:
    deep_colour = _is_deep_colour(image, data)
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = _from_16_bit(np.asarray(image).astype(np.uint16))
        upright: Image.Image = _upright(Image.fromarray(grey), image)
    elif image.mode in ("I", "F"):
        raise BadInput(f"{name} has 32-bit pixels, whose range is not known; save it with 8 or 16 bits.")
    elif deep_colour:
        upright = _upright(Image.fromarray(_decode_deep_colour(data, name)), image)
    else:
        upright = _upright(image, image)
    if upright.mode in ("LA", "La", "PA", "RGBa") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    if upright.mode == "RGBA":
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _upright(picture: Image.Image, original: Image.Image) -> Image.Image:
    orientation = original.getexif().get(0x0112, 1)
    if orientation in (None, 1):
        return picture
    turned = picture.copy()
    turned.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(turned) or turned


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Colour with 16 bits a channel, which Pillow would cut to 8 without rounding and without looking for 12 bits."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PNG":
        return len(data) > 24 and data[24] == 16
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_TAG_BITS_PER_SAMPLE, (8,))
        return 16 in (bits if isinstance(bits, tuple) else (bits,))
    return False


def _decode_deep_colour(data: bytes, name: str) -> NDArray[np.uint8]:
    raw: Any = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise BadInput(f"{name} is damaged, or a kind of 16-bit colour that is not supported; save it as 16-bit PNG.")
    if raw.dtype != np.uint16:
        return np.ascontiguousarray(raw[..., ::-1] if raw.shape[2] == 3 else cv2.cvtColor(raw, cv2.COLOR_BGRA2RGBA))
    order = [2, 1, 0, 3][: raw.shape[2]]
    colour = _from_16_bit(raw[..., order[:3]])
    if len(order) == 4:
        alpha = ((raw[..., 3:].astype(np.uint32) + 128) // 257).astype(np.uint8)
        colour = np.concatenate([colour, alpha], axis=2)
    return np.ascontiguousarray(colour)


def _from_16_bit(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """uint16 to uint8 by the container's full scale: 4095 where no value exceeds it (see the module), else 65535."""
    full_scale = _LARGEST_12_BIT if values.size and int(values.max()) <= _LARGEST_12_BIT else 65535
    wide = values.astype(np.uint32)
    return ((wide * 255 + full_scale // 2) // full_scale).astype(np.uint8)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of a picture uint8 [H, W, 3] RGB, or [H, W] grey."""
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 4])


def encode_jpeg(image: NDArray[np.uint8], quality: int = 88) -> bytes:
    """JPEG bytes of a picture uint8 [H, W, 3] RGB, or [H, W] grey; `quality` 1 to 100."""
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encode(image: NDArray[np.uint8], extension: str, options: list[int]) -> bytes:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"expected uint8 [H, W, 3] or [H, W], not {image.dtype} {list(image.shape)}")
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, encoded = cv2.imencode(extension, pixels, options)
    if not done:
        raise ValueError(f"a picture of shape {list(image.shape)} could not be encoded as {extension}")
    return bytes(encoded.tobytes())


def heatmap_overlay(image: Rgb, heatmap: NDArray[np.float32], low: float, high: float, opacity: float = 0.65) -> Rgb:
    """The picture with its heat map laid over it: nothing at `low` and below, full colour at `high` and above.

    Args:
        image: uint8 [H, W, 3] RGB.
        heatmap: float [h, w] in raw units, stretched over the whole picture.
        low: value that leaves the picture as it is, for example the median of good parts.
        high: value drawn at full strength, for example the `ng` threshold.
        opacity: share of the colour at full strength, 0 to 1.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    height, width = image.shape[:2]
    span = max(float(high) - float(low), 1e-12)
    strength = np.clip((heatmap.astype(np.float32) - low) / span, 0.0, 1.0)
    strength = np.nan_to_num(cv2.resize(strength, (width, height), interpolation=cv2.INTER_LINEAR))
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    alpha = (np.sqrt(strength) * opacity)[..., None]
    blended: Rgb = np.rint(image * (1 - alpha) + colours * alpha).astype(np.uint8)
    return blended


def draw_boxes(
    image: Rgb, boxes: Iterable[tuple[int, int, int, int]], colour: tuple[int, int, int] = (255, 40, 40)
) -> Rgb:
    """A copy with rectangles (x0, y0, x1, y1 in pixels, x1 and y1 exclusive) in `colour` RGB."""
    drawn = np.ascontiguousarray(image).copy()
    line = max(1, round(max(image.shape[:2]) / 300))
    for x0, y0, x1, y1 in boxes:
        cv2.rectangle(drawn, (int(x0), int(y0)), (int(x1) - 1, int(y1) - 1), colour, line)
    return drawn


def draw_contour(image: Rgb, mask: NDArray[np.bool_], colour: tuple[int, int, int] = (40, 255, 90)) -> Rgb:
    """A copy with the outline of a mask bool [h, w] (any resolution, stretched over the picture) in `colour` RGB."""
    height, width = image.shape[:2]
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(resized, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(image).copy()
    cv2.drawContours(drawn, contours, -1, colour, max(1, round(max(height, width) / 300)))
    return drawn
