"""Gaussian noise from a secure generator, on a grid, so that floating point leaks nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.noise_source import Floats, NoiseSource
from hqde_fl.privacy.rounded_normal import GRID_BITS, rounded_normal
from hqde_fl.privacy.secure_bits import secure_words

MAX_STEPS = 2.0**50
"""Values are cut off at this number of steps, so that their sums with noise are exact."""

SUM_ERROR = 2.0**-20
"""Bound of the error of a clipped float32 update's norm and of a float64 sum of 2^16 of them, as a
part of the sensitivity."""


@final
@dataclass(frozen=True)
class SecureGaussian(NoiseSource):
    """Gaussian noise from the operating system's secure generator, rounded to a grid.

    The values are rounded to multiples of a 2^-28th of the deviation, and the noise is a real
    normal number that is rounded to the same grid (``rounded_normal``: sampled exactly). An integer
    shift and rounding commute, so the result is the rounded output of the *continuous* Gaussian
    mechanism on the rounded values: post-processing, and the same epsilon under every accountant,
    also with sampling. All results are on one grid whatever the values are: the holes of
    floating-point noise, by which it can be told from the values (Mironov, 2012), do not exist.
    This is the interval refining of Haney et al. (2022, arXiv:2207.13793). The discrete Gaussian
    (Canonne et al., 2020, arXiv:2004.00010; Kairouz et al., 2021, arXiv:2102.06387) on this grid
    differs by a factor of at most exp((1 + t^2) 2^-60) at t deviations, but the accountants for
    sampled Gaussians are not proved for it.

    Rounding d values moves two neighbouring sums apart by up to sqrt(d) steps more. The deviation
    is raised as if the sensitivity were larger by that and by 2^-20: by a few millionths.

    It is the default. No seed repeats it, so no run with it can be repeated bit for bit.
    """

    seeded: ClassVar[bool] = False

    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        """Return ``values`` on the grid plus noise on the grid.

        Raises
        ------
        ConfigError
            If the grid is too coarse: for sqrt(d) x deviation / sensitivity > 2^27.
        """
        coarseness = math.sqrt(values.size) * deviation / sensitivity * 2.0**-GRID_BITS
        if not coarseness <= 0.5:
            raise ConfigError(
                "SecureGaussian needs sqrt(d) x noise multiplier <= 2^27, "
                f"found d = {values.size} and {deviation / sensitivity:g}"
            )
        step = deviation * (1 + SUM_ERROR) / (1 - coarseness) * 2.0**-GRID_BITS
        on_grid = np.clip(np.rint(values / step), -MAX_STEPS, MAX_STEPS)
        noise = rounded_normal(secure_words, values.size).reshape(values.shape)
        noised: Floats = (on_grid + noise) * step
        return noised
