"""Fed-NGA: the mean of normalised updates (Zuo et al., 2024, arXiv:2408.09539)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.rules.stretching import stretching


@dataclass(frozen=True)
class NormalisedMean(Rule):
    """Mean of the updates' directions, all brought to one length: l / n sum x_i / ||x_i||.

    Tolerates f < n / 2, any n, in that nothing that clients send moves the result by more than the
    length l times their fraction; the paper's convergence needs honest directions to agree more
    than the faulty ones pull away. An update of zeros counts for nothing. O(n^2 d) for the Gram
    matrix that the lengths are read from, one weighted sum.

    Parameters
    ----------
    length : float
        The length l of every update, >= 0. 0, the default: the median length, so that the result
        scales with the updates; the paper's step size otherwise.
    """

    gram = True

    length: float = 0.0

    def __post_init__(self) -> None:
        if not (self.length >= 0 and math.isfinite(self.length)):
            raise ConfigError(f"NormalisedMean needs a finite length >= 0, found {self.length}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2, as the median length needs it."""
        return (n - 1) // 2

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights that bring every update to one length."""
        assert measured.geometry is not None
        lengths = measured.geometry.norms()
        target = self.length / measured.geometry.unit or float(lengths.median())
        weights = stretching(lengths, target) / cohort.n
        if not weights.any():  # all are zero, and so is their mean
            weights = torch.full_like(weights, 1 / cohort.n)
        return Decision(
            mixing=weights[None, :],
            diagnostics={"normalised-zeros": int((weights == 0).sum())},
        )
