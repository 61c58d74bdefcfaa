"""HQDE's noise of two amplitudes and a phase, which is a Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from hqde_fl.privacy.noise_source import Floats, NoiseSource


@final
@dataclass(frozen=True)
class QuantumGaussian(NoiseSource):
    """Noise cos(p) N1 + sin(p) N2 of two Gaussians with a random phase p, for simulations.

    It is exactly Gaussian. For a phase p, the sum of the independent cos(p) N1 and sin(p) N2 is
    normal with mean 0 and variance cos(p)^2 + sin(p)^2 = 1. That law does not depend on p: if p is
    independent of N1 and N2, the sum is standard normal whatever the law of p is, and independent
    of p. So it costs what Gaussian noise of the same deviation costs, and the accountant is the
    same. (HQDE's own noise was cos(p) N with a decay: its variance is a half, and less in every
    round, while its epsilon stayed what it was.)

    Each number has a phase of its own, uniform in [0, 2 pi). All comes from the run's seed, as
    with ``SeededGaussian``, whose limits it has. From secure bits it would be ``SecureGaussian``.
    """

    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        """Return ``values`` plus the noise."""
        phase = rng.uniform(0, 2 * np.pi, values.shape)
        first, second = rng.standard_normal((2, *values.shape))
        noised: Floats = values + deviation * (np.cos(phase) * first + np.sin(phase) * second)
        return noised
