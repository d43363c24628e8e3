"""A network with one hidden layer on a sentence's layers: where there are thousands of examples it sees what linear
models cannot, and knows better than they what it has never seen."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

_HIDDEN = 512
_EPOCHS = 15
_BATCH = 128
_RATE = 3e-3
_SMOOTHING = 0.1
Matrix = NDArray[np.float32]


def fit(layers: Matrix, targets: NDArray[np.int64], seed: int) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Weights [D, H], [H], [H, C], [C] of relu(x @ first + bias) @ second + bias.

    Args:
        layers: [N, D].
        targets: [N] classes; each of 0 to C - 1 occurs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = float(layers.std())
        x, y = torch.from_numpy(layers / np.float32(scale)), torch.from_numpy(targets)
        first = nn.Linear(x.shape[1], _HIDDEN)
        second = nn.Linear(_HIDDEN, int(targets.max()) + 1)
        network = nn.Sequential(nn.Dropout(0.25), first, nn.ReLU(), nn.Dropout(0.5), second)
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
        steps = _EPOCHS * -(-len(x) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                loss = functional.cross_entropy(network(x[rows]), y[rows], label_smoothing=_SMOOTHING)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    found = (first.weight.T / scale, first.bias, second.weight.T, second.bias)
    weights = [np.ascontiguousarray(each.detach().numpy(), dtype=np.float32) for each in found]
    return weights[0], weights[1], weights[2], weights[3]
