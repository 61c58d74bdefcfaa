"""Pack integers of b bits, b = 1..16, without gaps: exactly ceil(n b / 8) bytes.

Up to eight bits, eight values sit in the eight bytes of a word; three times neighbouring lanes are
pushed together, until 8 b bits lie at the word's low end. Wider values are split: their low bytes
follow each other as they are, then their high bits are packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MAX_BITS = 16


def packed_bytes(count: int, bits: int) -> int:
    """Return the number of bytes that ``count`` values of ``bits`` bits take."""
    return (count * bits + 7) // 8


def pack(values: NDArray[Any], bits: int) -> Bytes:
    """Return the bytes of unsigned integers below 2^bits.

    Parameters
    ----------
    values : ndarray
        (n,) uint8 or uint16.
    bits : int
        1..16.
    """
    if bits > 8:
        high = pack((values >> 8).astype(np.uint8), bits - 8)
        return np.concatenate([values.astype(np.uint8), high])  # the cast keeps the low byte
    values = np.ascontiguousarray(values, dtype=np.uint8)
    if bits == 8:
        return values
    size = packed_bytes(len(values), bits)
    if short := -len(values) % 8:
        values = np.append(values, np.zeros(short, np.uint8))
    words = values.view("<u8")
    lane, width = 8, bits
    while lane < 64:
        even = words & _lanes(lane, 2 * lane)
        odd = words & (_lanes(lane, 2 * lane) << np.uint64(lane))
        odd >>= np.uint64(lane - width)
        words = np.bitwise_or(even, odd, out=even)
        lane, width = 2 * lane, 2 * width
    if bits in (1, 2, 4):
        return words.astype(f"<u{bits}").view(np.uint8)[:size]
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :bits]).ravel()[:size]


def unpack(data: NDArray[Any], bits: int, count: int) -> NDArray[Any]:
    """Return the integers in the bytes that ``pack`` made.

    Parameters
    ----------
    data : ndarray
        ``packed_bytes(count, bits)`` bytes.
    bits : int
        1..16.
    count : int
        The number of values.

    Returns
    -------
    ndarray
        (count,) uint8, or uint16 for more than 8 bits.
    """
    if bits > 8:
        values = unpack(data[count:], bits - 8, count).astype(np.uint16)
        values <<= np.uint16(8)
        values |= data[:count]
        return values
    if bits == 8:
        return data.astype(np.uint8)
    groups = -(-count // 8)
    if short := groups * bits - len(data):
        data = np.append(data, np.zeros(short, np.uint8))
    if bits in (1, 2, 4):
        words = np.ascontiguousarray(data).view(f"<u{bits}").astype("<u8")
    else:
        spread = np.zeros((groups, 8), np.uint8)
        spread[:, :bits] = data.reshape(groups, bits)
        words = spread.view("<u8").ravel()
    lane, width = 32, 4 * bits
    while lane >= 8:
        odd = words & (_lanes(width, 2 * lane) << np.uint64(width))
        odd <<= np.uint64(lane - width)
        words &= _lanes(width, 2 * lane)
        words |= odd
        lane, width = lane // 2, width // 2
    return words.view(np.uint8)[:count]


def _lanes(width: int, period: int) -> np.uint64:
    """Return a word with the lowest ``width`` bits of every ``period`` bits set."""
    return np.uint64(sum(((1 << width) - 1) << at for at in range(0, 64, period)))
