"""Where boxes will be: a Kalman filter with constant velocity for all tracks at once, in seconds.

The state is centre x and y, width and height in pixels, and their velocities per second; each coordinate is filtered by
itself (two by two), which loses nothing where noise is independent and makes a step a few array operations. Noise is a
share of the box's height, as in SORT (Bewley et al. 2016) and DeepSORT, but grows with the time that passed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_MEASURED = 0.05
"""Standard deviation of a detected edge, as a share of the height."""
_PUSH = np.array([0.6, 0.6, 0.25, 0.25])
"""Of accelerations, in heights per second squared (and second to the half)."""
_FIRST_SPEED = np.array([1.0, 1.0, 0.45, 0.45])
"""Heights per second that a new track may have."""
_DAMPING_S = 3.0
"""Unseen tracks slow down with this time constant: who is hidden does not run on for ever."""
_GROWTH_DAMPING_S = 0.1
"""And keep their size: a box that got smaller as somebody stepped in front would shrink to nothing."""


class Kalman:
    """[N] tracks: `mean` [N, 4, 2] value and velocity, `cov` [N, 4, 3] variance of the value, covariance, and variance
    of the velocity."""

    def __init__(self) -> None:
        self.mean: Array = np.zeros((0, 4, 2))
        self.cov: Array = np.zeros((0, 4, 3))

    def add(self, measured: Array) -> None:
        """New tracks at [K, 4] centre x, y, width, height."""
        height = measured[:, 3:4]
        mean = np.zeros((len(measured), 4, 2))
        mean[:, :, 0] = measured
        cov = np.zeros((len(measured), 4, 3))
        cov[:, :, 0] = (2 * _MEASURED * height) ** 2
        cov[:, :, 2] = (_FIRST_SPEED * height) ** 2
        self.mean, self.cov = np.concatenate([self.mean, mean]), np.concatenate([self.cov, cov])

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Forget the others."""
        self.mean, self.cov = self.mean[rows], self.cov[rows]

    def predict(self, seconds: float, unseen: NDArray[np.bool_]) -> None:
        """Let time pass; unseen tracks slow down."""
        mean, cov = self.mean, self.cov
        mean[unseen, :2, 1] *= np.exp(-seconds / _DAMPING_S)
        mean[unseen, 2:, 1] *= np.exp(-seconds / _GROWTH_DAMPING_S)
        mean[:, :, 0] += seconds * mean[:, :, 1]
        np.maximum(mean[:, 2:, 0], 1.0, out=mean[:, 2:, 0])
        noise = (_PUSH * mean[:, 3:4, 0]) ** 2 * seconds
        cov[:, :, 0] += seconds * (2 * cov[:, :, 1] + seconds * cov[:, :, 2]) + noise * (seconds**2 / 3)
        cov[:, :, 1] += seconds * cov[:, :, 2] + noise * (seconds / 2)
        cov[:, :, 2] += noise

    def correct(self, rows: NDArray[np.intp], measured: Array, doubt: Array) -> None:
        """Take measurements in.

        Args:
            rows: [K] each once.
            measured: [K, 4] centre x, y, width, height.
            doubt: [K, 4] or [K, 1] by which the usual noise of each is multiplied.
        """
        mean, cov = self.mean[rows], self.cov[rows]
        noise = (_MEASURED * doubt * measured[:, 3:4]) ** 2
        gain = cov[:, :, :2] / (cov[:, :, :1] + noise[:, :, None])
        self.mean[rows] = mean + gain * (measured - mean[:, :, 0])[:, :, None]
        value, both = cov[:, :, 0], cov[:, :, 1]
        cov[:, :, 2] -= gain[:, :, 1] * both
        cov[:, :, 1] = both - gain[:, :, 0] * both
        cov[:, :, 0] = value - gain[:, :, 0] * value
        self.cov[rows] = cov

    def shift(self, by: Array) -> None:
        """The camera has turned: move all by [2] pixels."""
        self.mean[:, :2, 0] += by
