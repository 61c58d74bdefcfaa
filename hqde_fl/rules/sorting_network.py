"""Sort the columns of a tile by a network of comparisons, compiled by numba (the extra ``fast``).

Batcher's odd-even merge sort compares the same places whatever the values are, so 16 columns at a
time go through it as one vector. Comparisons that no wanted place depends on are left out. Without
numba NumPy sorts; the sorted values are the same, bit for bit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 256
"""With more rows NumPy's sort, which needs fewer comparisons, is as fast."""

WIDTH = 128
"""Columns that go through the network together: they stay in the second-level cache."""


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
    n, columns = tile.shape
    turned, counts = np.empty((columns, n), tile.dtype), np.zeros(n, np.int64)
    _compiled()(tile, network(n, first, last), turned, counts, first, last, WIDTH)
    return turned, counts


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


@cache
def _compiled() -> Any:
    import numba

    return numba.njit(nogil=True, cache=True)(_sort)


def _sort(  # pragma: no cover  # compiled
    tile: Any, comparisons: Any, turned: Any, counts: Any, first: int, last: int, width: int
) -> None:
    """Fill ``turned`` and ``counts`` as ``sorted_places`` returns them."""
    n, columns = tile.shape
    work = np.empty((n, width), tile.dtype)
    for start in range(0, columns, width):
        count = min(width, columns - start)
        for row in range(n):
            source, target = tile[row, start : start + count], work[row]
            for k in range(count):
                target[k] = source[k]
            for k in range(count, width):
                target[k] = 0
        for c in range(len(comparisons)):
            low, high = work[comparisons[c, 0]], work[comparisons[c, 1]]
            for k in range(width):
                x, y = low[k], high[k]
                low[k] = x if x < y else y
                high[k] = y if x < y else x
        low, high = work[first], work[last]
        for row in range(n):
            source = tile[row, start : start + count]
            inside = np.int32(0)
            for k in range(count):
                inside += np.int32((source[k] >= low[k]) & (source[k] <= high[k]))
            counts[row] += inside
        for k in range(count):
            for row in range(first, last + 1):
                turned[start + k, row] = work[row, k]
