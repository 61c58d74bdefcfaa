"""The least that a rule has to do: one read of the updates, or one Gram matrix of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import psutil
import torch
from torch import Tensor

from hqde_fl.rules.executor import ThreadedExecutor
from hqde_fl.updates import Updates

Run = Callable[[], object]
Prepare = Callable[[], Run]


def floors(matrix: Tensor, *, distances: bool) -> dict[str, Prepare]:
    """Return name -> preparation of an operation on (n, d) float32 updates.

    ``syrk32`` is one float32 Gram matrix by NumPy, which knows that it is symmetric, of the whole
    matrix; ``syrk32-tiles`` the same of tiles that fit in the cache, on all threads and without
    adding them up; ``gram64`` one in float64, of numbers that have been converted already. ``read``
    is the sum of all numbers.

    Parameters
    ----------
    matrix : Tensor
        (n, d) float32.
    distances : bool
        False for ``read`` alone.
    """
    if not distances:
        return {"read": lambda: matrix.sum}
    array, updates = matrix.numpy(), Updates(matrix)

    def in_tiles() -> object:
        return ThreadedExecutor().reduce(_gram_of_tile, updates)

    def in_float64() -> Run:
        wide = array.astype(np.float64)
        return lambda: wide @ wide.T

    runs: dict[str, Prepare] = {
        "syrk32": lambda: lambda: array @ array.T,
        "syrk32-tiles": lambda: in_tiles,
    }
    if 1.1 * 8 * array.size < psutil.virtual_memory().available:
        runs["gram64"] = in_float64
    else:
        print(f"gram64: not run, no memory for {8 * array.size / 1e9:.0f} GB in float64")
    return runs


def _gram_of_tile(tile: Tensor) -> Tensor:
    rows = tile.numpy()
    _ = rows @ rows.T
    return torch.zeros(1)
