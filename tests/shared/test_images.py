"""Every kind of picture file a factory may hand over, and every way it may be broken."""

from __future__ import annotations

import io
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import BadInput
from shared.images import (
    decode_image,
    decode_reduced,
    draw_boxes,
    draw_contour,
    encode_jpeg,
    encode_png,
    heatmap_overlay,
    read_image,
    read_mask,
)


def scene(height: int = 60, width: int = 90) -> np.ndarray:
    """A smooth picture whose channels, rows and columns all differ."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / (width - 1), y * 255 / (height - 1), (x + y) * 255 / (width + height - 2)]
    return np.rint(np.stack(channels, axis=2)).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_each_format_gives_the_same_colours(kind):
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    decoded = decode_image(saved(Image.fromarray(scene()), kind, **options), "part")
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    difference = np.abs(decoded.astype(int) - scene())
    assert difference.max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_compressed_tiff(compression):
    decoded = decode_image(saved(Image.fromarray(scene()), "TIFF", compression=compression), "part.tif")
    assert np.abs(decoded.astype(int) - scene()).mean() < (4 if compression == "jpeg" else 1e-9)


def test_grey_palette_and_bilevel_become_rgb():
    grey = scene()[..., 0]
    for mode in ("L", "P", "1"):
        source = Image.fromarray(grey).convert(mode)
        decoded = decode_image(saved(source, "PNG"), "part.png")
        assert np.array_equal(decoded, np.asarray(source.convert("RGB")))


def test_cmyk_jpeg():
    source = Image.fromarray(scene()).convert("CMYK")
    decoded = decode_image(saved(source, "JPEG", quality=98, subsampling=0), "part.jpg")
    assert np.abs(decoded.astype(int) - scene()).mean() < 6


def test_transparent_pixels_are_black_whatever_hides_beneath():
    rgba = np.dstack([scene(), np.full((60, 90), 255, np.uint8)])
    rgba[:, 45:, 3] = 0
    rgba[:, :5, 3] = 128
    decoded = decode_image(saved(Image.fromarray(rgba), "PNG"), "part.png")
    assert not decoded[:, 45:].any()
    assert np.array_equal(decoded[:, 5:45], scene()[:, 5:45])
    assert np.abs(decoded[:, :5] - scene()[:, :5] * (128 / 255)).max() <= 1
    grey_alpha = Image.fromarray(scene()[..., 0]).convert("LA")
    assert np.array_equal(decode_image(saved(grey_alpha, "PNG"), "part.png")[..., 1], scene()[..., 0])


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_16_bit_grey_is_scaled_by_the_container(extension):
    dim = np.linspace(0, 30000, 60 * 90).reshape(60, 90).astype(np.uint16)  # a picture that uses half the range
    data = cv2.imencode(extension, dim)[1].tobytes()
    decoded = decode_image(data, "part" + extension)
    assert np.array_equal(decoded[..., 0], np.rint(dim / 257).astype(np.uint8))
    assert decoded.max() == 117  # not stretched to 255


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_16_bit_colour(extension):
    deep = scene().astype(np.uint16) * 257
    data = cv2.imencode(extension, deep[..., ::-1])[1].tobytes()
    assert np.array_equal(decode_image(data, "part" + extension), scene())


def test_16_bit_colour_with_alpha():
    deep = np.dstack([scene().astype(np.uint16)[..., ::-1] * 257, np.full((60, 90), 65535, np.uint16)])
    deep[:, 50:, 3] = 0
    decoded = decode_image(cv2.imencode(".png", deep)[1].tobytes(), "part.png")
    assert np.array_equal(decoded[:, :50], scene()[:, :50])
    assert not decoded[:, 50:].any()


def test_12_bits_in_a_16_bit_file_use_the_whole_range():
    twelve = np.linspace(0, 4095, 60 * 90).reshape(60, 90).astype(np.uint16)
    decoded = decode_image(cv2.imencode(".png", twelve)[1].tobytes(), "part.png")
    assert (decoded.min(), decoded.max()) == (0, 255)
    half = decode_image(cv2.imencode(".png", twelve // 2)[1].tobytes(), "part.png")
    assert half.max() in (127, 128)


def test_float_pixels_are_refused():
    data = saved(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF")
    with pytest.raises(BadInput, match=r"part\.tif has 32-bit pixels"):
        decode_image(data, "part.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene()), "PNG", exif=exif)
    turned = {
        1: scene(), 2: scene()[:, ::-1], 3: scene()[::-1, ::-1], 4: scene()[::-1],
        5: scene().transpose(1, 0, 2), 6: np.rot90(scene(), -1),
        7: scene()[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(scene()),
    }[orientation]  # fmt: skip
    assert np.array_equal(decode_image(data, "part.png"), turned)
    small, size = decode_reduced(data, "part.png", 16)
    assert size == (turned.shape[1], turned.shape[0])
    assert small.shape == turned.shape


def test_reduced_jpeg_is_smaller_and_tells_the_true_size():
    data = encode_jpeg(cv2.resize(scene(), (1600, 1200)))
    small, size = decode_reduced(data, "part.jpg", 256)
    assert size == (1600, 1200)
    assert small.shape == (300, 400, 3)
    whole = decode_image(data, "part.jpg")
    assert np.abs(cv2.resize(whole, (400, 300), interpolation=cv2.INTER_AREA).astype(int) - small).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_truncated_files_are_refused_wherever_they_end(kind):
    noisy = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noisy), kind)
    for share in (0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        with pytest.raises(BadInput, match="broken"):
            decode_image(data[: int(len(data) * share)], "broken")
        with pytest.raises(BadInput, match="broken"):
            decode_reduced(data[: int(len(data) * share)], "broken", 32)


def test_progressive_jpeg_cut_short_is_refused():
    data = saved(Image.fromarray(scene(300, 400)), "JPEG", progressive=True)
    assert decode_image(data, "part.jpg").shape == (300, 400, 3)
    with pytest.raises(BadInput, match="truncated"):
        decode_image(data[: len(data) // 2], "part.jpg")


def test_a_flipped_bit_in_png_data_is_noticed():
    data = bytearray(encode_png(scene()))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(BadInput, match="damaged"):
        decode_image(bytes(data), "part.png")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_raises_anything_but_bad_input(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]))
    content = bytearray(saved(Image.fromarray(scene(24, 30)), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_image(bytes(content), "fuzzed", max_pixels=10_000_000)
    except BadInput:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (60000, 60000), (2**31 - 1, 1)])
def test_size_is_checked_before_decoding(width, height):
    with pytest.raises(BadInput, match="limit"):
        decode_image(_png_that_claims(width, height), "bomb.png")
    with pytest.raises(BadInput, match="5,000"):
        decode_image(encode_png(scene()), "part.png", max_pixels=5000)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a" + b"\0" * 50, b"BM"])
def test_what_is_not_a_picture_is_refused_by_name(data):
    with pytest.raises(BadInput, match=r"^notes\.png .*\.$"):
        decode_image(data, "notes.png")


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(BadInput, match="is a folder"):
        read_image(tmp_path)


def test_reading_by_content_not_by_extension(tmp_path):
    file = tmp_path / "really_a_png.JPG"
    file.write_bytes(encode_png(scene()))
    assert np.array_equal(read_image(file), scene())


def test_masks_mark_everything_that_is_not_black(tmp_path):
    grey = np.zeros((20, 30), np.uint8)
    grey[3:5, 4:9] = 1
    grey[10:12] = 255
    (tmp_path / "m.png").write_bytes(encode_png(grey))
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == bool
    assert np.array_equal(mask, grey > 0)


def test_decoding_on_many_threads_gives_the_same():
    data = encode_jpeg(cv2.resize(scene(), (400, 300)))
    expected = decode_image(data, "part.jpg")
    wrong: list[str] = []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(decode_image(data, "part.jpg"), expected):
                wrong.append("differs")
            try:
                decode_image(data[:-3000], "part.jpg")
                wrong.append("accepted")
            except BadInput:
                pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_encoders_round_trip_and_check_their_input():
    assert np.array_equal(decode_image(encode_png(scene()), "x"), scene())
    assert np.array_equal(decode_image(encode_png(scene()[..., 0]), "x")[..., 2], scene()[..., 0])
    with pytest.raises(ValueError, match="uint8"):
        encode_png(scene().astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(np.dstack([scene(), scene()]))


def test_overlay_leaves_cold_places_alone_and_colours_hot_ones():
    image = np.full((64, 96, 3), 100, np.uint8)
    heat = np.zeros((16, 16), np.float32)
    heat[4:8, 8:12] = 5.0
    drawn = heatmap_overlay(image, heat, 1.0, 5.0)
    assert drawn.shape == image.shape
    assert np.array_equal(drawn[40:], image[40:])
    hot = drawn[24, 60].astype(int)
    assert hot[0] > 100 > hot[2]  # red, at row 24 of 64 and column 60 of 96: the map is stretched
    assert np.array_equal(heatmap_overlay(image, heat, 2.0, 2.0)[40:], image[40:])


def test_boxes_and_contours_are_drawn_on_a_copy():
    image = np.zeros((50, 60, 3), np.uint8)
    boxed = draw_boxes(image, [(10, 5, 20, 15)], (255, 0, 0))
    assert boxed[5, 10:20, 0].all()
    assert boxed[14, 19, 0] == 255
    assert not boxed[15:].any()
    mask = np.zeros((25, 30), bool)
    mask[5:10, 5:10] = True
    outlined = draw_contour(image, mask, (0, 255, 0))
    assert outlined[10, 10, 1] == 255
    assert not outlined[14, 14].any()
    assert not image.any()
