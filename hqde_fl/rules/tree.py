"""A tree of rules: clients in small groups, the groups' results in groups again, up to one root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Aggregator, StepRunner
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.mean import Mean
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.updates import Columns, Updates

Node = tuple["Node", ...] | int
"""Children, or a position in the shuffled cohort."""


def grow(n: int, fanout: int) -> Node:
    """Return a tree over positions 0 .. n - 1 with ceil(log_fanout n) levels, at least one.

    The children of each level are divided among the fewest nodes that hold them, as evenly as
    possible.
    """
    level: list[Node] = list(range(n))
    while True:
        count = -(-len(level) // fanout)
        edges = [round(k * len(level) / count) for k in range(count + 1)]
        level = [tuple(level[start:stop]) for start, stop in pairwise(edges)]
        if count == 1:
            return level[0]


@dataclass(frozen=True)
class Tree(Aggregator):
    """A rule of rules: ``leaf`` merges each group of clients or of groups, ``root`` the last ones.

    A tree over n clients has ceil(log_fanout n) levels. Clients are assigned to the leaves at
    random in each round. Every node passes on its result and the sum of the weights under it, so a
    tree of means equals the flat mean, for any n and weights.

    A tree of robust rules is *weaker* than the same rule over all clients: to break a node it is
    enough to break one more of its children than its rule tolerates. Medians with fanout 4 over 64
    clients tolerate 1 of 4 at each of three levels, so 2 x 2 x 2 = 8 faulty clients can break the
    tree where the flat median tolerates 31; ``breakdown`` and the diagnostics of every round give
    the number. What a rule remembers belongs to its node, not to the clients under it in a round.
    Costs what the rules cost on groups of ``fanout``, and holds ``fanout`` results a level.

    Parameters
    ----------
    leaf : Aggregator
        The rule of every node below the root.
    root : Aggregator
        The rule of the root.
    fanout : int
        Children of a node, at least 2.
    """

    leaf: Aggregator = field(default_factory=Mean)
    root: Aggregator = field(default_factory=Mean)
    fanout: int = 4

    def __post_init__(self) -> None:
        if self.fanout < 2:
            raise ConfigError(f"Tree needs fanout >= 2, found {self.fanout}")
        for name, rule in (("leaf", self.leaf), ("root", self.root)):
            if rule.is_preaggregation:
                raise ConfigError(f"Tree needs a rule as {name}, found a pre-aggregation: {rule}")
        if self.root.confidence_from is not None:
            raise ConfigError(f"Tree needs a root that asks for no confidence, found {self.root}")

    def minimum(self, faulty: int = 0) -> int:
        """Return the smallest n for which every node has enough children, whatever ``faulty`` is.

        A larger n may be divided into groups that are too small for a rule: that is an error then.
        The group of an excluded client is unknown, so it lowers no node's f.
        """
        n = 1
        while not self._suffices(grow(n, self.fanout), self.root):
            n += 1
        return n

    def breakdown(self, n: int) -> int:
        """Return one less than the smallest number of faulty clients that can break the root."""
        return self._breaking_clients(grow(n, self.fanout), self.root) - 1

    def levels(self, n: int) -> int:
        """Return the number of levels of nodes above n clients."""
        node, count = grow(n, self.fanout), 0
        while not isinstance(node, int):
            node, count = node[0], count + 1
        return count

    def filters(self, n: int) -> bool:
        """Return whether the rule directly above n clients can filter, the root if n <= fanout."""
        return self._filters(grow(n, self.fanout), self.root)

    @property
    def confidence_from(self) -> str | None:
        """The source of the confidence that the leaf rule needs; None if it needs none."""
        return self.leaf.confidence_from

    def mean_weights(self, cohort: Cohort) -> Tensor:
        """Return the leaf rule's unnormalised client weights, (n,): ones if it is no mean."""
        return self.leaf.mean_weights(cohort)

    def run(
        self, updates: Columns, cohort: Cohort, state: State, run_steps: StepRunner
    ) -> Aggregate:
        """Return the aggregate of one round's updates, group by group, depth first."""
        cohort.require(str(self), self.minimum())
        given = cohort.group_weights
        weights = self.mean_weights(cohort) if given is None else torch.tensor(given)
        present = replace(cohort, faulty=0, late=0, skipped=0)
        traversal = _Traversal(self, updates, present, weights.tolist(), state, run_steps)
        top, _ = traversal.visit(grow(cohort.n, self.fanout), "0", self.root)
        diagnostics = {
            **top.diagnostics,
            "tree-levels": self.levels(cohort.n),
            "tree-breakdown": self.breakdown(cohort.n),
        }
        return replace(top, diagnostics=diagnostics, state=traversal.new_states, geometry=None)

    def _suffices(self, node: Node, rule: Aggregator) -> bool:
        if isinstance(node, int):
            return True
        return len(node) >= rule.minimum() and all(self._suffices(k, self.leaf) for k in node)

    def _filters(self, node: Node, rule: Aggregator) -> bool:
        assert not isinstance(node, int)
        if isinstance(node[0], int):
            return rule.filters(len(node))
        return any(self._filters(child, self.leaf) for child in node)

    def _breaking_clients(self, node: Node, rule: Aggregator) -> int:
        """Return the least number of faulty clients below a node that can break its result."""
        if isinstance(node, int):
            return 1
        cheapest_first = sorted(self._breaking_clients(child, self.leaf) for child in node)
        return sum(cheapest_first[: rule.breakdown(len(node)) + 1])


@dataclass(frozen=True)
class _Traversal:
    """Aggregation of one round's updates by a ``Tree``, from the leaf nodes to the root.

    ``visit`` runs a node's rule after those below it, and puts its new state into ``new_states``
    under the node's path, for instance ``"0/2"`` for the root's third child.
    """

    tree: Tree
    updates: Columns
    cohort: Cohort
    weights: Sequence[float]
    state: State
    run_steps: StepRunner
    new_states: dict[str, Any] = field(default_factory=dict)

    def visit(self, node: Node, path: str, rule: Aggregator) -> tuple[Aggregate, float]:
        """Return a node's aggregate and the sum of the client weights below it; keep its new state.

        The aggregate's influence and filtered clients are over all clients of the cohort.
        """
        assert not isinstance(node, int)
        n = self.cohort.n
        if isinstance(node[0], int):
            order = self.cohort.shuffled("tree")
            rows = [order[position] for position in node if isinstance(position, int)]
            ids = tuple(self.cohort.ids[row] for row in rows)
            weights = tuple(self.weights[row] for row in rows)
            influence = torch.eye(n, dtype=torch.float64)[rows]
            columns: Columns = self.updates.select(rows)
            confidence = self.cohort.confidence
            if confidence is not None:
                confidence = tuple(confidence[row] for row in rows)
            filtered = torch.zeros(n, dtype=torch.bool)
        else:
            below = [
                self.visit(child, f"{path}/{k}", self.tree.leaf) for k, child in enumerate(node)
            ]
            rows, confidence = list(range(len(node))), None
            ids, weights = tuple(rows), tuple(weight for _, weight in below)
            influence = torch.stack([outcome.influence for outcome, _ in below])
            columns = Updates([outcome.delta for outcome, _ in below])
            filtered = torch.stack([outcome.filtered for outcome, _ in below]).any(dim=0)
        group = replace(
            self.cohort, ids=ids, num_examples=None, confidence=confidence, group_weights=weights
        )
        own = rule.run(columns, group, self.state.get(path, {}), self.run_steps)
        if own.state:
            self.new_states[path] = own.state
        if isinstance(node[0], int):
            filtered[rows] = own.filtered
        outcome = replace(own, influence=own.influence @ influence, filtered=filtered)
        return outcome, sum(weights)
