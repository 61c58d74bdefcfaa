"""Functions of honest updates that are computed coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hqde_fl.rules.executor import default_executor
from hqde_fl.updates import Columns


def columnwise(function: Callable[[Tensor], Tensor], columns: Columns) -> Tensor:
    """Return a function's values for all columns (n, d), as one vector (d,) of their dtype.

    The function (n, c) -> (c,) gets some columns at a time, in float64.
    """

    def combine(tile: Tensor) -> tuple[Tensor, None]:
        return function(tile.to(torch.float64)), None

    return default_executor(columns).combine(combine, columns)[0]


def standard_deviation(columns: Columns) -> Tensor:
    """Return the standard deviation (d,) of each column over its n rows, with denominator n."""
    return columnwise(lambda tile: tile.std(dim=0, correction=0), columns)


def mean_sign(columns: Columns) -> Tensor:
    """Return the signs (d,) of the mean of the rows: -1, 0 or 1."""
    return columnwise(lambda tile: tile.mean(dim=0).sign(), columns)
