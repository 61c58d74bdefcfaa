"""Mean, standard deviation and 95 % interval of what several seeds measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np

from hqde_fl.seeding import Seeds

Method = Literal["t", "bootstrap"]

METHODS: tuple[Method, ...] = ("t", "bootstrap")
"""The ways to compute an interval."""

METHOD_NAMES: dict[Method, str] = {"t": "Student's t", "bootstrap": "percentile bootstrap"}

CONFIDENCE = 0.95

BOOTSTRAP_RESAMPLES = 9_999


class Interval(NamedTuple):
    """An interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """Finite values that independent seeds measured.

    Parameters
    ----------
    values : tuple[float, ...]
        One value for each seed, at least one.
    method : str, default="t"
        How ``interval`` is computed: by Student's t distribution with n - 1 degrees of freedom, or
        as the percentile bootstrap of the mean.
    bounds : tuple[float, float], optional
        The least and the greatest value that the mean can have. ``interval`` is cut at them, unless
        a value is beyond them: an accuracy in percent is not in [0, 1].
    """

    values: tuple[float, ...]
    method: Method = "t"
    bounds: tuple[float, float] = (-inf, inf)

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        """Mean of the values."""
        return fmean(self.values)

    @cached_property
    def deviation(self) -> float | None:
        """Standard deviation with n - 1 in the denominator, or None of a single value."""
        return stdev(self.values) if self.n > 1 else None

    @cached_property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean, or None of a single value."""
        if self.deviation is None:
            return None
        if self.deviation == 0:
            return Interval(self.mean, self.mean)
        from scipy import stats

        if self.method == "t":
            scale = self.deviation / sqrt(self.n)
            low, high = stats.t.interval(CONFIDENCE, self.n - 1, loc=self.mean, scale=scale)
        else:
            low, high = stats.bootstrap(
                (np.asarray(self.values),),
                np.mean,
                confidence_level=CONFIDENCE,
                n_resamples=BOOTSTRAP_RESAMPLES,
                method="percentile",
                rng=Seeds(0).numpy("bootstrap"),
            ).confidence_interval
        least, greatest = self.bounds
        if least <= min(self.values) and max(self.values) <= greatest:
            low, high = max(low, least), min(high, greatest)
        return Interval(float(low), float(high))
