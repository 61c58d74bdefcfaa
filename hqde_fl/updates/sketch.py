"""Short random projections of updates, whose inner products approximate those of the updates."""

from __future__ import annotations

import torch
from torch import Tensor

from hqde_fl.seeding import Seeds
from hqde_fl.updates.columns import Columns

SKETCH_SIZE = 256
"""Numbers in a sketch: an inner product is off by about |x| |y| / 16."""

BLOCK = 1 << 16
"""Columns that are read at once."""


def sketch(updates: Columns, seeds: Seeds, size: int = SKETCH_SIZE) -> Tensor:
    """Return count sketches of updates: each number is added, with a sign, to one of ``size`` sums.

    Place and sign of a column depend on the seeds and the column alone, so that sketches of
    different rounds can be compared. The inner product of two sketches is that of the updates in
    the mean over the seeds, with a variance of at most 2 |x|^2 |y|^2 / size (Charikar et al., 2002;
    Weinberger et al., 2009, arXiv:0902.2206).

    Parameters
    ----------
    updates : Columns
        (n, d) updates.
    seeds : Seeds
        Root of the random places and signs.
    size : int
        Numbers in a sketch, >= 1.

    Returns
    -------
    Tensor
        (n, size) float32 on the CPU, finite: sums beyond the range are cut off.
    """
    n, d = updates.shape
    sums = torch.zeros(n, size, dtype=torch.float64)
    for block, start in enumerate(range(0, d, BLOCK)):
        stop = min(start + BLOCK, d)
        drawn = torch.randint(2 * size, (stop - start,), generator=seeds.torch("sketch", block))
        places, signs = drawn // 2, drawn % 2 * 2.0 - 1
        tile = updates.tile(start, stop).to("cpu", torch.float64)
        sums.scatter_add_(1, places.expand(n, -1), tile * signs)
    limit = torch.finfo(torch.float32).max
    return sums.nan_to_num(nan=0.0).clamp(-limit, limit).to(torch.float32)
