"""Choose the number of bits of each block of numbers, and its levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.bitpack import MAX_BITS

Rows = NDArray[np.float32]
Errors = NDArray[np.float64]

_SAMPLED = 256  # values of a block on which its error is measured
# Standard deviations that the levels reach, by bits: the best for Gaussian numbers, and more for
# heavier tails. The block's extremes are always tried, too.
_REACHES = {1: (0.8, 1.6), 2: (1.5, 2.3), 3: (2.05, 3.1), 4: (2.5, 3.7), 5: (2.9, 4.5), 6: (3.3, 5)}
_MEASURED = 8  # with more bits the error is the step squared over twelve


def importance(
    weights: NDArray[np.floating], gradients: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """Return |w|, or 0.7 |w| + 0.3 |g| with gradients g, scaled to [0, 1]; 0.5 if all are equal."""
    sizes = np.abs(weights)
    if gradients is not None:
        sizes = 0.7 * sizes + 0.3 * np.abs(gradients)
    low, high = sizes.min(), sizes.max()
    return (sizes - low) / (high - low) if high > low else np.full_like(sizes, 0.5)


def allocate(error: Errors, min_bits: int, max_bits: int, budget: int) -> NDArray[np.uint8]:
    """Return the bits of each block, (n,) uint8, with nearly the least total error.

    Greedy: bits go to the blocks where each bit saves most, until the budget is spent. If a second
    bit saves more than the first, the two are bought together.

    Parameters
    ----------
    error : ndarray
        (n, 17) squared error of each block with 0..16 bits.
    min_bits, max_bits : int
        Bounds for each block.
    budget : int
        Bits in total, at least ``min_bits`` for each block.
    """
    error = error[:, min_bits : max_bits + 1]
    blocks, extra = np.arange(len(error)), np.arange(error.shape[1])
    at = np.zeros(len(error), np.int64)
    offers = []
    for _ in extra[1:]:
        ahead = extra - at[:, None]
        gains = (error[blocks, at][:, None] - error) / np.maximum(ahead, 1)
        gains[ahead < 1] = 0.0
        target = gains.argmax(axis=1)
        gain = gains[blocks, target]
        useful = gain > 0
        offers.append((gain[useful], (target - at)[useful], blocks[useful]))
        at[useful] = target[useful]
    if not offers:
        return np.full(len(error), min_bits, np.uint8)
    gain, count, owner = (np.concatenate(column) for column in zip(*offers, strict=True))
    order = np.argsort(-gain, kind="stable")
    affordable = order[np.cumsum(count[order]) <= budget - min_bits * len(error)]
    bought = np.bincount(owner[affordable], count[affordable], minlength=len(error))
    return (min_bits + bought).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Grids:
    """The levels of n blocks for each number of bits from 0 to 16.

    Parameters
    ----------
    low : ndarray
        (n, 17) the least level.
    step : ndarray
        (n, 17) the distance from one level to the next.
    error : ndarray
        (n, 17) squared error, measured on some of the values, in units of the largest value's
        square.
    """

    low: Rows
    step: Rows
    error: Errors

    @classmethod
    def extremes(cls, rows: Rows) -> Grids:
        """Return levels from each block's least to its largest value; its mean for 0 bits.

        The errors are not measured: they are all zero.
        """
        least, largest = rows.min(axis=1), rows.max(axis=1)
        shape = len(rows), MAX_BITS + 1
        low, step, error = np.empty(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape)
        low[:, 0], low[:, 1:] = rows.mean(axis=1, dtype=np.float64), least[:, None]
        for bits in range(1, MAX_BITS + 1):
            top = np.float32(2**bits - 1)
            step[:, bits] = largest / top - least / top
        return cls(low, step, error)

    @classmethod
    def measured(cls, rows: Rows, unit: np.float32) -> Grids:
        """Return the best of a few ranges of levels for each block, and their measured error.

        Parameters
        ----------
        rows : ndarray
            (n, c) the blocks.
        unit : float32
            The largest magnitude of all blocks.
        """
        grids = cls.extremes(rows)
        scaled = rows / unit  # so that no square overflows, and none that counts underflows
        mean, deviation = scaled.mean(axis=1), scaled.std(axis=1)
        ends = np.stack([scaled.min(axis=1), scaled.max(axis=1)], axis=1)
        sample = scaled[:, :: max(1, rows.shape[1] // _SAMPLED)]
        weight = rows.shape[1] / sample.shape[1]
        grids.error[:, 0] = rows.shape[1] * deviation.astype(np.float64) ** 2
        for bits in range(1, MAX_BITS + 1):
            low, step = grids.low[:, bits] / unit, grids.step[:, bits] / unit
            if bits > _MEASURED:
                grids.error[:, bits] = rows.shape[1] * step.astype(np.float64) ** 2 / 12
                continue
            best = _error(sample, low, step, bits) * weight
            for reach in _REACHES.get(bits, ()):
                tried = mean - reach * deviation, 2 * reach * deviation / (2**bits - 1)
                # An outlier that the sample misses is one of the ends.
                error = _error(sample, *tried, bits) * weight + _error(ends, *tried, bits)
                better = error < best
                best[better] = error[better]
                grids.low[better, bits] = tried[0][better] * unit
                grids.step[better, bits] = tried[1][better] * unit
            grids.error[:, bits] = best
        return grids


def codes(rows: Rows, low: Rows, step: Rows, bits: int) -> NDArray[np.uint8 | np.uint16]:
    """Return the index of the level nearest to each number: uint8, or uint16 beyond 8 bits."""
    return _levels(rows, low, step, bits).astype(np.uint8 if bits <= 8 else np.uint16)


def _levels(rows: Rows, low: Rows, step: Rows, bits: int) -> Rows:
    """Return the indices of the nearest levels as float32."""
    indices = rows - low[:, None]
    indices /= np.where(step > 0, step, np.float32(1))[:, None]
    np.rint(indices, out=indices)
    return np.clip(indices, 0, np.float32(2**bits - 1), out=indices)


def _error(rows: Rows, low: Rows, step: Rows, bits: int) -> Errors:
    """Return the summed squared error of each row if it is quantised to its levels, (n,)."""
    deviation = _levels(rows, low, step, bits)
    deviation *= step[:, None]
    deviation += low[:, None]
    deviation -= rows
    error: Errors = np.einsum("ij,ij->i", deviation, deviation).astype(np.float64)
    return error
