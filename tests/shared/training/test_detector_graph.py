"""The graph around a detector: letterbox, suppression and the way back to the picture's pixels, with a network whose
answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from shared.detections import iou, letterbox
from shared.training.detector_graph import GREY, NETWORK, Head, compose, whole_picture, with_outputs
from shared.training.export import OPSET, Session

SIDE = 64
SIZES = [(50, 100), (100, 50), (64, 64), (33, 97), (7, 300), (640, 481)]


def network(outputs: dict[str, np.ndarray], side: int = SIDE) -> bytes:
    """An ONNX file that answers the same whatever the picture, once for each of the batch."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "ones"], ["times"], axis=0),
    ]
    constants = [numpy_helper.from_array(np.ones(2, dtype=np.int64), "ones")]
    for name, value in outputs.items():
        flat = value.astype(np.float32).reshape(1, 1, -1)
        shape = np.array([-1, *value.shape], dtype=np.int64)
        constants += [numpy_helper.from_array(flat, f"{name}_value"), numpy_helper.from_array(shape, f"{name}_shape")]
        nodes.append(helper.make_node("Tile", [f"{name}_value", "times"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *v.shape]) for name, v in outputs.items()],
        constants,
    )
    return bytes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", OPSET)]).SerializeToString()
    )


def reshaped(side: int, operator: str, constant: np.ndarray, shape: list[int | str], name: str) -> bytes:
    """An ONNX file of one operator on the pixels."""
    graph = helper.make_graph(
        [
            helper.make_node(
                operator, ["pixels", "how"], [name], **({"keepdims": 0} if operator == "ReduceMean" else {})
            )
        ],
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(constant, "how")],
    )
    return bytes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", OPSET)]).SerializeToString()
    )


def session(head: Head, predictions: np.ndarray, prototypes: np.ndarray | None = None) -> Session:
    outputs = {"predictions": predictions} | ({} if prototypes is None else {"prototypes": prototypes})
    return Session(compose(network(outputs), head), 1)


def rows(*each: tuple[float, ...], anchors: int = 20) -> np.ndarray:
    table = np.zeros((anchors, len(each[0])), dtype=np.float32)
    table[: len(each)] = each
    return table


def image(height: int, width: int, count: int = 1) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)}


def square_box(box: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    """A box of the picture, in the letterboxed square."""
    scale, _, _, top, left = letterbox(height, width, SIDE)
    return (box[0] * scale + left, box[1] * scale + top, box[2] * scale + left, box[3] * scale + top)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_come_back_in_the_pixels_of_the_picture(height: int, width: int) -> None:
    box = (0.1 * width, 0.2 * height, 0.6 * width, 0.9 * height)
    outputs = session(Head(SIDE, 20, 2), rows((*square_box(box, height, width), 0.1, 0.8))).run(image(height, width, 2))
    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        "boxes": ((2, 40, 4), "float32"),
        "scores": ((2, 40), "float32"),
        "classes": ((2, 40), "int64"),
    }
    np.testing.assert_allclose(outputs["boxes"][0, 0], box, rtol=1e-4, atol=1e-3)
    assert outputs["classes"][:, :2].tolist() == [[1, 0], [1, 0]]
    np.testing.assert_allclose(outputs["scores"][0, :3], [0.8, 0.1, 0], atol=1e-6)
    assert not outputs["boxes"][0, 2:].any()
    assert not outputs["classes"][0, 2:].any()
    np.testing.assert_array_equal(outputs["boxes"][0], outputs["boxes"][1])


def test_boxes_are_cut_at_the_edge_of_the_picture_not_of_the_square() -> None:
    outputs = session(Head(SIDE, 20, 1), rows((-9.0, -9.0, 99.0, 99.0, 0.9))).run(image(40, 80))
    np.testing.assert_allclose(outputs["boxes"][0, 0], [0, 0, 80, 40])


def test_of_overlapping_boxes_the_surest_of_each_class_stays() -> None:
    near, far = (10.0, 10.0, 30.0, 30.0), (10.0, 10.0, 30.0, 29.0)
    predictions = rows((*near, 0.5, 0.0), (*far, 0.9, 0.0), (*near, 0.0, 0.7), (40.0, 40.0, 60.0, 60.0, 0.3, 0.0))
    kept = session(Head(SIDE, 20, 2), predictions).run(image(64, 64))
    np.testing.assert_allclose(kept["scores"][0, :4], [0.9, 0.7, 0.3, 0])
    assert kept["classes"][0, :3].tolist() == [0, 1, 0]
    np.testing.assert_allclose(kept["boxes"][0, 0], far, atol=1e-4)
    every = session(Head(SIDE, 20, 2, suppress=False), predictions).run(image(64, 64))
    np.testing.assert_allclose(every["scores"][0, :5], [0.9, 0.7, 0.5, 0.3, 0])


def test_the_least_score_and_the_most_detections() -> None:
    predictions = rows(*((6.0 * i, 0.0, 6.0 * i + 5, 5.0, 0.1 * i) for i in range(1, 9)))
    outputs = session(Head(SIDE, 20, 1, least_score=0.35, detections=3), predictions).run(image(64, 64))
    np.testing.assert_allclose(outputs["scores"], [[0.8, 0.7, 0.6]], atol=1e-6)
    outputs = session(Head(SIDE, 20, 1, least_score=0.65, detections=3), predictions).run(image(64, 64))
    np.testing.assert_allclose(outputs["scores"], [[0.8, 0.7, 0]], atol=1e-6)


def test_random_boxes_like_a_plain_suppression() -> None:
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 40, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 24, (200, 2))], axis=1)
    scores = rng.random((200, 3))
    head = Head(SIDE, 200, 3, overlap=0.5, candidates=150, detections=60)
    outputs = session(head, np.concatenate([boxes, scores], axis=1)).run(image(64, 64))
    surest = np.argsort(-scores.max(axis=1))[:150]
    wanted: list[tuple[float, int, int]] = []
    for number in range(3):
        kept: list[int] = []
        for index in surest[np.argsort(-scores[surest, number])]:
            others = iou(boxes[index][None].astype(np.float32), boxes[kept].astype(np.float32).reshape(-1, 4))
            if len(kept) < 60 and not (others > 0.5).any():
                kept.append(int(index))
                wanted.append((float(scores[index, number]), number, int(index)))
    wanted = sorted(wanted, reverse=True)[:60]
    np.testing.assert_allclose(outputs["scores"][0], [row[0] for row in wanted], rtol=1e-5)
    assert outputs["classes"][0].tolist() == [row[1] for row in wanted]
    np.testing.assert_allclose(outputs["boxes"][0], boxes[[row[2] for row in wanted]], rtol=1e-4, atol=1e-4)


def test_masks_are_cut_to_their_boxes() -> None:
    prototypes = np.stack([np.full((16, 16), 4.0), np.full((16, 16), -4.0)]).astype(np.float32)
    box = square_box((20, 10, 60, 30), 40, 80)
    head = Head(SIDE, 20, 1, extra=2, prototypes=16)
    outputs = session(head, rows((*box, 0.9, 1.0, 0.0), (0.0, 0.0, 5.0, 5.0, 0.5, 0.0, 1.0)), prototypes)
    masks = outputs.run(image(40, 80))["masks"][0]
    assert masks.shape == (20, 16, 16)
    inside = masks[0] > 0.5
    x1, y1, x2, y2 = (round(place / 4) for place in box)
    assert inside[y1:y2, x1:x2].all()
    assert inside.sum() == (y2 - y1) * (x2 - x1)
    assert masks[1].max() < 0.5
    assert not masks[2:].any()


@pytest.mark.parametrize("width", [2, 3])
def test_keypoints_come_back_in_the_pixels_of_the_picture(width: int) -> None:
    box, point = (20.0, 10.0, 60.0, 30.0), (40.0, 20.0, 40.0, 20.0)
    x, y, _, _ = square_box(point, 40, 80)
    values = (x, y, 0.3)[:width]
    head = Head(SIDE, 20, 1, extra=2 * width, keypoints=(2, width))
    outputs = session(head, rows((*square_box(box, 40, 80), 0.9, *values, *values))).run(image(40, 80))
    wanted = [40, 20, 0.3 if width == 3 else 1.0]
    np.testing.assert_allclose(outputs["keypoints"][0, 0], [wanted, wanted], atol=1e-3)
    assert not outputs["keypoints"][0, 1:].any()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_letterbox_is_that_of_training(height: int, width: int) -> None:
    """Pillow's antialiased resize, with which training reads its pictures, gives the same pixels up to rounding."""
    anchors = 3 * SIDE * SIDE // 8
    core = reshaped(SIDE, "Reshape", np.array([-1, anchors, 8]), ["N", anchors, 8], "predictions")
    graph = with_outputs(compose(core, Head(SIDE, anchors, 4)), [NETWORK + "predictions"])
    inputs = image(height, width)
    pixels = Session(graph, 1).run(inputs)[NETWORK + "predictions"].reshape(3, SIDE, SIDE).transpose(1, 2, 0) * 255
    _, new_height, new_width, top, left = letterbox(height, width, SIDE)
    wanted = np.full((SIDE, SIDE, 3), GREY, dtype=np.float64)
    resized = Image.fromarray(inputs["image"][0]).resize((new_width, new_height), Image.Resampling.BILINEAR)
    wanted[top : top + new_height, left : left + new_width] = np.asarray(resized)
    np.testing.assert_allclose(pixels, wanted, atol=1.01)


def test_a_classifier_sees_the_whole_picture() -> None:
    core = reshaped(32, "ReduceMean", np.array([2, 3]), ["N", 3], "logits")
    inputs = image(64, 256, 3)
    outputs = Session(whole_picture(core, 32), 1).run(inputs)
    assert list(outputs) == ["logits"]
    np.testing.assert_allclose(outputs["logits"], inputs["image"].mean(axis=(1, 2)) / 255, atol=2e-3)
