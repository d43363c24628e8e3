"""Which known thing is it? A picture becomes a unit vector, near those of its class also for classes never seen.

The network is a body, a linear layer to the embedding and a batch norm ("BNNeck", Luo et al., 2019): the norm evens out
the spread of the dimensions, so that cosine similarity weighs them alike. Losses, to choose from:

* `arcface`: softmax over cosines with an angular margin (Deng et al., 2019);
* `proxy-anchor`: a learnt proxy for each class pulls and pushes the batch, the hard ones most (Kim et al., 2020);
* `proxy-nca`: softmax over distances to the proxies (Movshovitz-Attias et al., 2017, with the temperature of
  ProxyNCA++, Teh et al., 2020);
* `supcon`: pictures of one class, in two variants each, attract one another in a batch (Khosla et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import BadInput
from shared.evaluators.embedding import METRIC, gallery_of, retrieval, summary
from shared.labelled import Picture, labels_of
from shared.training.config import TrainConfig, parse
from shared.training.networks import Body
from shared.training.picture_task import Network, PictureTask
from shared.training.pictures import as_tensor
from shared.training.task import Batch, Exported

Loss = Literal["arcface", "proxy-anchor", "proxy-nca", "supcon"]


class Model(Network):
    """The section `model`."""

    dimensions: Annotated[int, Field(ge=2, le=4096)] = 128
    """Of the embedding."""
    loss: Loss = "arcface"
    margin: Annotated[float, Field(ge=0, lt=1.5)] | None = None
    """ArcFace: radians, default 0.3. Proxy-anchor: cosine, default 0.1."""
    scale: Annotated[float, Field(gt=0)] | None = None
    """Of the cosines: inverse temperature. Default 30 for ArcFace, 32 for proxy-anchor, 9 for proxy-NCA, 10 for
    supervised contrast."""


_SCALES: dict[str, float] = {"arcface": 30.0, "proxy-anchor": 32.0, "proxy-nca": 9.0, "supcon": 10.0}
_MARGINS: dict[str, float] = {"arcface": 0.3, "proxy-anchor": 0.1}


class Embedder(nn.Module):
    """forward: image float32 [N, 3, S, S], 0 to 255 → `embedding` [N, D] L2-normalised, the same as `features`, and
    `proxies` [C, D] L2-normalised, one for each class."""

    def __init__(self, body: Body, dimensions: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.neck = nn.Linear(body.width, dimensions, bias=False)
        self.norm = nn.BatchNorm1d(dimensions)
        self.proxies = nn.Parameter(torch.randn(classes, dimensions))

    def embed(self, image: Tensor) -> Tensor:
        return functional.normalize(self.norm(self.neck(self.dropout(self.body(image)))), dim=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        embedding = self.embed(image)
        proxies = functional.normalize(self.proxies, dim=1)
        return {"embedding": embedding, "features": embedding, "proxies": proxies}


class _Answer(nn.Module):
    """What the package answers."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.embedder.embed(image),)


class Embedding(PictureTask):
    """`task: embedding`."""

    metric = METRIC

    def __init__(self, config: TrainConfig) -> None:
        self.model = parse(Model, config.model, "model")
        super().__init__(config, self.model)
        if self.augment.mixup or self.augment.cutmix:
            raise BadInput(
                "augment: a mixture of two pictures has no place in an embedding; set mixup and cutmix to 0."
            )
        self.pictures.views = 2 if self.model.loss == "supcon" else 1
        self.gallery = gallery_of(self.found.train)

    def build(self) -> nn.Module:
        return Embedder(self.body(), self.model.dimensions, len(self.labels), self.model.dropout)

    def collate(self, samples: Sequence[Mapping[str, Any]], generator: np.random.Generator) -> Batch:  # noqa: ARG002
        # The views of a picture stay together, so that the classes need only be repeated.
        images = [view for sample in samples for view in sample["image"]]
        targets = [int(sample["target"]) for sample in samples for _ in sample["image"]]
        return {"image": as_tensor(images), "target": torch.tensor(targets)}

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        kind = self.model.loss
        scale = self.model.scale or _SCALES[kind]
        margin = _MARGINS.get(kind, 0.0) if self.model.margin is None else self.model.margin
        # In fp32 also where the network runs in fp16: the margins are small against its steps.
        embedding, proxies, targets = outputs["embedding"].float(), outputs["proxies"].float(), batch["target"]
        if kind == "arcface":
            return arcface(embedding @ proxies.T, targets, scale, margin)
        if kind == "proxy-anchor":
            return proxy_anchor(embedding @ proxies.T, targets, scale, margin)
        if kind == "proxy-nca":
            return functional.cross_entropy(scale * (2 * (embedding @ proxies.T) - 2), targets)
        # The proxies take no part, and the averaging of gradients over processes wants every parameter to.
        return supervised_contrast(embedding, targets, scale) + 0.0 * proxies.sum()

    def validate(self, module: nn.Module, device: Any) -> dict[str, float]:
        gallery, queries = (self._embedded(module, each, device) for each in (self.gallery, self.found.held_out))
        found = retrieval(queries, labels_of(self.found.held_out), gallery, labels_of(self.gallery))
        return summary(found)

    def _embedded(self, module: nn.Module, pictures: Sequence[Picture], device: Any) -> np.ndarray:
        with torch.inference_mode():
            found = [module(images)["embedding"].float().cpu() for images in self.batches(pictures, device)]
        return torch.cat(found).numpy()

    def probe(self, module: nn.Module) -> dict[str, float] | None:
        """The frozen body's own features reduced by principal components, which also start the neck."""
        if not self.model.pretrained:
            return None
        assert isinstance(module, Embedder)
        device = next(module.parameters()).device
        with torch.inference_mode():
            features = torch.cat([module.body(images).float().cpu() for images in self.batches(self.gallery, device)])
        rank = min(self.model.dimensions, *features.shape)
        centred = features - features.mean(dim=0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        projected = centred @ axes[:rank].T
        with torch.no_grad():
            module.neck.weight[:rank].copy_(axes[:rank])
            module.norm.running_mean[:rank].copy_(features.mean(dim=0) @ axes[:rank].T)
            module.norm.running_var[:rank].copy_(projected.var(dim=0))
            embedded = functional.normalize(projected / (projected.std(dim=0) + 1e-5), dim=1)
            labels = torch.from_numpy(labels_of(self.gallery))
            for label in range(len(self.labels)):
                module.proxies[label, :rank].copy_(embedded[labels == label].mean(dim=0))
        return self.validate(module, device)

    def teacher_inputs(self, batch: Batch) -> dict[str, np.ndarray]:
        images = batch["image"].detach().cpu().round().clamp(0, 255).to(torch.uint8)
        return {"image": np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())}

    def export(self, module: nn.Module) -> Exported:
        assert isinstance(module, Embedder)
        found = self.exported(
            _Answer(module), {"embedding": self.model.dimensions}, "embedding", "embedding", "embedding"
        )
        found.description = f"{self.model.backbone} that embeds pictures in {self.model.dimensions} dimensions"
        return found


def arcface(cosines: Tensor, targets: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of [N, C] cosines after `margin` radians were added to the right class's angle."""
    safe = cosines.clamp(-1 + 1e-6, 1 - 1e-6)
    right = functional.one_hot(targets, cosines.shape[1]).bool()
    angles = torch.acos(safe)
    # Beyond π the cosine would rise again, and reward what is as wrong as can be.
    harder = torch.where(angles + margin < math.pi, torch.cos(angles + margin), safe - margin * math.sin(margin))
    return functional.cross_entropy(scale * torch.where(right, harder, safe), targets)


def proxy_anchor(cosines: Tensor, targets: Tensor, scale: float, margin: float) -> Tensor:
    """[N, C] cosines to proxies; each proxy of the batch pulls its own, and every proxy pushes the others."""
    right = functional.one_hot(targets, cosines.shape[1]).bool()
    never = torch.tensor(-torch.inf, device=cosines.device)
    pull = torch.where(right, -scale * (cosines - margin), never)
    push = torch.where(right, never, scale * (cosines + margin))
    present = right.any(dim=0)
    pulled = functional.softplus(torch.logsumexp(pull[:, present], dim=0)).mean()
    # A proxy that all of the batch belong to has nothing to push.
    pushed = functional.softplus(torch.logsumexp(push[:, ~right.all(dim=0)], dim=0)).sum() / cosines.shape[1]
    return pulled + pushed


def supervised_contrast(embedding: Tensor, targets: Tensor, scale: float) -> Tensor:
    """The mean over all [N, D] of the negative log-share that others of the same class have in its neighbourhood."""
    same = (targets[:, None] == targets[None, :]).fill_diagonal_(False)
    itself = torch.eye(len(targets), dtype=torch.bool, device=embedding.device)
    logits = (scale * embedding @ embedding.T).masked_fill(itself, -torch.inf)
    shares = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    counts = same.sum(dim=1)
    each = -shares.masked_fill(~same, 0.0).sum(dim=1) / counts.clamp(min=1)
    found: Tensor = each[counts > 0].sum() / max(int((counts > 0).sum()), 1)
    return found
