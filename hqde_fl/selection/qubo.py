"""Selection of exactly k clients by quality, cost and diversity, as a quadratic problem (QUBO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import import_attribute, is_own
from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.dimod_sampler import check_solver
from hqde_fl.selection.fair_shares import CEILING, FairShares, check_ceiling
from hqde_fl.selection.history_columns import Floats, HistoryColumns
from hqde_fl.selection.qubo_problem import Pairs, SubsetProblem, Weights, check_weights
from hqde_fl.selection.subset_solver import BUILT_IN, solve_subset

MAX_CANDIDATES = 2000
"""Most clients that the problem is made of; of more, random ones are considered."""


@final
@dataclass(frozen=True)
class QUBO(Selector):
    """Chooses exactly k clients by quality - cost + diversity, a quadratic problem.

    All that is compared was measured by the server. Quality is the moving mean of a client's
    successes. Cost is its seconds from message to reply, relative to twice the median over the
    clients, at most 1. Diversity of two clients is 1 - the cosine of their last updates, estimated
    from random projections, so it is approximate (off by about 0.06), and as old as the older of
    the two updates.

    Nobody is chosen always, and nobody starves: clients that have waited for 2.5 fair intervals
    come first, and one that has had ``ceiling`` times its fair share is left out as long as there
    are others. The diversity of a pair counts at most as much as that of a typical pair, so that an
    attacker gains little by an update unlike all others. A new client counts as successful, of
    median speed, and as diverse as a typical pair.

    Parameters
    ----------
    k : int
        The number of clients to choose, >= 1; all clients if there are fewer.
    quality, cost, diversity : float
        Weights of the three, >= 0; by default HQDE's coefficients.
    ceiling : float
        Most fair shares of a client over a run, >= 1.
    pairs : "mean" or "sum"
        ``"mean"``: a client's diversity is its mean diversity to the others chosen, whatever k is;
        ``"sum"``: that of every pair counts in full, as in HQDE.
    solver : str or dimod.Sampler
        ``"annealing"``: by swaps; ``"greedy"``; with the extra ``quantum`` also ``"tabu"``,
        ``"simulated-annealing"``, ``"steepest-descent"``, ``"exact"`` (of 20 clients at most); or a
        ``dimod.Sampler``, as ``module:attribute`` or ``file.py:attribute`` in a file. If the greedy
        choice is better than the solver's, it is taken.
    solver_options : Mapping[str, Any]
        Arguments for the sampler's method ``sample``, for instance ``{"num-reads": 100}``.
    """

    uses_sketches: ClassVar[bool] = True

    k: int
    quality: float = Weights.quality
    cost: float = Weights.cost
    diversity: float = Weights.diversity
    ceiling: float = CEILING
    pairs: Pairs = Weights.pairs
    solver: Any = "annealing"
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    _own_solver: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"QUBO.k must be a whole number >= 1, found {self.k!r}")
        check_weights("QUBO", self)
        check_ceiling("QUBO", self.ceiling)
        check_solver("QUBO.solver", self.solver, BUILT_IN)
        if is_own(self.solver):  # now, because files are searched beside the experiment's
            object.__setattr__(self, "_own_solver", import_attribute("solver", self.solver))
        if self.solver_options and self.solver in BUILT_IN:
            raise ConfigError(f"QUBO.solver-options are for samplers, found solver {self.solver!r}")

    @property
    def weights(self) -> Weights:
        """The weights of quality, cost and diversity."""
        return Weights(self.quality, self.cost, self.diversity, self.pairs)

    def size(self, available: int) -> int:
        """Return k, or the number of available clients if that is smaller."""
        return min(self.k, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the best clients that were found, in their own order.

        The state says, as ``solver``, what found them (``"none"`` where there was no choice), and
        as ``repaired`` whether the sampler's subset had another size.
        """
        columns = HistoryColumns.of(candidates)
        shares = FairShares.of(candidates, columns, self.ceiling, state)
        scores, found_by, repaired = np.zeros(len(columns.success)), "none", False
        due, pool = np.flatnonzero(shares.due), np.flatnonzero(shares.allowed & ~shares.due)
        places = min(candidates.size - len(due), len(pool))
        if 0 < places < len(pool):
            if len(pool) > (most := max(MAX_CANDIDATES, places)):
                pool = np.sort(rng.choice(pool, most, replace=False))
            problem = self._problem(candidates, columns, [*due, *pool], len(due) + places)
            rest = problem.after(range(len(due)), range(len(due), problem.items))
            solver = self.solver if self._own_solver is None else self._own_solver
            found = solve_subset(rest, rng, solver, self.solver_options)
            scores[pool[list(found.chosen)]] = 1.0
            found_by, repaired = found.solver, found.repaired
        chosen = shares.choose(scores, rng)  # those that are due, and others if too few are allowed
        memory = {**shares.after(chosen), "solver": found_by, "repaired": repaired}
        return Selection([candidates.ids[place] for place in chosen], state=memory)

    def _problem(
        self,
        candidates: Candidates,
        columns: HistoryColumns,
        places: Sequence[int],
        size: int,
    ) -> SubsetProblem:
        """Return the problem of choosing ``size`` of the candidates at some places."""
        sketches = [candidates.of(candidates.ids[place]).sketch for place in places]
        cost = relative_seconds(columns.seconds)[places]
        quality = columns.success[places]
        return SubsetProblem.of(quality, cost, typical_diversity(sketches), size, self.weights)


def relative_seconds(seconds: Floats) -> Floats:
    """Return costs in [0, 1] from seconds or nan: 0.5 for the known median and where unknown."""
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return np.full(len(seconds), 0.5)
    median = float(np.median(known))
    return np.minimum(np.where(np.isnan(seconds), median, seconds) / (2 * median), 1.0)


def typical_diversity(sketches: Sequence[torch.Tensor | None]) -> Floats:
    """Return the diversity of each pair: 1 - cosine of the sketches, at most that of typical pairs.

    Each client has a median diversity to the others; the bound is the lower median of those, which
    less than half of the clients cannot raise above an honest client's. A pair with an unknown
    sketch counts as typical, one with a sketch of zeros, which has no direction, as not diverse.
    """
    n = len(sketches)
    known = np.array([sketch is not None for sketch in sketches], dtype=bool)
    if known.sum() < 2:
        return np.zeros((n, n))
    rows = np.nan_to_num(
        np.stack([np.asarray(s, dtype=np.float64).ravel() for s in sketches if s is not None])
    )
    lengths = np.linalg.norm(rows, axis=1)
    still = lengths == 0
    rows = rows / np.where(still, 1.0, lengths)[:, None]
    among = np.clip(1.0 - rows @ rows.T, 0.0, 2.0)
    among[still] = among[:, still] = 0.0
    bound = _typical(among)
    pairs = np.full((n, n), bound)
    pairs[np.ix_(known, known)] = np.minimum((among + among.T) / 2, bound)
    np.fill_diagonal(pairs, 0.0)
    return pairs


def _typical(among: NDArray[np.float64]) -> float:
    """Return the lower median over clients of the median diversity to the others."""
    n = len(among)
    others = among[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return float(np.quantile(np.median(others, axis=1), 0.5, method="lower"))
