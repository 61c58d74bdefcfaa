"""Combinations of honest updates and a few more vectors, known by their coordinates alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from hqde_fl.rules.executor import default_executor
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.updates import Columns, StackedColumns


@final
@dataclass(frozen=True, eq=False)
class UpdateSpan:
    """The honest updates, vectors below them, and whatever is a linear combination of these rows.

    A point is the (k,) float64 weights of the k rows. Distances between points cost O(k^2), once
    the rows have been measured.

    Parameters
    ----------
    honest : Columns
        (h, d) honest updates.
    extra : tuple[Tensor, ...]
        Vectors (d,) that are no combinations of them.
    """

    honest: Columns
    extra: tuple[Tensor, ...] = ()

    @property
    def columns(self) -> Columns:
        """All k rows."""
        return StackedColumns(self.honest, self.extra) if self.extra else self.honest

    @cached_property
    def geometry(self) -> Geometry:
        """Distances and inner products of the rows, measured once."""
        return measure_geometry(self.columns)

    def honest_rows(self) -> Tensor:
        """(h, k) the honest updates as points."""
        h = self.honest.shape[0]
        return torch.eye(h, h + len(self.extra), dtype=torch.float64)

    def mean(self) -> Tensor:
        """(k,) the mean of the honest updates."""
        return self.honest_rows().mean(dim=0)

    def row(self, place: int) -> Tensor:
        """(k,) one of the extra vectors."""
        h = self.honest.shape[0]
        return torch.eye(h + len(self.extra), dtype=torch.float64)[h + place]

    def origin(self) -> Tensor:
        """(k,) no update at all."""
        return torch.zeros(self.honest.shape[0] + len(self.extra), dtype=torch.float64)

    def vector(self, point: Tensor) -> Tensor:
        """(d,) what a point stands for."""
        return columnwise(lambda tile: point.to(tile) @ tile, self.columns)



def columnwise(function: Callable[[Tensor], Tensor], columns: Columns) -> Tensor:
    """(d,) a function (n, c) -> (c,) of the columns in float64, in the columns' own dtype."""

    def combine(tile: Tensor) -> tuple[Tensor, None]:
        return function(tile.to(torch.float64)), None

    return default_executor(columns).combine(combine, columns)[0]


def deviation(columns: Columns) -> Tensor:
    """(d,) the standard deviation of every coordinate, with n in the denominator."""
    return columnwise(lambda tile: tile.std(dim=0, correction=0), columns)


def mean_sign(columns: Columns) -> Tensor:
    """(d,) the sign of every coordinate of the mean."""
    return columnwise(lambda tile: tile.mean(dim=0).sign(), columns)
