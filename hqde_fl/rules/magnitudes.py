"""Thresholds on the magnitudes of an update's numbers, from counts that add up over tiles.

Numbers are counted by the leading binary digits of their magnitude: the exponent and four digits
after the leading one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DIGITS = 4
"""Binary digits after the leading one by which magnitudes are told apart."""

_SHIFTS = {torch.float32: 23 - DIGITS, torch.float64: 52 - DIGITS}
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_BINS = {torch.float32: 1 << (8 + DIGITS), torch.float64: 1 << (11 + DIGITS)}


def count_magnitudes(values: Tensor) -> Tensor:
    """Return how many numbers of each row of an (n, c) tile have a magnitude in each bin.

    The bins, (n, 4096) for float32 and (n, 32768) for float64, are in the order of the magnitudes.
    """
    bits = values.abs().contiguous().view(_INTEGERS[values.dtype])
    bins = _BINS[values.dtype]
    index = (bits >> _SHIFTS[values.dtype]).long()
    index += torch.arange(len(values), device=values.device)[:, None] * bins
    return index.flatten().bincount(minlength=len(values) * bins).view(len(values), bins)


def magnitude_threshold(counts: Tensor, fraction: float) -> Tensor:
    """Return the least magnitude (n,) that belongs to the largest ``fraction`` of a row's numbers.

    It is rounded down to the lower end of its bin.

    Parameters
    ----------
    counts : Tensor
        (n, bins) summed ``count_magnitudes``.
    fraction : float
        In (0, 1].
    """
    size = int(counts[0].sum())
    wanted = max(1, math.ceil(fraction * size - 1e-9))
    at_least = counts.flip(1).cumsum(dim=1).flip(1)  # numbers in a bin or beyond
    last = (at_least >= wanted).sum(dim=1) - 1
    dtype = torch.float32 if counts.shape[1] == _BINS[torch.float32] else torch.float64
    bits = last.to(_INTEGERS[dtype]) << _SHIFTS[dtype]
    return bits.view(dtype).to(torch.float64)
