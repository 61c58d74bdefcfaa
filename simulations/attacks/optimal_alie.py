"""The worst "a little is enough" for the rule in use (Allouah et al., 2023, arXiv:2302.01772)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.simulations.attacks.alie import max_z
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import standard_deviation
from hqde_fl.simulations.attacks.damage_search import damage_along, find_most_harmful
from hqde_fl.simulations.attacks.optimal_ipm import check_search
from hqde_fl.simulations.attacks.update_span import UpdateSpan
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class OptimalALIE(Attack):
    """ALIE with the z, of either sign, that moves the rule in use furthest from the honest mean.

    x = mean - z std. By that distance it never does less damage than ``ALIE`` with the paper's z or
    with 1.5.

    Parameters
    ----------
    limit : float, default=10.0
        Largest |z| to try, > 0; against plain averaging it is the result.
    tries : int, default=36
        Number of times that the rule is tried, >= 3.
    """

    needs_rule = True

    limit: float = 10.0
    tries: int = 36

    def __post_init__(self) -> None:
        check_search(self, self.limit, self.tries)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return mean - z std with the z in [-limit, limit] found to do the most damage.

        Damage is the distance of the rule's result from the honest mean.
        """
        span = UpdateSpan(honest, (standard_deviation(honest),))
        damage = damage_along(span, span.mean(), -span.row(0), f, knowledge)
        paper = max(0.0, max_z(honest.shape[0] + f, f))
        known = [z for z in (paper, 1.5, -paper, -1.5) if abs(z) <= self.limit]
        z = find_most_harmful(damage, [*known, -self.limit], self.limit, self.tries)
        return span.vector(span.mean() - z * span.row(0))
