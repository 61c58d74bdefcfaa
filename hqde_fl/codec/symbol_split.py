"""Split indices with many values into symbols and low bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.bitpack import MAX_BITS
from hqde_fl.codec.parallel import extremes

Indices = NDArray[np.int32]

MAX_INDEX = 1 << 23
MAX_SYMBOLS = 255
"""Symbols, at most, so that with the escape they are numbered by a byte."""

_ESCAPE_BITS = 32
_SAMPLED = 1 << 15


@dataclass(frozen=True)
class Plan:
    """A way to split indices into symbols and low bits.

    Parameters
    ----------
    shift : int
        Number of low bits.
    first : int
        High bits of the first symbol.
    symbols : int
        Number of symbols, without the escape.
    cost : float
        Estimated bits for each index.
    """

    shift: int
    first: int
    symbols: int
    cost: float

    @classmethod
    def of(cls, indices: Indices, count: int) -> Plan:
        """Return the cheapest plan for ``count`` indices, judged on some of those given."""
        low, high = extremes(indices)
        sample = indices[:: -(-indices.size // _SAMPLED)]
        middle = int(np.median(sample)) if high - low >= MAX_SYMBOLS else 0
        best: Plan | None = None
        for shift in range(MAX_BITS + 1):
            first, last = low >> shift, high >> shift
            if last - first >= MAX_SYMBOLS:
                first = min(
                    max(first, (middle >> shift) - MAX_SYMBOLS // 2), last - MAX_SYMBOLS + 1
                )
            symbols = min(last - first + 1, MAX_SYMBOLS)
            seen = symbols_of(sample, shift, first, symbols)
            counts = np.bincount(seen, minlength=symbols + 1)
            escaping = counts[symbols] / sample.size
            cost = entropy(counts, count) + shift + escaping * (_ESCAPE_BITS - shift)
            cost += 8 * symbols / count
            if best is None or cost < best.cost:
                best = cls(shift, first, symbols, cost)
            elif last - first < MAX_SYMBOLS:  # nothing escapes any more
                break
        assert best is not None
        return best


def entropy(counts: NDArray[Any], total: int) -> float:
    """Return the entropy in bits of each of ``total`` values, of which a sample was counted."""
    counts = counts[counts > 0]
    counted = int(counts.sum())
    chances = counts / counted
    # A sample looks less varied than all values are (Miller 1955).
    unseen = (counts.size - 1) / (2 * math.log(2)) * (1 / counted - 1 / max(total, counted))
    return float(-(chances * np.log2(chances)).sum()) + unseen


def symbols_of(indices: Indices, shift: int, first: int, symbols: int) -> Indices:
    """Return the indices' high bits minus ``first``; ``symbols`` for those out of reach."""
    high = indices >> np.int32(shift) if shift else indices
    high = high - np.int32(first)
    if int(high.min()) < 0 or int(high.max()) >= symbols:
        # as unsigned numbers, those below the first are beyond the last
        high = np.minimum(high.view(np.uint32), np.uint32(symbols)).view(np.int32)
    return high
