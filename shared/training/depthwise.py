"""Depthwise-separable convolutions in the place of plain ones (Howard et al. 2017, MobileNets).

A plain k×k convolution from C to D channels takes k²·C·D multiply-adds for each place; a depthwise k×k followed by a
1×1 takes k²·C + C·D, about an eighth or ninth for k = 3. It is another architecture, so the network has to be trained
afterwards, from scratch or as a student: `haechi package show --cost --against` shows what it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from shared.errors import BadInput

Chooses = Callable[[str, nn.Conv2d], bool]


class Separable(nn.Sequential):
    """Depthwise k×k → batch norm → activation → pointwise 1×1. [N, C, H, W] → what the plain convolution gave."""

    def __init__(self, plain: nn.Conv2d, activation: Callable[[], nn.Module] | None) -> None:
        channels = plain.in_channels
        depthwise = nn.Conv2d(
            channels,
            channels,
            cast(tuple[int, int], plain.kernel_size),
            cast(tuple[int, int], plain.stride),
            plain.padding,
            cast(tuple[int, int], plain.dilation),
            groups=channels,
            bias=False,
            padding_mode=plain.padding_mode,
        )
        pointwise = nn.Conv2d(channels, plain.out_channels, 1, bias=plain.bias is not None)
        parts: list[nn.Module] = [depthwise, nn.BatchNorm2d(channels)]
        if activation is not None:
            parts.append(activation())
        super().__init__(*parts, pointwise)
        if activation is None:
            _approximate(plain, depthwise, pointwise)
        else:
            nn.init.kaiming_normal_(depthwise.weight, mode="fan_out", nonlinearity="relu")
            nn.init.kaiming_normal_(pointwise.weight, mode="fan_out", nonlinearity="relu")
        self.to(plain.weight.device, plain.weight.dtype)


def separable(
    module: nn.Module,
    *,
    kinds: Sequence[int] = (3, 5, 7),
    fewest: int = 16,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    choose: Chooses | None = None,
) -> list[str]:
    """Replace a network's plain k×k convolutions in place.

    Args:
        kinds: kernel sizes that are replaced.
        fewest: convolutions with fewer input channels stay plain: a picture's three colours are not to be kept apart,
            and there is little to save.
        activation: between the two; None for none, and then the weights start as the nearest separable ones to those
            of the plain convolution instead of at random (from torch's generator).
        choose: name and convolution → whether to replace it; default: all of `kinds`.

    Returns:
        Names of the convolutions that were replaced.

    Raises:
        BadInput: there was none to replace.
    """
    replaced = []
    for name, child in list(module.named_modules()):
        if not isinstance(child, nn.Conv2d) or not _plain(child, kinds, fewest):
            continue
        if choose is not None and not choose(name, child):
            continue
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, Separable(child, activation))
        replaced.append(name)
    if not replaced:
        sizes = ", ".join(f"{size}×{size}" for size in kinds)
        raise BadInput(
            f"the network has no plain convolution of {sizes} with {fewest} or more input channels to make separable; "
            f"leave `separable` out."
        )
    return replaced


def _plain(convolution: nn.Conv2d, kinds: Sequence[int], fewest: int) -> bool:
    height, width = convolution.kernel_size
    square = height == width and height in kinds and height > 1
    return square and convolution.groups == 1 and convolution.in_channels >= fewest


@torch.no_grad()
def _approximate(plain: nn.Conv2d, depthwise: nn.Conv2d, pointwise: nn.Conv2d) -> None:
    """For each input channel the best product of one kernel and one column of weights: the first singular vectors."""
    weight: Tensor = plain.weight.detach().double()
    outputs, inputs = weight.shape[:2]
    by_input = weight.permute(1, 0, 2, 3).reshape(inputs, outputs, -1)
    u, s, v = torch.linalg.svd(by_input, full_matrices=False)
    root = s[:, :1].sqrt()
    depthwise.weight.copy_((v[:, 0] * root).view(depthwise.weight.shape))
    pointwise.weight.copy_((u[:, :, 0] * root).T.reshape(pointwise.weight.shape))
    if plain.bias is not None and pointwise.bias is not None:
        pointwise.bias.copy_(plain.bias)
