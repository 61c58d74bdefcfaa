"""Distances from float32 arithmetic, with a bound on the error of each.

A rule that only compares distances needs few digits of them. The Gram matrix relative to a pivot is
taken in float32 over blocks of ``BLOCK`` columns, and the blocks are summed in float64. Rounding
errors are taken as independent with mean zero, as in Higham and Mary, "A New Approach to
Probabilistic Rounding Error Analysis" (SIAM J. Sci. Comput. 2019): the inner product of a and c
over blocks b is then off by at most

    LAMBDA 2^-24 sqrt(BLOCK + 3) sqrt(sum_b ||a_b||^2 ||c_b||^2)

except with probability 2 exp(-LAMBDA^2 / 2), some 1e-14. If a decision is closer than that, or a
distance so small that its error is more than ``MAX_ERROR`` of it, the rule uses float64 distances
instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from hqde_fl.rules.executor import MIN_THREADED_NUMBERS, Executor
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.gram import choose_pivot
from hqde_fl.updates import Columns

BLOCK = 1024
"""Columns whose products are summed in float32."""
LAMBDA = 8.0
"""Standard deviations of rounding error that the bound covers."""
SAMPLED_BLOCKS = 8
"""Blocks of columns that are measured first, to see whether the rest are worth measuring."""
MIN_SAMPLED_SHARE = 16
"""With less than this many times the sampled columns, there is no sample."""
MAX_ERROR = 0.01
"""The largest relative error of a squared distance."""
MAX_SAMPLED_ERROR = 0.1
"""The same for a sample of the columns, where a distance may be smaller than over all of them."""
SAMPLED_MARGIN = 4.0
"""Errors count so many times in a sample: a close decision there may be closer over all columns."""
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


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of rows over some columns, summed block by block.

    Parameters
    ----------
    gram : Tensor
        (n, n) float64 inner products.
    sizes : tuple of Tensor
        (n, b) float64 each: every row's squared length in blocks.
    """

    gram: Tensor
    sizes: tuple[Tensor, ...]

    def __add__(self, other: Products) -> Products:
        """Return the products over the columns of both."""
        self.gram.add_(other.gram)  # nobody else holds it, and a copy would cost as much again
        return Products(self.gram, self.sizes + other.sizes)

    def distances(
        self, pivot: int, repeats: float = 1.0, max_error: float = MAX_ERROR
    ) -> Float32Distances | None:
        """Return the distances; None if the relative error of a squared one exceeds ``max_error``.

        Every column counts ``repeats`` times.
        """
        gram = self.gram * repeats
        geometry = Geometry.from_gram(gram, pivot)
        sizes = torch.cat(self.sizes, dim=1)
        columns = sizes.shape[1] * BLOCK * repeats
        inner = (sizes @ sizes.T * repeats).sqrt()
        inner = LAMBDA * 2.0**-24 * math.sqrt(BLOCK + 3) * inner + columns * MAX_UNDERFLOW
        inner[pivot], inner[:, pivot] = 0, 0  # relative to the pivot it is zero, exactly
        own = inner.diagonal()
        error = own[:, None] + own[None, :] + 2 * inner
        squared = geometry.squared_distances()
        certain = (error <= max_error * squared).fill_diagonal_(True)
        if not bool(certain.all() and squared.isfinite().all()):
            return None
        return Float32Distances(geometry, error)


def float32_gram(tile: Tensor, pivot: int) -> Products:
    """Return the inner products of an (n, c) float32 tile on the CPU, relative to the pivot's row.

    Parameters
    ----------
    tile : Tensor
        (n, c) float32 on the CPU.
    pivot : int
        The row that the others are taken relative to.
    """
    rows = tile.numpy()
    base = rows[pivot]
    rows = rows - base
    rows[pivot] = base
    total, sizes = None, []
    with np.errstate(over="ignore", invalid="ignore"):  # the caller sees it, and uses float64
        for start in range(0, rows.shape[1], BLOCK):
            block = rows[:, start : start + BLOCK]
            gram = block @ block.T
            sizes.append(gram.diagonal().astype(np.float64))
            if total is None:  # zeros would be new pages, and a fault for each, in every tile
                total = gram.astype(np.float64)
            else:
                total += gram
    assert total is not None
    return Products(torch.from_numpy(total), (torch.from_numpy(np.stack(sizes, axis=1)),))


def measure_in_float32(
    columns: Columns,
    executor: Executor,
    decides: Callable[[Float32Distances], bool] | None = None,
) -> Float32Distances | None:
    """Return distances from float32 arithmetic; None if inconclusive, or if it would save no time.

    It saves time only for many numbers that are float32 and on the CPU.

    Parameters
    ----------
    columns : Columns
        (n, d) updates.
    executor : Executor
        Reads the tiles.
    decides : Callable[[Float32Distances], bool], optional
        Whether distances settle a decision. Where a sample of the columns shows that they will not,
        the pass over all of them is left out.
    """
    n, d = columns.shape
    on_cpu = columns.device.type == "cpu"
    if columns.dtype != torch.float32 or not on_cpu or n * d < MIN_THREADED_NUMBERS:
        return None
    pivot = choose_pivot(columns)
    if decides is not None and d >= MIN_SAMPLED_SHARE * SAMPLED_BLOCKS * BLOCK:
        expected = _expected(columns, pivot)
        if expected is None or not decides(expected):
            return None
    return executor.reduce(partial(float32_gram, pivot=pivot), columns).distances(pivot)


def _expected(columns: Columns, pivot: int) -> Float32Distances | None:
    """Return what the distances will roughly be, judged by a sample; None if uncertain.

    Of independent numbers distances differ by chance alone, and all columns' differ less than the
    sample's, by the root of the ratio of their numbers. Distances that differ for a reason keep
    their ratios; they are shrunk all the same, since the sample alone cannot tell.
    """
    d = columns.shape[1]
    last = d - BLOCK
    starts = [round(k * last / (SAMPLED_BLOCKS - 1)) for k in range(SAMPLED_BLOCKS)]
    parts = [float32_gram(columns.tile(start, start + BLOCK), pivot) for start in starts]
    repeats = d / (SAMPLED_BLOCKS * BLOCK)
    sampled = reduce(add, parts).distances(pivot, repeats, MAX_SAMPLED_ERROR)
    if sampled is None:
        return None
    squared = sampled.geometry.squared
    n = columns.shape[0]
    typical = squared[:n, :n].sum() / (n * (n - 1))
    shrunk = typical + (squared - typical) / math.sqrt(repeats)
    geometry = replace(sampled.geometry, squared=shrunk.fill_diagonal_(0))
    return Float32Distances(geometry, SAMPLED_MARGIN * sampled.error)
