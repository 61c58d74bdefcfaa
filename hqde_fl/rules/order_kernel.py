"""Order statistics of columns by a network of comparisons, compiled by numba (the extra ``fast``).

``WIDTH`` columns at a time go through the network as rows of vectors. A comparison writes the
smaller value to a spare row: written back to where it was read from, compilers make of it a store
under a mask, which takes five times as long as the comparison on some processors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compile = njit(nogil=True, cache=True)

WIDTH = 128
"""Columns that go through the network together: they stay in the first-level cache."""


def _sort_block(
    tile: Any, start: int, count: int, steps: Any, work: Any
) -> None:  # pragma: no cover  # compiled
    """Sort ``count`` columns of a tile in ``work``, whose last row is spare; see ``renamed``."""
    for row in range(len(tile)):
        source, target = tile[row, start : start + count], work[row]
        for k in range(count):
            target[k] = source[k]
        for k in range(count, WIDTH):
            target[k] = 0
    for step in range(len(steps)):
        low, high = work[steps[step, 0]], work[steps[step, 1]]
        spare = work[steps[step, 2]]
        for k in range(WIDTH):
            x, y = low[k], high[k]
            spare[k] = x if x < y else y
            high[k] = y if x < y else x


sort_block = _compile(_sort_block)


def _sort(
    tile: Any, steps: Any, places: Any, first: int, turned: Any, counts: Any
) -> None:  # pragma: no cover  # compiled
    """Write the sorted rows ``places`` to ``turned`` from ``first`` on, and count what is between.

    Parameters
    ----------
    tile : ndarray
        (n, c).
    steps : ndarray
        (k, 3) comparisons as of ``renamed``.
    places : ndarray
        The rows in which these leave places first, first + 1, ... of the order.
    first : int
        The first place.
    turned : ndarray
        (c, n), of which the columns from ``first`` on are filled in.
    counts : ndarray
        (n,) int64, to which each row's number of values from the first to the last place is added.
    """
    n, columns = tile.shape
    work = np.empty((n + 1, WIDTH), tile.dtype)
    for start in range(0, columns, WIDTH):
        count = min(WIDTH, columns - start)
        sort_block(tile, start, count, steps, work)
        low, high = work[places[0]], work[places[-1]]
        for row in range(n):
            source = tile[row, start : start + count]
            inside = np.int32(0)
            for k in range(count):
                inside += np.int32((source[k] >= low[k]) & (source[k] <= high[k]))
            counts[row] += inside
        for k in range(count):
            for place in range(len(places)):
                turned[start + k, first + place] = work[places[place], k]


sort = _compile(_sort)


def _nearest(
    tile: Any, steps: Any, places: Any, half: Any, kept: Any, median: Any, reach: Any, counts: Any
) -> Any:  # pragma: no cover  # compiled
    """Keep the values of each column that are nearest to its median, and set others to zero.

    Parameters
    ----------
    tile : ndarray
        (n, c).
    steps : ndarray
        (k, 3) comparisons as of ``renamed``.
    places : ndarray
        (n,) the rows in which these leave the sorted values.
    half : float
        1/2 in the tile's dtype.
    kept : ndarray
        (n, c) to fill in.
    median, reach : ndarray
        (c,) to fill in: the median, and the distance from it of the last value that counts.
    counts : ndarray
        (n + 1,) int64: the number of values that count in a column; to the others each row's number
        of values that count is added.

    Returns
    -------
    float
        The largest magnitude in the tile.
    """
    n, columns = tile.shape
    work = np.empty((n + 1, WIDTH), tile.dtype)
    middle, apart = np.empty(WIDTH, tile.dtype), np.empty(WIDTH, tile.dtype)
    zero, one = half - half, half + half
    largest = zero
    size = counts[n]
    for start in range(0, columns, WIDTH):
        count = min(WIDTH, columns - start)
        sort_block(tile, start, count, steps, work)
        low, high = work[places[(n - 1) // 2]], work[places[n // 2]]
        for k in range(WIDTH):
            middle[k] = (low[k] * half + high[k] * half if n % 2 == 0 else low[k]) + zero
        low, high = work[places[0]], work[places[size - 1]]
        for k in range(WIDTH):
            x, y = middle[k] - low[k], high[k] - middle[k]
            apart[k] = y if x < y else x
        for place in range(1, n - size + 1):
            low, high = work[places[place]], work[places[place + size - 1]]
            for k in range(WIDTH):
                x, y = middle[k] - low[k], high[k] - middle[k]
                x = y if x < y else x
                apart[k] = min(x, apart[k])
        low, high = work[places[0]], work[places[n - 1]]
        for k in range(count):
            largest = max(largest, -low[k], high[k])
            median[start + k], reach[start + k] = middle[k], apart[k]
        for row in range(n):
            source, target = tile[row, start : start + count], kept[row, start : start + count]
            inside = np.int32(0)
            for k in range(count):
                counted = abs(source[k] - middle[k]) <= apart[k]
                inside += np.int32(counted)
                target[k] = source[k] * (one if counted else zero)
            counts[row] += inside
    return largest


nearest = _compile(_nearest)
