"""Privacy accounting: epsilon of noised sums of sampled clients, and the noise for an epsilon.

The accountants are those of Google's ``dp-accounting``, which the extra ``privacy`` installs.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, final

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.analytic_gaussian import gaussian_epsilon
from hqde_fl.privacy.central import AccountantName
from hqde_fl.privacy.sampling import Sampling

MAX_PLD_EPSILON = 50.0
"""Epsilon of the accountant "rdp" above which "pld" returns it, too: both are far from privacy."""

MAX_MULTIPLIER = 1e6
"""The largest noise multiplier that calibration returns."""

TOLERANCE = 1e-4
"""Precision of a calibrated noise multiplier."""

Repeats = tuple[tuple[int, int], ...]
"""Pairs (releases of a round, number of such rounds), ascending; see ``Accountant.epsilon``."""


@final
class Accountant:
    """Computes what noised sums cost together.

    A round of which k noised sums were released is one with the noise multiplier z / sqrt(k): its
    clients may be the same each time.

    Parameters
    ----------
    name : "pld" or "rdp"
        Privacy loss distributions (without sampling the closed form), or Rényi differential
        privacy.
    sampling : Sampling
        The sampling of the clients of a round.
    delta : float
        The delta of (epsilon, delta)-differential privacy.

    Raises
    ------
    ConfigError
        If the accountant does not know the sampling.
    """

    def __init__(self, name: AccountantName, sampling: Sampling, delta: float) -> None:
        self.name, self.sampling, self.delta = name, sampling, delta
        if name == "pld" and not sampling.poisson and sampling.probability < 1:
            raise ConfigError(
                "privacy: accountant 'pld' needs selector 'poisson' or all clients in each round: "
                f"set accountant = 'rdp', found {sampling}"
            )

    def require(self) -> None:
        """Raise ``ConfigError`` if ``dp-accounting`` is not installed."""
        dp_accounting()

    def epsilon(self, multiplier: float, releases: Mapping[int, int] | int) -> float:
        """Return the epsilon of all noised sums that were released.

        Parameters
        ----------
        multiplier : float
            The noise multiplier z, > 0: the standard deviation of the noise in clipping norms.
        releases : Mapping[int, int] or int
            Round -> number of noised sums of it that were released; or a number of rounds with one
            each.
        """
        counts = Counter([1] * releases if isinstance(releases, int) else releases.values())
        counts.pop(0, None)
        if not counts:
            return 0.0
        repeats = tuple(sorted(counts.items()))
        return _epsilon(self.name, self.sampling, self.delta, multiplier, repeats)

    def multiplier(self, epsilon: float, rounds: int) -> float:
        """Return the least noise multiplier with which a number of rounds costs at most an epsilon.

        Raises
        ------
        ConfigError
            If the epsilon is so small that there is none up to ``MAX_MULTIPLIER``.
        """
        return _multiplier(self.name, self.sampling, self.delta, epsilon, rounds)


def dp_accounting() -> Any:
    """Return the module ``dp_accounting``.

    Raises
    ------
    ConfigError
        If it is not installed; the message says how to install it.
    """
    try:
        import dp_accounting
    except ImportError as error:
        raise ConfigError(
            f"differential privacy needs {error.name}: pip install 'hqde-fl[privacy]'"
        ) from error
    return dp_accounting


@lru_cache(maxsize=4096)
def _epsilon(
    name: AccountantName, sampling: Sampling, delta: float, multiplier: float, repeats: Repeats
) -> float:
    relative = multiplier / sampling.sensitivity
    bound = _rdp_epsilon(sampling, delta, relative, repeats)
    if name == "rdp" or bound > MAX_PLD_EPSILON:
        return bound
    if sampling.probability == 1:
        noised = sum(count * rounds for count, rounds in repeats)
        return min(bound, gaussian_epsilon(math.sqrt(noised) / relative, delta))
    total: Any = None
    for count, rounds in repeats:
        part = _privacy_loss(relative / math.sqrt(count), sampling.probability)
        part = part.self_compose(rounds) if rounds > 1 else part
        total = part if total is None else total.compose(part)
    return min(bound, float(total.get_epsilon_for_delta(delta)))


@lru_cache(maxsize=16)
def _privacy_loss(relative: float, probability: float) -> Any:
    """Return the privacy loss distribution of one noised sum."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        relative, sampling_prob=probability, value_discretization_interval=1e-4
    )


def _rdp_epsilon(sampling: Sampling, delta: float, relative: float, repeats: Repeats) -> float:
    """Return epsilon by Rényi differential privacy; noise is relative to the sensitivity."""
    dpa = dp_accounting()
    from dp_accounting.rdp import RdpAccountant

    relation = dpa.NeighboringRelation
    accountant = RdpAccountant(
        neighboring_relation=(
            relation.ADD_OR_REMOVE_ONE if sampling.poisson else relation.REPLACE_ONE
        )
    )
    with _quiet():
        for count, rounds in repeats:
            event = dpa.GaussianDpEvent(relative / math.sqrt(count))
            if sampling.probability < 1:
                event = (
                    dpa.PoissonSampledDpEvent(sampling.probability, event)
                    if sampling.poisson
                    else dpa.SampledWithoutReplacementDpEvent(
                        sampling.clients, sampling.size, event
                    )
                )
            accountant.compose(event, rounds)
        return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def _multiplier(
    name: AccountantName, sampling: Sampling, delta: float, epsilon: float, rounds: int
) -> float:
    def excess(value: float, accountant: AccountantName) -> float:
        return _epsilon(accountant, sampling, delta, value, ((1, rounds),)) - epsilon

    def excess_rdp(value: float) -> float:
        return excess(value, "rdp")

    low, high = 0.05, 1.0
    while excess_rdp(high) > 0:
        low, high = high, 2 * high
        if high > MAX_MULTIPLIER:
            raise ConfigError(
                f"no noise multiplier up to {MAX_MULTIPLIER:g} makes {rounds} rounds cost at most "
                f"epsilon = {epsilon:g} at delta = {delta:g} ({sampling})"
            )
    if excess_rdp(low) <= 0:
        return low
    found = _least(excess_rdp, low, high)
    if name == "rdp":
        return found
    low, high = 0.8 * found, found  # "pld" needs a little less noise, and much more time
    while excess(low, name) <= 0:
        low, high = 0.8 * low, low
    return _least(lambda value: excess(value, name), low, high)


def _least(excess: Callable[[float], float], low: float, high: float) -> float:
    """Return a value in [low, high], to ``TOLERANCE``, at which a falling function is <= 0."""
    from scipy.optimize import brentq

    tolerance = TOLERANCE * min(1.0, high)
    root = float(brentq(excess, low, high, xtol=tolerance / 4))
    while root < high and excess(root) > 0:
        root += tolerance / 4
    return min(root, high)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that some orders of the Rényi divergence are left out."""
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
