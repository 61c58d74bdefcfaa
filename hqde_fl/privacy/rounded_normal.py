"""Exact samples of the standard normal distribution, rounded to a grid.

Karney's algorithm N (2016, "Sampling exactly from the normal distribution", ACM Transactions on
Mathematical Software 42(1), arXiv:1303.6257), for whole arrays: an integer part k and a fraction
x are proposed, and accepted with a probability that makes k + x half-normal. Both are random bits.
The acceptance compares random bits with an exponential, in floating point where its error cannot
change the result, and in decimals of as many digits as it takes where it could. Nothing is rounded
before the last step, so that the result has exactly the distribution of a real normal number that
is rounded to the nearest multiple of 2^-GRID_BITS.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

from hqde_fl.privacy.secure_bits import Words

GRID_BITS = 28
"""The grid has 2^GRID_BITS steps in a standard deviation."""

MAX_INTEGER_PART = 62
"""Larger integer parts are proposed with probability 2^-63 and accepted with e^-1900: never."""

MARGIN = 2.0**-40
"""Distance of a random number from the acceptance probability at which floating point decides."""

MAX_CHUNK = 1 << 18
"""Largest number of proposals at a time: their arrays stay in the processor's cache."""

_ONE = np.uint64(1)


def rounded_normal(words: Words, n: int, margin: float = MARGIN) -> np.ndarray:
    """Return (n,) int64 samples of a standard normal number in steps of 2^-GRID_BITS.

    Parameters
    ----------
    words : Words
        The source of random bits.
    n : int
        The number of samples, >= 0.
    margin : float
        See ``MARGIN``. Larger ones leave more comparisons to exact arithmetic, with the same
        distribution of the result.
    """
    samples, filled = np.empty(n, dtype=np.int64), 0
    while filled < n:
        proposals = min(2 * (n - filled) + 64, MAX_CHUNK)
        accepted = _accepted(words, proposals, margin)[: n - filled]
        samples[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return samples


def _accepted(words: Words, n: int, margin: float) -> np.ndarray:
    """Return those of n proposals that are accepted: about half of them.

    A proposal has P(k) = 2^-(k+1) and x uniform. It is accepted with probability
    2^(k-1) exp(1/2 - (k + x)^2 / 2), which is at most one.
    """
    bits, fractions, tries = words(n), words(n), words(n)
    ends = ~(bits >> _ONE)  # the lowest bit that is set is number k
    k = np.bitwise_count((ends & (~ends + _ONE)) - _ONE).astype(np.uint64)
    x, tried = fractions * 2.0**-64, tries * 2.0**-64
    limits = np.exp(0.5 - (k + x) ** 2 / 2)
    limits = np.ldexp(limits, k.astype(np.int32) - 1)
    taken = (tried < limits) & (k <= MAX_INTEGER_PART)
    for place in np.flatnonzero((np.abs(tried - limits) <= margin) & (k <= MAX_INTEGER_PART)):
        taken[place] = _is_accepted(int(k[place]), int(fractions[place]), int(tries[place]), words)
    k, fractions, bits = k[taken], fractions[taken], bits[taken]
    half_steps = (k << np.uint64(GRID_BITS + 1)) + (fractions >> np.uint64(63 - GRID_BITS))
    steps = ((half_steps + _ONE) >> _ONE).astype(np.int64)
    return np.where(bits & _ONE, -steps, steps)


def _is_accepted(k: int, fraction: int, tried: int, words: Words) -> bool:
    """Return True if a proposal is accepted, by exact arithmetic on as many bits as it takes.

    ``fraction`` and ``tried`` are the first 64 bits of two numbers in [0, 1), whose other bits are
    drawn here if they are needed.
    """
    bits = 64
    while True:
        with localcontext(prec=20 + bits) as context:
            context.Emin = -(10**6)
            unit, error = Decimal(2) ** -bits, Decimal(10) ** -bits

            def limit(x: Decimal) -> Decimal:
                return Decimal(2) ** (k - 1) * (Decimal("0.5") - (k + x) ** 2 / 2).exp()

            if (tried + 1) * unit <= limit((fraction + 1) * unit) - error:
                return True
            if tried * unit >= limit(fraction * unit) + error:
                return False
        more = words(2)
        fraction, tried = fraction << 64 | int(more[0]), tried << 64 | int(more[1])
        bits += 64
