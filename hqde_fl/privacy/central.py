"""Settings of central differential privacy: the server clips updates and adds noise to their sum.

The server is trusted; the models that it releases are protected. A client's whole update counts as
one record (client-level privacy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.privacy.noise_source import NoiseSource
from hqde_fl.privacy.secure_gaussian import SecureGaussian

AccountantName = Literal["pld", "rdp"]
"""``"pld"``: privacy loss distributions, nearly exact. ``"rdp"``: Rényi differential privacy, an
upper bound."""


@final
@dataclass(frozen=True)
class AdaptiveClipping:
    """Clipping norm that follows a quantile of the updates' norms (Andrew et al., 2021).

    After each round the norm is multiplied by exp(-``learning_rate`` (b - ``quantile``)), where b
    is the fraction of the updates that were no longer than it, with noise (arXiv:1905.03871). The
    noise multiplier of the sum is raised so that both together cost what is configured.

    Parameters
    ----------
    quantile : float
        The fraction of the updates that should not be clipped, in (0, 1).
    learning_rate : float
        The learning rate, > 0.
    count_noise : float
        The standard deviation of the noise on the number of unclipped updates, > 0.5 times the
        noise multiplier. 0, the default: a 20th of the expected cohort.
    """

    quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ConfigError(f"AdaptiveClipping.quantile must be in (0, 1), found {self.quantile}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"AdaptiveClipping.learning_rate must be finite and > 0, found {self.learning_rate}"
            )
        if not 0 <= self.count_noise < math.inf:
            raise ConfigError(
                f"AdaptiveClipping.count_noise must be finite and >= 0, found {self.count_noise}"
            )


@final
@dataclass(frozen=True)
class CentralDP:
    """Settings of central differential privacy.

    Exactly one of ``noise_multiplier`` and ``target_epsilon`` is given.

    Parameters
    ----------
    noise_multiplier : float
        The standard deviation of the noise on the sum of updates, in clipping norms, > 0.
    target_epsilon : float
        The epsilon that all rounds of a run together must not exceed, > 0: the noise multiplier is
        calibrated for it.
    max_epsilon : float
        With ``noise_multiplier``: the run stops before the round that would exceed this epsilon;
        0, the default: it does not stop.
    delta : float
        The delta of (epsilon, delta)-differential privacy, in (0, 1); well below 1 / clients.
    clipping_norm : float
        The norm to which each client's update is clipped, > 0; with ``adaptive`` the first one.
    adaptive : AdaptiveClipping, optional
        Lets the clipping norm follow a quantile of the updates' norms.
    accountant : "pld" or "rdp"
        Computes epsilon. Fixed-size samples of the clients need ``"rdp"``.
    noise : NoiseSource
        Draws the noise; by default from a secure generator, so that no run can be repeated bit for
        bit. With it the clients are drawn from the system's entropy, too: who takes part in a round
        has to stay secret.
    """

    noise_multiplier: float = 0.0
    target_epsilon: float = 0.0
    max_epsilon: float = 0.0
    delta: float = 1e-5
    clipping_norm: float = 1.0
    adaptive: AdaptiveClipping | None = None
    accountant: AccountantName = "pld"
    noise: NoiseSource = field(default_factory=SecureGaussian)

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "target_epsilon", "max_epsilon"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"CentralDP.{name} must be finite and >= 0, found {getattr(self, name)}"
                )
        if (self.noise_multiplier > 0) == (self.target_epsilon > 0):
            raise ConfigError(
                "CentralDP needs either noise_multiplier > 0 or target_epsilon > 0, found "
                f"noise_multiplier = {self.noise_multiplier:g} and "
                f"target_epsilon = {self.target_epsilon:g}"
            )
        if self.max_epsilon and self.target_epsilon:
            raise ConfigError(
                "CentralDP.max_epsilon goes with noise_multiplier: target_epsilon is a limit "
                f"itself, found {self.max_epsilon:g} and target_epsilon = {self.target_epsilon:g}"
            )
        if not 0 < self.delta < 1:
            raise ConfigError(f"CentralDP.delta must be in (0, 1), found {self.delta}")
        if not 0 < self.clipping_norm < math.inf:
            raise ConfigError(
                f"CentralDP.clipping_norm must be finite and > 0, found {self.clipping_norm}"
            )
        if self.accountant not in (known := get_args(AccountantName)):
            raise UnknownNameError("accountant", str(self.accountant), known)

    @property
    def budget(self) -> float:
        """The epsilon that a run must not exceed; infinity without a limit."""
        return self.target_epsilon or self.max_epsilon or math.inf
