"""Data that the steps of a rule hand on: statistics, measurements, decisions, aggregates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.tree_report import NodeReport

State = Mapping[str, Any]
"""A rule's memory between rounds: tensors, numbers, strings, lists and mappings of them."""


@dataclass(frozen=True, eq=False)
class Statistic:
    """The numbers that a rule measures on a tile, or their sums over tiles; ``+`` adds them.

    Parameters
    ----------
    gram : Tensor or None
        (n, n) inner products (``relative_gram``); None for a rule that needs no distances.
    score : Tensor or None
        The rule's own float64 ``score``; None for a rule without one.
    """

    gram: Tensor | None = None
    score: Tensor | None = None

    def __add__(self, other: Statistic) -> Statistic:
        return Statistic(_sum(self.gram, other.gram), _sum(self.score, other.score))

    def __iadd__(self, other: Statistic) -> Statistic:
        """Return the sum, in this statistic's own memory."""
        for own, more in ((self.gram, other.gram), (self.score, other.score)):
            if own is not None and more is not None:
                own += more
        return Statistic(
            other.gram if self.gram is None else self.gram,
            other.score if self.score is None else self.score,
        )


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    return right if left is None else left if right is None else left + right


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that ``decide`` may know about the updates.

    Parameters
    ----------
    geometry : Geometry or None
        Distances and inner products; None if they were not measured.
    score : Tensor or None
        The sum of the rule's own ``score`` over all tiles; None unless the rule is ``scored``.
    second : Tensor or None
        The sum of the rule's ``second_score`` over all tiles; None if it has none.
    sample : Tensor or None
        (n, k) short vectors of the updates (``direction_memory.sample``) for a rule that
        ``remembers``, else None.
    """

    geometry: Geometry | None = None
    score: Tensor | None = None
    second: Tensor | None = None
    sample: Tensor | None = None


@dataclass(frozen=True)
class Decision:
    """The outcome of ``decide``: how much each update counts, and what is said about clients.

    Parameters
    ----------
    mixing : Tensor or None
        (m, n) float64: the result is ``mixing @ updates``; m is 1 for a rule that ends a chain.
        None if the result is no fixed linear combination: ``combine`` then computes it.
    filtered : Tensor or None
        (n,) bool, the updates that the rule filters as faulty; None for none.
    diagnostics : Mapping[str, Any]
        Numbers for the run's records.
    state : State
        The rule's memory for the next round.
    plan : Any
        Further data for ``combine``.
    """

    mixing: Tensor | None = None
    filtered: Tensor | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    state: State = field(default_factory=dict)
    plan: Any = None


@dataclass(frozen=True)
class Aggregate:
    """The result of running a rule over the updates of one round.

    Parameters
    ----------
    delta : Tensor
        (d,) the aggregated update.
    influence : Tensor
        (n,) float64, each client's part in ``delta``; sums to one, or to zero if no update counts.
    filtered : Tensor
        (n,) bool, the clients that the rule filtered as faulty.
    diagnostics : Mapping[str, Any]
        Numbers for the run's records.
    state : State
        The rule's memory for the next round.
    geometry : Geometry or None
        Inner products of the updates (followed by remembered rows, if any) as far as the rule
        measured them: to a few digits where it needed no more.
    f_used : int or None
        The number of faulty clients that the rule worked with; None for a rule without f.
    nodes : tuple[NodeReport, ...]
        What each node of a tree did; empty for other rules.
    """

    delta: Tensor
    influence: Tensor
    filtered: Tensor
    diagnostics: Mapping[str, Any]
    state: State
    geometry: Geometry | None = None
    f_used: int | None = None
    nodes: tuple[NodeReport, ...] = ()
