"""Solution of the choice of k of n items by annealing or a sampler, and never worse than greedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqde_fl.selection.dimod_sampler import check_solver, sample_subset, solver_name
from hqde_fl.selection.greedy_subset import greedy_subset
from hqde_fl.selection.qubo_problem import SubsetProblem
from hqde_fl.selection.swap_annealing import SwapAnnealing

ANNEALING, GREEDY = "annealing", "greedy"
BUILT_IN = (ANNEALING, GREEDY)
"""Solvers that need no further package."""


@dataclass(frozen=True)
class Subset:
    """A solution of a ``SubsetProblem``.

    Parameters
    ----------
    chosen : tuple[int, ...]
        The items, exactly as many as asked for, in ascending order.
    value : float
        The objective.
    solver : str
        What found it: ``"annealing"``, ``"greedy"`` or the sampler's class.
    repaired : bool
        True if the sampler returned subsets of other sizes only, so that items were added or
        removed.
    """

    chosen: tuple[int, ...]
    value: float
    solver: str
    repaired: bool = False


def solve_subset(
    problem: SubsetProblem,
    rng: np.random.Generator,
    solver: Any = ANNEALING,
    options: Mapping[str, Any] | None = None,
) -> Subset:
    """Return the better of a solver's subset and the greedy one.

    Where the objective cannot tell items apart, the choice among them is random.

    Parameters
    ----------
    problem : SubsetProblem
        The problem.
    rng : np.random.Generator
        The source of random numbers.
    solver : str or dimod.Sampler
        ``"annealing"``, ``"greedy"``, or what ``find_sampler`` takes.
    options : Mapping[str, Any], optional
        Arguments for a sampler's method ``sample``.
    """
    check_solver("solver", solver, BUILT_IN)
    if problem.size in (0, problem.items):
        chosen = tuple(range(problem.size))
        return Subset(chosen, problem.value(chosen), GREEDY)
    order = rng.permutation(problem.items)
    shuffled, repaired, name = problem.reordered(order), False, str(solver)
    solutions = [(GREEDY, greedy_subset(shuffled), False)]
    if solver == ANNEALING:
        solutions.insert(0, (ANNEALING, SwapAnnealing().solve(shuffled, rng), False))
    elif solver != GREEDY:
        items, repaired = sample_subset(shuffled, solver, options or {}, rng)
        name = solver if isinstance(solver, str) else solver_name(solver)
        solutions.insert(0, (name, items, repaired))
    subsets = [
        Subset(chosen := tuple(sorted(order[items].tolist())), problem.value(chosen), by, changed)
        for by, items, changed in solutions
    ]
    return max(subsets, key=lambda subset: subset.value)
