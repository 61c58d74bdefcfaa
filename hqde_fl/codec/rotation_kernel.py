"""Randomised Hadamard transforms, compiled by numba (the extra ``fast``).

The same additions in the same order as ``hadamard`` makes them, three steps at a time in registers.
A block goes through all steps while it lies in the first-level cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compile = njit(nogil=True, cache=True, error_model="numpy")


def _flip_signs(bits: Any, signs: Any) -> None:  # pragma: no cover  # compiled
    """Flip the signs of numbers, seen as uint32, where the bits of the bytes ``signs`` are set."""
    for group in range(len(signs) // 4):
        part, four = bits[32 * group : 32 * group + 32], signs[4 * group : 4 * group + 4]
        word = np.uint32(0)
        for byte in range(4):
            word = (word << np.uint32(8)) | np.uint32(four[byte])
        for k in range(32):
            part[k] ^= (word << np.uint32(k)) & np.uint32(0x80000000)


def _one_step(a: Any, s: int) -> None:  # pragma: no cover  # compiled
    """Add and subtract numbers ``s`` apart, in place."""
    for base in range(0, len(a), 2 * s):
        upper, lower = a[base : base + s], a[base + s : base + 2 * s]
        for k in range(s):
            x, y = upper[k], lower[k]
            upper[k], lower[k] = x + y, x - y


def _eight(  # pragma: no cover  # compiled
    x0: Any, x1: Any, x2: Any, x3: Any, x4: Any, x5: Any, x6: Any, x7: Any
) -> Any:
    """Return the transform of eight numbers: neighbours first, then those 2 and 4 apart."""
    y0, y1, y2, y3 = x0 + x1, x0 - x1, x2 + x3, x2 - x3
    y4, y5, y6, y7 = x4 + x5, x4 - x5, x6 + x7, x6 - x7
    x0, x1, x2, x3 = y0 + y2, y1 + y3, y0 - y2, y1 - y3
    x4, x5, x6, x7 = y4 + y6, y5 + y7, y4 - y6, y5 - y7
    return x0 + x4, x1 + x5, x2 + x6, x3 + x7, x0 - x4, x1 - x5, x2 - x6, x3 - x7


eight = _compile(_eight)


def _rows_of_eight(a: Any, s: int, scale: Any) -> None:  # pragma: no cover  # compiled
    """Add and subtract numbers ``s`` apart, then 2 s, then 4 s, and multiply, in place."""
    for base in range(0, len(a), 8 * s):  # slices, or else no vectors are made of the inner loop
        r0, r1, r2, r3, r4, r5, r6, r7 = (
            a[base : base + s],
            a[base + s : base + 2 * s],
            a[base + 2 * s : base + 3 * s],
            a[base + 3 * s : base + 4 * s],
            a[base + 4 * s : base + 5 * s],
            a[base + 5 * s : base + 6 * s],
            a[base + 6 * s : base + 7 * s],
            a[base + 7 * s : base + 8 * s],
        )
        for k in range(s):
            x = eight(r0[k], r1[k], r2[k], r3[k], r4[k], r5[k], r6[k], r7[k])
            r0[k], r1[k], r2[k], r3[k] = x[0] * scale, x[1] * scale, x[2] * scale, x[3] * scale
            r4[k], r5[k], r6[k], r7[k] = x[4] * scale, x[5] * scale, x[6] * scale, x[7] * scale


def _eight_neighbours(a: Any) -> None:  # pragma: no cover  # compiled
    """Add and subtract neighbours, then numbers 2 apart, then 4, in place."""
    for group in range(len(a) // 8):
        k = 8 * group
        a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7] = eight(
            a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7]
        )


def _eight_times_eight(a: Any, scale: Any) -> None:  # pragma: no cover  # compiled
    """Add and subtract numbers 8 apart, then 16, then 32, and multiply, in place."""
    for group in range(len(a) // 64):
        part = a[64 * group : 64 * group + 64]
        for k in range(8):
            x = eight(
                part[k],
                part[k + 8],
                part[k + 16],
                part[k + 24],
                part[k + 32],
                part[k + 40],
                part[k + 48],
                part[k + 56],
            )
            part[k], part[k + 8] = x[0] * scale, x[1] * scale
            part[k + 16], part[k + 24] = x[2] * scale, x[3] * scale
            part[k + 32], part[k + 40] = x[4] * scale, x[5] * scale
            part[k + 48], part[k + 56] = x[6] * scale, x[7] * scale


flip_signs = _compile(_flip_signs)
one_step = _compile(_one_step)
rows_of_eight = _compile(_rows_of_eight)
eight_neighbours = _compile(_eight_neighbours)
eight_times_eight = _compile(_eight_times_eight)


def _mix_columns(a: Any) -> None:  # pragma: no cover  # compiled
    """Transform the columns of a block, seen as a matrix of 64 rows, in place."""
    s = len(a) // 64
    rows_of_eight(a, s, np.float32(1))
    rows_of_eight(a, 8 * s, np.float32(0.125))


def _mix_neighbours(a: Any, group: int, scale: Any) -> None:  # pragma: no cover  # compiled
    """Transform groups of ``group`` neighbours, a power of two up to 64, in place."""
    if group == 64:
        eight_neighbours(a)
        eight_times_eight(a, scale)
        return
    s = 1
    if group >= 8:
        eight_neighbours(a)
        s = 8
    while s < group:
        one_step(a, s)
        s *= 2
    for k in range(len(a)):
        a[k] *= scale


mix_columns = _compile(_mix_columns)
mix_neighbours = _compile(_mix_neighbours)


def _rotate(  # pragma: no cover  # compiled
    values: Any, bits: Any, signs: Any, rounds: int, width: int, group: int, scale: Any, back: bool
) -> None:
    """Rotate blocks of ``width`` numbers in place, or rotate them back.

    Parameters
    ----------
    values, bits : ndarray
        (n,) float32, and the same memory as uint32.
    signs : ndarray
        (rounds * n / 8,) uint8, a bit for each number and round.
    rounds : int
        Number of transforms.
    width : int
        Numbers in a block, a multiple of 64.
    group : int
        Neighbours that are mixed.
    scale : float32
        One over the root of ``group``.
    back : bool
        True for the inverse.
    """
    size = len(values)
    for start in range(0, size, width):
        block = values[start : start + width]
        for turn in range(rounds):
            number = rounds - 1 - turn if back else turn
            first = (number * size + start) // 8
            flips = signs[first : first + width // 8]
            if back:
                mix_neighbours(block, group, scale)
                mix_columns(block)
                flip_signs(bits[start : start + width], flips)
            else:
                flip_signs(bits[start : start + width], flips)
                mix_columns(block)
                mix_neighbours(block, group, scale)


rotate = _compile(_rotate)
