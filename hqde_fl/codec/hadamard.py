"""Hadamard transforms of many short vectors, by NumPy or compiled by numba (the extra ``fast``).

Both add and subtract the same pairs in the same order and multiply once at the end: the same bits.
The compiled one takes a group of vectors through all steps while it lies in the first-level cache.
"""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_COMPILED = 1 << 14
"""With fewer numbers loading numba costs more than it saves."""


def transform(stack: NDArray[np.float32]) -> None:
    """Apply the orthonormal Hadamard transform along the middle axis of three, in place."""
    height = stack.shape[1]
    scale = np.float32(1 / math.sqrt(height))
    if stack.size >= MIN_COMPILED and has_numba():
        _compiled()(stack, scale)
        return
    spare = np.empty(stack.size // 2, np.float32)
    blocks, _, width = stack.shape
    half = 1
    while half < height:
        pairs = stack.reshape(blocks, height // (2 * half), 2, half * width)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        difference = spare.reshape(upper.shape)
        np.subtract(upper, lower, out=difference)
        upper += lower
        lower[...] = difference
        half *= 2
    stack *= scale


@cache
def has_numba() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@cache
def _compiled() -> Any:
    import numba

    return numba.njit(nogil=True, cache=True)(_transform)


def _transform(stack: Any, scale: Any) -> None:  # pragma: no cover  # compiled
    """Transform along the middle axis, 64 columns at a time."""
    blocks, height, width = stack.shape
    for block in range(blocks):
        for start in range(0, width, 64):
            stop = min(start + 64, width)
            half = 1
            while half < height:
                for base in range(0, height, 2 * half):
                    for row in range(base, base + half):
                        upper = stack[block, row, start:stop]
                        lower = stack[block, row + half, start:stop]
                        for k in range(stop - start):
                            x, y = upper[k], lower[k]
                            upper[k] = x + y
                            lower[k] = x - y
                half *= 2
            for row in range(height):
                values = stack[block, row, start:stop]
                for k in range(stop - start):
                    values[k] *= scale
