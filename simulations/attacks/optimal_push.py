"""The worst combination of three directions for the rule in use, by gradient ascent.

Fang et al. (2020, USENIX Security, arXiv:1911.11815) write an attack as an optimisation: the
update that moves the rule's result furthest against the honest direction. Shejwalkar and
Houmansadr (2021, NDSS) adapt the length of one direction to a known rule. Here the attackers adapt
direction and length. Rules that select or sort have no gradient in closed form, so it is
taken by central differences, through the rule as it is, with its state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final, get_args

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import columnwise, standard_deviation
from hqde_fl.simulations.attacks.damage_search import Goal, damage_in, find_most_harmful
from hqde_fl.simulations.attacks.optimal_ipm import check_search
from hqde_fl.simulations.attacks.update_span import UpdateSpan
from hqde_fl.updates import Columns

KNOWN = (
    (1.1, 1.5, 4.0),  # IPM with epsilon 0.1, 0.5 and 3
    (1.5, -1.5),  # ALIE with z = 1.5
    (1.0, 3.0),
)
"""Multiples of each direction that are tried first."""
FIRST_STEP = 0.5
DIFFERENCE = 0.2
"""Distance of the points of a difference from the middle, in steps."""


@final
@dataclass(frozen=True)
class OptimalPush(Attack):
    """The push in three directions that does the most damage under the rule in use.

    x = mean - a mean - b std - c sign(mean) std: the directions of IPM, of ALIE and of Min-Max and
    Fang. A line search along each of them comes first. From the worst of the three, gradient ascent
    changes a, b and c; a step that does no more damage is halved.

    Parameters
    ----------
    goal : str, default="opposite"
        The measure of damage: ``"opposite"``, how far the rule's result goes against the honest
        mean, or ``"distance"``, how far it is from that mean.
    limit : float, default=10.0
        Largest |a|, |b| and |c|, > 0; against plain averaging a is the limit.
    tries : int, default=96
        Number of times that the rule is tried, about, >= 12: a quarter for each line, and for the
        ascent.
    """

    needs_rule = True

    goal: Goal = "opposite"
    limit: float = 10.0
    tries: int = 96

    def __post_init__(self) -> None:
        if self.goal not in get_args(Goal):
            raise ConfigError(
                f"OptimalPush.goal must be one of {list(get_args(Goal))}, found {self.goal!r}"
            )
        check_search(self, self.limit, self.tries, least=12)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the update (d,) of the push that was found to do the most damage."""
        against = columnwise(
            lambda tile: tile.mean(dim=0).sign() * tile.std(dim=0, correction=0), honest
        )
        span = UpdateSpan(honest, (standard_deviation(honest), against))
        directions = torch.stack([span.mean(), span.row(0), span.row(1)])
        damage = damage_in(span, f, knowledge, self.goal)

        def sent(push: Tensor) -> Tensor:
            return span.mean() - push @ directions

        def damage_of(push: Tensor) -> float:
            return damage(sent(push))

        start = worst_along_axes(damage_of, self.limit, self.tries // 4)
        push = ascend(damage_of, start, self.limit, self.tries // 4)
        return span.vector(sent(push))


def worst_along_axes(damage: Callable[[Tensor], float], limit: float, tries: int) -> Tensor:
    """Return the multiples (3,) with the greatest damage found on the axes.

    Parameters
    ----------
    damage : Callable[[Tensor], float]
        The function to maximise; it may be discontinuous.
    limit : float
        Largest absolute value of a multiple, > 0.
    tries : int
        Number of calls of the function for each axis, besides those for what is known.
    """
    ends: list[Tensor] = []
    for axis, known in zip(torch.eye(len(KNOWN), dtype=torch.float64), KNOWN, strict=True):
        near = [max(-limit, min(limit, t)) for t in known]
        furthest = find_most_harmful(partial(_damage_at, damage, axis), near, limit, tries)
        ends.append(furthest * axis)
    return max(ends, key=damage)


def _damage_at(damage: Callable[[Tensor], float], axis: Tensor, t: float) -> float:
    return damage(t * axis)


def ascend(damage: Callable[[Tensor], float], start: Tensor, limit: float, tries: int) -> Tensor:
    """Return the multiples (3,) of the directions with the greatest damage found.

    Parameters
    ----------
    damage : Callable[[Tensor], float]
        The function to maximise; it may be discontinuous.
    start : Tensor
        (3,) where the ascent begins.
    limit : float
        Largest absolute value of a multiple, > 0.
    tries : int
        Number of calls of the function.
    """
    shifts = torch.eye(len(start), dtype=torch.float64)
    best, most, step = start, damage(start), FIRST_STEP
    left = tries - 1
    while left > 2 * len(shifts):
        near = DIFFERENCE * step * shifts
        gradient = torch.tensor([damage(best + h) - damage(best - h) for h in near]).double()
        left -= 2 * len(shifts)
        size = float(gradient.norm())
        while left and size > 0:
            left -= 1
            moved = (best + step / size * gradient).clamp(-limit, limit)
            if (there := damage(moved)) <= most:
                step /= 2
                break
            best, most, step = moved, there, 2 * step
        if size == 0:
            step *= 2
    return best
