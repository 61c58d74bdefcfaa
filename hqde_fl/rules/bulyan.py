"""Bulyan (El Mhamdi, Guerraoui and Rouault, 2018, arXiv:1802.07927)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.mean_around_median import mean_around_median_of
from hqde_fl.rules.results import Decision, Measured, State


def select_by_krum(squared: Tensor, f: int, count: int) -> list[int]:
    """Return ``count`` row indices, each the Krum winner among those not chosen before it.

    With k rows left the scores sum the k - f - 2 nearest of them, at least one; ties go to the row
    with the least sum of distances to all that are left. Every row's neighbours are sorted once;
    choosing a row deletes it from all the lists.

    Parameters
    ----------
    squared : Tensor
        (n, n) squared distances.
    f : int
        Faulty clients to tolerate.
    count : int
        Rows to choose, at most n.
    """
    apart = squared.clone().fill_diagonal_(torch.inf).numpy()
    order = apart.argsort(axis=1, kind="stable")[:, :-1]  # each row's others, nearest first
    near = np.take_along_axis(apart, order, axis=1)
    left = np.arange(squared.shape[0])
    chosen: list[int] = []
    while True:
        scores = near[:, : max(1, len(left) - f - 2)].sum(axis=1)
        best = np.flatnonzero(scores == scores.min())
        if len(best) > 1:  # always so if only one neighbour counts
            best = best[near[best].sum(axis=1).argsort(kind="stable")]
        winner = int(left[best[0]])
        chosen.append(winner)
        if len(chosen) == count:
            return chosen
        left, order, near = (np.delete(table, best[0], axis=0) for table in (left, order, near))
        others = order != winner
        order, near = (table[others].reshape(len(left), -1) for table in (order, near))


@dataclass(frozen=True)
class Bulyan(Tolerant):
    """Mean around the median of updates that Krum chose one by one; n >= 4f + 3.

    theta = n - 2f updates are chosen by Krum, each among those that are left; every coordinate is
    the mean of the theta - 2f chosen values closest to their median. Tolerates its f, and bounds
    what a faulty client can do to a *single* coordinate of a large update. O(n^2 d) for the Gram
    matrix, O(n^3) for the choice, two sorts of every coordinate.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    gram = True

    def minimum(self, faulty: int = 0) -> int:
        """Return 4f + 3, with f lowered by ``faulty`` but not below 0."""
        return 4 * max(0, self.f - faulty) + 3

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return as the plan theta rows chosen by Krum, and theta - 2f, the values to average."""
        assert measured.geometry is not None
        f = cohort.remaining(self.f)
        theta = cohort.n - 2 * f
        chosen = sorted(select_by_krum(measured.geometry.squared_distances(), f, theta))
        names = sorted(cohort.ids[row] for row in chosen)
        return Decision(plan=(chosen, theta - 2 * f), diagnostics={"bulyan-chosen": names})

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the chosen rows' mean around the median (c,), and the rows' counts (1, n)."""
        chosen, count = decision.plan
        result, kept = mean_around_median_of(tile[chosen], count)
        counts = torch.zeros(1, tile.shape[0], dtype=torch.float64, device=tile.device)
        counts[:, chosen] = kept
        return result, counts
