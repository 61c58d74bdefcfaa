"""Copycats: exact or noisy copies of one honest client's update.

No paper: the case that detectors of distances and of directions cannot see, because the update is
genuine. ``Mimic`` chooses the client that does the most damage; this one copies any. The attackers
know that client's update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import columnwise
from hqde_fl.simulations.attacks.spread import length, require_number
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class Copycat(Attack):
    """Copycats: all attackers send one honest client's update, with noise if so configured.

    x_k = x_v + noise ||x_v|| z_k / sqrt(d), where z_k is standard normal, new for each attacker and
    round. The client v is the first, in an order drawn by the run's seed, of those that take part.

    Parameters
    ----------
    noise : float, default=0.0
        Length of an attacker's noise in lengths of the copied update, >= 0; 0 for exact copies.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        require_number(self, "noise", 0)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the copied update (d,), or noisy copies (f, d)."""
        row = knowledge.honest.index(self.victim(knowledge))
        copied = columnwise(lambda tile: tile[row], honest)
        if self.noise == 0:
            return copied
        size = self.noise * length(copied) / math.sqrt(copied.numel())
        noises = [
            torch.randn(
                copied.shape, generator=knowledge.generator("copycat", knowledge.round, client)
            )
            for client in knowledge.attackers
        ]
        return torch.stack([copied + size * noise.to(copied) for noise in noises])

    def victim(self, knowledge: AttackerKnowledge) -> int:
        """Return the id of the honest client to copy."""
        order = {
            client: knowledge.seeds.integer("attack", "copycat", client, knowledge.member)
            for client in knowledge.honest
        }
        return min(order, key=lambda client: (order[client], client))
