"""Mean around the median: of each coordinate, the values nearest to its median.

In sorted order these are neighbours: the window whose farther end is nearest to the median. Where
a sorting network is compiled (``order_kernel.py``) it finds them too, and sums have the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hqde_fl.rules import sorting_network
from hqde_fl.rules.order_statistics import count_rows, median_of_sorted, sort_columns


def mean_around_median_of(tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the means (c,) of columns' ``count`` values nearest their medians, and counts (1, n).

    Values that tie for the last places share them equally, so that the rows' order does not matter.
    """
    if tile.device.type == "cpu" and sorting_network.usable(tile.numpy()):
        return _by_network(tile, count)
    values = sort_columns(tile)
    if float(torch.maximum(values[-1], -values[0]).max()) > _limit(tile):
        return _scaled(tile, count)
    median = median_of_sorted(values)
    first, last = values[: len(values) - count + 1], values[count - 1 :]
    reach = torch.maximum(median - first.contiguous(), last.contiguous() - median).amin(dim=0)
    apart = (tile - median).abs_()
    if tile.device.type == "cpu":
        kept = torch.from_numpy(apart.numpy() <= reach.numpy())
    else:
        kept = apart <= reach
    counts, tied = count_rows(kept, count)
    if tied:
        return _with_ties(tile, apart, reach, count)
    return torch.mul(tile, kept, out=apart).sum(dim=0) / count, counts


def _by_network(tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``mean_around_median_of`` by the compiled network."""
    near = sorting_network.nearest_to_median(tile.numpy(), count)
    if near.largest > _limit(tile):
        return _scaled(tile, count)
    if int(near.counts.sum()) != count * tile.shape[1]:
        apart = (tile - torch.from_numpy(near.median)).abs_()
        return _with_ties(tile, apart, torch.from_numpy(near.reach), count)
    counts = torch.from_numpy(near.counts).to(torch.float64)[None, :] / count
    return torch.from_numpy(near.kept).sum(dim=0) / count, counts


def _limit(tile: Tensor) -> float:
    """Return the magnitude of values above which a sum of them might overflow."""
    return torch.finfo(tile.dtype).max / (4 * len(tile))


def _with_ties(tile: Tensor, apart: Tensor, reach: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return means and counts where values at the distance ``reach`` (c,) share what is left.

    Parameters
    ----------
    tile : Tensor
        (n, c) values.
    apart : Tensor
        (n, c) distances from the columns' medians.
    reach : Tensor
        (c,) the distance of the last value that counts.
    count : int
        Values that count in each column.
    """
    nearer, last = (apart < reach).to(torch.float64), (apart == reach).to(torch.float64)
    shares = nearer + last * ((count - nearer.sum(dim=0)) / last.sum(dim=0))
    shares /= count
    result = (tile * shares.to(tile.dtype)).sum(dim=0)
    return result, shares.sum(dim=1)[None, :]


def _scaled(tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``mean_around_median_of`` for values whose sum might leave the range of the dtype."""
    if tile.dtype == torch.float32:
        result, counts = mean_around_median_of(tile.to(torch.float64), count)
        return result.to(torch.float32), counts
    unit = 2.0 ** (8 + len(tile).bit_length())  # exact, but for numbers below the normal range
    result, counts = mean_around_median_of(tile / unit, count)
    return result * unit, counts
