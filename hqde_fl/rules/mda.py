"""Minimum-diameter averaging (El Mhamdi et al., 2021, arXiv:2008.00742; Rousseeuw, 1985)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.rules.base import Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


def covers(far: list[int], budget: int) -> Iterator[int]:
    """Yield sets of at most ``budget`` rows without which no two of the other rows are far apart.

    Every set from which no row can be spared is yielded, once; few others are.

    Parameters
    ----------
    far : list[int]
        For each row the rows that are far from it. Here and in the result a set of rows is an int
        with a bit for each.
    budget : int
        Rows to leave out, at most.
    """
    seen: set[int] = set()

    def search(removed: int, budget: int) -> Iterator[int]:
        worst, partners, ends = -1, 0, 0
        for i, row in enumerate(far):
            if removed >> i & 1:
                continue
            others = row & ~removed
            ends += others.bit_count()
            if others.bit_count() > partners.bit_count():
                worst, partners = i, others
        if ends > 2 * budget * partners.bit_count():
            return  # each removed row ends at most that many large distances
        if worst < 0:
            if removed not in seen:
                seen.add(removed)
                yield removed
            return
        if budget > 0:  # either the worst row is removed, or all that are far from it
            yield from search(removed | 1 << worst, budget - 1)
        if 0 < partners.bit_count() <= budget:
            yield from search(removed | partners, budget - partners.bit_count())

    return search(0, budget)


def least_diameter(squared: Tensor, f: int) -> list[int]:
    """Return the indices of the n - f rows with the least diameter, ties by least variance."""
    n = squared.shape[0]
    levels = squared.unique()
    low, high = 0, len(levels) - 1
    while low < high:  # the least level at which f rows suffice to remove all larger distances
        middle = (low + high) // 2
        if next(covers(_far(squared, levels[middle]), f), None) is None:
            low = middle + 1
        else:
            high = middle
    best: tuple[float, list[int]] = (torch.inf, [])
    for removed in covers(_far(squared, levels[low]), f):
        kept = [i for i in range(n) if not removed >> i & 1]
        while len(kept) > n - f:  # only if many rows coincide: drop the outermost
            spread = squared[kept][:, kept].sum(dim=1)
            kept.pop(int(spread.argmax()))
        spread_ = float(squared[kept][:, kept].sum())
        if spread_ < best[0]:
            best = spread_, kept
    return best[1]


def _far(squared: Tensor, level: Tensor) -> list[int]:
    """Return, for each row, the rows at a squared distance above the level, as bits of an int."""
    return [sum(1 << j for j in row.nonzero().flatten().tolist()) for row in squared > level]


@dataclass(frozen=True)
class MDA(Tolerant):
    """Mean of the n - f updates with the least diameter (largest distance among them); n > 2f.

    Tolerates its f. The subset is exact, found as the smallest set of clients that touches every
    large distance; that takes up to min(2^f, C(n, f)) steps for each of O(log n) diameters, and a
    number beyond ``limit`` is an error. O(n^2 d) for the Gram matrix.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    limit : int
        The largest min(2^f, C(n, f)) that is computed, >= 1.
    """

    gram = True

    limit: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 1:
            raise ConfigError(f"MDA needs limit >= 1, found {self.limit}")

    def filters(self, n: int) -> bool:
        """Return True if f > 0: updates outside the subset are filtered."""
        return self.f > 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for the n - f updates with the least diameter.

        Raises ``BoundError`` if that might take more than ``limit`` steps.
        """
        assert measured.geometry is not None
        f, n = cohort.remaining(self.f), cohort.n
        steps = min(1 << f, comb(n, f))
        if steps > self.limit:
            raise BoundError(
                f"{self} would take up to min(2^f, C(n, f)) = {steps} steps with n={n}, f={f}; "
                f"the limit is {self.limit}"
            )
        kept = least_diameter(measured.geometry.squared_distances(), f)
        mixing = torch.zeros(1, n, dtype=torch.float64)
        mixing[0, kept] = 1 / len(kept)
        return Decision(mixing=mixing, filtered=mixing[0] == 0)
