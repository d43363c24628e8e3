"""The two ends of an inspection graph: from uint8 pictures to features, and from an anomaly map to what people see."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.training.backbones import Backbone

_SMOOTHING = 0.5
"""Standard deviation of the map's smoothing, in cells: more hides tiny defects, less lets single cells decide."""
_STRONGEST = 4
"""Cells whose mean is a picture's score. A defect as small as a cell shows in its neighbours, too; a freak does not."""
_BLUR = 1 / 64
"""Standard deviation of the heat map's blur, as a share of its side."""


class Front(nn.Module):
    """uint8 [N, H, W, 3] RGB of any size → the backbone's three feature maps at side `size`.

    Shrinking is done with anti-aliasing (as Pillow does it), or fine texture would turn into a pattern that depends on
    the camera's resolution.
    """

    def __init__(self, backbone: Backbone, size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.size = size

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image.permute(0, 3, 1, 2).to(torch.float32)
        x = functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        features: list[Tensor] = self.backbone(x)
        return features


def gaussian(sigma: float) -> Tensor:
    """A normalised kernel [2r + 1] that ends at three standard deviations."""
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-x.square() / (2 * sigma * sigma))
    return kernel / kernel.sum()


def blurred(maps: Tensor, kernel: Tensor) -> Tensor:
    """[N, h, w] convolved with the kernel along both axes; the border is continued."""
    radius = len(kernel) // 2
    x = functional.pad(maps[:, None], (radius, radius, radius, radius), mode="replicate")
    x = functional.conv2d(x, kernel.view(1, 1, 1, -1))
    return functional.conv2d(x, kernel.view(1, 1, -1, 1))[:, 0]


def smoothed(maps: Tensor) -> Tensor:
    """An anomaly map [N, G, G] as it is scored: the mean of its strongest cells is the picture's score."""
    return blurred(maps, gaussian(_SMOOTHING))


def strongest(maps: Tensor) -> Tensor:
    """Mean [N] of the `_STRONGEST` cells of smoothed maps [N, G, G], wherever they lie."""
    return maps.flatten(1).topk(_STRONGEST, dim=1).values.mean(dim=1)


def scores_of(maps: Tensor) -> Tensor:
    """Raw scores [N] of anomaly maps [N, G, G]."""
    return strongest(smoothed(maps))


class InspectionNet(nn.Module):
    """The whole of inference: uint8 picture → raw score, heat map, mask. What is exported as `model.onnx`.

    forward: image uint8 [N, H, W, 3] RGB, pixel_threshold float32 [1] →
        score float32 [N], heatmap float32 [N, S, S] in the score's units, mask uint8 [N, S, S].
    """

    def __init__(self, front: Front, model: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.model = model
        self.register_buffer("cell_kernel", gaussian(_SMOOTHING))
        self.register_buffer("blur_kernel", gaussian(_BLUR * front.size))

    def forward(self, image: Tensor, pixel_threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = blurred(self.model(self.front(image)), self.get_buffer("cell_kernel"))
        size = self.front.size
        heatmap = functional.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
        heatmap = blurred(heatmap, self.get_buffer("blur_kernel"))
        return strongest(maps), heatmap, (heatmap > pixel_threshold).to(torch.uint8)
