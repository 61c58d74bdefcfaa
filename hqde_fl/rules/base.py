"""Measure, decide, combine: the three steps of every aggregation rule.

* **measure** reads the updates tile by tile and returns a statistic that is a sum over tiles: inner
  products of the updates, a score for each client, or nothing.
* **decide** sees that statistic, the cohort and the rule's state, never the updates; it settles how
  much each update counts. Everything it touches is n-sized.
* **combine** reads the tiles once more and returns the result's columns.

A rule is a frozen dataclass without hidden state: it receives its memory of earlier rounds as
``state`` and returns the new one. A rule never sees an update that is not finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.float32_gram import Float32Distances
from hqde_fl.rules.gram import relative_gram
from hqde_fl.rules.results import Aggregate, Decision, Measured, State, Statistic
from hqde_fl.rules.round_context import Need
from hqde_fl.updates import Columns

StepRunner = Callable[[Sequence["Rule"], Columns, Cohort, State], Aggregate]
"""Runs pre-aggregations and a last rule over updates: ``aggregation.run_steps`` on an executor."""


class Aggregator(ABC):
    """Anything that ``aggregate`` can run: a rule, a chain of rules or a tree of rules."""

    @abstractmethod
    def run(
        self, updates: Columns, cohort: Cohort, state: State, run_steps: StepRunner
    ) -> Aggregate:
        """Return the aggregate of one round's updates; call ``aggregate`` instead of this.

        Parameters
        ----------
        updates : Columns
            (n, d) finite updates.
        cohort : Cohort
            The n clients that sent them, with ``excused`` set.
        state : State
            The state that the last round returned; empty at first.
        run_steps : StepRunner
            Runs the rules that this aggregator consists of.
        """

    @abstractmethod
    def minimum(self, faulty: int = 0) -> int:
        """Return the smallest number of updates it works on if its f is lowered by ``faulty``."""

    @abstractmethod
    def breakdown(self, n: int) -> int:
        """Return the largest number of faulty clients among n that leaves the result bounded."""

    @property
    def expected_faulty(self) -> int | None:
        """The number of faulty clients f that it is configured for; None if it has no f.

        The largest one in a chain. None for a tree, each node of which has an f of its own.
        """
        return None

    def kappa(self, n: int, f: int) -> float | None:
        """Return a proven constant of (f, kappa)-robustness among n updates; None without proof.

        For any n - f updates S: ||result - mean of S||^2 <= kappa var of S, where var is the mean
        squared distance to the mean.
        """
        return None

    def sensitivity(self, n: int, norm: float) -> float | None:
        """Return how far the result moves, in L2 norm, if one of n updates is replaced by another.

        A bound for all updates no longer than ``norm``, which differential privacy needs: it adds
        noise in proportion. The rule must have no memory. None, the default: no bound is proven
        that is small enough to be of use.
        """
        return None

    def filters(self, n: int) -> bool:
        """Return whether this rule can filter clients among n updates; False unless overridden.

        A rule that cannot filter is not judged by the clients that it keeps.
        """
        return False

    @property
    def is_preaggregation(self) -> bool:
        """True if the output is rows for another rule, so that this cannot be the last rule."""
        return False

    @property
    def confidence_from(self) -> str | None:
        """The source of the confidence in clients that it needs.

        ``"reported"``, ``"held-out"`` or ``"efficiency"``; None, as for most rules: it needs none.
        """
        return None

    @property
    def needs(self) -> frozenset[Need]:
        """The rule's needs besides updates: a ``"reference"`` update, ``"layers"``, ``"history"``.

        Nothing, as for most rules, unless overridden. A rule with ``"history"`` remembers clients.
        """
        return frozenset()

    def mean_weights(self, cohort: Cohort) -> Tensor:
        """Return each client's weight in a mean, (n,) float64: all one unless overridden."""
        return torch.ones(cohort.n, dtype=torch.float64)


class Rule(Aggregator):
    """An aggregation rule, or a pre-aggregation whose output is rows for another rule.

    Concrete rules are final frozen dataclasses. They set ``gram`` if ``decide`` needs distances,
    ``tries_float32`` if a few digits of them often suffice, and ``scored`` if it needs the sum of
    their own ``score``. What is always true is a class attribute without an annotation, as
    ``scored = True``; what depends on a parameter overrides the property.
    """

    gram: ClassVar[bool] = False
    tries_float32: ClassVar[bool] = False

    @property
    def scored(self) -> bool:
        """True if ``decide`` needs the sum of ``score`` over the tiles."""
        return False

    @property
    def remembers(self) -> bool:
        """True if ``decide`` needs a sample of each update (``Measured.sample``) to remember."""
        return False

    def output_rows(self, n: int) -> int:
        """Return the number of rows that n updates become: one, unless a pre-aggregation."""
        return 1

    def composed_kappa(self, kappa: float, n: int, f: int) -> float | None:
        """Return the (f, kappa)-robustness constant of this step with a rule of ``kappa`` after it.

        None unless one is proven for n updates, f of them faulty.
        """
        return None

    def moved_rows(self, moved: float, n: int, norm: float) -> tuple[float, float] | None:
        """Return how far one row of this pre-aggregation's output moves, and the rows' norm.

        Parameters
        ----------
        moved : float
            How far, at most, one of the n rows that it is given moves; all others stay.
        n : int
            Number of these rows.
        norm : float
            Their norm, at most.

        Returns
        -------
        tuple[float, float] or None
            Bounds of how far one of its output rows moves, and of the norm of all; None, the
            default, if other output rows can move as well.
        """
        return None

    def remembered_rows(self, state: State) -> Sequence[Tensor]:
        """Return vectors (d,) of the state to add as rows below the updates; none by default."""
        return ()

    def added_rows(self, cohort: Cohort, state: State, size: int) -> Sequence[Tensor]:
        """Return vectors to add as rows below the updates: ``remembered_rows`` unless overridden.

        Parameters
        ----------
        cohort : Cohort
            The rows' clients, with the round's context.
        state : State
            The rule's memory.
        size : int
            The number d of columns.
        """
        return self.remembered_rows(state)

    def second_score(
        self, measured: Measured, cohort: Cohort, state: State
    ) -> Callable[[Tensor], Tensor] | None:
        """Return a further score of the tiles that depends on the first measurements, or None.

        Its sum over all tiles is ``Measured.second``. None, the default, saves the pass over the
        updates.
        """
        return None

    def score(self, tile: Tensor) -> Tensor:
        """Return the rule's own float64 numbers from an (n, c) tile, to be summed over all tiles.

        Raises ``NotImplementedError`` unless overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score")

    def measure(self, tile: Tensor, pivot: int) -> Statistic:
        """Return a tile's Gram matrix and score, each None if ``decide`` does not need it.

        Parameters
        ----------
        tile : Tensor
            (n, c) columns of the updates.
        pivot : int
            The row that the Gram matrix is relative to.
        """
        return Statistic(
            relative_gram(tile, pivot, 1.0) if self.gram else None,
            self.score(tile) if self.scored else None,
        )

    @abstractmethod
    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return how much each update counts, from what was measured and the rule's state."""

    def decide_from_float32(
        self, distances: Float32Distances, cohort: Cohort, state: State
    ) -> Decision | None:
        """Return the decision of ``decide``; None if the distances' error leaves doubt about it.

        Always None unless overridden.
        """
        return None

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the result's columns (c,) of an (n, c) tile, and how much each update counted.

        The counts are (1, n) float64, summed over the tile's columns. Called only if the decision
        has no mixing: otherwise result and influence follow from the mixing. Raises
        ``NotImplementedError`` unless overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} is linear")

    def finish(self, delta: Tensor, decision: Decision, cohort: Cohort) -> Tensor:
        """Return a last rule's result (d,) after a change to the whole of it; as it is by default.

        ``delta`` is not written to.
        """
        return delta

    def next_state(self, delta: Tensor, state: State) -> State:
        """Return the state to keep, given a last rule's result (d,); ``state`` by default."""
        return state

    def run(
        self, updates: Columns, cohort: Cohort, state: State, run_steps: StepRunner
    ) -> Aggregate:
        """Return the aggregate of one round's updates by this one rule."""
        return run_steps((self,), updates, cohort, state)


@dataclass(frozen=True)
class Tolerant(Rule):
    """A rule with a given number f of faulty clients to tolerate.

    It needs 2f + 1 updates, unless a subclass needs more.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate, >= 0.
    """

    f: int

    def __post_init__(self) -> None:
        if self.f < 0:
            raise ConfigError(f"{type(self).__name__} needs f >= 0, found {self.f}")

    @property
    def expected_faulty(self) -> int | None:
        """The f of this rule."""
        return self.f

    def minimum(self, faulty: int = 0) -> int:
        """Return 2f + 1, with f lowered by ``faulty`` but not below 0."""
        return 2 * max(0, self.f - faulty) + 1

    def breakdown(self, n: int) -> int:
        """Return f if n updates are at least the minimum, else 0."""
        return self.f if n >= self.minimum() else 0


def linear(mixing: Tensor, tile: Tensor) -> Tensor:
    """Return ``mixing @ tile``, (m, c), in the tile's precision."""
    return mixing.to(tile) @ tile
