"""The exact privacy of Gaussian noise without sampling (Balle and Wang, 2018, arXiv:1805.06530).

A Gaussian mechanism is described by mu, its sensitivity over the deviation of its noise: that of
Gaussian differential privacy (Dong et al., 2022). The mu of several releases of one record's data,
also of adaptively chosen ones, is the root of the sum of their squares.
"""

from __future__ import annotations

import math

from hqde_fl.errors import ConfigError

MIN_MU, MAX_MU = 1e-6, 1e3
"""The range in which a mu is looked for."""


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the least delta at which a Gaussian mechanism is (epsilon, delta)-private.

    Parameters
    ----------
    mu : float
        Sensitivity over deviation, >= 0.
    epsilon : float
        The epsilon, >= 0.
    """
    from scipy.special import log_ndtr, ndtr  # scipy is slow to import, and few runs are private

    if mu == 0:
        return 0.0
    shifted = float(log_ndtr(-mu / 2 - epsilon / mu))
    return max(0.0, float(ndtr(mu / 2 - epsilon / mu)) - math.exp(epsilon + shifted))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon at which a Gaussian mechanism is (epsilon, delta)-private.

    Parameters
    ----------
    mu : float
        Sensitivity over deviation, >= 0.
    delta : float
        The delta, in (0, 1).
    """
    from scipy.optimize import brentq

    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # by the tail of the privacy loss
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, high, xtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the greatest mu of a Gaussian mechanism that is (epsilon, delta)-private.

    Parameters
    ----------
    epsilon : float
        The epsilon, > 0.
    delta : float
        The delta, in (0, 1).

    Raises
    ------
    ConfigError
        If it is not in [1e-6, 1000].
    """
    from scipy.optimize import brentq

    low, high = (gaussian_delta(mu, epsilon) - delta for mu in (MIN_MU, MAX_MU))
    if not low <= 0 <= high:
        raise ConfigError(
            "Gaussian noise needs an epsilon and a delta of a practical size, "
            f"found {epsilon:g} and {delta:g}"
        )
    mu = brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, MIN_MU, MAX_MU, xtol=1e-12)
    return float(mu) * (1 - 1e-9)  # on the safe side of the root
