"""The Min-Sum attack (Shejwalkar and Houmansadr, 2021, NDSS: "Manipulating the Byzantine")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.min_max import (
    Perturbation,
    centred_geometry,
    check_perturbation,
    offset_mean,
    perturbation_vector,
)
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class MinSum(Attack):
    """Min-Sum: a sum of squared distances no larger than that of the most distant honest update.

    x = mean + gamma p with the largest gamma for which
    sum_i ||x - x_i||^2 <= max_i sum_j ||x_i - x_j||^2. As the x_i - mean add up to zero,
    gamma^2 = (max_i sum_j ||x_i - x_j||^2 - sum_i ||x_i - mean||^2) / (h ||p||^2).

    Parameters
    ----------
    perturbation : {"std", "unit", "sign"}, default="std"
        The direction p: ``std``: the negative standard deviations; ``unit``: the negative mean;
        ``sign``: the negative sign of the mean.
    """

    perturbation: Perturbation = "std"

    def __post_init__(self) -> None:
        check_perturbation(self, self.perturbation)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the honest mean + gamma p, with p the perturbation and the largest gamma allowed.

        That is the largest whose sum of squared distances to the honest updates is no larger than
        the greatest of an honest update. gamma is 0 if p is zero.
        """
        p = perturbation_vector(self.perturbation, honest)
        geometry = centred_geometry(honest, p)
        products = geometry.products().diagonal()
        length, spread = float(products[-1]), float(products[:-1].sum())
        sums = geometry.squared_distances()[:-1, :-1].sum(dim=1)
        room = max(0.0, float(sums.max()) - spread)
        gamma = math.sqrt(room / (honest.shape[0] * length)) if length else 0.0
        return offset_mean(honest, p, gamma)
