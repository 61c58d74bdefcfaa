"""Nearest-neighbour mixing (Allouah et al., 2023, arXiv:2302.01772)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class NNM(Tolerant):
    """Pre-aggregation: every update becomes the mean of the n - f nearest to it; n > 2f.

    Makes a (f, kappa)-robust rule (f, 8 f / (n - f) (kappa + 1))-robust: of the best possible
    order, whatever the clients' heterogeneity. O(n^2 d) for the Gram matrix,
    O(n^2 log n) to sort it.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    gram = is_preaggregation = True

    def output_rows(self, n: int) -> int:
        """Return n: every update keeps a row."""
        return n

    def composed_kappa(self, kappa: float, n: int, f: int) -> float | None:
        """Return 8 f / (n - f) (kappa + 1); None for another f than this rule's."""
        return 8 * f / (n - f) * (kappa + 1) if f == self.f else None

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return a mixing matrix that averages each update with its n - f - 1 nearest others."""
        assert measured.geometry is not None
        n = cohort.n
        count = n - cohort.remaining(self.f)
        squared = measured.geometry.squared_distances().clone().fill_diagonal_(-1)
        nearest = squared.argsort(dim=1, stable=True)[:, :count]
        mixing = torch.zeros(n, n, dtype=torch.float64).scatter_(1, nearest, 1 / count)
        return Decision(mixing=mixing)
