"""Linear combinations of honest updates and further vectors, represented by their weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.simulations.attacks.columnwise import columnwise
from hqde_fl.updates import Columns, StackedColumns


@final
@dataclass(frozen=True, eq=False)
class UpdateSpan:
    """The linear span of the honest updates and further vectors, k rows in all.

    A point of the span is the float64 weights (k,) of the rows. Once the rows have been measured, a
    distance between points costs O(k^2).

    Parameters
    ----------
    honest : Columns
        (h, d) honest updates.
    extra : tuple[Tensor, ...]
        Further vectors (d,).
    """

    honest: Columns
    extra: tuple[Tensor, ...] = ()

    @property
    def columns(self) -> Columns:
        """All k rows: the honest updates, then the extra vectors."""
        return StackedColumns(self.honest, self.extra) if self.extra else self.honest

    @cached_property
    def geometry(self) -> Geometry:
        """Distances and inner products of the rows, measured once."""
        return measure_geometry(self.columns)

    def honest_rows(self) -> Tensor:
        """Return the honest updates as points (h, k)."""
        h = self.honest.shape[0]
        return torch.eye(h, h + len(self.extra), dtype=torch.float64)

    def mean(self) -> Tensor:
        """Return the mean of the honest updates as a point (k,)."""
        return self.honest_rows().mean(dim=0)

    def row(self, index: int) -> Tensor:
        """Return one of the extra vectors as a point (k,)."""
        h = self.honest.shape[0]
        return torch.eye(h + len(self.extra), dtype=torch.float64)[h + index]

    def origin(self) -> Tensor:
        """Return the zero update as a point (k,)."""
        return torch.zeros(self.honest.shape[0] + len(self.extra), dtype=torch.float64)

    def vector(self, point: Tensor) -> Tensor:
        """Return the vector (d,) that a point represents."""
        return columnwise(lambda tile: point.to(tile) @ tile, self.columns)
