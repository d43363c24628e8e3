"""Importing detectors: their numbers against plain numpy, and every refusal in one sentence."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from shared import runtime, signing
from shared.detectors.foreign import Import, import_detector, package_name, read_labels
from shared.detectors.heads import PICODET, Thinning
from shared.errors import BadInput, HaechiError
from shared.package import open_package
from shared.package_commands import app
from tests.shared.detectors.networks import DATA, MODELS, constant_network, real_model, write_labels, yolox_answer

LABELS = ("person", "car")


def imported(tmp_path: Path, model: Path, **options: object) -> runtime.Model:
    request = Import(**{"head": "yolox", "labels": LABELS, "name": "tried", **options})  # type: ignore[arg-type]
    import_detector(model, tmp_path / "package", request)
    return runtime.load(tmp_path / "package", "cpu", 1)


def found(model: runtime.Model, image: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    out = model.run({"image": image[None]})
    kept = out["scores"][0] > 0
    return out["boxes"][0][kept], out["scores"][0][kept], out["classes"][0][kept]


def street(height: int, width: int) -> NDArray[np.uint8]:
    """Noise with structure: something for the networks to answer to, the same on every machine."""
    coarse = np.random.default_rng(4).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def real_frame() -> NDArray[np.uint8]:
    """A car on a road, 432 by 768."""
    path = DATA / "cctv" / "intel_sample_videos" / "car-detection.mp4"
    if not path.is_file():
        pytest.skip(f"{path} is absent: real clips are kept beside the project")
    with av.open(str(path)) as clip:
        for index, frame in enumerate(clip.decode(video=0)):
            if index == 100:
                return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    raise AssertionError("the clip is shorter than it was")


def raw_answers(model: Path, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = runtime.onnxruntime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
    answers: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: pixels})
    return answers


def suppressed(boxes: np.ndarray, scores: np.ndarray, overlap: float, least: float) -> list[int]:
    """Plain greedy suppression, the surest 400 first."""
    order = [index for index in np.argsort(-scores, kind="stable")[:400] if scores[index] > least]
    kept: list[int] = []
    for index in order:
        left, top = np.maximum(boxes[kept, :2], boxes[index, :2]).T if kept else (np.zeros(0), np.zeros(0))
        right, bottom = np.minimum(boxes[kept, 2:], boxes[index, 2:]).T if kept else (np.zeros(0), np.zeros(0))
        shared = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
        areas = (boxes[kept, 2:] - boxes[kept, :2]).prod(axis=1) + (boxes[index, 2:] - boxes[index, :2]).prod() - shared
        if not (shared / areas > overlap).any():
            kept.append(int(index))
    return kept[:100]


def plain_yolox(model: Path, image: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [A, 4] in the picture and chances [A, 80], as Megvii's demo has them."""
    height, width = image.shape[:2]
    scale = min(416 / height, 416 / width)
    square = np.full((416, 416, 3), 114, dtype=np.uint8)
    inner = cv2.resize(image, (int(width * scale + 1e-3), int(height * scale + 1e-3)))
    square[: inner.shape[0], : inner.shape[1]] = inner
    pixels = square[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    answer = raw_answers(model, np.ascontiguousarray(pixels))[0][0]
    grids, strides = [], []
    for stride in (8, 16, 32):
        columns, rows = np.meshgrid(np.arange(416 // stride), np.arange(416 // stride))
        grids.append(np.stack((columns, rows), 2).reshape(-1, 2))
        strides.append(np.full((len(grids[-1]), 1), stride))
    grid, stride_of = np.concatenate(grids), np.concatenate(strides)
    centre, span = (answer[:, :2] + grid) * stride_of, np.exp(answer[:, 2:4]) * stride_of
    boxes = np.concatenate([centre - span / 2, centre + span / 2], axis=1) / scale
    return boxes, answer[:, 4:5] * answer[:, 5:]


def plain_picodet(model: Path, image: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    resized = cv2.resize(image, (416, 416)).astype(np.float32)
    pixels = ((resized - np.array(PICODET.mean)) / np.array(PICODET.std)).transpose(2, 0, 1)[None].astype(np.float32)
    answers = raw_answers(model, np.ascontiguousarray(pixels))
    boxes = []
    for stride, answer in zip((8, 16, 32, 64), answers[4:], strict=True):
        cells = -(-416 // stride)
        shares = np.exp(answer[0].reshape(-1, 4, 8))
        distance = (shares / shares.sum(axis=2, keepdims=True) * np.arange(8)).sum(axis=2) * stride
        columns, rows = np.meshgrid(np.arange(cells), np.arange(cells))
        centre = (np.stack((columns, rows), 2).reshape(-1, 2) + 0.5) * stride
        boxes.append(np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], axis=1))
    back = np.array([width, height, width, height]) / 416
    return np.concatenate(boxes) * back, np.concatenate([answer[0] for answer in answers[:4]])


@pytest.mark.parametrize(
    ("head", "file", "plain"),
    [("yolox", "yolox_nano.onnx", plain_yolox), ("picodet", "picodet_s_416_coco.onnx", plain_picodet)],
)
def test_real_networks_answer_as_plain_numpy(tmp_path: Path, head: str, file: str, plain: object) -> None:
    path = real_model(file)
    model = imported(tmp_path, path, head=head, labels=read_labels(MODELS / "coco80.names"))
    frame = real_frame()
    own_size = np.asarray(cv2.resize(frame, (416, 416)), dtype=np.uint8)
    # What is resized differs: OpenCV rounds its fixed-point weights otherwise than ONNX Runtime, by one of 255.
    for image, least, pixels, chance in ((own_size, 0.05, 0.01, 1e-4), (frame, 0.3, 4.0, 0.03)):
        boxes, scores, classes = found(model, image)
        raw_boxes, chances = plain(path, image)  # type: ignore[operator]
        surest = chances.max(axis=1)
        height, width = image.shape[:2]
        inside = raw_boxes.clip(0, [width, height, width, height])
        clear = suppressed(raw_boxes, surest, 0.5, least)
        assert clear
        assert abs(int((scores > least).sum()) - len(clear)) <= (0 if least < 0.1 else 1)
        for index in clear:
            nearest = int(np.abs(boxes - inside[index]).max(axis=1).argmin())
            assert np.abs(boxes[nearest] - inside[index]).max() < pixels
            assert scores[nearest] == pytest.approx(surest[index], abs=chance)
            assert classes[nearest] == chances[index].argmax()


def test_both_real_networks_take_batches(tmp_path: Path) -> None:
    labels = read_labels(real_model("coco80.names"))
    for head, file in (("yolox", "yolox_nano.onnx"), ("picodet", "picodet_s_416_coco.onnx")):
        model = imported(tmp_path / head, real_model(file), head=head, labels=labels)
        images = np.stack([street(200, 300), street(200, 300)[::-1]])
        both = model.run({"image": images})
        for index in range(2):
            alone = model.run({"image": images[index : index + 1]})
            np.testing.assert_allclose(both["scores"][index], alone["scores"][0], atol=1e-4)


def test_a_yolox_cell_becomes_the_box_it_says(tmp_path: Path) -> None:
    # Anchor 9 of a 64-pixel picture: column 1, row 1 of the first grid, stride 8.
    cell = (0.5, 0.25, np.log(3), np.log(2), 0.9, 0.1, 0.8)
    path = constant_network(tmp_path / "net.onnx", {"output": yolox_answer(64, {9: cell}, 2)})
    boxes, scores, classes = found(imported(tmp_path, path), np.zeros((32, 128, 3), dtype=np.uint8))
    # The picture is shown at half its size: centre (12, 10) and size (24, 16) double.
    np.testing.assert_allclose(boxes, [[0, 4, 48, 32]], atol=1e-3)
    np.testing.assert_allclose(scores, [0.72], atol=1e-5)
    assert classes.tolist() == [1]


def test_logits_get_their_sigmoid(tmp_path: Path) -> None:
    answer = np.full_like(yolox_answer(64, {}, 2), -9.0)
    answer[:, :, :4] = 0
    answer[0, 9, 4:] = (2.0, 3.0, -1.0)
    path = constant_network(tmp_path / "net.onnx", {"output": answer})
    _, scores, classes = found(imported(tmp_path, path), np.zeros((64, 64, 3), dtype=np.uint8))
    assert scores == pytest.approx([1 / (1 + np.exp(-2)) / (1 + np.exp(-3))], abs=1e-5)
    assert classes.tolist() == [0]


def test_agnostic_counts_a_thing_once_and_per_class_twice(tmp_path: Path) -> None:
    cells = {9: (0.5, 0.5, 1.0, 1.0, 1.0, 0.9, 0.0), 10: (-0.5, 0.5, 1.0, 1.0, 1.0, 0.0, 0.8)}
    path = constant_network(tmp_path / "net.onnx", {"output": yolox_answer(64, cells, 2)})
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    assert len(found(imported(tmp_path / "a", path), image)[0]) == 1
    apart = imported(tmp_path / "b", path, thinning=Thinning(agnostic=False))
    assert sorted(found(apart, image)[2].tolist()) == [0, 1]


@pytest.mark.parametrize("version", ["v8", "v5"])
def test_a_yolo_head_of_either_form(tmp_path: Path, version: str) -> None:
    row = [32.0, 24.0, 20.0, 10.0, *([0.5] if version == "v5" else []), 0.2, 0.6]
    rows = np.zeros((1, 84, len(row)), dtype=np.float32)
    rows[0, 50] = row
    answer = rows if version == "v5" else rows.transpose(0, 2, 1)
    path = constant_network(tmp_path / "net.onnx", {"output0": answer}, opset=17)
    model = imported(tmp_path, path, head="yolo")
    boxes, scores, classes = found(model, np.zeros((32, 64, 3), dtype=np.uint8))
    np.testing.assert_allclose(boxes, [[22, 3, 42, 13]], atol=1e-3)  # 16 rows of grey lie above
    assert scores == pytest.approx([0.3 if version == "v5" else 0.6])
    assert classes.tolist() == [1]


def good(tmp_path: Path) -> Path:
    cells = {9: (0.5, 0.5, 1.0, 1.0, 1.0, 0.9, 0.0)}
    return constant_network(tmp_path / "net.onnx", {"output": yolox_answer(64, cells, 2)})


def test_the_command_makes_a_signed_package_that_verifies(tmp_path: Path) -> None:
    signing.make_key(tmp_path / "key.pem")
    labels = write_labels(tmp_path / "names.txt", list(LABELS))
    words = ["import", str(good(tmp_path)), "--task", "detect", "--head", "yolox", "--labels", str(labels)]
    words += ["-o", str(tmp_path / "gate.zip"), "--licence", "Apache-2.0", "--min-score", "0.4", "--per-class"]
    done = CliRunner().invoke(app, [*words, "--sign", str(tmp_path / "key.pem"), "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    package = open_package(tmp_path / "gate.zip", public_keys=[tmp_path / "key.pub"])
    assert package.manifest.name == "gate"
    assert package.manifest.task == "detection"
    assert package.manifest.thresholds["score"].value == 0.4
    assert package.manifest.weights[0].licence == "Apache-2.0"
    assert package.manifest.labels == list(LABELS)
    assert (tmp_path / "out.json").is_file()


def refusal(tmp_path: Path, model: Path, **options: object) -> str:
    request = Import(**{"head": "yolox", "labels": LABELS, "name": "tried", **options})  # type: ignore[arg-type]
    with pytest.raises(BadInput) as caught:
        import_detector(model, tmp_path / "package", request)
    assert not (tmp_path / "package").exists()
    return str(caught.value)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello, this is text")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "half.onnx").write_bytes(good(tmp_path).read_bytes()[:-500])
    for name in ("text", "empty", "half"):
        assert "not an ONNX file, or is damaged" in refusal(tmp_path, tmp_path / f"{name}.onnx")
    assert "cannot be read" in refusal(tmp_path, tmp_path / "missing.onnx")


def test_the_wrong_head_or_labels_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    assert "not a picodet head's" in refusal(tmp_path, path, head="picodet")
    assert "2 classes, and --labels names 3" in refusal(tmp_path, path, labels=("a", "b", "c"))
    assert "--head ssd is not one of" in refusal(tmp_path, path, head="ssd")
    assert "try --head yolox" in refusal(tmp_path, path, head="yolo")
    other = constant_network(tmp_path / "other.onnx", {"output": np.zeros((1, 100, 7))})
    assert "has 84 anchors" in refusal(tmp_path, other)


def test_a_real_yolox_file_is_not_taken_for_yolo(tmp_path: Path) -> None:
    path, labels = real_model("yolox_nano.onnx"), read_labels(real_model("coco80.names"))
    assert "try --head yolox" in refusal(tmp_path, path, head="yolo", labels=labels)
    assert "not a yolox head's" in refusal(tmp_path, real_model("picodet_s_416_coco.onnx"), labels=labels)
    assert "80 classes, and --labels names 2" in refusal(
        tmp_path, real_model("picodet_s_416_coco.onnx"), head="picodet"
    )


def test_outside_weights_are_refused(tmp_path: Path) -> None:
    model = onnx.load(good(tmp_path))
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert "keeps its weights in other files" in refusal(tmp_path, tmp_path / "outside.onnx")


def test_an_input_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = constant_network(tmp_path / "tiny.onnx", {"output": np.zeros((1, 84, 7))}, size=(16, 16))
    assert "no fixed size" in refusal(tmp_path, path)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    with pytest.raises(HaechiError, match="exists already"):
        import_detector(good(tmp_path), tmp_path / "package", Import(head="yolox", labels=LABELS, name="tried"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a\n\nb\n", "line 2 is empty"), (b"a\na\n", "line 2 is there twice"), (b"\xff\xfe", "not UTF-8"), (b"\n", "0")],
)
def test_bad_labels_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(BadInput, match=reason):
        read_labels(tmp_path / "names.txt")


def test_names_of_packages_come_from_the_output() -> None:
    assert package_name(Path("/x/My Gate.zip")) == "my-gate"
    assert package_name(Path("...")) == "detector"
