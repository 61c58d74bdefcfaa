"""Settings of local differential privacy: each client clips its update and adds noise to it.

Nobody else needs to be trusted, not even the server. All that a client sends in a round is
protected as one record: the client's whole data set could be another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.analytic_gaussian import gaussian_epsilon, gaussian_mu
from hqde_fl.privacy.noise_source import NoiseSource
from hqde_fl.privacy.secure_gaussian import SecureGaussian


@final
@dataclass(frozen=True)
class LocalDP:
    """Local differential privacy of each update, by Gaussian noise of the client's own.

    Two updates of at most the clipping norm C differ by at most 2 C, which is the sensitivity. The
    noise is the least that makes one update (epsilon, delta)-private (Balle and Wang, 2018);
    several of one client compose exactly.

    Parameters
    ----------
    epsilon : float
        The epsilon of one update, > 0.
    delta : float
        The delta of (epsilon, delta)-differential privacy, in (0, 1).
    clipping_norm : float
        The norm to which the update is clipped, > 0.
    max_epsilon : float
        The epsilon that a client's updates together must not exceed: it refuses to train in the
        round that would exceed it. 0, the default: it never refuses.
    noise : NoiseSource
        Draws the noise.
    """

    epsilon: float
    delta: float = 1e-5
    clipping_norm: float = 1.0
    max_epsilon: float = 0.0
    noise: NoiseSource = field(default_factory=SecureGaussian)

    def __post_init__(self) -> None:
        for name in ("epsilon", "clipping_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"LocalDP.{name} must be finite and > 0, found {getattr(self, name)}"
                )
        if not 0 < self.delta < 1:
            raise ConfigError(f"LocalDP.delta must be in (0, 1), found {self.delta}")
        if not (self.max_epsilon == 0 or self.epsilon <= self.max_epsilon < math.inf):
            raise ConfigError(
                f"LocalDP.max_epsilon must be 0 or finite and >= epsilon = {self.epsilon:g}, "
                f"found {self.max_epsilon:g}"
            )
        _ = self.mu  # raises for an epsilon that no noise can have

    @cached_property
    def mu(self) -> float:
        """The sensitivity of one update over the deviation of its noise."""
        return gaussian_mu(self.epsilon, self.delta)

    @property
    def sensitivity(self) -> float:
        """The greatest distance of two clipped updates."""
        return 2 * self.clipping_norm

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise in each number of an update."""
        return self.sensitivity / self.mu

    def composed_epsilon(self, updates: int) -> float:
        """Return the epsilon of several updates of a client together, >= 0 of them."""
        return gaussian_epsilon(self.mu * math.sqrt(updates), self.delta)
