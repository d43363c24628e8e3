"""Models of what good looks like, on features that are drawn, not seen."""

from __future__ import annotations

import pytest
import torch

from shared.training.anomaly import Features, Padim, PatchCore, maps_of
from shared.training.heatmaps import scores_of


def features_of(pictures: int, seed: int, spread: float = 1.0) -> Features:
    """Noise at strides 8, 16 and 32 of pictures of 256×256, with few channels."""
    generator = torch.Generator().manual_seed(seed)
    return [spread * torch.randn(pictures, 8, side, side, generator=generator) for side in (32, 16, 8)]


@pytest.fixture(scope="module")
def padim() -> Padim:
    return Padim.fit(features_of(120, seed=1), torch.Generator().manual_seed(0))


def test_padim_finds_the_place(padim: Padim) -> None:
    features = features_of(4, seed=2)
    features[1][2, :, 11, 5] += 6
    maps = maps_of(padim, features)
    assert divmod(int(maps[2].argmax()), 16) == (11, 5)
    assert int(scores_of(maps).argmax()) == 2


def test_padim_takes_a_coarser_surface_for_less_than_a_fault(padim: Padim) -> None:
    """It looks stranger still, but half of what all its places have in common is taken off."""
    usual, coarse = (
        maps_of(padim, features_of(8, seed=3, spread=spread)).mean(dim=(1, 2)).mean() for spread in (1.0, 1.5)
    )
    squares = padim._squares(features_of(8, seed=3)).sqrt().mean()
    assert float(usual) == pytest.approx(0.5 * float(squares), rel=1e-4)
    assert float(coarse) > float(usual)


def test_pictures_judged_together_are_judged_as_alone(padim: Padim) -> None:
    features = features_of(3, seed=4)
    together = maps_of(padim, features)
    alone = torch.cat([maps_of(padim, [values[i : i + 1] for values in features]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["padim", "patchcore"])
def test_a_picture_that_was_fitted_on_is_judged_as_if_it_had_been_left_out(kind: str) -> None:
    seen, new = features_of(40, seed=5), features_of(40, seed=6)
    generator = torch.Generator().manual_seed(0)
    model = Padim.fit(seen, generator) if kind == "padim" else PatchCore.fit(seen, 1 << 15, generator)
    held_out = float(model.held_out_maps(seen).mean())
    assert held_out == pytest.approx(float(maps_of(model, new).mean()), rel=0.08)
    assert float(maps_of(model, seen).mean()) < held_out
