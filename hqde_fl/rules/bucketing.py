"""Bucketing (Karimireddy, He and Jaggi, 2022, arXiv:2006.09365)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class Bucketing(Rule):
    """Pre-aggregation: means of random buckets of s updates, other ones in each round.

    ceil(n / s) rows are left, with less spread among the honest ones; f faulty clients spoil at
    most f of them, so the rule that follows must tolerate f among ceil(n / s). The last bucket may
    be smaller. O(n): it needs no distances.

    Parameters
    ----------
    s : int
        Updates in a bucket, >= 1.
    """

    is_preaggregation = True

    s: int = 2

    def __post_init__(self) -> None:
        if self.s < 1:
            raise ConfigError(f"Bucketing needs s >= 1, found {self.s}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def output_rows(self, n: int) -> int:
        """Return the number of buckets, ceil(n / s)."""
        return -(-n // self.s)

    def breakdown(self, n: int) -> int:
        """Return n: a bucket without faulty clients stays honest; the next rule sets the bound."""
        return n

    def moved_rows(self, moved: float, n: int, norm: float) -> tuple[float, float]:
        """Return that one bucket's mean moves, by a part of what an update in it does.

        The order of the updates depends on their clients' ids alone.
        """
        smallest = n - self.s * (self.output_rows(n) - 1)
        return moved / smallest, norm

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return a mixing matrix with a row for each bucket: the mean of up to s random updates."""
        order = cohort.shuffled("bucketing")
        mixing = torch.zeros(self.output_rows(cohort.n), cohort.n, dtype=torch.float64)
        for bucket in range(mixing.shape[0]):
            rows = order[bucket * self.s : (bucket + 1) * self.s]
            mixing[bucket, rows] = 1 / len(rows)
        return Decision(mixing=mixing)
