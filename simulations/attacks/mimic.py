"""The Mimic attack (Karimireddy, He and Jaggi, 2022, arXiv:2006.09365)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.executor import default_executor
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.columnwise import columnwise
from hqde_fl.simulations.attacks.update_span import UpdateSpan
from hqde_fl.updates import Columns, StackedColumns


@final
@dataclass(frozen=True)
class Mimic(Attack):
    """Mimic: all attackers copy one honest client, which gives its data too much influence.

    The copied update is genuine, so no filter detects it; it does damage where clients' data
    differ. The victim is i* = argmax_i |<z, x_i - mu>|, the client furthest from the mean mu along
    the direction z of the largest variance; z and mu are learnt over the rounds by Oja's rule,

    mu <- t / (t + 1) mu + 1 / (t + 1) mean_i x_i,
    z <- t / (t + 1) z + 1 / (t + 1) y / ||y||, then z / ||z||, where
    y = sum_i (x_i - mu) <x_i - mu, z>,

    from the exact z of the first round. After ``warmup`` rounds the victim is fixed. In rounds in
    which it does not take part, the client furthest along z is copied. If the number of weights
    changes, as when a frozen layer is trained from some round on, the attack begins again.

    Parameters
    ----------
    warmup : int, default=10
        Number of rounds in which the victim may change, >= 1.
    """

    warmup: int = 10

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ConfigError(f"Mimic.warmup must be >= 1, found {self.warmup}")

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return a state with the new direction, mean and victim; unchanged after ``warmup``."""
        memory: dict[str, Any] = dict(knowledge.memory)
        if "mean" in memory and memory["mean"].shape != honest.shape[1:]:
            memory = {}
        rounds = int(memory.get("rounds", 0))
        if rounds >= self.warmup:
            return memory
        span = UpdateSpan(honest)
        now, weight = span.vector(span.mean()), 1 / (rounds + 1)
        mean = now if rounds == 0 else torch.lerp(memory["mean"], now, weight)
        if rounds == 0:
            inner = span.geometry.about(span.mean())
            along = torch.linalg.eigh(inner).eigenvectors[:, -1]
            along = along * along[along.abs().argmax()].sign()  # eigenvectors have no defined sign
            direction = _unit(span.vector(along - along.mean()))
        else:
            along = _along(honest, mean, memory["direction"])
            pulled = _unit(columnwise(partial(_pull, along), StackedColumns(honest, (mean,))))
            direction = _unit(torch.lerp(memory["direction"], pulled, weight))
        memory |= {"rounds": rounds + 1, "mean": mean, "direction": direction}
        return memory | {"victim": knowledge.honest[_furthest(honest, mean, direction)]}

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the victim's update; if it takes no part, that of the client furthest along z."""
        memory = knowledge.memory if "victim" in knowledge.memory else self.learn(honest, knowledge)
        if memory["victim"] in knowledge.honest:
            row = knowledge.honest.index(memory["victim"])
        else:
            row = _furthest(honest, memory["mean"], memory["direction"])
        return columnwise(lambda tile: tile[row], honest)


def _along(honest: Columns, mean: Tensor, direction: Tensor) -> Tensor:
    """Return the inner products (h,) <x_i - mean, direction> in float64."""

    def inner(tile: Tensor) -> Tensor:
        wide = tile.to(torch.float64)
        return (wide[:-2] - wide[-2]) @ wide[-1]

    rows = StackedColumns(honest, (mean, direction))
    return default_executor(rows).reduce(inner, rows)


def _furthest(honest: Columns, mean: Tensor, direction: Tensor) -> int:
    return int(_along(honest, mean, direction).abs().argmax())


def _pull(along: Tensor, tile: Tensor) -> Tensor:
    """Return a tile's columns of sum_i (x_i - mean) along_i; the mean is the tile's last row."""
    return along @ (tile[:-1] - tile[-1])


def _unit(vector: Tensor) -> Tensor:
    """Return a vector scaled to length 1; the zero vector is returned unchanged."""
    length = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return (vector / length).to(vector.dtype) if length > 0 else vector
