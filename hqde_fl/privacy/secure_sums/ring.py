"""Vectors of integers that wrap around: the group in which masks are uniform and cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.bitpack import MAX_BITS as MAX_PACKED
from hqde_fl.codec.bitpack import pack, packed_bytes, unpack
from hqde_fl.errors import SecureAggregationError

Words = NDArray[np.uint32]
WideWords = NDArray[np.uint64]


@final
@dataclass(frozen=True, eq=False)
class RingVector:
    """A vector with integers of two kinds.

    Parameters
    ----------
    words : ndarray
        (d,) uint32, integers modulo 2^bits: the weights.
    wide : ndarray
        (m,) uint64, integers modulo 2^64: the few numbers that need more room.
    bits : int
        1..32.
    """

    words: Words
    wide: WideWords
    bits: int

    @property
    def modulus_mask(self) -> np.uint32:
        """The word with the lowest ``bits`` bits set."""
        return np.uint32((1 << self.bits) - 1)

    def __add__(self, other: RingVector) -> RingVector:
        words = (self.words + other.words) & self.modulus_mask
        return RingVector(words, self.wide + other.wide, self.bits)

    def __sub__(self, other: RingVector) -> RingVector:
        words = (self.words - other.words) & self.modulus_mask
        return RingVector(words, self.wide - other.wide, self.bits)

    def to_bytes(self) -> bytes:
        """Return the vector in ``ring_bytes`` bytes: first the wide integers, then the words."""
        return self.wide.astype("<u8").tobytes() + pack_words(self.words, self.bits)

    @classmethod
    def from_bytes(cls, data: bytes, words: int, wide: int, bits: int) -> Self:
        """Return the vector of ``to_bytes``.

        Raises
        ------
        SecureAggregationError
            If the length is not that of a vector of these sizes.
        """
        if len(data) != (expected := ring_bytes(words, wide, bits)):
            raise SecureAggregationError(
                f"a masked vector has {len(data)} bytes, expected {expected}"
            )
        rest = np.frombuffer(data, np.uint8, offset=8 * wide)
        return cls(unpack_words(rest, bits, words), np.frombuffer(data, "<u8", wide), bits)


def ring_bytes(words: int, wide: int, bits: int) -> int:
    """Return the number of bytes that a vector takes."""
    if bits > MAX_PACKED:
        return 8 * wide + 2 * words + packed_bytes(words, bits - MAX_PACKED)
    return 8 * wide + packed_bytes(words, bits)


def pack_words(words: Words, bits: int) -> bytes:
    """Return words below 2^bits without gaps; of more than 16 bits the low 16 come first."""
    if bits > MAX_PACKED:
        high = pack((words >> np.uint32(MAX_PACKED)).astype(np.uint16), bits - MAX_PACKED)
        return words.astype("<u2").tobytes() + high.tobytes()  # the cast keeps the low bits
    return pack(words.astype(np.uint16), bits).tobytes()


def unpack_words(data: NDArray[np.uint8], bits: int, count: int) -> Words:
    """Return (count,) the words in the bytes that ``pack_words`` made."""
    if bits > MAX_PACKED:
        low = data[: 2 * count].view("<u2").astype(np.uint32)
        high = unpack(data[2 * count :], bits - MAX_PACKED, count).astype(np.uint32)
        words: Words = low | high << np.uint32(MAX_PACKED)
        return words
    return unpack(data, bits, count).astype(np.uint32)
