"""Mean around the median (Xie, Koyejo and Gupta, 2018, arXiv:1802.10116)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.mean_around_median import mean_around_median_of
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class Meamed(Tolerant):
    """Mean of the n - f values of every coordinate that are closest to its median; n > 2f.

    Exactly n - f count, as in the paper; values that tie for the last places, which it leaves open,
    share them equally. Tolerates its f. Two sorts of every coordinate:
    O(d n log n), one read of the updates.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return as the plan n - f, the number of values to average in each coordinate."""
        return Decision(plan=cohort.n - cohort.remaining(self.f))

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the tile's mean around the median (c,), and how often each row counted (1, n)."""
        return mean_around_median_of(tile, decision.plan)
