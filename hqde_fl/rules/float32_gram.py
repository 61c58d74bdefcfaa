"""Distances from float32 arithmetic, with a bound on the error of each.

A rule that only compares distances needs few digits of them. The Gram matrix relative to a pivot is
taken in float32 over blocks of ``BLOCK`` columns, and the blocks are summed in float64. Rounding
errors are taken as independent with mean zero, as in Higham and Mary, "A New Approach to
Probabilistic Rounding Error Analysis" (SIAM J. Sci. Comput. 2019): the inner product of a and c
over blocks b is then off by at most

    LAMBDA 2^-24 sqrt(BLOCK + 3) sqrt(sum_b ||a_b||^2 ||c_b||^2)

except with probability 2 exp(-LAMBDA^2 / 2), some 1e-14. If a decision is closer than that, or a
distance is much smaller than those to the pivot, the rule uses float64 distances instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hqde_fl.rules.executor import MIN_THREADED_NUMBERS, Executor
from hqde_fl.rules.geometry import MIN_CERTAIN_RATIO, Geometry
from hqde_fl.rules.gram import choose_pivot
from hqde_fl.updates import Columns

BLOCK = 1024
"""Columns whose products are summed in float32."""
LAMBDA = 8.0
"""Standard deviations of rounding error that the bound covers."""
MAX_UNDERFLOW = 2.0**-126
"""The most that a float32 product below the normal range may lose."""


@dataclass(frozen=True, eq=False)
class Float32Distances:
    """Squared distances of n updates measured in float32, with their error bounds.

    Parameters
    ----------
    geometry : Geometry
        Distances of which only the first digits are right.
    error : Tensor
        (n, n) float64 upper bounds of the errors of the squared distances.
    """

    geometry: Geometry
    error: Tensor


def float32_gram(tile: Tensor, pivot: int) -> Tensor:
    """Return a tile's inner products relative to the pivot and their blocks' squared sizes.

    Parameters
    ----------
    tile : Tensor
        (n, c) float32 on the CPU.
    pivot : int
        The row that the others are taken relative to.

    Returns
    -------
    Tensor
        (2, n, n) float64: the inner products, and the sums over blocks of ||a_b||^2 ||c_b||^2.
    """
    rows = tile.numpy()
    base = rows[pivot]
    rows = rows - base
    rows[pivot] = base
    sums = np.zeros((2, len(rows), len(rows)))
    with np.errstate(over="ignore", invalid="ignore"):  # the caller sees it, and uses float64
        for start in range(0, rows.shape[1], BLOCK):
            block = rows[:, start : start + BLOCK]
            gram = block @ block.T
            sizes = gram.diagonal().astype(np.float64)
            sums[0] += gram
            sums[1] += sizes[:, None] * sizes
    return torch.from_numpy(sums)


def measure_in_float32(columns: Columns, executor: Executor) -> Float32Distances | None:
    """Return distances from float32 arithmetic; None if inconclusive, or if it would save no time.

    It saves time only for many numbers that are float32 and on the CPU.

    Parameters
    ----------
    columns : Columns
        (n, d) updates.
    executor : Executor
        Reads the tiles.
    """
    n, d = columns.shape
    on_cpu = columns.device.type == "cpu"
    if columns.dtype != torch.float32 or not on_cpu or n * d < MIN_THREADED_NUMBERS:
        return None
    pivot = choose_pivot(columns)
    gram, sizes = executor.reduce(partial(float32_gram, pivot=pivot), columns)
    geometry = Geometry.from_gram(gram, pivot)
    squared, norms = geometry.squared_distances(), geometry.gram.diagonal()[:-1]
    certain = squared >= MIN_CERTAIN_RATIO * (norms[:, None] + norms[None, :])
    if not bool(certain.fill_diagonal_(True).all()):
        return None  # also if something is not finite
    inner = LAMBDA * 2.0**-24 * math.sqrt(BLOCK + 3) * sizes.sqrt() + d * MAX_UNDERFLOW
    inner[pivot], inner[:, pivot] = 0, 0  # relative to the pivot it is zero, exactly
    own = inner.diagonal()
    return Float32Distances(geometry, own[:, None] + own[None, :] + 2 * inner)
