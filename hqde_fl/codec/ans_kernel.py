"""Asymmetric numeral systems as ``constriction`` codes them, compiled by numba (extra ``fast``).

A 64-bit state, 32-bit words, and chances in units of 2^-24.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compile = njit(nogil=True, cache=True, error_model="numpy")


def _count(  # pragma: no cover  # compiled
    indices: Any, shift: int, first: int, symbols: int, counts: Any
) -> None:
    """Add to ``counts`` (symbols + 1,) how often each symbol comes, the escape last."""
    for k in range(len(indices)):
        symbol = (np.int64(indices[k]) >> shift) - first
        counts[symbol if 0 <= symbol < symbols else symbols] += 1


def _encode(  # pragma: no cover  # compiled
    indices: Any, shift: int, first: int, symbols: int, bounds: Any, words: Any
) -> int:
    """Fill ``words`` with the stream of the indices' symbols, and return its length.

    Parameters
    ----------
    indices : ndarray
        (n,) int32.
    shift, first, symbols : int
        The plan by which they are split.
    bounds : ndarray
        (m + 1,) uint64 from 0 to 2^24: symbol s has the numbers from bounds[s] to bounds[s + 1].
    words : ndarray
        At least (3 n / 4 + 2,) uint32.
    """
    state, length = np.uint64(0), 0
    for back in range(len(indices)):
        symbol: Any = (np.int64(indices[len(indices) - 1 - back]) >> shift) - first
        if symbol < 0 or symbol > symbols:
            symbol = symbols
        start = bounds[symbol]
        chance = bounds[symbol + 1] - start
        if (state >> np.uint64(40)) >= chance:
            words[length] = np.uint32(state & np.uint64(0xFFFFFFFF))
            length += 1
            state >>= np.uint64(32)
        whole = state // chance
        state = (whole << np.uint64(24)) + (state - whole * chance) + start
    while state:
        words[length] = np.uint32(state & np.uint64(0xFFFFFFFF))
        length += 1
        state >>= np.uint64(32)
    return length


def _decode(  # pragma: no cover  # compiled
    words: Any, bounds: Any, near: Any, table: Any, out: Any
) -> bool:
    """Fill ``out`` (n,) with the symbols' entries of ``table``; False if words are left.

    Parameters
    ----------
    words : ndarray
        (k,) uint32, the last one not zero.
    bounds : ndarray
        As in ``encode``.
    near : ndarray
        (4096,) the symbol at each 4096th number.
    table : ndarray
        (m,) any numbers, of the type of ``out``.
    out : ndarray
        (n,) to be filled.
    """
    left, state = len(words), np.uint64(0)
    while left > 0 and state < np.uint64(1 << 32):
        left -= 1
        state = (state << np.uint64(32)) | np.uint64(words[left])
    for k in range(len(out)):
        place = state & np.uint64(0xFFFFFF)
        symbol = near[place >> np.uint64(12)]
        while bounds[symbol + 1] <= place:
            symbol += 1
        start = bounds[symbol]
        state = (state >> np.uint64(24)) * (bounds[symbol + 1] - start) + (place - start)
        if state < np.uint64(1 << 32) and left > 0:
            left -= 1
            state = (state << np.uint64(32)) | np.uint64(words[left])
        out[k] = table[symbol]
    return left == 0 and state == np.uint64(0)


count = _compile(_count)
encode = _compile(_encode)
decode = _compile(_decode)
