"""Inner product manipulation, "fall of empires" (Xie, Koyejo and Gupta, 2019, arXiv:1903.03936)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.update_span import columnwise
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class IPM(Attack):
    """Inner product manipulation: the honest mean, reversed and scaled.

    x = -epsilon mean over the honest updates. The mean of all points the wrong way once epsilon
    exceeds (n - f) / f; a small epsilon hides among updates that differ anyway.

    Parameters
    ----------
    epsilon : float, default=3.0
        How far the wrong way, > 0. The default turns the mean at 3 of 10; the literature also uses
        0.1, against rules that filter.
    """

    epsilon: float = 3.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"IPM.epsilon must be finite and > 0, found {self.epsilon}")

    def forge(self, honest: Columns, f: int, scene: AttackerKnowledge) -> Tensor:
        """Minus epsilon times the mean."""
        return columnwise(lambda tile: -self.epsilon * tile.mean(dim=0), honest)
