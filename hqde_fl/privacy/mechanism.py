"""The Gaussian mechanism: clip each client's update, add noise to the sum of all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.central import AdaptiveClipping
from hqde_fl.privacy.noise_source import Floats, NoiseSource

MARGIN = 1e-9
"""Updates are clipped to this part less than the clipping norm: no rounding makes them longer."""


@final
@dataclass(frozen=True)
class GaussianMechanism:
    """Clipping, noise and, if the clipping is adaptive, the next clipping norm of one round.

    Parameters
    ----------
    clipping_norm : float
        The norm to which each client's update is clipped.
    multiplier : float
        The noise multiplier that is accounted for: that of all that a round releases, together.
    expected : float
        The number by which sums are divided: the expected number of clients.
    noise : NoiseSource
        Draws the noise.
    adaptive : AdaptiveClipping, optional
        The adaptation of the clipping norm.
    """

    clipping_norm: float
    multiplier: float
    expected: float
    noise: NoiseSource
    adaptive: AdaptiveClipping | None = None

    def __post_init__(self) -> None:
        if self.adaptive is not None and not self.count_deviation > self.multiplier / 2:
            raise ConfigError(
                "AdaptiveClipping.count_noise must be above half the noise multiplier, "
                f"{self.multiplier / 2:g}, found {self.count_deviation:g}"
            )

    @property
    def count_deviation(self) -> float:
        """The standard deviation of the noise on the number of unclipped updates."""
        assert self.adaptive is not None
        return self.adaptive.count_noise or max(self.expected / 20, self.multiplier)

    @property
    def sum_multiplier(self) -> float:
        """The noise multiplier of the sum of updates: (z^-2 - (2 s)^-2)^(-1/2).

        z is the multiplier of all that is released, and s the deviation of the noise on the count,
        in which a client counts as plus or minus 1/2 (Andrew et al., 2021, theorem 1).
        """
        if self.adaptive is None:
            return self.multiplier
        return 1 / math.sqrt(self.multiplier**-2 - (2 * self.count_deviation) ** -2)

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise on each number of the sum."""
        return self.sum_multiplier * self.clipping_norm

    def factor(self, norm: float) -> float:
        """Return the factor, at most 1, by which an update with this norm is clipped."""
        longest = self.clipping_norm * (1 - MARGIN)
        return longest / norm if norm > longest else 1.0

    def noised(self, total: Floats, rng: np.random.Generator) -> Floats:
        """Return a sum of clipped updates, (d,) float64, with noise.

        Parameters
        ----------
        total : Floats
            The sum.
        rng : np.random.Generator
            The generator for seeded noise.
        """
        return self.noise.add_noise(total, self.deviation, self.clipping_norm, rng)

    def next_clipping_norm(
        self, unclipped: int, counted: int, rng: np.random.Generator
    ) -> tuple[float, float]:
        """Return the next round's clipping norm, and the noised fraction of unclipped updates.

        Parameters
        ----------
        unclipped : int
            The number of updates that were no longer than the clipping norm.
        counted : int
            The number of all updates.
        rng : np.random.Generator
            The generator for seeded noise.
        """
        assert self.adaptive is not None
        shifted = np.array([unclipped - counted / 2])
        noised = float(self.noise.add_noise(shifted, self.count_deviation, 0.5, rng)[0])
        fraction = min(1.0, max(0.0, noised / self.expected + 0.5))
        step = -self.adaptive.learning_rate * (fraction - self.adaptive.quantile)
        return self.clipping_norm * math.exp(step), fraction
