"""Measure, decide, combine: the three steps of every aggregation rule.

* **measure** reads the updates tile by tile and returns a statistic that is a sum over tiles: inner
  products of the updates, a score for each client, or nothing.
* **decide** sees only that statistic, who the clients are and the rule's state; it settles what
  each update counts for. Everything it touches is n-sized.
* **combine** reads the tiles once more and returns the result's columns.

A rule is a frozen dataclass without hidden state: what it must remember between rounds it receives
as ``state`` and returns. A rule never sees an update that is not finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.geometry import Geometry, relative_gram
from hqde_fl.updates import Columns

if TYPE_CHECKING:
    from hqde_fl.rules.executor import Executor
    from hqde_fl.rules.float32_gram import Rough

State = Mapping[str, Any]
"""What a rule remembers: tensors, numbers, strings, lists and mappings of them."""


@dataclass(frozen=True, eq=False)
class Statistic:
    """What was measured on some tiles; statistics of different tiles add up.

    Parameters
    ----------
    gram : Tensor or None
        ``relative_gram`` of the tiles, for rules that look at distances.
    score : Tensor or None
        The float64 sum that the rule asked for.
    """

    gram: Tensor | None = None
    score: Tensor | None = None

    def __add__(self, other: Statistic) -> Statistic:
        return Statistic(_sum(self.gram, other.gram), _sum(self.score, other.score))


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    return right if left is None else left if right is None else left + right


@dataclass(frozen=True, eq=False)
class Measured:
    """What ``decide`` sees of the updates: the statistic of all tiles, made sense of.

    Parameters
    ----------
    geometry : Geometry or None
        Distances and inner products, if the rule sets ``gram``.
    score : Tensor or None
        The sum of the rule's own scores.
    """

    geometry: Geometry | None = None
    score: Tensor | None = None


@dataclass(frozen=True)
class Decision:
    """What ``decide`` settled.

    Parameters
    ----------
    mixing : Tensor or None
        (m, n) float64: the result is ``mixing @ updates``; m is 1 for a rule that ends a chain.
        None where the result is no fixed linear combination: ``combine`` computes and counts it.
    rejected : Tensor or None
        (n,) bool: the updates the rule singled out as faulty. None: it singles out nobody.
    diagnostics : Mapping[str, Any]
        Numbers worth a line in the run's records.
    state : State
        For the next round.
    plan : Any
        Whatever else ``combine`` needs.
    """

    mixing: Tensor | None = None
    rejected: Tensor | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    state: State = field(default_factory=dict)
    plan: Any = None


@dataclass(frozen=True)
class Aggregate:
    """The outcome of a rule.

    Parameters
    ----------
    delta : Tensor
        (d,) the aggregated update.
    influence : Tensor
        (n,) float64 share of each client in it; the shares sum to one (to zero if it takes nothing
        from anybody).
    rejected : Tensor
        (n,) bool, clients that the rule singled out as faulty.
    diagnostics : Mapping[str, Any]
        Numbers worth a line in the run's records.
    state : State
        For the next round.
    geometry : Geometry or None
        Inner products of the updates (the first n rows, in case that it remembers more), if the
        rule has measured them; their first digits, where it needed no more.
    f_used : int or None
        The number of faulty clients that the rule worked with; None if it is told none.
    """

    delta: Tensor
    influence: Tensor
    rejected: Tensor
    diagnostics: Mapping[str, Any]
    state: State
    geometry: Geometry | None = None
    f_used: int | None = None


class Aggregator(ABC):
    """Anything that ``aggregate`` can run: a rule, a chain of them, a tree of them."""

    @abstractmethod
    def run(self, updates: Columns, cohort: Cohort, state: State, executor: Executor) -> Aggregate:
        """Aggregate the updates of one round; ``aggregate`` is the front of this."""

    @abstractmethod
    def minimum(self, faulty: int = 0) -> int:
        """Return the fewest updates it can work on when its f is lowered by ``faulty``."""

    @abstractmethod
    def breakdown(self, n: int) -> int:
        """Most faulty clients among n that cannot move the result arbitrarily far."""

    @property
    def expected_faulty(self) -> int | None:
        """The number of faulty clients that it was told to expect, its f; None if it is told none.

        The largest one in a chain. None for a tree, whose nodes have an f of their own each.
        """
        return None

    def kappa(self, n: int, f: int) -> float | None:
        """A constant with which it is (f, kappa)-robust among n updates, where one is proven.

        For any n - f updates S: ||result - mean of S||^2 <= kappa var of S, where var is the mean
        squared distance to the mean.
        """
        return None

    def filters(self, n: int) -> bool:
        """Return whether this rule rejects clients among n, by name.

        A rule that does not is never wrong about a client, nor right.
        """
        return False

    @property
    def feeds(self) -> bool:
        """Whether this is a pre-aggregation: it feeds another rule and cannot be the last."""
        return False

    @property
    def confidence_from(self) -> str | None:
        """Where the confidence in a client must come from: ``"reported"`` or ``"held-out"``.

        None: the rule needs nobody's word for it, as most.
        """
        return None

    def masses(self, cohort: Cohort) -> Tensor:
        """(n,) float64: what each client's update weighs in a mean, before any is taken."""
        return torch.ones(cohort.n, dtype=torch.float64)


class Rule(Aggregator):
    """An aggregation rule, or a pre-aggregation that feeds one.

    Concrete rules are final frozen dataclasses. They set ``gram`` if ``decide`` needs distances,
    ``rough`` if it can often do with their first digits, and ``scored`` if it needs the sum of its
    own ``score``.
    """

    gram: ClassVar[bool] = False
    rough: ClassVar[bool] = False

    @property
    def scored(self) -> bool:
        """Whether ``decide`` needs the sum of ``score`` over the tiles."""
        return False

    def rows(self, n: int) -> int:
        """How many rows n updates become: one, unless this ``feeds`` another rule."""
        return 1

    def carries(self, kappa: float, n: int, f: int) -> float | None:
        """The constant of this pre-aggregation before a rule with ``kappa``, where proven."""
        return None

    def anchors(self, state: State) -> Sequence[Tensor]:
        """Remembered vectors (d,) to be measured and combined as rows below the updates."""
        return ()

    def score(self, tile: Tensor) -> Tensor:
        """The rule's own float64 sum over an (n, c) tile."""
        raise NotImplementedError(f"{type(self).__name__} has no score")

    def measure(self, tile: Tensor, pivot: int) -> Statistic:
        """All that ``decide`` needs to know of an (n, c) tile."""
        return Statistic(
            relative_gram(tile, pivot, 1.0) if self.gram else None,
            self.score(tile) if self.scored else None,
        )

    @abstractmethod
    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Settle what each update counts for; ``measured`` knows the anchors too."""

    def decide_roughly(self, rough: Rough, cohort: Cohort, state: State) -> Decision | None:
        """What ``decide`` would settle, if distances with an error leave no doubt about it."""
        return None

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """The result's columns (c,) of a tile, and what each update counted for.

        The counts are (1, n) float64, summed over the tile's columns. Only asked where the decision
        has no mixing: a linear rule's result and influence are its mixing's.
        """
        raise NotImplementedError(f"{type(self).__name__} is linear")

    def remember(self, delta: Tensor, state: State) -> State:
        """The state to keep once the result is known; only asked of a chain's last rule."""
        return state

    def run(self, updates: Columns, cohort: Cohort, state: State, executor: Executor) -> Aggregate:
        """Run this one rule."""
        from hqde_fl.rules.aggregation import run_steps  # which is built on this module

        return run_steps((self,), updates, cohort, state, executor)


@dataclass(frozen=True)
class Tolerant(Rule):
    """A rule that is told how many faulty clients it has to tolerate.

    It needs 2f + 1 updates, unless it says otherwise.

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
        """The f that it was given."""
        return self.f

    def minimum(self, faulty: int = 0) -> int:
        """2f + 1."""
        return 2 * max(0, self.f - faulty) + 1

    def breakdown(self, n: int) -> int:
        """The declared f."""
        return self.f if n >= self.minimum() else 0


def linear(mixing: Tensor, tile: Tensor) -> Tensor:
    """``mixing @ tile`` in the tile's precision."""
    return mixing.to(tile) @ tile
