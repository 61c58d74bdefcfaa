"""Noise for exploration, entanglement and regularisation; none of it protects privacy.

HQDE's fourth kind, noise for differential privacy, is in ``hqde_fl.privacy``, with a calibrated
mechanism and an accountant.
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

GRID_BITS = 12
"""Entanglement noise is a multiple of 2^-GRID_BITS times the power of two above its pairs'
deviation."""

MAX_DEVIATIONS = 7.0
"""Standard deviations at which a pair's noise is cut off."""

MAX_PARTNERS = 64
"""Partners on either side, at most: a sum of 2 x 64 x 7 x 2^12 grid steps is exact in float32."""


@final
@dataclass(frozen=True)
class ExplorationNoise:
    """Gaussian noise on the aggregated update that decreases from round to round.

    Its deviation in round t is ``scale`` x schedule(t) x the root mean square of the update.

    Parameters
    ----------
    scale : float
        Deviation of the noise relative to the update, >= 0; 0 for none.
    schedule : "constant", "exponential", "cosine" or "linear"
        schedule(t) is 1; exp(-``decay`` t); (1 + cos(pi t / ``rounds``)) / 2; 1 - t / ``rounds``.
        The last two stay at 0 after ``rounds``.
    decay : float
        Decay of the exponential schedule in a round, >= 0.
    rounds : int
        Rounds until the cosine and the linear schedule are at 0, >= 1.
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

    def schedule_factor(self, turn: int) -> float:
        """Return schedule(t) in [0, 1] for round t, counted from 0."""
        progress = min(1.0, turn / self.rounds)
        if self.schedule == "exponential":
            return math.exp(-self.decay * turn)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0 if self.schedule == "constant" else 1 - progress

    def add_noise(self, delta: Tensor, turn: int, seeds: Seeds) -> Tensor:
        """Return a new tensor, ``delta`` plus round ``turn``'s noise; ``delta`` if that is 0."""
        wide = delta.to(torch.float64)
        size = float(wide.norm()) / math.sqrt(max(1, wide.numel()))
        deviation = self.scale * self.schedule_factor(turn) * size
        if deviation == 0:
            return delta
        noise = torch.randn(delta.shape, generator=seeds.torch("exploration-noise", turn))
        return delta + deviation * noise.to(delta)


@final
@dataclass(frozen=True)
class EntanglementNoise:
    """Noise that is correlated across the cohort so that it sums to zero.

    Clients form a ring, in the order of their ids. Each shares a seeded Gaussian with each of
    its ``neighbours`` partners on either side; of every pair one adds it and the other subtracts
    it, so all the noise of a cohort cancels in its mean.

    The noises are multiples of one grid, few enough of them to be exact in float32: added up in
    float64, those of a cohort are *exactly* zero, in whatever order. The mean of updates *with*
    noise differs from the mean without by the rounding of each sum, at most 2^-24 of its size in
    float32. What cancels in the mean does not cancel in a median: a robust rule sees the noise. So
    does a mean where a client is missing, filtered out or weighted unequally.

    This is no protection: anyone with the seed can subtract it.

    Parameters
    ----------
    scale : float
        Standard deviation of each client's noise; 0 or in [1e-30, 1e30].
    neighbours : int
        Partners on either side, in [1, 64]; at most all other clients.
    """

    scale: float = 0.01
    neighbours: int = 1

    def __post_init__(self) -> None:
        if not (self.scale == 0 or 1e-30 <= self.scale <= 1e30):
            raise ConfigError(
                f"EntanglementNoise needs scale = 0 or 1e-30 <= scale <= 1e30, found {self.scale}"
            )
        if not 1 <= self.neighbours <= MAX_PARTNERS:
            raise ConfigError(
                f"EntanglementNoise needs 1 <= neighbours <= {MAX_PARTNERS}, "
                f"found {self.neighbours}"
            )

    def client_noise(
        self, own: int, ids: Sequence[int], size: int, turn: int, seeds: Seeds
    ) -> Tensor:
        """Return one client's noise, (size,) float32; zeros if it is alone or ``scale`` is 0.

        Parameters
        ----------
        own : int
            The client's id.
        ids : Sequence[int]
            The ids of the whole cohort, ``own`` included, in any order.
        size : int
            The number of numbers in an update.
        turn : int
            The round.
        seeds : Seeds
            The run's seeds, the same for the whole cohort.

        Raises
        ------
        ValueError
            If ``own`` is not among ``ids``.
        """
        if own not in ids:
            raise ValueError(f"EntanglementNoise needs client {own} among the cohort's ids")
        pairs = self._pairs(own, ids)
        total = np.zeros(size, dtype=np.int64)
        if not pairs or self.scale == 0:
            return torch.zeros(size)
        deviation = self.scale / math.sqrt(len(pairs))
        unit = 2.0 ** (math.frexp(deviation)[1] - GRID_BITS)
        for one, other in pairs:
            generator = seeds.numpy("entanglement-noise", turn, one, other)
            drawn = generator.standard_normal(size, dtype=np.float32).astype(np.float64)
            steps = np.rint(np.clip(drawn, -MAX_DEVIATIONS, MAX_DEVIATIONS) * (deviation / unit))
            total += (1 if own == one else -1) * steps.astype(np.int64)
        return torch.from_numpy((total * unit).astype(np.float32))

    def _pairs(self, own: int, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return (smaller id, larger id) for the client and each of its partners, sorted."""
        ring = sorted(set(ids))
        position, n = ring.index(own), len(ring)
        steps = range(1, min(self.neighbours, n // 2) + 1)
        partners = {ring[(position + sign * step) % n] for step in steps for sign in (1, -1)}
        return sorted((min(own, other), max(own, other)) for other in partners - {own})


@final
@dataclass(frozen=True)
class RegularizationNoise:
    """Annealed Gaussian noise on a client's gradients (Neelakantan et al., 2015, arXiv:1511.06807).

    The deviation in step t of a round is ``scale`` / (1 + t)^``decay`` x the root mean square of
    the gradient: it regularises the start of a client's training and hardly affects its end.

    Parameters
    ----------
    scale : float
        Deviation of the noise relative to the gradient, >= 0; 0 for none.
    decay : float
        The exponent of annealing, >= 0; 0 for none.
    """

    scale: float = 0.01
    decay: float = 0.55

    def __post_init__(self) -> None:
        for name in ("scale", "decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"RegularizationNoise needs a finite {name} >= 0, found {getattr(self, name)}"
                )

    def draw_noise(self, gradient: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Return the noise to add to one parameter's gradient in step t, counted from 0.

        Parameters
        ----------
        gradient : Tensor
            The gradient; not written to. A complex one gets noise of the same deviation in both
            parts.
        step : int
            The step t of the round.
        generator : torch.Generator
            A generator on the CPU; it draws equally many numbers for every scale.
        """
        if gradient.is_complex():
            pairs = torch.view_as_real(gradient.resolve_conj())
            return torch.view_as_complex(self.draw_noise(pairs, step, generator))
        noise = torch.randn(gradient.shape, generator=generator)
        size = float(gradient.to(torch.float64).norm()) / math.sqrt(max(1, gradient.numel()))
        deviation: float = self.scale / (1 + step) ** self.decay * size
        return noise.to(gradient) * deviation
