"""Sort the columns of a tile by a network of comparisons, compiled by numba (the extra ``fast``).

Batcher's odd-even merge sort compares the same places whatever the values are, so many columns go
through it as vectors (``order_kernel.py``). Comparisons that no wanted place depends on are left
out. Without numba NumPy sorts; the sorted values are the same, bit for bit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 1024
"""With more rows the network's n log^2 n comparisons outweigh the n log n of a sort."""


@cache
def has_numba() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def usable(tile: NDArray[Any]) -> bool:
    """Return whether a network sorts an (n, c) tile sooner than NumPy does."""
    worth = 1 < tile.shape[0] <= MAX_ROWS and tile.size >= 1 << 16
    return worth and tile.dtype in (np.float32, np.float64) and has_numba()


def sorted_places(
    tile: NDArray[Any], first: int, last: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return sorted columns of an (n, c) tile, and how many values of each row lie within them.

    Parameters
    ----------
    tile : ndarray
        (n, c) finite float32 or float64.
    first, last : int
        The places of the sorted columns that are wanted.

    Returns
    -------
    tuple of ndarray
        (c, n) sorted columns of which only places first..last are filled in, and (n,) counts of the
        values that are not below the first of these places nor above the last.
    """
    from hqde_fl.rules import order_kernel

    n, columns = tile.shape
    steps, places = renamed(n, first, last)
    turned, counts = np.empty((columns, n), tile.dtype), np.zeros(n, np.int64)
    order_kernel.sort(tile, steps, places[first : last + 1], first, turned, counts)
    return turned, counts


@dataclass(frozen=True, eq=False)
class Nearest:
    """The values of each column of an (n, c) tile that are nearest to its median.

    Parameters
    ----------
    kept : ndarray
        (n, c) the values that count, zero times the others.
    median : ndarray
        (c,) medians.
    reach : ndarray
        (c,) distances from them within which values count.
    counts : ndarray
        (n,) int64, the number of each row's values that count.
    largest : float
        The largest magnitude in the tile.
    """

    kept: NDArray[Any]
    median: NDArray[Any]
    reach: NDArray[Any]
    counts: NDArray[np.int64]
    largest: float


def nearest_to_median(tile: NDArray[Any], count: int) -> Nearest:
    """Return the ``count`` values of each column nearest to its median, and those that tie.

    Parameters
    ----------
    tile : ndarray
        (n, c) finite float32 or float64.
    count : int
        Number of values, 1..n.
    """
    from hqde_fl.rules import order_kernel

    n, columns = tile.shape
    steps, places = renamed(n, 0, n - 1)
    kept = np.empty(tile.shape, tile.dtype)
    median, reach = np.empty(columns, tile.dtype), np.empty(columns, tile.dtype)
    counts = np.zeros(n + 1, np.int64)
    counts[n] = count
    half = tile.dtype.type(0.5)
    largest = order_kernel.nearest(tile, steps, places, half, kept, median, reach, counts)
    return Nearest(kept, median, reach, counts[:n], float(largest))


@cache
def network(n: int, first: int, last: int) -> NDArray[np.int64]:
    """Return the (k, 2) comparisons, in order, that put places first..last of n in order."""
    wanted = set(range(first, last + 1))
    kept = []
    for low, high in reversed(list(_batcher(n))):
        if low in wanted or high in wanted:
            wanted |= {low, high}
            kept.append((low, high))
    return np.array(kept[::-1], np.int64).reshape(-1, 2)


@cache
def renamed(n: int, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ``network`` on n + 1 rows, of which one is spare, and where the places end.

    Returns
    -------
    tuple of ndarray
        (k, 3) steps: the rows of the two values, of which the larger stays in the second, and the
        spare row for the smaller; the first row is spare afterwards. And (n,) the rows in which the
        n places are at the end.
    """
    places, spare, steps = list(range(n)), n, []
    for low, high in network(n, first, last).tolist():
        steps.append((places[low], places[high], spare))
        places[low], spare = spare, places[low]
    return np.array(steps, np.int64).reshape(-1, 3), np.array(places, np.int64)


def _batcher(n: int) -> Iterator[tuple[int, int]]:
    """Yield the comparisons of Batcher's odd-even merge sort of n places (Knuth 5.2.2 M)."""
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        yield i, i + k
            k //= 2
        p *= 2
