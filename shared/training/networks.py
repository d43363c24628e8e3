"""Networks for whole pictures by name: a body that ends in one vector, in groups of layers from input to output.

* `efficientnet-lite0`, `-lite1`, `-lite2`: their weights come with a plain package install;
* any name that timm knows, such as `resnet18`, else (or as `torchvision/resnet18`) one of torchvision's. Pretrained
  weights of these come from a hub; `pretrained: false` starts from random ones and needs none.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import BadInput, HaechiError
from shared.manifest import WeightsLicence
from shared.training import backbones

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_TORCHVISION = "torchvision/"
_RESNET_CHANNELS = (64, 128, 256, 512)
_RESNET_STEM = 64


class Body(nn.Module):
    """float32 [N, 3, S, S] with values 0 to 255, RGB → features [N, D] of the whole picture."""

    def __init__(self, network: nn.Module, width: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.width = width
        """D."""
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.network((image - self.get_buffer("mean")) / self.get_buffer("std"))
        return features


class Front(nn.Module):
    """uint8 [N, H, W, 3] RGB of any size → float32 [N, 3, S, S], 0 to 255: the whole picture, whatever its shape.

    The one way in which pictures reach a network outside training. Shrinking is done with anti-aliasing, or fine
    texture would turn into a pattern that depends on the camera's resolution.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).to(torch.float32)
        return functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True)
class Built:
    """A body, and where its weights are from; no licence where they are random."""

    body: Body
    licences: list[WeightsLicence]


def build(name: str, *, pretrained: bool = True, width: float = 1.0, depthwise: bool = False) -> Built:
    """The body of the network of this name.

    Args:
        width: every layer's channels are multiplied by it, for ResNets and EfficientNet-Lites from random weights.
        depthwise: plain convolutions are replaced by depthwise-separable ones, which then have random weights.

    Raises:
        BadInput: no network is called so, or it cannot be had in this width.
        HaechiError: its pretrained weights cannot be had here.
    """
    if width != 1.0 and pretrained:
        raise BadInput(f"model.width {width:g} has no pretrained weights; write pretrained: false beside it.")
    network, licences, mean, std = _pretrained(name) if pretrained else _random(name, width)
    features = _without_head(network, name)
    if depthwise:
        # Here, since most models do without.
        network = importlib.import_module("shared.training.depthwise").separable(network)
    return Built(Body(network, features, mean, std), licences)


_Parts = tuple[nn.Module, list[WeightsLicence], tuple[float, ...], tuple[float, ...]]


def _pretrained(name: str) -> _Parts:
    if name.startswith(_TORCHVISION) or not (name in backbones.LITE or timm.is_model(name)):
        return _torchvision(name, pretrained=True)
    whole = backbones.load_whole(name)
    return whole.network, [whole.licence], whole.mean, whole.std


def _random(name: str, width: float) -> _Parts:
    if name in backbones.LITE:
        return _random_lite(name, width), [], *backbones.LITE_NORMALISATION
    if name.startswith(_TORCHVISION) or not timm.is_model(name):
        if width != 1.0:
            raise _no_width(name)
        return _torchvision(name, pretrained=False)
    options: dict[str, Any] = {}
    if width != 1.0:
        if not name.startswith("resnet"):
            raise _no_width(name)
        options["channels"] = tuple(_scaled(channels, width) for channels in _RESNET_CHANNELS)
        options["stem_width"] = _scaled(_RESNET_STEM, width)
    try:
        return timm.create_model(name, pretrained=False, **options), [], *_IMAGENET
    except (TypeError, RuntimeError, ValueError) as error:
        raise BadInput(f"network {name} cannot be built ({error}); choose another one.") from error


def _no_width(name: str) -> BadInput:
    return BadInput(f"model.width: {name} has one width only; it can be set for resnet… and {backbones.LITE[0]}.")


def _scaled(channels: int, width: float) -> int:
    """To a multiple of 8, as vector units like it."""
    return max(8, round(channels * width / 8) * 8)


def _random_lite(name: str, width: float) -> nn.Module:
    if width == 1.0:
        network: nn.Module = timm.create_model(backbones.lite_in_timm(name), pretrained=False)
        return network
    # timm keeps the multiplier out of `create_model`; this is what its own entry points call.
    make = importlib.import_module("timm.models.efficientnet")._gen_efficientnet_lite
    variant = backbones.lite_in_timm(name)
    own_width, depth = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2)}[name[-1]]
    network = make(variant, channel_multiplier=own_width * width, depth_multiplier=depth)
    return network


def _torchvision(name: str, *, pretrained: bool) -> _Parts:
    short = name.removeprefix(_TORCHVISION)
    if short not in torchvision.models.list_models(module=torchvision.models):
        raise BadInput(
            f"there is no network {name!r}; use {', '.join(backbones.LITE)}, or a name of timm or torchvision."
        )
    options = {"aux_logits": False, "init_weights": True} if short in ("googlenet", "inception_v3") else {}
    if not pretrained:
        return torchvision.models.get_model(short, weights=None, **options), [], *_IMAGENET
    weights = torchvision.models.get_model_weights(short)["DEFAULT"]
    try:
        network = torchvision.models.get_model(short, weights=weights)
    except Exception as error:  # urllib's, OSError, RuntimeError on a damaged download
        raise HaechiError(
            f"weights of {name} could not be loaded ({type(error).__name__}); they come from the internet, which must "
            f"be reachable; {backbones.LITE[0]} works without it, and pretrained: false without weights."
        ) from error
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    licence = WeightsLicence(name=name, licence="BSD-3-Clause", sha256=digest.hexdigest(), source=weights.url)
    return network, [licence], *_IMAGENET


def _without_head(network: nn.Module, name: str) -> int:
    """Take the last linear layer away; returns the number of features that went into it."""
    layers = [(key, each) for key, each in network.named_modules() if isinstance(each, nn.Linear)]
    if not layers:
        raise BadInput(f"network {name} does not end in a linear layer; choose another one.")
    key, layer = layers[-1]
    parent, _, last = key.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return int(layer.in_features)


def layer_groups(network: nn.Module) -> list[list[nn.Module]]:
    """The layers with parameters, in groups from input to output: blocks one by one, and with each what follows it
    that is no block (norms). What hangs loose (class tokens, position embeddings) is of no group here."""
    groups: list[list[nn.Module]] = []
    for layer in _layers(network):
        if not any(True for _ in layer.parameters()):
            continue
        is_norm = all(parameter.ndim == 1 for parameter in layer.parameters())
        if is_norm and groups:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    children = list(network.children())
    while len(children) == 1 and not list(network.parameters(recurse=False)):
        children = list(children[0].children())
    for child in children:
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1:
            yield from child
        else:
            yield child


def parameter_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """All parameters in the groups of `layer_groups`; loose ones are with the first, next to the input."""
    groups = [
        list(itertools.chain.from_iterable(each.parameters() for each in group)) for group in layer_groups(network)
    ]
    known = {id(parameter) for group in groups for parameter in group}
    loose = [parameter for parameter in network.parameters() if id(parameter) not in known]
    if loose and not groups:
        return [loose]
    if loose:
        groups[0] = loose + groups[0]
    return groups
