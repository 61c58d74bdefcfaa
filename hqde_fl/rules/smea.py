"""Smallest maximum eigenvalue averaging, SMEA (Allouah et al., 2023, arXiv:2302.04787)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, islice
from math import comb

import torch
from torch import Tensor

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State

BATCH = 256
"""Subsets whose eigenvalues are computed at once."""


def least_spread_subset(gram: Tensor, f: int) -> list[int]:
    """Return the n - f rows whose covariance has the smallest largest eigenvalue.

    Parameters
    ----------
    gram : Tensor
        (n, n) float64 inner products relative to any point.
    f : int
        Rows to leave out.
    """
    n = gram.shape[0]
    best, kept = torch.inf, tuple(range(n))
    subsets = combinations(range(n), n - f)
    while batch := list(islice(subsets, BATCH)):
        rows = torch.tensor(batch)
        parts = gram[rows[:, :, None], rows[:, None, :]]
        centred = parts - parts.mean(dim=1, keepdim=True)
        centred = centred - centred.mean(dim=2, keepdim=True)
        largest = torch.linalg.eigvalsh(centred)[:, -1]
        least = int(largest.argmin())
        if float(largest[least]) < best:
            best, kept = float(largest[least]), batch[least]
    return list(kept)


@dataclass(frozen=True)
class SMEA(Tolerant):
    """Mean of the n - f updates whose covariance has the smallest largest eigenvalue; n > 2f.

    Unlike the diameter of MDA, this bounds what faulty clients do along any one direction. With
    r = f / (n - 2f) it is (f, 4 f (1 + r)^2 / (n - f))-robust. Tolerates its f. The subset is
    exact: all C(n, f) are compared, and a number beyond ``limit`` is an error. O(n^2 d) for the
    Gram matrix, O(C(n, f) n^3) for the eigenvalues.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    limit : int
        The largest number of subsets that are compared, >= 1.
    """

    gram = True

    limit: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 1:
            raise ConfigError(f"SMEA needs limit >= 1, found {self.limit}")

    def kappa(self, n: int, f: int) -> float | None:
        """Return 4 f (1 + f / (n - 2f))^2 / (n - f); None for another f than this rule's."""
        return 4 * f / (n - f) * (1 + f / (n - 2 * f)) ** 2 if f == self.f else None

    def filters(self, n: int) -> bool:
        """Return True if f > 0: updates outside the subset are filtered."""
        return self.f > 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for the n - f updates of least spread in any direction.

        Raises ``BoundError`` if that needs more than ``limit`` subsets to be compared.
        """
        assert measured.geometry is not None
        f, n = cohort.remaining(self.f), cohort.n
        subsets = comb(n, f)
        if subsets > self.limit:
            raise BoundError(
                f"{self} would compare C(n, f) = {subsets} subsets with n={n}, f={f}; "
                f"the limit is {self.limit}: use MDA or CAF, or a larger limit"
            )
        # relative to the mean, what all updates share cannot cost the digits of their differences
        even = torch.full((n,), 1 / n, dtype=torch.float64)
        kept = least_spread_subset(measured.geometry.about(even), f)
        mixing = torch.zeros(1, n, dtype=torch.float64)
        mixing[0, kept] = 1 / len(kept)
        return Decision(mixing=mixing, filtered=mixing[0] == 0)
