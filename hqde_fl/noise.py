"""Noise that explores, that is entangled, that regularises; none of it protects anybody's privacy.

HQDE's fourth kind, noise for differential privacy, needs a calibrated mechanism and an accountant
and is not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

Schedule = Literal["constant", "exponential", "cosine", "linear"]

GRID = 12
"""Entanglement noise is a multiple of 2^-GRID of the power of two above its pairs' deviation."""

FURTHEST = 7.0
"""Deviations at which a pair's noise is cut off."""

PARTNERS = 64
"""Most partners on either side: a sum of 2 x 64 x 7 x 2^12 grid steps is exact in float32."""


@final
@dataclass(frozen=True)
class ExplorationNoise:
    """Gaussian noise on the aggregated update, less of it from round to round.

    Its deviation in round t is ``scale`` x schedule(t) x the root mean square of the update.

    Parameters
    ----------
    scale : float
        Of the noise relative to the update; 0 for none.
    schedule : "constant", "exponential", "cosine" or "linear"
        1; exp(-``decay`` t); (1 + cos(pi t / ``rounds``)) / 2; 1 - t / ``rounds``. The last two
        stay at 0 after ``rounds``.
    decay : float
        Of the exponential schedule, a round.
    rounds : int
        Until the cosine and the linear schedule are at 0.
    """

    scale: float = 0.0
    schedule: Schedule = "exponential"
    decay: float = 0.1
    rounds: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ConfigError(f"ExplorationNoise needs a finite scale >= 0, found {self.scale}")
        if self.schedule not in ("constant", "exponential", "cosine", "linear"):
            raise ConfigError(
                "ExplorationNoise needs schedule among constant, exponential, cosine, linear: "
                f"{self.schedule!r}"
            )
        if not (self.decay >= 0 and self.rounds >= 1):
            raise ConfigError(
                "ExplorationNoise needs decay >= 0 and rounds >= 1, "
                f"found {self.decay} and {self.rounds}"
            )

    def factor(self, turn: int) -> float:
        """schedule(t) in [0, 1], t counted from 0."""
        left = min(1.0, turn / self.rounds)
        if self.schedule == "exponential":
            return math.exp(-self.decay * turn)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * left)) / 2
        return 1.0 if self.schedule == "constant" else 1 - left

    def perturbed(self, delta: Tensor, turn: int, seeds: Seeds) -> Tensor:
        """The update (d,) of round t with its noise; itself where there is none to add."""
        wide = delta.to(torch.float64)
        size = float(wide.norm()) / math.sqrt(max(1, wide.numel()))
        deviation = self.scale * self.factor(turn) * size
        if deviation == 0:
            return delta
        noise = torch.randn(delta.shape, generator=seeds.torch("exploration-noise", turn))
        return delta + deviation * noise.to(delta)


@final
@dataclass(frozen=True)
class EntanglementNoise:
    """Noise that is correlated across the cohort so that it sums to zero.

    Clients stand in a ring, in the order of their ids. Each shares a seeded Gaussian with each of
    its ``neighbours`` partners on either side; of every pair one adds it and the other subtracts
    it, so all the noise of a cohort cancels in its mean.

    The noises are multiples of one grid, few enough of them to be exact in float32: added up in
    float64, those of a cohort are *exactly* zero, in whatever order. The mean of updates *with*
    noise differs from the mean without by the rounding of each sum, at most 2^-24 of its size in
    float32. What cancels in the mean does not cancel in a median: a robust rule sees the noise. So
    does a mean where a client is missing, filtered out or weighted unequally.

    This is no protection: who has the seed can subtract it.

    Parameters
    ----------
    scale : float
        Deviation of each client's noise.
    neighbours : int
        Partners on either side, at most all others.
    """

    scale: float = 0.01
    neighbours: int = 1

    def __post_init__(self) -> None:
        if not (self.scale == 0 or 1e-30 <= self.scale <= 1e30):
            raise ConfigError(
                f"EntanglementNoise needs scale = 0 or 1e-30 <= scale <= 1e30, found {self.scale}"
            )
        if not 1 <= self.neighbours <= PARTNERS:
            raise ConfigError(
                f"EntanglementNoise needs 1 <= neighbours <= {PARTNERS}, found {self.neighbours}"
            )

    def share(self, own: int, ids: Sequence[int], size: int, turn: int, seeds: Seeds) -> Tensor:
        """One client's noise: (size,) float32.

        Parameters
        ----------
        own : int
            The client.
        ids : Sequence[int]
            The whole cohort, ``own`` among them, in any order.
        size : int
            How many numbers.
        turn : int
            The round.
        seeds : Seeds
            The same for the whole cohort.
        """
        if own not in ids:
            raise ValueError(f"EntanglementNoise needs client {own} among the cohort's ids")
        pairs = self._pairs(own, ids)
        total = np.zeros(size, dtype=np.int64)
        if not pairs or self.scale == 0:
            return torch.zeros(size)
        deviation = self.scale / math.sqrt(len(pairs))
        unit = 2.0 ** (math.frexp(deviation)[1] - GRID)
        for one, other in pairs:
            generator = seeds.numpy("entanglement-noise", turn, one, other)
            drawn = generator.standard_normal(size, dtype=np.float32).astype(np.float64)
            steps = np.rint(np.clip(drawn, -FURTHEST, FURTHEST) * (deviation / unit))
            total += (1 if own == one else -1) * steps.astype(np.int64)
        return torch.from_numpy((total * unit).astype(np.float32))

    def _pairs(self, own: int, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The client's pairs, the smaller id first."""
        ring = sorted(set(ids))
        place, n = ring.index(own), len(ring)
        steps = range(1, min(self.neighbours, n // 2) + 1)
        partners = {ring[(place + sign * step) % n] for step in steps for sign in (1, -1)}
        return sorted((min(own, each), max(own, each)) for each in partners - {own})


@final
@dataclass(frozen=True)
class RegularizationNoise:
    """Annealed Gaussian noise on a client's gradients (Neelakantan et al., 2015, arXiv:1511.06807).

    The deviation in step t of a round is ``scale`` / (1 + t)^``decay`` x the root mean square of
    the gradient: it regularises where training starts and leaves it alone where it ends.

    Parameters
    ----------
    scale : float
        Of the noise relative to the gradient; 0 for none.
    decay : float
        The exponent; 0 for no annealing.
    """

    scale: float = 0.01
    decay: float = 0.55

    def __post_init__(self) -> None:
        for name in ("scale", "decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"RegularizationNoise needs a finite {name} >= 0, found {getattr(self, name)}"
                )

    def drawn(self, gradient: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """The noise to add to one parameter's gradient in step t, counted from 0.

        Parameters
        ----------
        gradient : Tensor
            The gradient; it stays as it is.
        step : int
            t.
        generator : torch.Generator
            On the CPU; it is advanced by as many numbers whatever the scale.
        """
        noise = torch.randn(gradient.shape, generator=generator)
        size = float(gradient.to(torch.float64).norm()) / math.sqrt(max(1, gradient.numel()))
        deviation: float = self.scale / (1 + step) ** self.decay * size
        return noise.to(gradient) * deviation
