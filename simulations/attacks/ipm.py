"""Inner product manipulation, "fall of empires" (Xie, Koyejo and Gupta, 2019, arXiv:1903.03936)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import columnwise
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class IPM(Attack):
    """Inner product manipulation: the negative honest mean, scaled.

    All attackers send x = -epsilon mean of the honest updates. Once epsilon exceeds (n - f) / f,
    the mean of all updates points in the opposite direction; a small epsilon is hard to detect.

    Parameters
    ----------
    epsilon : float, default=3.0
        Factor of the negative mean, > 0. The default reverses the mean with 3 attackers of 10; the
        literature also uses 0.1, against rules that filter.
    """

    epsilon: float = 3.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"IPM.epsilon must be finite and > 0, found {self.epsilon}")

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return -epsilon times the mean of the honest updates."""
        return columnwise(lambda tile: -self.epsilon * tile.mean(dim=0), honest)
