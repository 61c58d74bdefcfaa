"""Distances from float32 arithmetic, with a bound on how far off each one may be.

A rule that only compares distances needs few digits of them. The Gram matrix relative to a pivot is
taken in float32 over blocks of ``BLOCK`` columns, and the blocks are summed in float64. Rounding
errors are taken as independent with mean zero, as in Higham and Mary, "A New Approach to
Probabilistic Rounding Error Analysis" (SIAM J. Sci. Comput. 2019): the inner product of a and c
over blocks b is then off by at most

    LAMBDA 2^-24 sqrt(BLOCK + 3) sqrt(sum_b ||a_b||^2 ||c_b||^2)

except with probability 2 exp(-LAMBDA^2 / 2), some 1e-14. Where a decision is closer than that, or
a distance is much smaller than those to the pivot, the rule looks at float64 distances as always.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hqde_fl.rules.executor import SMALL, Executor
from hqde_fl.rules.geometry import CERTAIN, Geometry, choose_pivot
from hqde_fl.updates import Columns

BLOCK = 1024
LAMBDA = 8.0
TINY = 2.0**-126
"""What a float32 product below the normal range may lose."""


@dataclass(frozen=True, eq=False)
class Rough:
    """Squared distances of n updates as far as float32 knows them.

    Parameters
    ----------
    geometry : Geometry
        Distances of which only the first digits are right.
    error : Tensor
        (n, n) float64: no squared distance is further off than this.
    """

    geometry: Geometry
    error: Tensor


def narrow_gram(tile: Tensor, pivot: int) -> Tensor:
    """(2, n, n) float64: the rows' inner products relative to the pivot, and the blocks' spread."""
    rows = tile.numpy()
    base = rows[pivot]
    rows = rows - base
    rows[pivot] = base
    sums = np.zeros((2, len(rows), len(rows)))
    with np.errstate(over="ignore", invalid="ignore"):  # seen in the result, and measured anew
        for start in range(0, rows.shape[1], BLOCK):
            block = rows[:, start : start + BLOCK]
            gram = block @ block.T
            sizes = gram.diagonal().astype(np.float64)
            sums[0] += gram
            sums[1] += sizes[:, None] * sizes
    return torch.from_numpy(sums)


def measure_roughly(columns: Columns, executor: Executor) -> Rough | None:
    """What float32 can say, or None where it has nothing to say or little to win."""
    n, d = columns.shape
    if columns.dtype != torch.float32 or columns.device.type != "cpu" or n * d < SMALL:
        return None
    pivot = choose_pivot(columns)
    gram, spread = executor.reduce(partial(narrow_gram, pivot=pivot), columns)
    geometry = Geometry.of(gram, pivot)
    squared, norms = geometry.squared_distances(), geometry.gram.diagonal()[:-1]
    clear = squared >= CERTAIN * (norms[:, None] + norms[None, :])
    if not bool(clear.fill_diagonal_(True).all()):
        return None  # also where something is not finite
    inner = LAMBDA * 2.0**-24 * math.sqrt(BLOCK + 3) * spread.sqrt() + d * TINY
    inner[pivot], inner[:, pivot] = 0, 0  # relative to the pivot it is nothing, exactly
    own = inner.diagonal()
    return Rough(geometry, own[:, None] + own[None, :] + 2 * inner)
