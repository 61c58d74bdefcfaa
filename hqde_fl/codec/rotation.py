"""A random rotation before coding, which makes any numbers nearly Gaussian.

Randomised Hadamard transforms, block by block (Ailon and Chazelle 2009; Suresh et al. 2017): flip
random signs, then mix. The first spreads an outlier over its whole block; the second makes a block
of few non-zero numbers Gaussian, too, which has few distinct values after the first.

A block is mixed as a matrix with 64 rows, first along its columns, then along its rows, in groups
of neighbours. If its size is a power of two, that is the Hadamard transform. The last block may
have any multiple of 64; its groups lie across the ends of the rows, in each row differently, and
the second round evens out the difference. Every machine computes the same bits: there are only
additions in a fixed order, and factors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.compiled import worthwhile
from hqde_fl.codec.hadamard import transform
from hqde_fl.codec.parallel import each
from hqde_fl.codec.payload import Part
from hqde_fl.codec.quantized import Quantized
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import CodecError, ConfigError

_FIELDS = struct.Struct("<HBQ")
_HEIGHT = 64
_MAX_BLOCK = _HEIGHT**2
_TILE = 1 << 16  # it is part of the format: the random bits of a range belong together
_BATCH = 16  # ranges that a thread works on at a time
Edges = tuple[int, int, int]


@final
@dataclass(frozen=True)
class Rotated(Codec):
    """Another codec, applied to randomly rotated numbers.

    Parameters
    ----------
    inner : Codec
        The codec for the rotated numbers. With ``Quantized(b, levels="lloyd-max")``, the default
        for b = 4, the message is unbiased with the error of a Gaussian source (EDEN).
    block : int
        Numbers that are rotated together, a power of two from 64 to 4096; the last block takes the
        rest as well.
    rounds : int
        Transforms one after the other, 1 or 2. One is enough if no block is dominated by a few of
        its numbers; otherwise it leaves a bias. Two leave one below 1 % of the energy if a single
        number is a thousand times as large as all others.
    """

    inner: Codec = field(default_factory=lambda: Quantized(4, levels="lloyd-max"))
    block: int = 4096
    rounds: int = 2

    code: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not _is_block(self.block):
            raise ConfigError(
                f"Rotated needs block a power of two in {_HEIGHT}..{_MAX_BLOCK}, found {self.block}"
            )
        if self.rounds not in (1, 2):
            raise ConfigError(f"Rotated needs rounds 1 or 2, found {self.rounds}")
        if self.inner.stateful or isinstance(self.inner, Rotated):
            raise ConfigError(f"Rotated cannot hold {self.inner}: put it around or leave it out")
        if isinstance(self.inner, Quantized) and self.block % self.inner.block:
            raise ConfigError(
                f"Rotated needs block a multiple of its inner codec's, {self.inner.block}, found "
                f"{self.block}"  # numbers of one scale must have been rotated together
            )

    @property
    def unbiased(self) -> bool:
        """True if its inner codec is unbiased."""
        return self.inner.unbiased

    @property
    def formats(self) -> Mapping[int, type[Codec]]:
        """Its own format and the inner codec's, by code."""
        return {self.code: Rotated, **self.inner.formats}

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the inner codec's frame of the rotated values, and an empty state."""
        seed = int(rng.integers(1 << 63))
        rotated = np.empty(_padded(values.size), np.float32)

        def rotate(ranges: list[Edges]) -> None:
            bits = _bits(seed, self.rounds, ranges)
            for start, stop, width in ranges:
                numbers = values[start:stop]  # fewer than the range has if it is the last
                rotated[start : start + numbers.size] = numbers
                rotated[start + numbers.size : stop] = 0
                _rotate(rotated, (start, stop, width), self.rounds, bits)

        each(rotate, _batches(rotated.size, self.block), rotated.size)
        parts, _ = self.inner.frame(rotated, {}, rng)
        return [_FIELDS.pack(self.block, self.rounds, seed), *parts], {}

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the inner codec's values, rotated back."""
        block, rounds, seed = reader.fields(_FIELDS)
        if not _is_block(block) or rounds not in (1, 2):
            raise CodecError(f"no rotation has blocks of {block} and {rounds} rounds")
        rotated = reader.frame(_padded(size)).astype(np.float32, copy=False)

        def rotate_back(ranges: list[Edges]) -> None:
            bits = _bits(seed, rounds, ranges)
            for edges in ranges:
                _rotate(rotated, edges, rounds, bits, back=True)

        each(rotate_back, _batches(rotated.size, block), rotated.size)
        return rotated[:size]


def _is_block(block: int) -> bool:
    return _HEIGHT <= block <= _MAX_BLOCK and block & (block - 1) == 0


def _padded(size: int) -> int:
    return -(-size // _HEIGHT) * _HEIGHT


def _edges(size: int, block: int) -> Iterator[Edges]:
    """Yield (start, stop, width): ranges of about ``_TILE`` values, and the values of a block."""
    last = max(0, size // block - 1) * block  # where the last, longer block starts
    height = max(1, _TILE // block) * block
    starts = [*range(0, last, height), last] if last else [0]
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        if start < stop:
            yield start, stop, block if stop <= last else stop - start


def _batches(size: int, block: int) -> list[list[Edges]]:
    """Return lists of neighbouring ranges, enough for a thread to work on without a pause."""
    ranges = list(_edges(size, block))
    return [ranges[first : first + _BATCH] for first in range(0, len(ranges), _BATCH)]


def _bits(seed: int, rounds: int, ranges: list[Edges]) -> np.random.PCG64:
    """Return the source of the random bits of the first range; those of the next ones follow."""
    bits = np.random.PCG64(seed)  # its raw output is the same in every version of NumPy
    bits.advance(rounds * ranges[0][0] // 64)
    return bits


def _rotate(
    values: NDArray[np.float32],
    edges: Edges,
    rounds: int,
    bits: np.random.PCG64,
    *,
    back: bool = False,
) -> None:
    """Rotate a range of ``values`` in place by its random bits, or back."""
    start, stop, width = edges
    signs = bits.random_raw(rounds * (stop - start) // 64).astype("<u8").view(np.uint8)
    part, group = values[start:stop], _group(width)
    if worthwhile(values.size):
        from hqde_fl.codec import rotation_kernel  # imports numba

        scale = np.float32(1 / math.sqrt(group))
        words = part.view(np.uint32)
        rotation_kernel.rotate(part, words, signs, rounds, width, group, scale, back)
        return
    flips = np.unpackbits(signs).astype(np.uint32)
    flips <<= np.uint32(31)
    turns, tile = list(flips.reshape(rounds, -1, width)), part.reshape(-1, width)
    for turn in turns[::-1] if back else turns:
        if back:
            _mix_neighbours(tile, group)
            _mix_columns(tile)
            tile.view(np.uint32)[...] ^= turn
        else:
            tile.view(np.uint32)[...] ^= turn
            _mix_columns(tile)
            _mix_neighbours(tile, group)


def _group(width: int) -> int:
    """Return how many neighbours are mixed in blocks of ``width``: as many as fit in a row."""
    return min(_HEIGHT, 1 << ((width // _HEIGHT).bit_length() - 1))


def _mix_columns(tile: NDArray[np.float32]) -> None:
    """Apply the Hadamard transform to each column of each block, in place."""
    blocks, width = tile.shape
    transform(tile.reshape(blocks, _HEIGHT, width // _HEIGHT))


def _mix_neighbours(tile: NDArray[np.float32], group: int) -> None:
    """Apply the Hadamard transform to groups of neighbours, in place."""
    turned = np.ascontiguousarray(tile.reshape(-1, group).T)  # long rows make fast loops
    transform(turned[None])
    tile.reshape(-1, group)[...] = turned.T
