"""What all tasks on whole, labelled pictures share: data, samples, reading in validation, and export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import structlog
import torch
from pydantic import Field
from torch import Tensor, nn

from shared.errors import BadInput
from shared.evaluators.classification import HOLD_OUT
from shared.images import Rgb, read_image
from shared.labelled import Picture, scan
from shared.manifest import TensorSpec
from shared.runtime import default_threads
from shared.training import networks
from shared.training.config import Strict, TrainConfig, parse
from shared.training.export import Session, export
from shared.training.networks import Front
from shared.training.pictures import Augment, Cache, augmented, shrunk
from shared.training.task import Exported, Group, Task

_BATCH = 32
_PARITY_PICTURES = 8
_GOLDEN_SIDE = 160
_SHOWN = 20

_log = structlog.get_logger(__name__)


class Data(Strict):
    """The section `data`."""

    path: Path
    labels: Literal["auto", "folder", "fine", "coarse"] = "auto"
    """`folder`: the folders' names; `fine`, `coarse`: those of list files; see `shared.labelled`."""
    hold_out: Annotated[float, Field(gt=0, lt=1)] = HOLD_OUT
    """Share of each class to validate on, where there is no `val`."""
    memory: Annotated[float, Field(ge=0)] = 2048.0
    """MiB for decoded pictures."""


class Network(Strict):
    """What the section `model` holds in every task on pictures."""

    backbone: str = "efficientnet-lite0"
    """See `shared.training.networks`."""
    pretrained: bool = True
    image_size: Annotated[int, Field(ge=32, le=2048)] = 224
    """Side to which the package squashes every picture."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    depthwise: bool = False
    """Depthwise-separable convolutions in place of plain ones."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    freeze: Annotated[int, Field(ge=0)] = 0
    """Groups of layers next to the input (the stem is the first) that never learn: faster, and for small data no loss,
    since edges and colours are the same everywhere."""


class Samples:
    """Pictures to train on, read and augmented one by one."""

    def __init__(self, pictures: Sequence[Picture], augment: Augment, image_size: int, memory: float) -> None:
        self.pictures, self.augment, self.image_size = pictures, augment, image_size
        self.size = augment.size_in(0, 1, image_size)
        """Side now; see `PictureTask.begin_epoch`."""
        self.views = 1
        """Variants of each picture in a batch."""
        self._cache = Cache(pictures, image_size, int(memory * 2**20))

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """`image`: a list of `views` pictures uint8 [S, S, 3]; `target`: the class."""
        picture = self._cache[index]
        views = [augmented(picture, self.augment, self.size, self.image_size, generator) for _ in range(self.views)]
        return {"image": views, "target": self.pictures[index].label}


class PictureTask(Task):
    """A task whose network takes `image`: float32 [N, 3, S, S], values 0 to 255, RGB."""

    def __init__(self, config: TrainConfig, network: Network) -> None:
        cv2.setNumThreads(1)  # samples are read by several threads already
        self.config = config
        self.data = parse(Data, config.data, "data")
        self.augment = parse(Augment, config.augment, "augment")
        self.network = network
        self.found = scan(self.data.path, labels=self.data.labels, hold_out=self.data.hold_out, seed=config.seed)
        self._tell_left_out()
        if len(self.found.labels) < 2:
            raise BadInput(f"data.path {self.data.path} has {len(self.found.labels)} classes; at least 2 are needed.")
        if not self.found.held_out:
            raise BadInput(f"data.path {self.data.path} has no pictures to validate on; put some in val/<class>/.")
        self.labels = self.found.labels
        self.pictures = Samples(self.found.train, self.augment, network.image_size, self.data.memory)
        self.samples = self.pictures
        self.data_fingerprint = self.found.fingerprint
        self.licences = []
        self._front = Front(network.image_size)

    def _tell_left_out(self) -> None:
        for name, reason in self.found.left_out[:_SHOWN]:
            _log.warning("picture left out", file=name, reason=reason)
        if len(self.found.left_out) > _SHOWN:
            _log.warning("more pictures left out", count=len(self.found.left_out) - _SHOWN)

    def begin_epoch(self, epoch: int) -> None:
        self.pictures.size = self.augment.size_in(epoch, self.config.fit.epochs, self.network.image_size)

    def body(self) -> networks.Body:
        """The network's body as configured, its frozen layers frozen; sets `licences`."""
        settings = self.network
        built = networks.build(
            settings.backbone, pretrained=settings.pretrained, width=settings.width, depthwise=settings.depthwise
        )
        self.licences = built.licences
        count = len(networks.layer_groups(built.body.network))
        if settings.freeze >= count:
            raise BadInput(f"model.freeze {settings.freeze}: {settings.backbone} has {count} groups of layers only.")
        for layers in networks.layer_groups(built.body.network)[: settings.freeze]:
            for layer in layers:
                layer.requires_grad_(False)
        return built.body

    def groups(self, module: nn.Module) -> list[Group]:
        body = module.get_submodule("body")
        assert isinstance(body, networks.Body)
        found = networks.parameter_groups(body.network)
        # Frozen for good by their place, not by what is frozen now: the engine freezes and unfreezes by these groups.
        groups = [Group(parameters) for parameters in found[self.network.freeze :]]
        if not self.network.pretrained:
            groups = [Group([each for group in groups for each in group.parameters], is_head=True)]
        known = {id(parameter) for parameter in body.parameters()}
        head = [parameter for parameter in module.parameters() if id(parameter) not in known]
        return [*groups, Group(head, is_head=True)]

    # -- pictures as the package sees them ---------------------------------------------------------------------------

    def batches(self, pictures: Sequence[Picture], device: Any) -> Iterator[Tensor]:
        """The pictures as in the exported graph, float32 [≤32, 3, S, S], read ahead by threads."""

        def one(picture: Picture) -> Tensor:
            resized: Tensor = self._front(torch.from_numpy(read_image(picture.path))[None])
            return resized

        with ThreadPoolExecutor(max(1, min(default_threads(), 8))) as pool:
            for first in range(0, len(pictures), _BATCH):
                images = torch.cat(list(pool.map(one, pictures[first : first + _BATCH])))
                yield images.to(device).contiguous(memory_format=torch.channels_last)

    def exported(
        self, module: nn.Module, outputs: Mapping[str, int], compared: str, task: str, evaluator: str
    ) -> Exported:
        """The graph from uint8 pictures to `outputs` (name → width), which `module` gives in that order for images.

        Args:
            module: float32 [N, 3, S, S] → tensors [N, width].
            compared: the output by which network and graph are compared.
        """
        whole = _Whole(self._front, module).eval()
        # Not square, so that the exporter cannot take one side for the other.
        example = torch.zeros(2, 96, 80, 3, dtype=torch.uint8)
        names = list(outputs)
        model = export(whole, {"image": example}, names, {"image": {0: "n", 1: "height", 2: "width"}})
        session = Session(model, 1)
        place, worst = names.index(compared), 0.0
        for picture in self.found.held_out[:: max(1, len(self.found.held_out) // _PARITY_PICTURES)]:
            image = read_image(picture.path)[None]
            with torch.inference_mode():
                ours = whole(torch.from_numpy(image))[place].numpy()
            theirs = session.run({"image": image})[compared]
            # Against the largest number: one of an embedding's near nought says nothing.
            worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(ours).max()))
        return Exported(
            model=model,
            inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
            outputs=[TensorSpec(name=name, datatype="FP32", shape=[-1, width]) for name, width in outputs.items()],
            golden_inputs={"image": self._golden()},
            parity=worst,
            task=task,
            evaluator=evaluator,
            labels=list(self.labels),
            preprocessing={
                "size": self.network.image_size,
                "colour": "RGB, 0 to 255",
                "resize": "the whole picture, bilinear, antialiased, inside the graph",
            },
        )

    def _golden(self) -> Rgb:
        """One held-out picture, small, as a batch."""
        return np.ascontiguousarray(shrunk(read_image(self.found.held_out[0].path), _GOLDEN_SIDE)[None])


class _Whole(nn.Module):
    def __init__(self, front: Front, module: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.module = module

    def forward(self, image: Tensor) -> Any:
        return self.module(self.front(image))
