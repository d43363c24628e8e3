"""How an anomaly map becomes a picture's score."""

from __future__ import annotations

import pytest
import torch

from shared.training.heatmaps import scores_of, strongest


def test_a_score_is_the_mean_of_the_four_strongest_cells_wherever_they_lie() -> None:
    maps = torch.zeros(2, 16, 16)
    maps[0, 3, 4:8] = torch.tensor([8.0, 4.0, 2.0, 2.0])
    for place, value in zip(((0, 0), (0, 15), (15, 0), (9, 9)), (8.0, 4.0, 2.0, 2.0), strict=True):
        maps[1][place] = value
    assert strongest(maps).tolist() == [4.0, 4.0]


def test_a_larger_fault_scores_higher_than_a_freak_cell_as_strong() -> None:
    maps = torch.ones(2, 16, 16)
    maps[0, 5, 5] = 10
    maps[1, 5:7, 5:7] = 10
    freak, fault = scores_of(maps).tolist()
    assert 1 < freak < fault <= 10


def test_a_score_grows_with_the_map_as_a_whole() -> None:
    maps = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores_of(2 * maps + 5), 2 * scores_of(maps) + 5)
    assert scores_of(maps).tolist() == pytest.approx([float(scores_of(one[None])) for one in maps])
