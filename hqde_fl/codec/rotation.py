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

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.hadamard import transform
from hqde_fl.codec.parallel import each
from hqde_fl.codec.payload import Part
from hqde_fl.codec.quantized import Quantized
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import CodecError, ConfigError

_FIELDS = struct.Struct("<HBQ")
_HEIGHT = 64
_MAX_BLOCK = _HEIGHT**2
_TILE = 1 << 16


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
        rotated = np.zeros(_padded(values.size), np.float32)
        rotated[: values.size] = values

        def rotate(edges: tuple[int, int, int]) -> None:
            tile, flips = _part(rotated, edges, self.rounds, seed)
            for signs in flips:
                tile.view(np.uint32)[...] ^= signs
                _mix_columns(tile)
                _mix_neighbours(tile)

        each(rotate, _edges(rotated.size, self.block), rotated.size)
        parts, _ = self.inner.frame(rotated, {}, rng)
        return [_FIELDS.pack(self.block, self.rounds, seed), *parts], {}

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the inner codec's values, rotated back."""
        block, rounds, seed = reader.fields(_FIELDS)
        if not _is_block(block) or rounds not in (1, 2):
            raise CodecError(f"no rotation has blocks of {block} and {rounds} rounds")
        rotated = reader.frame(_padded(size)).astype(np.float32, copy=False)

        def rotate_back(edges: tuple[int, int, int]) -> None:
            tile, flips = _part(rotated, edges, rounds, seed)
            with np.errstate(all="ignore"):  # of the thread: hostile numbers may overflow
                for signs in flips[::-1]:
                    _mix_neighbours(tile)
                    _mix_columns(tile)
                    tile.view(np.uint32)[...] ^= signs

        each(rotate_back, _edges(rotated.size, block), rotated.size)
        return rotated[:size]


def _is_block(block: int) -> bool:
    return _HEIGHT <= block <= _MAX_BLOCK and block & (block - 1) == 0


def _padded(size: int) -> int:
    return -(-size // _HEIGHT) * _HEIGHT


def _edges(size: int, block: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, width): ranges of about ``_TILE`` values, and the values of a block."""
    last = max(0, size // block - 1) * block  # where the last, longer block starts
    height = max(1, _TILE // block) * block
    starts = [*range(0, last, height), last] if last else [0]
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        if start < stop:
            yield start, stop, block if stop <= last else stop - start


def _part(
    values: NDArray[np.float32], edges: tuple[int, int, int], rounds: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Return a view of ``values`` with a block in each row, and the sign bits to flip.

    The bits are (rounds, blocks, width) uint32, the range's own part of what the seed gives.
    """
    start, stop, width = edges
    bits = np.random.PCG64(seed)  # its raw output is the same in every version of NumPy
    bits.advance(rounds * start // 64)
    words = bits.random_raw(rounds * (stop - start) // 64).astype("<u8").view(np.uint8)
    flips = np.unpackbits(words).astype(np.uint32)
    flips <<= np.uint32(31)
    return values[start:stop].reshape(-1, width), flips.reshape(rounds, -1, width)


def _mix_columns(tile: NDArray[np.float32]) -> None:
    """Apply the Hadamard transform to each column of each block, in place."""
    blocks, width = tile.shape
    transform(tile.reshape(blocks, _HEIGHT, width // _HEIGHT))


def _mix_neighbours(tile: NDArray[np.float32]) -> None:
    """Apply the Hadamard transform to groups of neighbours, as many as fit in a row, in place."""
    columns = tile.shape[1] // _HEIGHT
    group = min(_HEIGHT, 1 << (columns.bit_length() - 1))
    turned = np.ascontiguousarray(tile.reshape(-1, group).T)  # long rows make fast loops
    transform(turned[None])
    tile.reshape(-1, group)[...] = turned.T
