"""Order statistics of every coordinate of a tile.

On the CPU a tile is turned so that a coordinate's n values lie side by side and are sorted by
NumPy's vector instructions, several times faster than sorting along the rows. What a row counted
for is then found by comparing with the two outermost kept values, not by sorting indices.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def ordered(tile: Tensor) -> Tensor:
    """(n, c) with every column sorted."""
    if tile.device.type != "cpu":
        return tile.sort(dim=0).values
    turned = np.array(tile.numpy().T, order="C", copy=True)
    turned.sort(axis=1)
    return torch.from_numpy(turned).T


def middle_of(values: Tensor) -> Tensor:
    """(c,) medians of sorted columns; the mean of the two middle values when n is even."""
    n = values.shape[0]
    low, high = values[(n - 1) // 2], values[n // 2]
    return low.clone() if n % 2 else low * 0.5 + high * 0.5  # low + high might overflow


def between(tile: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(n, c) bool: whose values lie within the columns' bounds (c,)."""
    low, high = low.contiguous(), high.contiguous()  # a sorted tile's rows lie scattered
    if tile.device.type != "cpu":
        return (tile >= low) & (tile <= high)
    values = tile.numpy()
    return torch.from_numpy((values >= low.numpy()) & (values <= high.numpy()))


def shares(kept: Tensor, expected: int) -> tuple[Tensor, bool]:
    """(1, n) float64 sums over the columns of what each row counted for, and whether any tied.

    Parameters
    ----------
    kept : Tensor
        (n, c) bool, whose value counted in which column.
    expected : int
        How many count in every column; where more do, because values are tied, they share.
    """
    if kept.device.type != "cpu":
        counts = kept.sum(dim=1)
    else:
        counts = torch.from_numpy(np.count_nonzero(kept.numpy(), axis=1))
    if int(counts.sum()) == expected * kept.shape[1]:
        return counts.to(torch.float64)[None, :] / expected, False
    return (kept.to(torch.float64) / kept.sum(dim=0)).sum(dim=1)[None, :], True


def median_of(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinate-wise median (c,) of an (n, c) tile, and (1, n) how often each row was it."""
    n = tile.shape[0]
    values = ordered(tile)
    kept = between(tile, values[(n - 1) // 2], values[n // 2])
    return middle_of(values), shares(kept, 2 - n % 2)[0]


def trimmed_mean_of(tile: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """Mean of every column without its f largest and f smallest, and what each row counted for."""
    n = tile.shape[0]
    values = ordered(tile)
    inner = values[f : n - f].T
    weights = torch.full((n - 2 * f,), 1 / (n - 2 * f), dtype=tile.dtype, device=tile.device)
    kept = between(tile, values[f], values[n - f - 1])
    return inner @ weights, shares(kept, n - 2 * f)[0]


def mean_around_median_of(tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean of every column's ``count`` values closest to its median.

    Values tied for the last place all count, so that the rows' order does not matter.
    """
    values = ordered(tile)
    middle = middle_of(values)
    # The closest are neighbours in the order: of all windows of ``count`` the one whose farther end
    # is nearest says how far they reach.
    first, last = values[: len(values) - count + 1], values[count - 1 :]
    reach = torch.maximum(middle - first.contiguous(), last.contiguous() - middle).amin(dim=0)
    apart = (tile - middle).abs_()
    if tile.device.type == "cpu":
        kept = torch.from_numpy(apart.numpy() <= reach.numpy())
    else:
        kept = apart <= reach
    counts, tied = shares(kept, count)
    total = torch.mul(tile, kept, out=apart).sum(dim=0)
    return total / (kept.sum(dim=0) if tied else count), counts
