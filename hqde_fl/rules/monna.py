"""MoNNA, mean of nearest neighbours (Farhadkhani et al., 2023, arXiv:2209.10931)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hqde_fl.errors import BoundError
from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class MoNNA(Tolerant):
    """Mean of the n - f updates nearest to a trusted client's, its own included; n > 2f.

    Tolerates its f as long as the trusted client is honest and takes part. O(n d) would do for its
    distances; they are read from the Gram matrix, O(n^2 d), which a chain has anyway.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    trusted : int
        Id of the trusted client.
    """

    gram = True

    trusted: int = 0

    def filters(self, n: int) -> bool:
        """Return True if f > 0: updates that are not averaged are filtered."""
        return self.f > 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for the n - f updates nearest to the trusted client's, its own too.

        Raises ``BoundError`` if the trusted client sent no update.
        """
        assert measured.geometry is not None
        if self.trusted not in cohort.ids:
            raise BoundError(
                f"{self} needs the update of client {self.trusted}, found {list(cohort.ids)}"
            )
        centre = cohort.ids.index(self.trusted)
        count = cohort.n - cohort.remaining(self.f)
        squared = measured.geometry.squared_distances()[centre].clone()
        squared[centre] = -1
        nearest = squared.argsort(stable=True)[:count]
        mixing = torch.zeros(1, cohort.n, dtype=torch.float64)
        mixing[0, nearest] = 1 / count
        return Decision(mixing=mixing, filtered=mixing[0] == 0)
