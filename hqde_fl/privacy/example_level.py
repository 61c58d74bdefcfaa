"""Settings of example-level differential privacy: clients train by DP-SGD (Abadi et al., 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.noise_source import NoiseSource
from hqde_fl.privacy.secure_gaussian import SecureGaussian


@final
@dataclass(frozen=True)
class DPSGD:
    """Example-level differential privacy of a client's training (arXiv:1607.00133).

    Each step takes every example with the same probability, clips its gradient, and adds noise to
    the sum. Exactly one of ``noise_multiplier`` and ``target_epsilon`` is given.

    Parameters
    ----------
    noise_multiplier : float
        The standard deviation of the noise on the sum of gradients, in ``max_grad_norm``, > 0.
    target_epsilon : float
        The epsilon that all rounds of a run together must not exceed, for any client, > 0: each
        client finds its noise multiplier for it, as if it trained in every round.
    max_grad_norm : float
        The norm to which each example's gradient is clipped, > 0.
    delta : float
        The delta of (epsilon, delta)-differential privacy, in (0, 1); well below 1 / examples.
    trainings : int
        The number of trainings that share ``target_epsilon``, >= 0; a client refuses any beyond
        the target. 0, the default: all of a run, its rounds times the members that a client trains.
    noise : NoiseSource
        Draws the noise; if it is not seeded, the choice of the examples is not either.
    """

    noise_multiplier: float = 0.0
    target_epsilon: float = 0.0
    max_grad_norm: float = 1.0
    delta: float = 1e-5
    trainings: int = 0
    noise: NoiseSource = field(default_factory=SecureGaussian)

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "target_epsilon"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"DPSGD.{name} must be finite and >= 0, found {getattr(self, name)}"
                )
        if (self.noise_multiplier > 0) == (self.target_epsilon > 0):
            raise ConfigError(
                "DPSGD needs either noise_multiplier > 0 or target_epsilon > 0, found "
                f"noise_multiplier = {self.noise_multiplier:g} and "
                f"target_epsilon = {self.target_epsilon:g}"
            )
        if not 0 < self.max_grad_norm < math.inf:
            raise ConfigError(
                f"DPSGD.max_grad_norm must be finite and > 0, found {self.max_grad_norm}"
            )
        if self.trainings < 0:
            raise ConfigError(f"DPSGD.trainings must be >= 0, found {self.trainings}")
        if not 0 < self.delta < 1:
            raise ConfigError(f"DPSGD.delta must be in (0, 1), found {self.delta}")
