"""Noise that clients add to their masked integers, of which the sum protects each of them.

Each client of a bucket adds normal numbers, rounded to integers, with a t-th of the variance that
the sum needs, where t is the bucket's threshold: whoever drops out, at least t shares are in a sum.
The sum of rounded normal numbers with deviations of many integers is as private as that of the
continuous Gaussian mechanism but for a factor of exp((1 + x^2) / deviation^2) at x deviations
(Kairouz, Liu and Steinke, 2021, "The distributed discrete Gaussian mechanism for federated learning
with secure aggregation", arXiv:2102.06387).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hqde_fl.privacy.rounded_normal import GRID_BITS, rounded_normal
from hqde_fl.privacy.secure_bits import secure_words

MIN_DEVIATION = 100.0
"""Least deviation of a client's noise in integers: at 3 deviations the factor is below 1.002."""

TAIL = 8.0
"""Deviations of the noise of a sum for which there is room in the ring; more has a probability of
1e-15 for each number, which then wraps around."""


def sum_deviation(multiplier: float, integer_norm: float, size: int) -> float:
    """Return the deviation of the noise that the sum of a bucket needs, in integers.

    Parameters
    ----------
    multiplier : float
        Deviation over sensitivity.
    integer_norm : float
        The norm of a clipped update in integers, before it is rounded.
    size : int
        The numbers of an update, each of which is rounded by less than one.
    """
    sensitivity = 2 * (integer_norm + math.sqrt(size))  # another client in the place of one
    return multiplier * sensitivity


def noise_share(deviation: float, size: int) -> NDArray[np.int64]:
    """Return (size,) the noise of one client, of the operating system's random bits.

    Parameters
    ----------
    deviation : float
        Its deviation in integers.
    size : int
        How many numbers.
    """
    steps = rounded_normal(secure_words, size)
    noise: NDArray[np.int64] = np.rint(steps * (deviation * 2.0**-GRID_BITS)).astype(np.int64)
    return noise
