"""Order statistics of every coordinate of a tile.

On the CPU a tile is turned so that a coordinate's n values lie side by side and are sorted by
NumPy's vector instructions, several times faster than sorting along the rows. The count of a row is
then a comparison with the two outermost kept values; no indices are sorted. With numba, the extra
``fast``, medians and trimmed means are sorted by a network instead, to the same bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hqde_fl.rules import sorting_network


def sort_columns(tile: Tensor) -> Tensor:
    """Return a copy of an (n, c) tile with every column sorted, the least value first."""
    if tile.device.type != "cpu":
        return tile.sort(dim=0).values
    turned = np.array(tile.numpy().T, order="C", copy=True)
    turned.sort(axis=1)
    return torch.from_numpy(turned).T


def median_of_sorted(values: Tensor) -> Tensor:
    """Return (c,) medians of sorted columns; the mean of the two middle values if n is even."""
    n = values.shape[0]
    low, high = values[(n - 1) // 2], values[n // 2]
    median = low if n % 2 else low * 0.5 + high * 0.5  # low + high might overflow
    return median + 0.0  # which of the equal zeros, 0.0 and -0.0, is in the middle is left open


def within_bounds(tile: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return which values of a tile are in [low, high] of their column, (n, c) bool."""
    low, high = low.contiguous(), high.contiguous()  # a sorted tile's rows lie scattered
    if tile.device.type != "cpu":
        return (tile >= low) & (tile <= high)
    values = tile.numpy()
    return torch.from_numpy((values >= low.numpy()) & (values <= high.numpy()))


def count_rows(kept: Tensor, expected: int) -> tuple[Tensor, bool]:
    """Return how much each row counted, (1, n) summed over columns, and whether values tied.

    A column counts 1 in total, divided equally among its values that count.

    Parameters
    ----------
    kept : Tensor
        (n, c) bool, the values that count in each column.
    expected : int
        The number of values that count in a column unless some tie.
    """
    if kept.device.type != "cpu":
        counts = kept.sum(dim=1)
    else:
        counts = torch.from_numpy(np.count_nonzero(kept.numpy(), axis=1))
    if int(counts.sum()) == expected * kept.shape[1]:
        return counts.to(torch.float64)[None, :] / expected, False
    return (kept.to(torch.float64) / kept.sum(dim=0)).sum(dim=1)[None, :], True


def median_of(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Return the medians (c,) of an (n, c) tile's columns, and how much each row counted (1, n)."""
    n = tile.shape[0]
    values, counts = _sorted_between(tile, (n - 1) // 2, n // 2)
    return median_of_sorted(values), counts


def trimmed_mean_of(tile: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """Return the means (c,) of columns without f values at each end, and row counts (1, n)."""
    n = tile.shape[0]
    values, counts = _sorted_between(tile, f, n - f - 1)
    inner = values[f : n - f].T
    weights = torch.full((n - 2 * f,), 1 / (n - 2 * f), dtype=tile.dtype, device=tile.device)
    return inner @ weights + 0.0, counts


def _sorted_between(tile: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Return (n, c) sorted columns, right in rows first..last, and each row's count of these.

    The counts (1, n) are those of ``count_rows``.
    """
    expected = last - first + 1
    if tile.device.type == "cpu" and sorting_network.usable(tile.numpy()):
        turned, counts = sorting_network.sorted_places(tile.numpy(), first, last)
        values = torch.from_numpy(turned).T
        if int(counts.sum()) == expected * tile.shape[1]:  # nothing ties
            return values, torch.from_numpy(counts).to(torch.float64)[None, :] / expected
    else:
        values = sort_columns(tile)
    kept = within_bounds(tile, values[first], values[last])
    return values, count_rows(kept, expected)[0]
