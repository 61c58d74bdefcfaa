"""HQDE's adaptive quantiser: more bits for the blocks that need them, packed for real.

HQDE gives bits by *importance*, the magnitude of the weights scaled to [0, 1]; but the bits that a
block needs grow with the logarithm of its magnitude. The default here therefore divides the bits so
that the total squared error is least, given the measured error of each block with each number of
bits: greedy marginal gain, which is reverse water-filling.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.allocation import Grids, Rows, allocate, codes, importance
from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.bitpack import MAX_BITS, pack, packed_bytes, unpack
from hqde_fl.codec.payload import Part
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import CodecError, ConfigError

_FIELDS = struct.Struct("<I")
_MAP_BITS = 5
_TILE = 1 << 16


@final
@dataclass(frozen=True)
class AdaptiveQuantizer(Codec):
    """A uniform quantiser with a number of bits for each block, rounding to the nearest level.

    Parameters
    ----------
    base_bits : float
        Mean number of bits wanted, from ``min_bits`` to ``max_bits``, not counting the scales and
        the map of bits. Allocation by importance does not use it.
    min_bits, max_bits : int
        Bounds for each block, in 0..16. A block with 0 bits is decoded to its mean.
    allocation : {"distortion", "importance"}
        Least squared error, or HQDE's heuristic on the blocks' mean magnitudes.
    block : int
        Numbers in a block, a multiple of 8.
    """

    base_bits: float = 8
    min_bits: int = 4
    max_bits: int = 16
    allocation: Literal["distortion", "importance"] = "distortion"
    block: int = 1024

    code: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if not 0 <= self.min_bits <= self.base_bits <= self.max_bits <= MAX_BITS:
            raise ConfigError(
                f"AdaptiveQuantizer needs 0 <= min_bits <= base_bits <= max_bits <= {MAX_BITS}, "
                f"found {self.min_bits}, {self.base_bits}, {self.max_bits}"
            )
        if self.block < 8 or self.block % 8 or self.block >= 1 << 32:
            raise ConfigError(f"AdaptiveQuantizer needs block a multiple of 8, found {self.block}")

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the frame of values, quantised with each block's bits, and an empty state."""
        values = values.astype(np.float32, copy=False)
        parts: list[Part] = [_FIELDS.pack(self.block)]
        if not values.size:
            return parts, {}
        bits, low, step = self._grid(values)
        parts += [pack(bits, _MAP_BITS), low.astype("<f4"), step.astype("<f4")]
        for rows, chosen, blocks, b in _groups(values, bits, self.block):
            if b:
                levels = codes(rows[chosen], low[blocks], step[blocks], b)
                parts.append(pack(levels.ravel(), b))
        return parts, {}

    def _grid(self, values: Rows) -> tuple[NDArray[np.uint8], Rows, Rows]:
        """Return each block's number of bits, least level and step, (blocks,) each."""
        tables = list(_tables(values, self.block))
        if self.allocation == "importance":
            grids = [Grids.extremes(rows) for rows in tables]
            sizes = np.concatenate([np.abs(rows).mean(axis=1, dtype=np.float64) for rows in tables])
            spare = self.max_bits - self.min_bits
            bits = (self.min_bits + spare * importance(sizes)).astype(np.uint8)
        else:
            unit = max(values.max(), -values.min(), np.finfo(np.float32).tiny)
            grids = [Grids.measured(rows, unit) for rows in tables]
            error = np.concatenate([grid.error for grid in grids])
            budget = int(self.base_bits * len(error))
            bits = allocate(error, self.min_bits, self.max_bits, budget)
        chosen = np.arange(bits.size), bits
        low = np.concatenate([grid.low for grid in grids])[chosen]
        return bits, low, np.concatenate([grid.step for grid in grids])[chosen]

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the ``size`` values of a frame, looked up in their blocks' levels."""
        (block,) = reader.fields(_FIELDS)
        if block < 8 or block % 8:
            raise CodecError(f"no blocks of {block}")
        values = np.empty(size, np.float32)
        if not size:
            return values
        count = -(-size // block)
        bits = unpack(reader.array("<u1", packed_bytes(count, _MAP_BITS)), _MAP_BITS, count)
        if int(bits.max()) > MAX_BITS:
            raise CodecError(f"a block with {bits.max()} bits, expected at most {MAX_BITS}")
        low, step = reader.array("<f4", count), reader.array("<f4", count)
        for rows, chosen, blocks, b in _groups(values, bits, block):
            rows[chosen] = low[blocks, None]
            if b:
                count = chosen.size * rows.shape[1]
                levels = unpack(reader.array("<u1", packed_bytes(count, b)), b, count)
                rows[chosen] += levels.reshape(chosen.size, -1) * step[blocks, None]
        return values


def _tables(values: Rows, block: int, tile: int = _TILE) -> Iterator[Rows]:
    """Yield tables of about ``tile`` values with a block in each row, then the rest as one row."""
    whole = values.size - values.size % block
    height = max(1, tile // block) * block
    for start in range(0, whole, height):
        yield values[start : min(start + height, whole)].reshape(-1, block)
    if whole < values.size:
        yield values[None, whole:]


def _groups(
    values: Rows, bits: NDArray[np.uint8], block: int
) -> Iterator[tuple[Rows, NDArray[np.intp], NDArray[np.intp], int]]:
    """Yield for each table and b: the table, its rows with b bits, their blocks' numbers, and b."""
    start = 0
    for rows in _tables(values, block, tile=values.size):
        here = bits[start : start + len(rows)]
        for b in range(MAX_BITS + 1):
            chosen = np.flatnonzero(here == b)
            if chosen.size:
                yield rows, chosen, start + chosen, b
        start += len(rows)
