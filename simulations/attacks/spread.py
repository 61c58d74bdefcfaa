"""The lengths and noise by which colluding attackers look like honest clients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import columnwise, standard_deviation
from hqde_fl.updates import Columns


def honest_mean(honest: Columns) -> Tensor:
    """Return the mean (d,) of the honest updates."""
    return columnwise(lambda tile: tile.mean(dim=0), honest)


def length(vector: Tensor) -> float:
    """Return the Euclidean length of a vector, summed in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def unit(vector: Tensor) -> Tensor:
    """Return a vector scaled to length 1; the zero vector is returned unchanged."""
    total = length(vector)
    return (vector.to(torch.float64) / total).to(vector.dtype) if total > 0 else vector


def random_direction(d: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random vector (d,) of length 1, uniform over directions, in the dtype of another."""
    return unit(torch.randn(d, generator=generator).to(like))


def with_own_noise(
    update: Tensor, honest: Columns, scale: float, knowledge: AttackerKnowledge, name: str
) -> Tensor:
    """Return an update of its own for each attacker: a common one (d,) plus noise.

    The noise is normally distributed with ``scale`` times the standard deviation of the honest
    updates in each coordinate, new for each attacker and round. With scale 0 the common update is
    returned.

    Parameters
    ----------
    update : Tensor
        (d,) the update in common.
    honest : Columns
        (h, d) honest updates.
    scale : float
        Standard deviation of the noise, in those of the honest updates.
    knowledge : AttackerKnowledge
        The attackers, the round and the seeds.
    name : str
        Name of the attack, which names the generators.
    """
    if scale == 0:
        return update
    deviation = scale * standard_deviation(honest)
    rows = [
        update + deviation * _noise(update, knowledge, name, client)
        for client in knowledge.attackers
    ]
    return torch.stack(rows)


def _noise(like: Tensor, knowledge: AttackerKnowledge, name: str, client: int) -> Tensor:
    generator = knowledge.generator(name, "noise", knowledge.round, client)
    return torch.randn(like.shape, generator=generator).to(like)


def require_number(attack: Attack, name: str, least: float, *, above: bool = False) -> None:
    """Raise ``ConfigError`` unless an attack's parameter is finite and at least a bound.

    With ``above`` it must be greater than the bound.
    """
    value = getattr(attack, name)
    if not math.isfinite(value) or value < least or (above and value == least):
        sign = ">" if above else ">="
        raise ConfigError(
            f"{type(attack).__name__}.{name} must be finite and {sign} {least:g}, found {value}"
        )
