"""How detectors of three families see a picture and how they answer, as parts of ONNX graphs in text form.

    image uint8 [N, H, W, 3], RGB
      → `before`: resized to the network's size, padded, normalised      pixels FP32 [N, 3, h, w]
      → the network                                                      its outputs, called part0, part1 …
      → a head: the grid decoded                                         places [N, A, 4], chances [N, A, C]
      → `after`: suppression, the surest K, back to the picture          boxes, scores, classes

Every number of a head is written here, with its source. `shared.detectors.graph` joins the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput

HEADS = ("yolox", "picodet", "yolo")
GREY = 114.0
"""The brightness around a letterboxed picture, 0 to 255, as in YOLO since its third version."""
_LARGEST_OFFSET = 8.0
"""Centres that never exceed it are no pixels of a picture."""
Fit = Literal["corner", "centre", "stretch"]
"""A letterboxed picture lies in the top left corner or in the centre; a stretched one fills the whole."""
Constants = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Seeing:
    """What a network expects of a picture."""

    fit: Fit
    bgr: bool = False
    """Whether the first channel is blue."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In the network's order of channels; values from 0 to 255."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Thinning:
    """What is kept of the answers."""

    agnostic: bool = True
    """Whether two boxes on one thing count as one whatever their classes."""
    overlap: float = 0.5
    """IoU above which the less sure of two boxes goes."""
    least_score: float = 0.01
    detections: int = 100
    """K"""
    candidates: int = 400
    """Anchors that go into the suppression, the surest ones: its cost grows with their square."""


@dataclass(frozen=True)
class Decoding:
    """From what the network gives to places and chances."""

    outputs: tuple[str, ...]
    """The network's outputs, in the order in which the text calls them part0, part1 …"""
    shapes: tuple[tuple[int, ...], ...]
    """Of each, without the batch."""
    anchors: int
    classes: int
    text: str
    """ONNX nodes that end in `places` (left, top, right, bottom in the network's pixels) and `chances`."""
    constants: Constants = field(default_factory=dict)
    rest: int = 0
    """Numbers behind the four of a box, where they come in one output."""


Outputs = Mapping[str, NDArray[np.float32]]
"""What the network answered to a picture, batch of one: tells its shapes and whether sigmoids are still to come."""

YOLOX = Seeing("corner", bgr=True)
"""Megvii YOLOX since 0.1.1: letterbox with the picture at the top left, BGR, 0 to 255."""
PICODET = Seeing("stretch", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""PaddleDetection's reader of PicoDet: stretched, RGB, ImageNet's mean and deviation."""
YOLO = Seeing("centre", std=(255.0, 255.0, 255.0))
"""Ultralytics since YOLOv5."""
SEEING = {"yolox": YOLOX, "picodet": PICODET, "yolo": YOLO}


def decoding(head: str, outputs: Outputs, size: tuple[int, int], classes: int) -> Decoding:
    """How the answers of a network are read.

    Args:
        head: one of `HEADS`.
        outputs: an answer to an ordinary picture.
        size: height and width of the network's input.
        classes: how many labels there are.

    Raises:
        BadInput: the outputs are not such a head's, or the labels are too many or too few; one sentence without the
            file's name.
    """
    return {"yolox": _yolox, "picodet": _picodet, "yolo": _yolo}[head](outputs, size, classes)


def _yolox(outputs: Outputs, size: tuple[int, int], classes: int) -> Decoding:
    """Ge et al., "YOLOX", 2021: offsets from the cell in strides, sizes as logarithms, objectness, classes."""
    strides = (8, 16, 32)
    name, array = _only(outputs, "yolox", "[1, A, 5 + classes]")
    cells = [(size[0] // stride, size[1] // stride) for stride in strides]
    anchors = sum(height * width for height, width in cells)
    if array.shape[1] != anchors:
        raise BadInput(
            f"its output {name} has the shape {list(array.shape)}, and a yolox head of {size[0]}×{size[1]} pixels has "
            f"{anchors} anchors; choose another --head"
        )
    _check_classes(array.shape[2] - 5, classes)
    grid = np.concatenate([_grid(*each) for each in cells])
    stride = np.repeat(np.array(strides, dtype=np.float32), [height * width for height, width in cells])[:, None]
    raw, rest = array[0, :, :4], array[0, :, 4:]
    activated = "Identity" if _are_chances(rest) else "Sigmoid"
    # Decoded centres are pixels all over the picture; offsets from the own cell stay within a few strides.
    if np.abs(raw[:, :2] - (grid + 0.5) * stride).mean() < np.abs(raw[:, :2]).mean():
        places = "centres = Identity (shift)\n    spans = Identity (span)"
    else:
        places = """moved = Add (shift, grid)
    centres = Mul (moved, stride)
    grown = Exp (span)
    spans = Mul (grown, stride)"""
    text = f"""shift, span, rest = Split <axis = 2> (part0, part_widths)
    {places}
    {_CORNERS}
    sure = {activated} (rest)
    objectness, kinds = Split <axis = 2> (sure, chance_widths)
    chances = Mul (objectness, kinds)"""
    return Decoding((name,), (array.shape[1:],), anchors, classes, text, {"grid": grid, "stride": stride}, classes + 1)


def _picodet(outputs: Outputs, size: tuple[int, int], classes: int) -> Decoding:
    """Yu et al., "PP-PicoDet", 2021: for each stride class scores and, as in GFL (Li et al., 2020), a distribution
    over 0 to R strides of the distance to each side, from the middle of the cell."""
    strides = (8, 16, 32, 64)
    cells = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]
    anchors = [height * width for height, width in cells]
    by_anchors = {count: [name for name, each in outputs.items() if each.shape[1:2] == (count,)] for count in anchors}
    pairs = [sorted(names, key=lambda name: outputs[name].shape[-1] == classes) for names in by_anchors.values()]
    if len(outputs) != 2 * len(strides) or any(len(names) != 2 for names in pairs):
        raise BadInput(
            f"its outputs {_shapes(outputs)} are not a picodet head's, which for {size[0]}×{size[1]} pixels has scores "
            f"and distances of {', '.join(map(str, anchors))} anchors; choose another --head, or export it without "
            "post-processing"
        )
    found = outputs[pairs[0][1]].shape[-1]
    bins = outputs[pairs[0][0]].shape[-1] // 4
    if found != classes or bins < 2:
        # The labels match none of the two: distances have a multiple of four numbers, mostly 32.
        widths = [outputs[name].shape[-1] for name in pairs[0]]
        _check_classes(next((width for width in widths if width != 32), widths[0]), classes)
    names = [names[1] for names in pairs] + [names[0] for names in pairs]
    count = len(strides)
    activated = "Identity" if all(_are_chances(outputs[name]) for name in names[:count]) else "Sigmoid"
    scores, distances = (", ".join(f"part{i + first}" for i in range(count)) for first in (0, count))
    text = f"""all_scores = Concat <axis = 1> ({scores})
    chances = {activated} (all_scores)
    all_distances = Concat <axis = 1> ({distances})
    by_side = Reshape (all_distances, side_shape)
    shares = Softmax <axis = 3> (by_side)
    parts_of = Mul (shares, bins)
    mean_distance = ReduceSum <keepdims = 0> (parts_of, axis3)
    distance = Mul (mean_distance, stride)
    to_first, to_last = Split <axis = 2, num_outputs = 2> (distance)
    first = Sub (centre, to_first)
    last = Add (centre, to_last)
    places = Concat <axis = 2> (first, last)"""
    stride = np.repeat(np.array(strides, dtype=np.float32), anchors)[:, None]
    centre = (np.concatenate([_grid(*each) for each in cells]) + 0.5) * stride
    constants = {"stride": stride, "centre": centre.astype(np.float32), "bins": np.arange(bins, dtype=np.float32)}
    shapes = tuple(outputs[name].shape[1:] for name in names)
    return Decoding(tuple(names), shapes, sum(anchors), classes, text, constants)


def _yolo(outputs: Outputs, _size: tuple[int, int], classes: int) -> Decoding:
    """Ultralytics' export: centre and size in pixels, then classes (since YOLOv8, anchors last) or objectness and
    classes (YOLOv5, anchors first)."""
    name, array = _only(outputs, "yolo", "[1, 4 + classes, A] or [1, A, 5 + classes]")
    if array.shape[2] == 6 and array.shape[1] <= 1000 and classes not in (1, 2):
        raise BadInput(
            f"its output {name} {list(array.shape)} is already thinned out; export it without NMS (end2end=False)"
        )
    turned = array.shape[1] < array.shape[2]
    anchors, width = (array.shape[2], array.shape[1]) if turned else (array.shape[1], array.shape[2])
    objectness = width == 5 + classes and not turned
    if not objectness:
        _check_classes(width - 4, classes)
    rows = array[0].T if turned else array[0]
    # YOLOX has YOLOv5's shape, but gives offsets and logarithms where YOLO gives pixels.
    if rows[:, 2:4].min() < 0 or rows[:, :2].max() <= _LARGEST_OFFSET:
        raise BadInput(f"its output {name} does not hold boxes in pixels, as a yolo head's does; try --head yolox")
    rest = rows[:, 4:]
    activated = "Identity" if _are_chances(rest) else "Sigmoid"
    text = f"""{"rows = Transpose <perm = [0, 2, 1]> (part0)" if turned else "rows = Identity (part0)"}
    centres, spans, rest = Split <axis = 2> (rows, part_widths)
    {_CORNERS}
    sure = {activated} (rest)
    {_OBJECTNESS if objectness else "chances = Identity (sure)"}"""
    return Decoding((name,), (array.shape[1:],), anchors, classes, text, rest=width - 4)


def ssd(outputs: Sequence[str], anchors: NDArray[np.float32], classes: int) -> Decoding:
    """Liu et al., "SSD", 2016, as TensorFlow's Object Detection API has it: offsets from anchors.

    Args:
        outputs: names of the encodings [N, A, 4] (top, left, height, width; scaled by 10, 10, 5, 5) and of the chances
            [N, A, 1 + C], the background first.
        anchors: [A, 4] centre x, centre y, width, height, in the network's pixels.
    """
    text = """shift_yx, span_yx = Split <axis = 2, num_outputs = 2> (part0)
    shift = Gather <axis = 2> (shift_yx, across_down)
    span = Gather <axis = 2> (span_yx, across_down)
    tenth = Div (shift, ten)
    offset = Mul (tenth, anchor_span)
    centres = Add (offset, anchor_centre)
    fifth = Div (span, five)
    grown = Exp (fifth)
    spans = Mul (grown, anchor_span)
    half_span = Div (spans, two)
    first = Sub (centres, half_span)
    last = Add (centres, half_span)
    places = Concat <axis = 2> (first, last)
    background, chances = Split <axis = 2> (part1, chance_widths)"""
    constants = {
        "anchor_centre": anchors[:, :2],
        "anchor_span": anchors[:, 2:],
        "ten": np.array([10], dtype=np.float32),
        "five": np.array([5], dtype=np.float32),
    }
    count = len(anchors)
    return Decoding(tuple(outputs), ((count, 4), (count, 1 + classes)), count, classes, text, constants)


_CORNERS = """half_span = Div (spans, two)
    first = Sub (centres, half_span)
    last = Add (centres, half_span)
    places = Concat <axis = 2> (first, last)"""
_OBJECTNESS = """objectness, kinds = Split <axis = 2> (sure, chance_widths)
    chances = Mul (objectness, kinds)"""


def _grid(height: int, width: int) -> NDArray[np.float32]:
    """[height * width, 2] column and row of each cell, row by row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)


def _are_chances(values: NDArray[np.float32]) -> bool:
    return bool(values.min() >= 0 and values.max() <= 1)


def _only(outputs: Outputs, head: str, wanted: str) -> tuple[str, NDArray[np.float32]]:
    name, array = next(iter(outputs.items()))
    if len(outputs) != 1 or array.ndim != 3:
        raise BadInput(
            f"its outputs {_shapes(outputs)} are not a {head} head's, which is one of shape {wanted}; choose another "
            "--head"
        )
    return name, array


def _check_classes(found: int, labels: int) -> None:
    if found < 1:
        raise BadInput("its output is too narrow for boxes and classes; choose another --head")
    if found != labels:
        raise BadInput(f"it knows {found} classes, and --labels names {labels}; give one label a line, in its order")


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in list(outputs.items())[:10])
