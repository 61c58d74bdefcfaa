"""A patient attacker: a small push in one direction in every round, hidden in noise of its own.

The idea of attacks through time: Baruch et al. 2019 (arXiv:1902.06156) stay within the honest
spread, and Karimireddy et al. 2021 (arXiv:2012.10333) show that a rule without memory cannot tell
a shift of that size, the same in every round, from honest noise, which averages out. The attackers
know the honest updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.columnwise import columnwise, standard_deviation
from hqde_fl.simulations.attacks.spread import (
    honest_mean,
    length,
    random_direction,
    require_number,
    unit,
    with_own_noise,
)
from hqde_fl.updates import Columns, StackedColumns

Direction = Literal["against", "random"]


@final
@dataclass(frozen=True)
class ConstantDirection(Attack):
    """Constant direction: the honest mean, pushed the same way in every round, with own noise.

    x_k = mean + strength rho u + noise std z_k. rho is the honest updates' root mean squared
    distance from their mean, std their standard deviations, z_k standard normal, new for each
    attacker and round, and u is of length 1, the same in all rounds. With the defaults
    an attacker is as far from the mean as an honest client.

    Parameters
    ----------
    strength : float, default=0.7
        Length of the push in multiples of rho, > 0.
    noise : float, default=0.7
        Standard deviation of the noise in multiples of that of the honest updates, >= 0; with 0
        all attackers send the same.
    direction : {"against", "random"}, default="against"
        ``against``: the negative mean of the first round's honest updates; ``random``: drawn by the
        run's seed.
    """

    strength: float = 0.7
    noise: float = 0.7
    direction: Direction = "against"

    def __post_init__(self) -> None:
        require_number(self, "strength", 0, above=True)
        require_number(self, "noise", 0)
        known = get_args(Direction)
        if self.direction not in known:
            raise ConfigError(
                f"ConstantDirection.direction must be one of {', '.join(known)}, "
                f"found {self.direction!r}"
            )

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return the state, which keeps the direction; a new one if the number of weights changes.

        Nothing is kept of a round in which the honest mean is zero and so gives no direction.
        """
        kept = knowledge.memory.get("direction")
        if kept is not None and kept.shape == honest.shape[1:]:
            return knowledge.memory
        mean = honest_mean(honest)
        if self.direction == "against":
            chosen = unit(-mean)
        else:
            generator = knowledge.generator("constant-direction")
            chosen = random_direction(honest.shape[1], mean, generator)
        return {**knowledge.memory, "direction": chosen} if length(chosen) > 0 else {}

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the pushed mean, (d,) without noise, else (f, d)."""
        memory = knowledge.memory if "direction" in knowledge.memory else None
        memory = self.learn(honest, knowledge) if memory is None else memory
        if "direction" not in memory:
            return honest_mean(honest)
        push = self.strength * length(standard_deviation(honest))
        rows = StackedColumns(honest, (memory["direction"],))
        update = columnwise(lambda tile: tile[:-1].mean(dim=0) + push * tile[-1], rows)
        return with_own_noise(update, honest, self.noise, knowledge, "constant-direction")
