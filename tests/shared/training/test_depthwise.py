"""Plain convolutions become separable ones with the same shapes, and cost what the formula says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.cost import costs
from shared.errors import BadInput
from shared.training.depthwise import Separable, separable
from shared.training.export import export


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(64, 64, 5, padding=4, dilation=2),
        nn.Sequential(nn.ReLU(), nn.Conv2d(64, 8, 1)),
    )


def test_shapes_stay_and_small_ones_are_left_alone() -> None:
    net = network().eval()
    x = torch.randn(2, 3, 33, 47)
    before = net(x)
    assert separable(net) == ["2", "4"]
    assert isinstance(net[2], Separable)
    assert isinstance(net[0], nn.Conv2d)
    assert net(x).shape == before.shape
    net.train()(x).sum().backward()
    assert all(each.grad is not None for each in net.parameters())


def test_costs_are_what_the_formula_says() -> None:
    net = network().eval()
    separable(net)
    model = export(net.eval(), {"x": torch.randn(2, 3, 32, 32)}, ["y"], {"x": {0: "n"}})
    found = costs(model, {"x": torch.zeros(1, 3, 32, 32).numpy()})
    first, last = 16 * 16 * 27 * 32, 8 * 8 * 64 * 8
    assert found.multiply_adds == first + 8 * 8 * (32 * 9 + 32 * 64 + 64 * 25 + 64 * 64) + last
    plain = first + 8 * 8 * 64 * (32 * 9 + 64 * 25) + last
    assert plain > 7 * found.multiply_adds
    assert sum("depthwise" in layer.operator for layer in found.layers) == 2


def test_without_activation_it_starts_near_the_plain_one() -> None:
    net = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1))
    with torch.no_grad():  # a convolution that is separable
        kernels, mix = torch.randn(1, 16, 3, 3), torch.randn(24, 16, 1, 1)
        net[0].weight.copy_(kernels * mix)
    x = torch.randn(2, 16, 9, 9)
    before = net(x)
    separable(net, activation=None)
    assert torch.allclose(net.eval()(x), before, atol=1e-3)


def test_choosing_and_nothing_to_replace() -> None:
    net = network()
    assert separable(net, choose=lambda name, _: name == "4") == ["4"]
    with pytest.raises(BadInput, match="3×3"):
        separable(network(), kinds=(3,), fewest=512)
