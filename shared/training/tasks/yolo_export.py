"""From a trained YOLO network to what `shared.training.detector_graph` takes, and the check that both agree."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.detections import letterbox
from shared.images import Rgb
from shared.manifest import TensorSpec
from shared.training import detector_graph
from shared.training.export import Session


class Boxes(nn.Module):
    """A YOLO network whose boxes are corners in pixels, [N, A, 4 + C + E], and its mask prototypes if it has any."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.network = network.eval()
        head = network.model[-1]
        with torch.inference_mode(mode=False), torch.no_grad():
            network(torch.zeros(1, 3, side, side))  # fills in the anchors of this size
        head.export, head.xyxy = True, True
        if head.end2end:
            head.postprocess = lambda predictions: predictions
        # The head makes its anchors anew when it sees another shape; here they are constants.
        head._get_decode_boxes = functools.partial(_decoded, head)
        self._turned = not head.end2end

    def forward(self, pixels: Tensor) -> Any:
        found = self.network(pixels)
        predictions, prototypes = found if isinstance(found, tuple) else (found, None)
        if self._turned:
            predictions = predictions.transpose(1, 2)
        return predictions if prototypes is None else (predictions, prototypes)


def _decoded(head: Any, found: dict[str, Tensor]) -> Tensor:
    boxes: Tensor = head.decode_bboxes(head.dfl(found["boxes"]), head.anchors.unsqueeze(0))
    return boxes * head.strides


class Classes(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, logits = self.network(pixels)
        return logits, probabilities


def output_specs(head: detector_graph.Head) -> list[TensorSpec]:
    shapes: dict[str, list[int]] = {"boxes": [head.kept, 4], "scores": [head.kept], "classes": [head.kept]}
    if head.prototypes:
        shapes["masks"] = [head.kept, head.prototypes, head.prototypes]
    if head.keypoints:
        shapes["keypoints"] = [head.kept, head.keypoints[0], 3]
    return [
        TensorSpec(name=name, datatype="INT64" if name == "classes" else "FP32", shape=[-1, *shape])
        for name, shape in shapes.items()
    ]


def parity(
    core: nn.Module, graph: bytes, inner: Sequence[str], pictures: Sequence[Rgb], side: int, *, boxed: bool
) -> float:
    """The largest difference between torch and the graph on whole pictures, over the largest number of the kind: before
    the suppression, since what follows only chooses."""
    session = Session(detector_graph.with_outputs(graph, list(inner)) if boxed else graph, 1)
    worst = 0.0
    for picture in pictures:
        with torch.inference_mode():
            wanted = core(_letterboxed(picture, side) if boxed else _resized(picture, side, side))
        found = session.run({"image": picture[None]})
        for name, tensor in zip(inner, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            parts = [slice(0, 4), slice(4, None)] if name.endswith("predictions") else [slice(None)]
            for part in parts:
                ours, theirs = tensor.numpy()[..., part], found[name][..., part]
                worst = max(worst, float(np.abs(ours - theirs).max()) / max(float(np.abs(ours).max()), 1.0))
    return worst


def _resized(picture: Rgb, height: int, width: int) -> Tensor:
    """[1, 3, height, width], 0 to 1."""
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    return F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True) / 255


def _letterboxed(picture: Rgb, side: int) -> Tensor:
    _, height, width, top, left = letterbox(picture.shape[0], picture.shape[1], side)
    edges = (left, side - width - left, top, side - height - top)
    return F.pad(_resized(picture, height, width), edges, value=detector_graph.GREY / 255)


def steadiest(graph: bytes, pictures: Sequence[Rgb]) -> Rgb:
    """The picture whose scores lie farthest apart: on another machine, which computes a little differently, its
    detections come in the same order."""
    session = Session(graph, 1)

    def gap(picture: Rgb) -> float:
        scores = session.run({"image": picture[None]})["scores"][0]
        return float(np.abs(np.diff(scores[scores > 0])).min(initial=1.0))

    return max(pictures, key=gap)
