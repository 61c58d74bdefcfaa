"""The worst inner product manipulation for the rule in use (Allouah et al., 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.damage_search import damage_along, find_most_harmful
from hqde_fl.simulations.attacks.update_span import UpdateSpan
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class OptimalIPM(Attack):
    """IPM with the epsilon that moves the rule in use furthest from the honest mean.

    x = -epsilon mean (arXiv:2302.01772). By that distance it never does less damage than ``IPM``
    with 0.1, 0.5 or 3.

    Parameters
    ----------
    limit : float, default=10.0
        Largest epsilon to try, > 0; against plain averaging it is the result.
    tries : int, default=24
        Number of times that the rule is tried, >= 3.
    """

    needs_rule = True

    limit: float = 10.0
    tries: int = 24

    def __post_init__(self) -> None:
        check_search(self, self.limit, self.tries)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return -epsilon mean with the epsilon in (0, limit] found to do the most damage.

        Damage is the distance of the rule's result from the honest mean.
        """
        span = UpdateSpan(honest)
        damage = damage_along(span, span.origin(), -span.mean(), f, knowledge)
        known = [epsilon for epsilon in (0.1, 0.5, 3.0) if epsilon <= self.limit]
        epsilon = find_most_harmful(damage, [*known, self.limit], self.limit, self.tries)
        return span.vector(-epsilon * span.mean())


def check_search(attack: Attack, limit: float, tries: int, least: int = 3) -> None:
    """Raise ``ConfigError`` unless an attack's limit is finite and > 0, and its tries suffice.

    ``least`` is the smallest number of tries.
    """
    name = type(attack).__name__
    if not (math.isfinite(limit) and limit > 0):
        raise ConfigError(f"{name}.limit must be finite and > 0, found {limit}")
    if tries < least:
        raise ConfigError(f"{name}.tries must be >= {least}, found {tries}")
