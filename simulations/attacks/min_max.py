"""The Min-Max attack (Shejwalkar and Houmansadr, 2021, NDSS: "Manipulating the Byzantine")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import columnwise, mean_sign, standard_deviation
from hqde_fl.updates import Columns, MappedColumns, StackedColumns

Perturbation = Literal["std", "unit", "sign"]


@final
@dataclass(frozen=True)
class MinMax(Attack):
    """Min-Max: no further from any honest update than two honest updates are from each other.

    x = mean + gamma p with the largest gamma for which
    max_i ||x - x_i|| <= max_ij ||x_i - x_j||. Each i bounds gamma by the root of a quadratic in
    inner products of the honest updates and p, so gamma is exact and needs no search.

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

        That is the largest with no honest update further away than two are from each other.
        """
        p = perturbation_vector(self.perturbation, honest)
        return offset_mean(honest, p, _gamma(centred_geometry(honest, p)))


def check_perturbation(attack: Attack, name: str) -> None:
    """Raise ``ConfigError`` unless an attack's perturbation has a known name."""
    known = get_args(Perturbation)
    if name not in known:
        raise ConfigError(
            f"{type(attack).__name__}.perturbation must be one of {', '.join(known)}, "
            f"found {name!r}"
        )


def perturbation_vector(name: Perturbation, honest: Columns) -> Tensor:
    """Return the direction p (d,), of any length.

    "std": the negative standard deviations; "sign": the negative sign of the mean; "unit": the
    negative mean.
    """
    if name == "std":
        return -standard_deviation(honest)
    if name == "sign":
        return -mean_sign(honest)
    return columnwise(lambda tile: -tile.mean(dim=0), honest)


def centred_geometry(honest: Columns, p: Tensor) -> Geometry:
    """Return the geometry of the h honest updates minus their mean, and of p as the last row."""

    def centred(tile: Tensor) -> Tensor:
        wide = tile.to(torch.float64)
        return torch.cat([wide[:-1] - wide[:-1].mean(dim=0), wide[-1:]])

    rows = StackedColumns(honest, (p,))
    return measure_geometry(MappedColumns(rows, centred, honest.shape[0] + 1))


def offset_mean(honest: Columns, p: Tensor, gamma: float) -> Tensor:
    """Return the honest mean + gamma p, (d,)."""
    rows = StackedColumns(honest, (p,))
    return columnwise(lambda tile: tile[:-1].mean(dim=0) + gamma * tile[-1], rows)


def _gamma(geometry: Geometry) -> float:
    """Return the largest gamma >= 0 with ||gamma p - (x_i - mean)|| <= max_jk ||x_j - x_k||.

    For all i; it is the least of the larger roots of the quadratics. 0 if p is zero.
    """
    products = geometry.products()
    length, along = float(products[-1, -1]), products[-1, :-1]
    if length == 0:
        return 0.0
    room = geometry.squared_distances()[:-1, :-1].max() - products.diagonal()[:-1]
    roots = along + (along**2 + length * room.clamp(min=0)).sqrt()
    return max(0.0, float(roots.min()) / length)
