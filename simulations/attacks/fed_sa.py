"""FedSA: the global model is steered to a chosen state at a chosen rate (Pan et al., 2025, IJCAI).

arXiv:2505.16403 applies sliding mode control: a predefined, poor state is reached at a controlled
rate, whatever the honest clients do. Only its abstract and introduction were at hand; the control
law here is the textbook's reaching law for discrete time (Gao, Wang and Homaifa, 1995), limited so
that no weight overshoots. The attackers know the honest updates and the global models, and take the
rule for the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.columnwise import columnwise
from hqde_fl.simulations.attacks.spread import length, require_number
from hqde_fl.updates import Columns, StackedColumns


@final
@dataclass(frozen=True)
class FedSA(Attack):
    """FedSA: sliding mode control of the global model towards a poor one.

    With w* = w_1 + keep (w + mean - w_1), where w_1 is the first model that the attackers received
    and w the present one, and the error e = w - w*, the global step that they want is
    u = -sign(e) min(|e|, rate |e| + reach ||e|| / sqrt(d)) in every weight. All send
    x = (n u - sum of the honest updates) / f, so that the mean of all n is u; with ``limit`` x is
    moved towards the honest mean until it is not further from it than that.

    Parameters
    ----------
    keep : float, default=0.0
        Part of the honest progress that is left, in [0, 1).
    rate : float, default=0.3
        Part of the error that is removed in a round, in (0, 1].
    reach : float, default=0.1
        Part of the typical error that is removed besides, >= 0: it ends in finitely many rounds.
    limit : float, default=0.0
        Greatest distance from the honest mean in those of the honest update furthest from it, >= 0;
        0 for no limit.
    """

    keep: float = 0.0
    rate: float = 0.3
    reach: float = 0.1
    limit: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise ConfigError(f"FedSA.keep must be in [0, 1), found {self.keep}")
        if not 0 < self.rate <= 1:
            raise ConfigError(f"FedSA.rate must be in (0, 1], found {self.rate}")
        require_number(self, "reach", 0)
        require_number(self, "limit", 0)

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return the state, which has the first model; a new one if the weights are others."""
        if knowledge.model is None:
            raise ConfigError("FedSA needs the global model")
        first = knowledge.memory.get("first")
        if first is not None and first.shape == knowledge.model.shape:
            return knowledge.memory
        return {"first": knowledge.model.clone()}

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the update by which the mean of all updates is the step that is wanted."""
        memory = knowledge.memory if "first" in knowledge.memory else self.learn(honest, knowledge)
        model, h = knowledge.model, honest.shape[0]
        assert model is not None
        rows = StackedColumns(honest, (memory["first"] - model,))

        def error(tile: Tensor) -> Tensor:
            mean, back = tile[:-1].mean(dim=0), tile[-1]
            return -back - self.keep * (mean - back)

        typical = self.reach * length(columnwise(error, rows)) / math.sqrt(honest.shape[1])

        def update(tile: Tensor) -> Tensor:
            e, mean = error(tile), tile[:-1].mean(dim=0)
            step = -e.sign() * torch.minimum(e.abs(), self.rate * e.abs() + typical)
            return ((h + f) * step - h * mean) / f

        sent = columnwise(update, rows)
        return self._limited(sent, honest) if self.limit else sent

    def _limited(self, sent: Tensor, honest: Columns) -> Tensor:
        """Return an update no further from the honest mean than the limit allows."""
        geometry = measure_geometry(honest)
        middle = torch.full((honest.shape[0],), 1 / honest.shape[0], dtype=torch.float64)
        furthest = geometry.unit * float(geometry.squared_distances_to(middle).max().sqrt())
        mean = columnwise(lambda tile: tile.mean(dim=0), honest)
        distance = length(sent - mean)
        if distance <= self.limit * furthest:
            return sent
        return mean + (self.limit * furthest / distance) * (sent - mean)
