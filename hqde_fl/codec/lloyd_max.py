"""The Lloyd-Max quantiser of the standard Gaussian: the levels with the least squared error.

Each level is the mean of its cell and each threshold lies midway between two levels (Lloyd 1957,
Max 1960). Found by Newton's method on the positive half, once for each number of bits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.bitpack import pack, unpack

MAX_BITS = 8

_CELLS = 2048  # look-up cells for each standard deviation
_REACH = 6  # standard deviations to either side; the outermost level lies beyond
_GRID = 2.0**12  # levels are multiples of 1/_GRID, so that every machine has the same ones


@lru_cache
def levels(bits: int) -> NDArray[np.float32]:
    """Return the 2^bits Lloyd-Max levels of the standard Gaussian, rising, read-only."""
    count = 1 << (bits - 1)
    ranks = (np.arange(count) + 0.5 + count) / (2 * count)
    # The optimal density of levels is that of a Gaussian three times as wide (Panter and Dite).
    upper = np.array([NormalDist(0, math.sqrt(3)).inv_cdf(rank) for rank in ranks])
    for _ in range(50):
        edges = np.concatenate([[0.0], (upper[1:] + upper[:-1]) / 2, [math.inf]])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        tails = np.array([math.erfc(edge / math.sqrt(2)) / 2 for edge in edges])
        mass = tails[:-1] - tails[1:]
        means = (density[:-1] - density[1:]) / mass
        edges[-1] = 0.0  # its density is zero; this keeps 0 * inf out
        by_low = density[:-1] * (means - edges[:-1]) / mass
        by_high = density[1:] * (edges[1:] - means) / mass
        by_low[0] = 0.0  # the edge at zero is fixed
        jacobian = np.eye(count) - np.diag(by_low + by_high) / 2
        jacobian -= np.diag(by_low[1:], -1) / 2 + np.diag(by_high[:-1], 1) / 2
        step = np.linalg.solve(jacobian, upper - means)
        upper = upper - step
        if np.abs(step).max() < 1e-12:
            break
    upper = np.round(upper * _GRID) / _GRID
    table = np.concatenate([-upper[::-1], upper]).astype(np.float32)
    table.setflags(write=False)
    return table


@lru_cache
def _nearest(bits: int) -> NDArray[np.uint8]:
    """Return the index of the Lloyd-Max level nearest to each look-up cell's centre, read-only."""
    centres = (np.arange(2 * _REACH * _CELLS) + 0.5) / _CELLS - _REACH
    table = levels(bits)
    indices = np.searchsorted((table[1:] + table[:-1]) / 2, centres).astype(np.uint8)
    indices.setflags(write=False)
    return indices


def nearest(values: NDArray[np.float32], bits: int) -> NDArray[np.uint8]:
    """Return the index of the Lloyd-Max level nearest to each value, give or take 1/4096."""
    cells = values * np.float32(_CELLS)
    cells += np.float32(_REACH * _CELLS)
    return _nearest(bits).take(cells.astype(np.intp), mode="clip")


def packed_nearest(
    values: NDArray[np.float32], bits: int, *, compiled: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the packed indices of the nearest levels, and these levels in the values' shape.

    Parameters
    ----------
    values : ndarray
        Contiguous; for the compiled kernel their number is a multiple of 8.
    bits : int
        1..8.
    compiled : bool
        True to use the kernel, which needs numba.
    """
    if compiled:
        from hqde_fl.codec import level_kernel  # imports numba

        decoded, packed = np.empty_like(values), np.empty(values.size * bits // 8, np.uint8)
        flat, cells = values.reshape(-1), np.float32(_CELLS)
        level_kernel.encode(
            flat, _nearest(bits), cells, levels(bits), bits, decoded.reshape(-1), packed
        )
        return packed, decoded
    codes = nearest(values, bits)
    return pack(codes.ravel(), bits), levels(bits).take(codes)


def unpack_levels(
    packed: NDArray[np.uint8],
    bits: int,
    scale: NDArray[np.float32],
    rows: NDArray[np.float32],
    *,
    compiled: bool,
) -> None:
    """Fill contiguous ``rows`` (n, c) with packed levels times the ``scale`` (n, 1) of their row.

    For the compiled kernel c is a multiple of 8.
    """
    if compiled:
        from hqde_fl.codec import level_kernel  # imports numba

        scale, width = np.ascontiguousarray(scale[:, 0], np.float32), rows.shape[1]
        level_kernel.decode(packed, levels(bits), bits, scale, width, rows.reshape(-1))
        return
    codes = unpack(packed, bits, rows.size).reshape(rows.shape)
    np.multiply(levels(bits).take(codes), scale, out=rows)
