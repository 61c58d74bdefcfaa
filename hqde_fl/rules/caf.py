"""Covariance-bound-agnostic filter (Allouah, Guerraoui and Stephan, 2025, arXiv:2505.01874)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.eigenvectors import top_eigenvector
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.results import Decision, Measured, State

ROUNDING = 1e-12
"""Factors of a weight up to this one are zero."""


@dataclass(frozen=True)
class CAF(Tolerant):
    """Weights lowered along the direction of largest variance, as long as that helps; n > 2f.

    All weights start at one. While they sum to more than n - 2f: take the direction v of largest
    weighted variance about the weighted mean, and multiply every weight by 1 - t_i / max t, where
    t_i = <v, x_i - mean>^2. The result is the weighted mean that had the least largest variance.
    Tolerates its f without knowing how much honest updates vary.

    The direction is an exact eigenvector, of the n x n weighted Gram matrix (it spans the same
    space as the d x d covariance). O(n^2 d) for the Gram matrix; each of at most n steps sets a
    weight to zero and costs O(n^2) to O(n^3). ``filtered`` are those left with less than half.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    gram = True

    def filters(self, n: int) -> bool:
        """Return True if f > 0: updates left with less than half of their weight are filtered."""
        return self.f > 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights whose mean had the least variance in its worst direction."""
        assert measured.geometry is not None
        weights, steps = filtered_weights(measured.geometry, cohort.remaining(self.f))
        return Decision(
            mixing=(weights / weights.sum())[None, :],
            filtered=weights < 0.5,
            diagnostics={"caf-steps": steps},
        )


def filtered_weights(geometry: Geometry, f: int) -> tuple[Tensor, int]:
    """Return the weights (n,) in [0, 1] of least largest variance, and the number of steps."""
    n = geometry.n
    weights = torch.ones(n, dtype=torch.float64)
    best, least, direction = weights, torch.inf, None
    steps = 0
    while float(weights.sum()) > n - 2 * f and steps <= n:
        steps += 1
        about = geometry.about(weights / weights.sum())
        root = weights.sqrt()
        value, direction = top_eigenvector(
            root[:, None] * about * root[None, :] / weights.sum(), direction
        )
        if value < least:
            best, least = weights, value
        along = (about @ (root * direction)) ** 2
        furthest = float(torch.where(weights > 0, along, 0).max())
        if f == 0 or furthest <= 0:  # nothing to filter, or all updates with weight coincide
            break
        kept = (1 - along / furthest).clamp(0, 1)
        # of rows equally far away rounding must not leave one a weight, with which it counts again
        weights = torch.where(kept > ROUNDING, weights * kept, 0)
    return best, steps
