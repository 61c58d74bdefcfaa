"""Code the largest numbers only, and their positions.

Positions travel in Elias-Fano form: of each position the low bits are packed as they are, and the
high bits, which never fall, as the gaps of a bitmap. That takes about 2 + log2(d / k) bits for each
of k positions, half a bit more than the least possible, independent of the positions.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.bitpack import MAX_BITS, pack, packed_bytes, unpack
from hqde_fl.codec.identity import Identity
from hqde_fl.codec.payload import Part
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import CodecError, ConfigError

_FIELDS = struct.Struct("<Q")


@final
@dataclass(frozen=True)
class TopK(Codec):
    """The numbers of largest magnitude; all others are decoded to zero.

    Parameters
    ----------
    fraction : float
        Fraction of the numbers that are kept, in (0, 1]; at least one number is.
    inner : Codec
        The codec for the numbers that are kept.
    """

    fraction: float = 0.01
    inner: Codec = field(default_factory=Identity)

    code: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"TopK needs fraction in (0, 1], found {self.fraction}")
        if self.inner.stateful:
            raise ConfigError(f"TopK cannot hold {self.inner}: put it around")

    @property
    def formats(self) -> Mapping[int, type[Codec]]:
        """Its own format and the inner codec's, by code."""
        return {self.code: TopK, **self.inner.formats}

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the frame of the largest values and their positions, and an empty state."""
        size, kept = values.size, math.ceil(self.fraction * values.size)
        if kept == size:
            positions = np.arange(size)
        else:
            positions = np.sort(np.argpartition(np.abs(values), size - kept)[size - kept :])
        parts, _ = self.inner.frame(values[positions], {}, rng)
        return [_FIELDS.pack(kept), *_write_positions(positions, size), *parts], {}

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return ``size`` values: the kept ones at their positions, zero elsewhere."""
        (kept,) = reader.fields(_FIELDS)
        if kept > size:
            raise CodecError(f"{kept} numbers kept of {size}")
        positions = _read_positions(reader, kept, size)
        numbers = reader.frame(kept)
        values = np.zeros(size, numbers.dtype)
        values[positions] = numbers
        return values


def _low_bits(kept: int, size: int) -> int:
    return min(MAX_BITS, (size // max(kept, 1)).bit_length() - 1)


def _bitmap_size(kept: int, size: int) -> int:
    return kept + (size >> _low_bits(kept, size)) + 1


def _write_positions(positions: NDArray[np.intp], size: int) -> list[Part]:
    if not positions.size:
        return []
    low = _low_bits(positions.size, size)
    bitmap = np.zeros(_bitmap_size(positions.size, size), np.uint8)
    bitmap[(positions >> low) + np.arange(positions.size)] = 1
    parts: list[Part] = [np.packbits(bitmap, bitorder="little")]
    if low:
        parts.append(pack((positions & ((1 << low) - 1)).astype(np.uint16), low))
    return parts


def _read_positions(reader: Reader, kept: int, size: int) -> NDArray[np.intp]:
    if not kept:
        return np.empty(0, np.intp)
    low, width = _low_bits(kept, size), _bitmap_size(kept, size)
    packed = reader.array("<u1", packed_bytes(width, 1))
    marks = np.flatnonzero(np.unpackbits(packed, count=width, bitorder="little"))
    if marks.size != kept:
        raise CodecError(f"{marks.size} positions, expected {kept}")
    positions = (marks - np.arange(kept)) << low
    if low:
        positions |= unpack(reader.array("<u1", packed_bytes(kept, low)), low, kept)
    if int(positions[-1]) >= size or bool((np.diff(positions) < 1).any()):
        raise CodecError(f"positions do not rise, or not within {size}")
    return positions
