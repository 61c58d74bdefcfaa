"""The base of noise sources, which add Gaussian noise to a sum of clients' updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class NoiseSource(ABC):
    """Adds Gaussian noise to a vector. Concrete sources are final frozen dataclasses."""

    seeded: ClassVar[bool] = True
    """True if the noise is drawn from the generator given, so that a run can be repeated and
    whoever knows its seed can subtract the noise. False if it is drawn from the operating system's
    secure generator."""

    @abstractmethod
    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        """Return ``values`` with noise; they are not written to.

        The result must protect as much as exact Gaussian noise of this deviation does.

        Parameters
        ----------
        values : Floats
            (d,) float64, a sum of which each client's part has at most the norm ``sensitivity``.
        deviation : float
            The standard deviation of the noise in each number, > 0.
        sensitivity : float
            The greatest norm of one client's part, > 0, for sources that round.
        rng : np.random.Generator
            The source of random numbers, if the source is ``seeded``; else it is not used.
        """


@final
@dataclass(frozen=True)
class SeededGaussian(NoiseSource):
    """Gaussian noise in float64 from the run's seed, for simulations: a run can be repeated.

    It protects nobody from someone who knows the seed, and its float64 arithmetic is not exact
    (Mironov, 2012, "On significance of the least significant bits for differential privacy").
    """

    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        """Return ``values`` plus seeded Gaussian noise."""
        return values + deviation * rng.standard_normal(values.shape)
