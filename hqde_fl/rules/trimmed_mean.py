"""Coordinate-wise trimmed mean (Yin et al., 2018, arXiv:1803.01498)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.order_statistics import trimmed_mean_of
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class TrimmedMean(Tolerant):
    """Mean of every coordinate without its f largest and f smallest values; n > 2f.

    Tolerates its f. With r = f / (n - 2f) it is (f, 6 r (1 + r))-robust (Allouah et al., 2023,
    arXiv:2302.01772), of the order of the best possible r. One sort of every coordinate:
    O(d n log n), one read of the updates.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    def kappa(self, n: int, f: int) -> float | None:
        """Return 6 r (1 + r) with r = f / (n - 2f); None for another f than this rule's."""
        r = f / (n - 2 * f)
        return 6 * r * (1 + r) if f == self.f else None

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the number of values to drop on each side, as the plan."""
        return Decision(plan=cohort.remaining(self.f))

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the tile's trimmed mean (c,), and how often each row counted (1, n)."""
        return trimmed_mean_of(tile, decision.plan)
