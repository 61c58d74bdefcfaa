"""Functions of honest updates that are computed coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hqde_fl.rules.executor import default_executor
from hqde_fl.updates import Columns


def columnwise(function: Callable[[Tensor], Tensor], columns: Columns) -> Tensor:
    """Apply a function (n, c) -> (c,) to the columns in float64.

    The result (d,) has the dtype of the columns.
    """

    def combine(tile: Tensor) -> tuple[Tensor, None]:
        return function(tile.to(torch.float64)), None

    return default_executor(columns).combine(combine, columns)[0]


def standard_deviation(columns: Columns) -> Tensor:
    """Return the standard deviation (d,) of every coordinate, with n in the denominator."""
    return columnwise(lambda tile: tile.std(dim=0, correction=0), columns)


def mean_sign(columns: Columns) -> Tensor:
    """Return the sign (d,) of every coordinate of the mean."""
    return columnwise(lambda tile: tile.mean(dim=0).sign(), columns)
