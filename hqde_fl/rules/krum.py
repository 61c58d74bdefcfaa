"""Krum and Multi-Krum (Blanchard et al., 2017, arXiv:1703.02757)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.float32_gram import Float32Distances
from hqde_fl.rules.results import Decision, Measured, State


def krum_scores(squared: Tensor, f: int) -> Tensor:
    """Return (n,) sums of squared distances to the n - f - 2 nearest others, at least to one.

    The neighbour count is the paper's and Flower's; byzfl's is n - f - 1.
    """
    n = squared.shape[0]
    nearest = max(1, n - f - 2)
    others = squared.clone().fill_diagonal_(torch.inf)
    return others.topk(min(nearest, n - 1), dim=1, largest=False).values.sum(dim=1)


def rank_by_score(scores: Tensor, squared: Tensor) -> Tensor:
    """Return row indices (n,), least score first, ties by least sum of squared distances to all.

    With a single neighbour the two ends of the shortest distance always have equal scores.
    """
    order = np.lexsort((squared.sum(dim=1).numpy(), scores.numpy()))
    return torch.from_numpy(order)


def _decide(measured: Measured, cohort: Cohort, f: int, m: int) -> Decision:
    """Return equal weights for the m updates with the least Krum scores for f."""
    assert measured.geometry is not None
    squared = measured.geometry.squared_distances()
    return _average(rank_by_score(krum_scores(squared, f), squared)[:m], cohort)


def _decide_from_float32(
    distances: Float32Distances, cohort: Cohort, f: int, m: int
) -> Decision | None:
    """Return the decision of ``_decide``; None if an error within the bounds could change it."""
    squared, error = distances.geometry.squared_distances(), distances.error
    lower, upper = _sums_of_nearest(squared - error, f), _sums_of_nearest(squared + error, f)
    order = _sums_of_nearest(squared, f).argsort()
    chosen, others = order[:m], order[m:]
    if len(others) and not bool(upper[chosen].max() < lower[others].min()):
        return None
    return _average(chosen, cohort)


def _sums_of_nearest(squared: Tensor, f: int) -> Tensor:
    """Return ``krum_scores`` but for the last bits, without sorting the distances."""
    n = squared.shape[0]
    nearest = min(max(1, n - f - 2), n - 1)
    others = squared.clone().fill_diagonal_(torch.inf).numpy()
    others.partition(nearest - 1, axis=1)
    return torch.from_numpy(others[:, :nearest].sum(axis=1))


def _average(chosen: Tensor, cohort: Cohort) -> Decision:
    """Return equal weights for the chosen rows, with their clients in the diagnostics."""
    m = len(chosen)
    mixing = torch.zeros(1, cohort.n, dtype=torch.float64)
    mixing[0, chosen] = 1 / m
    names = sorted(cohort.ids[row] for row in chosen.tolist())
    return Decision(mixing=mixing, diagnostics={"krum-chosen": names})


@dataclass(frozen=True)
class Krum(Tolerant):
    """The update with the least sum of squared distances to its n - f - 2 nearest; n >= 2f + 3.

    Of equal sums the one with the least sum of squared distances to all is taken.

    Tolerates its f. With r = f / (n - 2f) it is (f, 6 (1 + r))-robust (Allouah et al., 2023,
    arXiv:2302.01772). O(n^2 d) for the Gram matrix, O(n^2 log n) for the scores.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    gram = tries_float32 = True

    def minimum(self, faulty: int = 0) -> int:
        """Return 2f + 3, with f lowered by ``faulty`` but not below 0."""
        return 2 * max(0, self.f - faulty) + 3

    def kappa(self, n: int, f: int) -> float | None:
        """Return 6 (1 + r) with r = f / (n - 2f); None for another f than this rule's."""
        return 6 * (1 + f / (n - 2 * f)) if f == self.f else None

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return weight one for the update with the least score."""
        return _decide(measured, cohort, cohort.remaining(self.f), 1)

    def decide_from_float32(
        self, distances: Float32Distances, cohort: Cohort, state: State
    ) -> Decision | None:
        """Return the decision of ``decide``; None if the distances' error leaves doubt about it."""
        return _decide_from_float32(distances, cohort, cohort.remaining(self.f), 1)


@dataclass(frozen=True)
class MultiKrum(Tolerant):
    """Mean of the m updates with the least Krum scores; n >= max(2f + 3, m + f).

    Tolerates its f, as long as m <= n - f: the default is n - f. Costs what Krum costs and one
    weighted sum. ``filtered`` are the updates left out when m is n - f; with a smaller m being left
    out says nothing about a client.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    m : int
        Updates to average, >= 0; 0 for n - f.
    """

    gram = tries_float32 = True

    m: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m < 0:
            raise ConfigError(f"MultiKrum needs m >= 0 (0 for n - f), found {self.m}")

    def minimum(self, faulty: int = 0) -> int:
        """Return max(2f + 3, m + f), with f lowered by ``faulty`` but not below 0."""
        f = max(0, self.f - faulty)
        return max(2 * f + 3, self.m + f)

    def filters(self, n: int) -> bool:
        """Return True if f > 0 and m is 0 or n - f: updates left out are then filtered."""
        return self.f > 0 and self.m in (0, n - self.f)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for the m updates with the least scores, n - f if m is 0."""
        f = cohort.remaining(self.f)
        decision = _decide(measured, cohort, f, self.m or cohort.n - f)
        return self._with_filtered(decision, cohort.n - f)

    def decide_from_float32(
        self, distances: Float32Distances, cohort: Cohort, state: State
    ) -> Decision | None:
        """Return the decision of ``decide``; None if the distances' error leaves doubt about it."""
        f = cohort.remaining(self.f)
        decision = _decide_from_float32(distances, cohort, f, self.m or cohort.n - f)
        return None if decision is None else self._with_filtered(decision, cohort.n - f)

    def _with_filtered(self, decision: Decision, max_kept: int) -> Decision:
        """Return the decision, with unweighted updates as filtered unless 0 < m < ``max_kept``."""
        if 0 < self.m < max_kept:
            return decision
        assert decision.mixing is not None
        return replace(decision, filtered=decision.mixing[0] == 0)
