"""Sideways colluders: a push at a right angle to the honest mean.

No paper: the direction in which agreement with the honest mean says least. The attackers know the
honest updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.spread import (
    honest_mean,
    length,
    random_direction,
    require_number,
    unit,
    with_own_noise,
)
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class Sideways(Attack):
    """Sideways: the honest mean plus a push that is orthogonal to it.

    x_k = mean + strength ||mean|| u + noise std z_k. u is a direction drawn by the run's seed, the
    same in all rounds, less its part along the mean, scaled to length 1: the attackers' angle to
    the mean is atan(strength). z_k is standard normal, new for each attacker and round.

    Parameters
    ----------
    strength : float, default=1.0
        Length of the push in lengths of the honest mean, > 0.
    noise : float, default=0.0
        Standard deviation of an attacker's own noise in multiples of that of the honest updates,
        >= 0; with 0 all attackers send the same.
    """

    strength: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        require_number(self, "strength", 0, above=True)
        require_number(self, "noise", 0)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the pushed mean, (d,) without noise, else (f, d)."""
        mean = honest_mean(honest)
        drawn = random_direction(mean.numel(), mean, knowledge.generator("sideways"))
        forward = unit(mean)
        along = float(torch.dot(drawn.to(torch.float64), forward.to(torch.float64)))
        update = mean + self.strength * length(mean) * unit(drawn - along * forward)
        return with_own_noise(update, honest, self.noise, knowledge, "sideways")
