"""Geometric median by the smoothed Weiszfeld algorithm (Pillutla et al., 2022, arXiv:1912.13445).

The iterates are convex combinations of the updates, so the whole iteration runs on the n x n Gram
matrix; the updates themselves are read twice, however many steps it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class GeometricMedian(Rule):
    """The point with the least sum of distances to the updates, each taken as a whole.

    Tolerates f < n / 2, any n. With r = f / (n - 2f) it is (f, 4 (1 + r)^2)-robust (Allouah et al.,
    2023, arXiv:2302.01772). O(n^2 d) for the Gram matrix, O(n^2) a step, one weighted sum.

    Parameters
    ----------
    tolerance : float
        Stop when a step moves by less than this fraction of the distance to the median update.
    smoothing : float
        Distances count as at least this fraction of the median one, so that the iteration may pass
        through an update without dividing by zero.
    iterations : int
        Steps to take, at most.
    """

    gram = True

    tolerance: float = 1e-8
    smoothing: float = 1e-6
    iterations: int = 1000

    def __post_init__(self) -> None:
        for name in ("tolerance", "smoothing", "iterations"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"GeometricMedian needs {name} > 0, found {getattr(self, name)}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2."""
        return (n - 1) // 2

    def kappa(self, n: int, f: int) -> float | None:
        """Return 4 (1 + r)^2 with r = f / (n - 2f)."""
        return 4 * (1 + f / (n - 2 * f)) ** 2

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the Weiszfeld weights at convergence, or after ``iterations`` steps."""
        assert measured.geometry is not None
        weights, steps = self.weights(measured.geometry)
        return Decision(mixing=weights[None, :], diagnostics={"weiszfeld-steps": steps})

    def weights(self, geometry: Geometry) -> tuple[Tensor, int]:
        """Return the updates' weights (n,) in their geometric median, and the number of steps.

        If more than half of the updates coincide, these get equal weights, in 0 steps.
        """
        n = geometry.n
        majority = geometry.coinciding_majority()
        if majority is not None:
            return majority.to(torch.float64) / majority.sum(), 0
        gram = geometry.gram[:-1, :-1].numpy()
        sizes = gram.diagonal()
        weights = np.full(n, 1 / n)
        steps = 0
        while steps < self.iterations:
            steps += 1
            inner = gram @ weights
            distances = np.sqrt(np.maximum(sizes - 2 * inner + weights @ inner, 0))
            scale = float(np.partition(distances, n // 2)[n // 2])
            if scale == 0:
                break
            pull = 1 / np.maximum(distances, self.smoothing * scale)
            change = pull / pull.sum() - weights
            weights = weights + change
            if change @ gram @ change <= (self.tolerance * scale) ** 2:
                break
        return torch.from_numpy(weights), steps
