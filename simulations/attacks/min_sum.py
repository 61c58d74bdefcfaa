"""Min-Sum (Shejwalkar and Houmansadr, 2021, NDSS: "Manipulating the Byzantine")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.min_max import (
    Perturbation,
    about_mean,
    check_perturbation,
    moved,
    perturbation,
)
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class MinSum(Attack):
    """Min-Sum: no further from all honest updates together than the loneliest of them.

    x = mean + gamma p with the largest gamma for which
    sum_i ||x - x_i||^2 <= max_i sum_j ||x_i - x_j||^2. The honest updates are balanced about their
    mean, so gamma^2 = (max_i sum_j ||x_i - x_j||^2 - sum_i ||x_i - mean||^2) / (h ||p||^2).

    Parameters
    ----------
    perturbation : {"std", "unit", "sign"}, default="std"
        p: minus the coordinates' standard deviations, minus the mean, or minus its sign.
    """

    perturbation: Perturbation = "std"

    def __post_init__(self) -> None:
        check_perturbation(self, self.perturbation)

    def forge(self, honest: Columns, f: int, scene: AttackerKnowledge) -> Tensor:
        """Mean + gamma p."""
        p = perturbation(self.perturbation, honest)
        geometry = about_mean(honest, p)
        products = geometry.products().diagonal()
        length, spread = float(products[-1]), float(products[:-1].sum())
        sums = geometry.squared_distances()[:-1, :-1].sum(dim=1)
        room = max(0.0, float(sums.max()) - spread)
        gamma = math.sqrt(room / (honest.shape[0] * length)) if length else 0.0
        return moved(honest, p, gamma)
