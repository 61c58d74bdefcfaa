"""A few bits for each number and a scale for each block, packed without a gap.

Two sets of levels. *Uniform*: 2^b steps from the block's least to its largest value, rounded at
random so that the mean is right (QSGD, Alistarh et al. 2017), or to the nearest; with one bit the
sign and the block's mean magnitude (Bernstein et al. 2018, Karimireddy et al. 2019), since two ends
at random would be off by many times the numbers themselves. *Lloyd-Max*: the
best levels for Gaussian numbers, which a rotation makes of any numbers; the scale
<x, x> / <x, q> removes the bias (EDEN, Vargaftik et al. 2022), <x, q> / <q, q> has the least error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.bitpack import pack, packed_bytes, unpack
from hqde_fl.codec.compiled import worthwhile
from hqde_fl.codec.lloyd_max import MAX_BITS, packed_nearest, unpack_levels
from hqde_fl.codec.parallel import MIN_SHARED, each
from hqde_fl.codec.payload import Part
from hqde_fl.codec.random_parts import parts_of
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import CodecError, ConfigError

_FIELDS = struct.Struct("<BBI")
_TILE = 1 << 18  # values worked on at a time: few enough for caches, enough for threads
_WIDE_TILE = 1 << 16  # part of the format: wider codes are packed tile by tile
Tile = tuple[int, int, int]


@final
@dataclass(frozen=True)
class Quantized(Codec):
    """A blockwise quantiser with a fixed number of bits.

    Parameters
    ----------
    bits : int
        1..16 for each number; at most 8 for Lloyd-Max levels.
    block : int
        Numbers that share a scale, a multiple of 8.
    levels : {"uniform", "lloyd-max"}
        The set of levels. Lloyd-Max levels are meant for the inside of ``Rotated``.
    unbiased : bool
        True for a mean over messages without error, at the price of a larger error in each; wanted
        without error feedback, not with it. Lloyd-Max levels are unbiased only inside ``Rotated``.
        One bit of uniform levels, the sign, never is: it becomes False.
    """

    bits: int = 4
    block: int = 1024
    levels: Literal["uniform", "lloyd-max"] = "uniform"
    unbiased: bool = True

    code: ClassVar[int] = 1

    def __post_init__(self) -> None:
        max_bits = 16 if self.levels == "uniform" else MAX_BITS
        if not 1 <= self.bits <= max_bits:
            raise ConfigError(
                f"Quantized(levels={self.levels!r}) needs bits in 1..{max_bits}, found {self.bits}"
            )
        if self.block < 8 or self.block % 8 or self.block >= 1 << 32:
            raise ConfigError(f"Quantized needs block a multiple of 8, found {self.block}")
        if self.bits == 1 and self.levels == "uniform":
            object.__setattr__(self, "unbiased", False)

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the frame of values, quantised block by block, and an empty state."""
        uniform = self.levels == "uniform"
        scales = np.empty((-(-values.size // self.block), 2 if uniform else 1), "<f4")
        packed = np.empty(packed_bytes(values.size, self.bits), np.uint8)
        draws = uniform and self.unbiased
        part_of_rng = parts_of(rng, values.size) if draws and values.size >= MIN_SHARED else None
        compiled = worthwhile(values.size)

        def quantise(tile: Tile) -> None:
            start, stop, width = tile
            rows = values[start:stop].astype(np.float32, copy=False).reshape(-1, width)
            if uniform:
                codes, scale = self._uniform(rows, part_of_rng(start) if part_of_rng else rng)
                part = pack(codes.ravel(), self.bits)
            else:
                part, scale = self._lloyd_max(rows, compiled=compiled and width % 8 == 0)
            scales[start // self.block : -(-stop // self.block)] = scale
            packed[packed_bytes(start, self.bits) : packed_bytes(stop, self.bits)] = part

        alone = draws and part_of_rng is None
        each(quantise, _tiles(values.size, self.block, self.bits), 0 if alone else values.size)
        return [_FIELDS.pack(self.bits, uniform, self.block), scales, packed], {}

    def _uniform(
        self, rows: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return a tile's codes, and each row's least value and step.

        Codes are rounded at random if ``unbiased``, else to the nearest; one bit is the sign.
        """
        if self.bits == 1:
            # in float64, since a sum of large numbers might overflow
            mean = np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32)
            return (rows >= 0).astype(np.uint8), np.stack([-mean, 2 * mean], axis=1)
        top = np.float32(2**self.bits - 1)
        low, high = rows.min(axis=1), rows.max(axis=1)
        step = high / top - low / top
        steps = rows - low[:, None]
        steps /= _divisor(step)[:, None]  # a reciprocal could overflow
        if self.unbiased:
            steps += rng.random(rows.shape, dtype=np.float32)
        else:
            steps += np.float32(0.5)
        np.minimum(steps, top, out=steps)
        codes = steps.astype(np.uint8 if self.bits <= 8 else np.uint16)
        return codes, np.stack([low, step], axis=1)

    def _lloyd_max(
        self, rows: NDArray[np.float32], *, compiled: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the packed codes of a tile, and each row's factor of the levels."""
        largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))[:, None]
        # scaled first, so that squares neither overflow nor underflow
        units = rows / _divisor(largest)
        square: NDArray[np.float32] = np.einsum("ij,ij->i", units, units)[:, None]
        rms = np.sqrt(square / np.float32(rows.shape[1]))
        units /= _divisor(rms)
        packed, decoded = packed_nearest(units, self.bits, compiled=compiled)
        agreement = np.einsum("ij,ij->i", units, decoded)[:, None]
        if self.unbiased:
            factor = np.float32(rows.shape[1]) / np.where(rms > 0, agreement, np.float32(1))
        else:
            factor = agreement / np.einsum("ij,ij->i", decoded, decoded)[:, None]
        return packed, largest * rms * factor

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the ``size`` values of a frame, looked up in the levels."""
        bits, uniform, block = reader.fields(_FIELDS)
        max_bits = 16 if uniform else MAX_BITS
        if not 1 <= bits <= max_bits or uniform > 1 or block < 8 or block % 8:
            raise CodecError(f"no quantiser has bits {bits}, kind {uniform}, block {block}")
        columns = 2 if uniform else 1
        scales = reader.array("<f4", -(-size // block) * columns).reshape(-1, columns)
        packed = reader.array("<u1", packed_bytes(size, bits))
        values = np.empty(size, np.float32)
        compiled = worthwhile(size)

        def look_up(tile: Tile) -> None:
            start, stop, width = tile
            part = packed[packed_bytes(start, bits) : packed_bytes(stop, bits)]
            rows = values[start:stop].reshape(-1, width)
            scale = scales[start // block : -(-stop // block)]
            if uniform:
                codes = unpack(part, bits, stop - start).reshape(-1, width)
                np.multiply(codes, scale[:, 1:], out=rows)
                rows += scale[:, :1]
            else:
                unpack_levels(part, bits, scale, rows, compiled=compiled and width % 8 == 0)

        each(look_up, _tiles(size, block, bits), size)
        return values


def _divisor(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scale, or one if it is zero: then everything that it divides is zero, too."""
    return np.where(scale > 0, scale, np.float32(1))


def _tiles(size: int, block: int, bits: int) -> Iterator[Tile]:
    """Yield (start, stop, width): a range of values, and how many share a scale."""
    tile = _TILE if bits <= 8 else _WIDE_TILE
    whole = size - size % block
    step = max(block, tile - tile % block)
    for start in range(0, whole, step):
        yield start, min(start + step, whole), block
    if whole < size:
        yield whole, size, size - whole
