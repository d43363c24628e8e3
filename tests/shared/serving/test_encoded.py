"""Image files as BYTES: decoded in the server into what the model takes, or refused with a sentence."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from onnx import helper
from PIL import Image
from tritonclient.utils import InferenceServerException

from shared import images
from shared.errors import BadInput, PackageRefused
from shared.manifest import DATATYPES, Manifest
from shared.package import TensorSpec
from shared.serving import encoded
from shared.serving.app import create_app
from shared.serving.limits import Limits
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.shared.packages import make_manifest
from tests.shared.serving.models import write
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]

IMAGENET = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def _picture(height: int = 480, width: int = 640, seed: int = 0) -> np.ndarray:
    """Soft colours: what survives JPEG and resizing nearly unchanged."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _jpeg(picture: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=95, **options)
    return content.getvalue()


def _manifest(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 3, 224, 224), **told: Any) -> Manifest:
    entry = {"size": [224, 224], "layout": "NCHW"} | told
    spec = TensorSpec(name="image", datatype=datatype, shape=list(shape))
    return make_manifest().model_copy(update={"inputs": [spec], "preprocessing": {"encoded_images": {"image": entry}}})


def _decode(manifest: Manifest, *files: bytes, max_pixels: int = 10_000_000) -> np.ndarray:
    array = np.empty(len(files), dtype=object)
    array[:] = files
    return encoded.decode(manifest, {"image": array}, max_pixels)["image"]


@pytest.mark.parametrize("size", [(480, 640), (2000, 3000), (100, 80), (224, 224), (448, 448), (1800, 230)])
@pytest.mark.parametrize("file", ["jpeg", "png", "grey"])
def test_the_tensor_is_what_the_manifest_describes(size: tuple[int, int], file: str) -> None:
    picture = _picture(*size)
    if file == "grey":
        picture = np.repeat(picture[..., :1], 3, axis=2)
    data = images.encode_png(picture) if file == "png" else _jpeg(picture[..., 0] if file == "grey" else picture)
    tensor = _decode(_manifest(**IMAGENET), data)
    assert (tensor.dtype, tensor.shape, tensor.flags.c_contiguous) == (np.float32, (1, 3, 224, 224), True)
    ideal = cv2.resize(picture, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    back = tensor[0].transpose(1, 2, 0) * IMAGENET["std"] + IMAGENET["mean"]
    assert np.abs(back - ideal).mean() * 255 < 2.5  # JPEG and another way to shrink; a shifted picture has 10 and more


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = _jpeg(_picture(480, 640), exif=exif)
    wanted = images.decode_image(data, "x")
    size = [wanted.shape[0] // 2, wanted.shape[1] // 2]
    manifest = _manifest("UINT8", (-1, *size, 3), size=size, layout="NHWC")
    assert np.abs(_decode(manifest, data)[0].astype(int) - cv2.resize(wanted, size[::-1])).mean() < 2


def test_the_quick_way_gives_the_pixels_that_training_sees() -> None:
    data = _jpeg(_picture(480, 640))
    for by in (1, 2, 4, 8):
        size = [480 // by, 640 // by]
        manifest = _manifest("UINT8", (-1, *size, 3), size=size, layout="NHWC")
        trained, _ = images.decode_reduced(data, "x", min(size))
        np.testing.assert_array_equal(_decode(manifest, data)[0], trained)


@pytest.mark.parametrize("datatype", ["UINT8", "FP16", "FP32"])
@pytest.mark.parametrize("colour", ["RGB", "BGR", "GREY"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_datatypes_colours_and_layouts(datatype: str, colour: str, layout: str) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[...] = (200, 100, 50)
    values = {"RGB": [200, 100, 50], "BGR": [50, 100, 200], "GREY": [124]}[colour]
    scaled = {} if datatype == "UINT8" else {"scale": 0.5, "mean": [1.0], "std": [2.0]}
    if scaled:
        values = [(value * 0.5 - 1) / 2 for value in values]
    shape = [-1, 20, 30, len(values)] if layout == "NHWC" else [-1, len(values), 20, 30]
    manifest = _manifest(datatype, tuple(shape), size=[20, 30], layout=layout, colour=colour, **scaled)
    tensor = _decode(manifest, images.encode_png(picture), images.encode_png(picture))
    assert tensor.dtype == DATATYPES[datatype]
    assert list(tensor.shape) == [2, *shape[1:]]
    last = tensor if layout == "NHWC" else tensor.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(last, np.broadcast_to(values, last.shape), rtol=0.01)


def test_what_cannot_be_used_is_refused_with_its_place() -> None:
    good = _jpeg(_picture())
    manifest = _manifest()
    cases = [
        (b"", "empty"),
        (b"no picture", "not a PNG"),
        (good[: len(good) // 2], "truncated"),
        (good[:300], "damaged|not a PNG"),
        (images.encode_png(_picture())[:-20], "damaged"),
        (_jpeg(_picture(2000, 3000)), "more than the limit"),
    ]
    for data, words in cases:
        with pytest.raises(BadInput, match=words) as caught:
            _decode(manifest, good, data, max_pixels=1_000_000)
        assert "input image: picture 1" in str(caught.value)
    with pytest.raises(BadInput, match="pictures of 224×224 are over"):
        _decode(manifest, *[good] * 30, max_pixels=1_000_000)


def test_a_manifest_that_cannot_be_meant_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"size": [0, 5]}, "size"),
        ({"size": [224, 224], "layout": "NHWC"}, "is no FP32"),
        ({"size": [112, 224]}, "is no FP32"),
        ({"std": [0.0]}, "std"),
        ({"mean": [1.0, 2.0]}, "mean"),
        ({"colour": "HSV"}, "colour"),
        ({"sise": [1, 1]}, "sise"),
    ]
    for told, words in cases:
        with pytest.raises(PackageRefused, match=words):
            encoded.pictures(_manifest(**told))
    with pytest.raises(PackageRefused, match="UINT8 as they are"):
        encoded.pictures(_manifest("UINT8", **IMAGENET))
    with pytest.raises(PackageRefused, match="no such input"):
        encoded.pictures(make_manifest().model_copy(update={"preprocessing": {"encoded_images": {"x": {}}}}))
    with pytest.raises(PackageRefused, match="an object"):
        encoded.pictures(make_manifest().model_copy(update={"preprocessing": {"encoded_images": []}}))


def test_such_a_package_is_refused_before_a_port_is_bound(
    make_settings: Callable[[], Settings], tmp_path: Path
) -> None:
    spec = TensorSpec(name="image", datatype="FP32", shape=[-1, 3, 8, 8])
    golden = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    node = helper.make_node("Identity", ["image"], ["seen"])
    seen = spec.model_copy(update={"name": "seen"})
    told = {"encoded_images": {"image": {"size": [9, 8], "layout": "NCHW"}}}
    path = write(tmp_path / "photo", "photo", [node], [spec], [seen], golden, preprocessing=told)
    with pytest.raises(PackageRefused, match=r"encoded_images\.image"):
        create_app(ServerOptions([path]), make_settings())


@pytest.fixture(scope="module")
def server(serve: Serve, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with `photo`, which gives back its tensor, and `tiny`, which takes pictures of any size."""
    folder = tmp_path_factory.mktemp("photo")
    shape = [-1, 3, 32, 48]
    write(
        folder / "photo",
        "photo",
        [helper.make_node("Identity", ["image"], ["seen"])],
        [TensorSpec(name="image", datatype="FP32", shape=shape)],
        [TensorSpec(name="seen", datatype="FP32", shape=shape)],
        {"image": np.zeros((1, 3, 32, 48), np.float32)},
        preprocessing={"encoded_images": {"image": {"size": [32, 48], "layout": "NCHW", "scale": 1 / 255}}},
    )
    with serve(Limits(max_pixels=1_000_000), packages=[folder, packages / "tiny.zip"]) as made:
        yield made


def _files(name: str, *files: bytes, column: bool = False) -> triton.InferInput:
    array = np.array(files, dtype=object).reshape((-1, 1) if column else (-1,))
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=True)
    return tensor


@pytest.mark.parametrize("column", [False, True])
def test_tritons_client_sends_files(server: Served, column: bool) -> None:
    pictures = [_picture(120, 180, seed) for seed in range(3)]
    files = [_jpeg(pictures[0]), images.encode_png(pictures[1]), _jpeg(pictures[2])]
    with triton.InferenceServerClient(server.address) as client:
        result = client.infer("photo", [_files("image", *files, column=column)], headers=server.headers())
        seen = result.as_numpy("seen")
        assert seen.shape == (3, 3, 32, 48)
        for picture, tensor in zip(pictures, seen, strict=True):
            ideal = cv2.resize(picture, (48, 32), interpolation=cv2.INTER_AREA)
            assert np.abs(tensor.transpose(1, 2, 0) * 255 - ideal).mean() < 3
        # The tensor itself is still taken.
        tensor_input = triton.InferInput("image", [3, 3, 32, 48], "FP32")
        tensor_input.set_data_from_numpy(seen)
        again = client.infer("photo", [tensor_input], headers=server.headers())
        np.testing.assert_array_equal(again.as_numpy("seen"), seen)


def test_inspection_models_take_files_of_any_size(server: Served) -> None:
    threshold = triton.InferInput("pixel_threshold", [1], "FP32")
    threshold.set_data_from_numpy(np.array([0.5], np.float32))
    white, black = (images.encode_png(np.full((60, 50, 3), value, np.uint8)) for value in (255, 0))
    other = images.encode_png(np.zeros((30, 30, 3), np.uint8))
    with triton.InferenceServerClient(server.address) as client:
        result = client.infer("tiny", [_files("image", white, black), threshold], headers=server.headers())
        np.testing.assert_allclose(result.as_numpy("score"), [1, 0], atol=1e-5)
        for files, words in (
            ((white, other), "picture 1 is 30×30"),
            ((white, b"x"), "picture 1 is not a PNG"),
            ((images.encode_png(np.zeros((1001, 1000, 3), np.uint8)),), "limit of 1,000,000"),
            ((white,) * 400, "over 1,000,000 pixels"),
        ):
            with pytest.raises(InferenceServerException, match=words) as caught:
                client.infer("tiny", [_files("image", *files), threshold], headers=server.headers())
            assert caught.value.status() == "400"


def test_shapes_that_are_no_list_of_files(server: Served) -> None:
    data = _jpeg(_picture())
    with server.client() as client:
        for shape in ([1, 1, 1], [1, 2], []):
            assert _post(client, "photo", shape, data).status_code == 400
        missing = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["text"]}
        answer = client.post("/v2/models/photo/infer", content=json.dumps({"inputs": [missing]}))
        assert answer.status_code == 400
        assert "not a PNG" in answer.json()["error"]
        # JSON has no bytes; a picture as base64 text is not decoded behind the client's back.
        text = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(data).decode()]}
        assert client.post("/v2/models/photo/infer", content=json.dumps({"inputs": [text]})).status_code == 400
        assert _post(client, "photo", [1], data).status_code == 200
        assert server.state.models["photo"].ready


def _post(client: httpx.Client, model: str, shape: list[int], data: bytes) -> httpx.Response:
    content = len(data).to_bytes(4, "little") + data
    entry = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return client.post(f"/v2/models/{model}/infer", content=head + content, headers=headers)
