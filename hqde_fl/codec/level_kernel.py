"""Lloyd-Max levels looked up and packed in one pass, compiled by numba (the extra ``fast``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compile = njit(nogil=True, cache=True, error_model="numpy")


def _encode(  # pragma: no cover  # compiled
    units: Any, cells: Any, per_unit: Any, levels: Any, bits: int, decoded: Any, packed: Any
) -> None:
    """Find the level nearest to each number, and pack its code.

    Parameters
    ----------
    units : ndarray
        (n,) float32; n is a multiple of 8.
    cells : ndarray
        (m,) uint8, the codes of cells around zero; the outermost ones reach to infinity.
    per_unit : float32
        Cells for each unit.
    levels : ndarray
        (2^bits,) float32.
    bits : int
        1..8.
    decoded : ndarray
        (n,) float32, to be filled with the levels.
    packed : ndarray
        (n * bits / 8,) uint8, to be filled.
    """
    middle, last = np.float32(len(cells) // 2), len(cells) - 1
    for group in range(len(units) // 8):
        part, near = units[8 * group : 8 * group + 8], decoded[8 * group : 8 * group + 8]
        bytes_ = packed[bits * group : bits * group + bits]
        word = np.uint64(0)
        for k in range(8):
            cell = np.int64(part[k] * per_unit + middle)
            code = cells[min(max(cell, 0), last)]
            near[k] = levels[code]
            word |= np.uint64(code) << np.uint64(k * bits)
        for k in range(bits):
            bytes_[k] = np.uint8(word >> np.uint64(8 * k))


def _decode(  # pragma: no cover  # compiled
    packed: Any, levels: Any, bits: int, scales: Any, width: int, values: Any
) -> None:
    """Fill ``values`` (n,) with packed levels times the scale of each ``width`` of them.

    n and ``width`` are multiples of 8; the other arrays are those of ``encode``.
    """
    mask, groups = np.uint64((1 << bits) - 1), width // 8
    for row in range(len(values) // width):
        scale = scales[row]
        for group in range(row * groups, (row + 1) * groups):
            part, bytes_ = values[8 * group : 8 * group + 8], packed[bits * group :]
            word = np.uint64(0)
            for k in range(bits):
                word |= np.uint64(bytes_[k]) << np.uint64(8 * k)
            for k in range(8):
                code = (word >> np.uint64(k * bits)) & mask
                part[k] = levels[code] * scale


encode = _compile(_encode)
decode = _compile(_decode)
