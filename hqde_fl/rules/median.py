"""Coordinate-wise median (Yin et al., 2018, arXiv:1803.01498)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.order_statistics import median_of
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class Median(Rule):
    """Median of every coordinate; the mean of the two middle values when n is even.

    Tolerates f < n / 2, any n. With r = f / (n - 2f) it is (f, 4 (1 + r)^2)-robust (Allouah et al.,
    2023, arXiv:2302.01772). One sort of every coordinate: O(d n log n), one read of the updates.
    """

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
        """Return an empty decision: every coordinate has a median of its own."""
        return Decision()

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the medians (c,) of a tile's columns, and how much each row counted (1, n)."""
        return median_of(tile)
