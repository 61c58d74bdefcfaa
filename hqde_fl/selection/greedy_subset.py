"""Greedy choice of a subset: the baseline that every solver of the problem has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hqde_fl.selection.qubo_problem import SubsetProblem


def greedy_subset(problem: SubsetProblem) -> list[int]:
    """Return a subset to which the item that adds most was added until its size was reached."""
    return resized(problem, ())


def resized(problem: SubsetProblem, chosen: Sequence[int]) -> list[int]:
    """Return a subset of exactly the problem's size, made of one of any size.

    While it is too small, the item that adds most is added; while it is too large, the one that
    adds least is removed. Among equals the first counts.
    """
    inside = np.zeros(problem.items, dtype=bool)
    inside[list(chosen)] = True
    gains = problem.gains(np.flatnonzero(inside))
    for _ in range(problem.size - int(inside.sum())):
        best = int(np.where(inside, -np.inf, gains).argmax())
        inside[best] = True
        gains += problem.pairs[best]
    for _ in range(int(inside.sum()) - problem.size):
        worst = int(np.where(inside, gains, np.inf).argmin())
        inside[worst] = False
        gains -= problem.pairs[worst]
    return [int(item) for item in np.flatnonzero(inside)]
