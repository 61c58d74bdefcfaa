"""Mimic (Karimireddy, He and Jaggi, 2022, arXiv:2006.09365)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.executor import default_executor
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.update_span import UpdateSpan, columnwise
from hqde_fl.updates import Columns, StackedColumns


@final
@dataclass(frozen=True)
class Mimic(Attack):
    """Mimic: all attackers copy one honest client, so that its data count for too much.

    Nothing that is sent is false, so no filter finds it; it hurts where clients' data differ. The
    victim is i* = argmax_i |<z, x_i - mu>|, the client furthest out along the direction z of the
    largest variance; z and the mean mu are learnt over the rounds by Oja's rule,

    mu <- t / (t + 1) mu + 1 / (t + 1) mean_i x_i,
    z <- t / (t + 1) z + 1 / (t + 1) y / ||y||, then z / ||z||, where
    y = sum_i (x_i - mu) <x_i - mu, z>,

    from the exact z of the first round. After ``warmup`` rounds the victim stays the same. Where it
    does not take part, the furthest out is copied.

    Parameters
    ----------
    warmup : int, default=10
        Rounds in which the victim may still change, >= 1.
    """

    warmup: int = 10

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ConfigError(f"Mimic.warmup must be >= 1, found {self.warmup}")

    def learn(self, honest: Columns, scene: AttackerKnowledge) -> Memory:
        """The direction, the mean, and whom to copy."""
        memory: dict[str, Any] = dict(scene.memory)
        rounds = int(memory.get("rounds", 0))
        if rounds >= self.warmup:
            return memory
        span = UpdateSpan(honest)
        now, share = span.vector(span.mean()), 1 / (rounds + 1)
        mean = now if rounds == 0 else torch.lerp(memory["mean"], now, share)
        if rounds == 0:
            inner = span.geometry.about(span.mean())
            along = torch.linalg.eigh(inner).eigenvectors[:, -1]
            along = along * along[along.abs().argmax()].sign()  # a direction has no sign of its own
            direction = _unit(span.vector(along - along.mean()))
        else:
            along = _along(honest, mean, memory["direction"])
            pulled = _unit(columnwise(partial(_pull, along), StackedColumns(honest, (mean,))))
            direction = _unit(torch.lerp(memory["direction"], pulled, share))
        memory |= {"rounds": rounds + 1, "mean": mean, "direction": direction}
        return memory | {"victim": scene.honest[_furthest(honest, mean, direction)]}

    def forge(self, honest: Columns, f: int, scene: AttackerKnowledge) -> Tensor:
        """The victim's update."""
        memory = scene.memory if "victim" in scene.memory else self.learn(honest, scene)
        if memory["victim"] in scene.honest:
            row = scene.honest.index(memory["victim"])
        else:
            row = _furthest(honest, memory["mean"], memory["direction"])
        return columnwise(lambda tile: tile[row], honest)


def _along(honest: Columns, mean: Tensor, direction: Tensor) -> Tensor:
    """(h,) <x_i - mean, direction> in float64."""

    def inner(tile: Tensor) -> Tensor:
        wide = tile.to(torch.float64)
        return (wide[:-2] - wide[-2]) @ wide[-1]

    rows = StackedColumns(honest, (mean, direction))
    return default_executor(rows).reduce(inner, rows)


def _furthest(honest: Columns, mean: Tensor, direction: Tensor) -> int:
    return int(_along(honest, mean, direction).abs().argmax())


def _pull(along: Tensor, tile: Tensor) -> Tensor:
    """Columns of sum_i (x_i - mean) along_i; the mean is the last row."""
    return along @ (tile[:-1] - tile[-1])


def _unit(vector: Tensor) -> Tensor:
    """A vector of length one; zero stays zero."""
    length = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return (vector / length).to(vector.dtype) if length > 0 else vector
