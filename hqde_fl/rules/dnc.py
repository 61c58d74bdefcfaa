"""Divide and conquer, DnC (Shejwalkar and Houmansadr, NDSS 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.eigenvectors import top_eigenvector
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class DnC(Tolerant):
    """Mean without the c f outliers along the direction of largest variance; n > 2f.

    An update's outlier score is its squared projection, centred on the mean of all, on the top
    right singular vector of the centred updates. The paper samples coordinates to afford that
    vector and repeats; here it is exact and over all coordinates, from the Gram matrix, so once is
    enough and nothing is random. It looks in one direction only: of faulty clients that point
    different ways all but the farthest can hide, so it tolerates one for certain.
    O(n^2 d) for the Gram matrix, O(n^3) for the vector.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    removal : float
        Updates to drop for each faulty client, c in the paper; rounded up, n - 1 at most.
    """

    gram = True

    removal: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.removal > 0:
            raise ConfigError(f"DnC needs removal > 0, found {self.removal}")

    def breakdown(self, n: int) -> int:
        """Return 1 if f > 0 and n >= max(4, 2f + 1), else 0: it looks in one direction only."""
        return min(self.f, 1) if n >= max(4, self.minimum()) else 0

    def filters(self, n: int) -> bool:
        """Return True if f > 0: the updates that do not count are filtered."""
        return self.f > 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for all updates but the c f with the largest outlier scores."""
        assert measured.geometry is not None
        n, f = cohort.n, cohort.remaining(self.f)
        weights = torch.full((n,), 1 / n, dtype=torch.float64)
        _, vector = top_eigenvector(measured.geometry.about(weights))
        scores = vector**2
        drop = min(n - 1, -int(-f * self.removal // 1))
        filtered = torch.zeros(n, dtype=torch.bool)
        filtered[scores.argsort(descending=True, stable=True)[:drop]] = True
        kept = (~filtered).to(torch.float64)
        return Decision(
            mixing=(kept / kept.sum())[None, :],
            filtered=filtered,
            diagnostics={
                "dnc-scores": dict(zip(map(str, cohort.ids), scores.tolist(), strict=True))
            },
        )
