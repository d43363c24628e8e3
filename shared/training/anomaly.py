"""Models of what good looks like, fitted on the frozen features of good pictures.

Each is an `nn.Module` that turns a backbone's three feature maps into one anomaly map [N, G, G] with G = S / 16, the
larger the stranger, and whose constants are buffers, so that `export` writes it into one graph with the backbone.

* `PatchCore`: distance to the nearest of a core-set of good patches (Roth et al., CVPR 2022).
* `Padim`: Mahalanobis distance at each place (Defard et al., ICPR 2021) on a random orthonormal projection of the
  features, which keeps distances where PaDiM's choice of channels does not (Kim et al., CVPR 2021).
* `Discriminator`: a small perceptron that tells good patches from painted defects. It sees small, faint faults that
  lie within the spread of good patches; alone it knows only what defects look like that somebody thought of.
* `Fusion`: the sum of the three, each in units of its own spread on good parts. They fail on different surfaces.

`Features` are three tensors [N, C, G', G'] at strides 8, 16 and 32, float16 or float32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Features = list[Tensor]

PADIM_GRID = 16
PADIM_CHANNELS = 128
_PADIM_SHRINKAGE = 0.01
_PADIM_COMMON = 0.5
"""Share of a picture's mean distance that is taken off all its places: a coarser surface or other light moves them all,
a defect only some. Taking all of it off would hide a fault that covers the whole picture."""
_CANDIDATES = 60_000
"""Patches that a core-set is chosen from, at random where there are more: greedy k-centre's time grows with them."""
_PROJECTED = 32
_DROPOUT = 0.3
_LOGIT_OFFSET = 10.0
_HALF_BATCH = 256
_CHUNK = 32
"""Pictures whose features are widened to float32 at once."""


def stacked(features: Features, side: int) -> Tensor:
    """All maps on one grid: float32 [N, ΣC, side, side]; finer ones are averaged, coarser ones stretched."""
    maps = []
    for values in features:
        x = values.float()
        if x.shape[-1] > side:
            x = functional.adaptive_avg_pool2d(x, side)
        elif x.shape[-1] < side:
            x = functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)
        maps.append(x)
    return torch.cat(maps, dim=1)


def select(features: Features, index: Tensor | slice) -> Features:
    """The features of some of the pictures."""
    return [values[index] for values in features]


def count(features: Features) -> int:
    return len(features[0])


def maps_of(model: nn.Module, features: Features) -> Tensor:
    """The model's anomaly maps for stored features, a few pictures at a time."""
    with torch.inference_mode():
        parts = [model(select(features, slice(i, i + _CHUNK))) for i in range(0, count(features), _CHUNK)]
    return torch.cat(parts)


def _patches(x: Tensor) -> Tensor:
    """[N, C, G, G] → [N·G·G, C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class PatchCore(nn.Module):
    """Distance to the nearest of a bank of L2-normalised patches from the stride-16 map, averaged over 3×3."""

    def __init__(self, bank: Tensor, source: Tensor | None = None) -> None:
        """`bank` [M, C]; `source` [M]: the picture that each patch is from, where held-out maps will be asked for."""
        super().__init__()
        self.register_buffer("bank", bank)
        self.source = source

    @classmethod
    def fit(cls, features: Features, bank_bytes: int, generator: torch.Generator) -> PatchCore:
        """`bank_bytes` caps the bank, at 4 bytes a number, however many pictures there are."""
        patches = torch.cat(
            [cls._embed(select(features, slice(i, i + _CHUNK))) for i in range(0, count(features), _CHUNK)]
        )
        source = torch.arange(count(features)).repeat_interleave(len(patches) // count(features))
        if len(patches) > _CANDIDATES:
            kept = torch.randperm(len(patches), generator=generator)[:_CANDIDATES]
            patches, source = patches[kept], source[kept]
        chosen = greedy_k_centre(patches, bank_bytes // (4 * patches.shape[1]), generator)
        return cls(patches[chosen].clone(), source[chosen])

    def held_out_maps(self, features: Features) -> Tensor:
        """Maps of the very pictures that it was fitted on, each without the patches that are its own."""
        assert self.source is not None
        bank, maps = self.get_buffer("bank"), []
        for index in range(count(features)):
            others = PatchCore(bank[self.source != index])
            maps.append(others(select(features, slice(index, index + 1))))
        return torch.cat(maps)

    @staticmethod
    def _embed(features: Features) -> Tensor:
        pooled = functional.avg_pool2d(features[1].float(), 3, stride=1, padding=1, count_include_pad=False)
        return functional.normalize(_patches(pooled), dim=1)

    def forward(self, features: Features) -> Tensor:
        nearest = (self._embed(features) @ self.get_buffer("bank").T).amax(dim=1)
        side = features[1].shape[-1]
        # Between unit vectors |a - b|² = 2 - 2 a·b; the floor keeps the root's slope finite where both are the same.
        return (2 - 2 * nearest).clamp(min=1e-4).sqrt().reshape(-1, side, side)


def greedy_k_centre(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Indices of `size` of the points [M, C], each the farthest from those before it, on a random projection."""
    if len(points) <= size:
        return torch.arange(len(points))
    projection = torch.randn(points.shape[1], _PROJECTED, generator=generator) / _PROJECTED**0.5
    z = points @ projection
    squares = z.square().sum(dim=1)
    chosen = torch.empty(size, dtype=torch.long)
    current = int(torch.randint(len(z), (1,), generator=generator))
    distances = torch.full((len(z),), torch.inf)
    for place in range(size):
        chosen[place] = current
        torch.minimum(distances, squares - 2 * (z @ z[current]) + squares[current], out=distances)
        current = int(distances.argmax())
    return chosen


class Padim(nn.Module):
    """Mahalanobis distance from the Gaussian of good features at each place of a 16×16 grid, less half its mean."""

    def __init__(self, projection: Tensor, mean: Tensor, whitening: Tensor) -> None:
        super().__init__()
        self.register_buffer("projection", projection)  # [C, K]
        self.register_buffer("mean", mean)  # [P, 1, K], P = 256 places
        # Half the bytes; rounded here, so that the exported graph computes with the very same numbers.
        self.register_buffer("whitening", whitening.half())  # [P, K, K]

    def held_out_maps(self, features: Features) -> Tensor:
        """Maps of the very pictures that it was fitted on, each as if it had been left out of the fit.

        In closed form: taking a picture out of a covariance is an update of rank one, whose inverse is that of Sherman
        and Morrison. With h = uᵀ A⁻¹ u for the scatter A and u the picture's distance from the mean, c = N / (N - 1),
        the distance from the rest is (N - 1) c² h / (1 - c h). Without this, a picture looks the more normal the fewer
        there are.
        """
        pictures = count(features)
        share = pictures / (pictures - 1)

        def left_out(squares: Tensor) -> Tensor:
            h = squares / (pictures - 1)
            return (pictures - 1) * share**2 * h / (1 - share * h).clamp(min=1e-4)

        with torch.inference_mode():
            parts = [
                self._maps(left_out(self._squares(select(features, slice(i, i + _CHUNK)))), features[1].shape[-1])
                for i in range(0, pictures, _CHUNK)
            ]
        return torch.cat(parts)

    @classmethod
    def fit(cls, features: Features, generator: torch.Generator, channels: int = PADIM_CHANNELS) -> Padim:
        """The covariance at each place is shrunk by 1 % of its mean variance: pictures may be fewer than channels."""
        width = sum(values.shape[1] for values in features)
        channels = min(channels, width)
        projection = torch.linalg.qr(torch.randn(width, channels, generator=generator))[0]
        x = torch.cat(
            [cls._embed(select(features, slice(i, i + _CHUNK)), projection) for i in range(0, count(features), _CHUNK)],
            dim=1,
        )
        mean = x.mean(dim=1, keepdim=True)
        x = x - mean
        whitening = torch.empty(len(x), channels, channels)
        identity = torch.eye(channels)
        for i in range(0, len(x), 64):  # in parts, or the covariances alone would take the memory of all pictures
            covariance = x[i : i + 64].transpose(1, 2) @ x[i : i + 64] / max(1, x.shape[1] - 1)
            spread = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
            covariance += (_PADIM_SHRINKAGE * spread + 1e-6)[:, None, None] * identity
            lower = torch.linalg.cholesky(covariance)
            whitening[i : i + 64] = torch.linalg.solve_triangular(
                lower, identity.expand_as(covariance), upper=False
            ).transpose(1, 2)
        return cls(projection, mean, whitening)

    @staticmethod
    def _embed(features: Features, projection: Tensor) -> Tensor:
        """→ [P, N, K]."""
        return (stacked(features, PADIM_GRID).flatten(2).permute(2, 0, 1)) @ projection

    def forward(self, features: Features) -> Tensor:
        return self._maps(self._squares(features), features[1].shape[-1])

    def _squares(self, features: Features) -> Tensor:
        """Squared distances [P, N]."""
        x = self._embed(features, self.get_buffer("projection")) - self.get_buffer("mean")
        return (x @ self.get_buffer("whitening").float()).square().sum(dim=2)

    @staticmethod
    def _maps(squares: Tensor, side: int) -> Tensor:
        maps = squares.sqrt().T.reshape(-1, 1, PADIM_GRID, PADIM_GRID)
        maps = maps - _PADIM_COMMON * maps.mean(dim=(2, 3), keepdim=True)
        if side != PADIM_GRID:
            maps = functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
        return maps[:, 0]


@dataclass(frozen=True)
class PatchSamples:
    """Patches to train a `Discriminator` on: float16 [M, C] each."""

    good: Tensor
    defect: Tensor

    @classmethod
    def draw(cls, good: Features, painted: Features, masks: Tensor, generator: torch.Generator) -> PatchSamples:
        """Sample patches from good pictures and from pictures with painted defects.

        Args:
            masks: bool [N, S, S], where the painted pictures have their defects.
        """
        positives, negatives = [], []
        side = good[1].shape[-1]
        covered = functional.adaptive_avg_pool2d(masks.float()[:, None], side)
        # Around a defect a patch is neither: it sees it from the corner of its eye.
        far = functional.max_pool2d((covered > 0).float(), 5, stride=1, padding=2).flatten(1) == 0
        covered = covered.flatten(1)
        most = covered.amax(dim=1, keepdim=True)
        inside = (covered > 0.25) | ((covered > 0) & (covered >= 0.5 * most))  # a spot smaller than any patch counts
        for index in range(count(painted)):
            x = discriminator_input(select(painted, slice(index, index + 1)), side)
            positives.append(_sample(x, inside[index], 24, generator))
            negatives.append(_sample(x, far[index], 12, generator))
        every = torch.ones(side * side, dtype=torch.bool)
        each = min(64, max(16, 24_000 // count(good)))
        for index in range(count(good)):
            x = discriminator_input(select(good, slice(index, index + 1)), side)
            negatives.append(_sample(x, every, each, generator))
        return cls(torch.cat(negatives), torch.cat(positives))


def _sample(patches: Tensor, which: Tensor, most: int, generator: torch.Generator) -> Tensor:
    index = which.nonzero()[:, 0]
    return patches[index[torch.randperm(len(index), generator=generator)[:most]]].half()


def discriminator_input(features: Features, side: int) -> Tensor:
    """[N·side·side, C]: like `stacked`, but the finest map gives its maximum, in which a tiny spot survives."""
    finest = functional.adaptive_max_pool2d(features[0].float(), side)
    return _patches(torch.cat([finest, stacked(features[1:], side)], dim=1))


class Discriminator(nn.Module):
    """A perceptron on single patches: logit of 'a painted defect', moved up by 10 so that scores are positive."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.network = nn.Sequential(
            nn.Linear(len(mean), 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 1),
        )

    @classmethod
    def fit(cls, samples: PatchSamples, generator: torch.Generator, steps: int = 600) -> Discriminator:
        """Noise, dropout and strong decay: it must go beyond the defects it has seen, not learn them by heart."""
        mean, std = samples.good.float().mean(dim=0), samples.good.float().std(dim=0) + 1e-3
        model = cls(mean, std)
        model._start(generator)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        labels = torch.cat([torch.full((_HALF_BATCH,), 0.95), torch.zeros(_HALF_BATCH)])
        model.train()
        for _ in range(steps):
            defect = samples.defect[torch.randint(len(samples.defect), (_HALF_BATCH,), generator=generator)]
            good = samples.good[torch.randint(len(samples.good), (_HALF_BATCH,), generator=generator)]
            x = (torch.cat([defect, good]).float() - mean) / std
            x = x + 0.2 * torch.randn(x.shape, generator=generator)
            hidden = model.network[:3](x)
            kept = torch.rand(hidden.shape, generator=generator) >= _DROPOUT
            logits = model.network[3:](hidden * kept / (1 - _DROPOUT))[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return model.eval().requires_grad_(False)

    def _start(self, generator: torch.Generator) -> None:
        """Draw the first weights from `generator`: models are fitted in several threads, torch's own is shared."""
        with torch.no_grad():
            for layer in self.network:
                if isinstance(layer, nn.Linear):
                    bound = layer.in_features**-0.5
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, features: Features) -> Tensor:
        side = features[1].shape[-1]
        x = (discriminator_input(features, side) - self.get_buffer("mean")) / self.get_buffer("std")
        return self.network(x).reshape(-1, side, side) + _LOGIT_OFFSET


def spread_of(maps: Tensor) -> float:
    """Standard deviation of a model's maps of good pictures that it was not fitted on."""
    return max(float(maps.std()), 1e-6)


class Fusion(nn.Module):
    """Weighted sum of other models' maps, each in units of its own spread on good parts."""

    def __init__(self, members: Sequence[nn.Module], spreads: Sequence[float], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.factors = [weight / spread for weight, spread in zip(weights, spreads, strict=True)]

    def forward(self, features: Features) -> Tensor:
        return fused([member(features) for member in self.members], self.factors)


def fused(maps: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Σ factor · map."""
    return torch.stack([factor * values for values, factor in zip(maps, factors, strict=True)]).sum(dim=0)
