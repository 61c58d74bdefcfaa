"""Asymmetric numeral systems (Duda 2013): streams of symbols, by ``constriction`` or compiled.

The compiled coder takes the chances that ``constriction`` gives the symbols, and makes the same
words. Unlike it, it lets other threads work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from hqde_fl.codec.symbol_split import Indices, Plan, symbols_of
from hqde_fl.errors import CodecError

Words = NDArray[np.uint32]

_UNITS = 1 << 24  # in which constriction counts chances
_NEAR = 1 << 12


def bounds_of(chances: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return (m + 1,) bounds of the symbols' numbers in [0, 2^24], as ``constriction`` rounds them.

    The state of an empty coder that is given one symbol is the first number of the symbol.
    """
    model = stream.model.Categorical(chances, perfect=False)
    bounds = np.full(chances.size + 1, _UNITS, np.uint64)
    for symbol in range(chances.size):
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(np.array([symbol], np.int32), model)
        bounds[symbol] = coder.pos()[1]
    return bounds


def count(indices: Indices, plan: Plan, *, compiled: bool) -> NDArray[np.int64]:
    """Return (symbols + 1,) how often each symbol comes, the escape last."""
    if compiled:
        from hqde_fl.codec import ans_kernel  # imports numba

        counts = np.zeros(plan.symbols + 1, np.int64)
        ans_kernel.count(indices, plan.shift, plan.first, plan.symbols, counts)
        return counts
    symbols = symbols_of(indices, plan.shift, plan.first, plan.symbols)
    return np.bincount(symbols, minlength=plan.symbols + 1)


def encode(
    indices: Indices,
    plan: Plan,
    chances: NDArray[np.float32],
    bounds: NDArray[np.uint64] | None,
) -> Words:
    """Return the stream of indices split by a plan; compiled if the ``bounds`` are given."""
    if bounds is not None:
        from hqde_fl.codec import ans_kernel  # imports numba

        words = np.empty(3 * indices.size // 4 + 3, np.uint32)
        size = ans_kernel.encode(indices, plan.shift, plan.first, plan.symbols, bounds, words)
        return words[:size].copy()
    symbols = symbols_of(indices, plan.shift, plan.first, plan.symbols)
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(symbols, stream.model.Categorical(chances, perfect=False))
    compressed: Words = coder.get_compressed()
    return compressed


def decode(
    words: Words,
    chances: NDArray[np.float32],
    bounds: NDArray[np.uint64] | None,
    table: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Fill ``out`` with the entries of ``table`` at the symbols of a stream.

    Raises
    ------
    CodecError
        If the words are not those of exactly so many symbols.
    """
    if len(words) and words[-1] == 0:
        raise CodecError("the entropy stream ends in a zero word")
    if bounds is not None:
        from hqde_fl.codec import ans_kernel  # imports numba

        starts = np.arange(0, _UNITS, _UNITS // _NEAR)
        near = np.searchsorted(bounds, starts, side="right") - 1
        whole = ans_kernel.decode(words, bounds, near, table, out)
    else:
        coder = stream.stack.AnsCoder(words)
        symbols = coder.decode(stream.model.Categorical(chances, perfect=False), out.size)
        np.take(table, symbols, out=out, mode="clip")
        whole = coder.is_empty()
    if not whole:
        raise CodecError("the entropy stream goes on after the last value")
