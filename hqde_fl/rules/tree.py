"""A tree of rules: clients in small groups, the groups' results in groups again, up to one root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Aggregate, Aggregator, State
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import Executor
from hqde_fl.rules.mean import Mean
from hqde_fl.updates import Columns, Updates

Node = tuple["Node", ...] | int
"""Children, or a position in the shuffled cohort."""


def grow(n: int, fanout: int) -> Node:
    """A tree over positions 0 .. n - 1 with ceil(log_fanout n) levels, at least one.

    The children of each level are dealt to as few nodes as will hold them, as evenly as possible.
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

    A tree over n clients has ceil(log_fanout n) levels. Clients are dealt to the leaves at random,
    anew each round. Every node passes on its result and the sum of the weights under it, so a tree
    of means equals the flat mean, for any n and weights.

    A tree of robust rules is *weaker* than the same rule over all clients: to break a node it is
    enough to break one more of its children than its rule tolerates. Medians with fanout 4 over 64
    clients tolerate 1 of 4 at each of three levels, so 2 x 2 x 2 = 8 faulty clients can break the
    tree where the flat median tolerates 31; ``breakdown`` counts this out, and so do the
    diagnostics of every round. What a rule remembers belongs to its node, not to the clients that
    happen to be under it. Costs what the rules cost on groups of ``fanout``, and holds ``fanout``
    results a level.

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
            if rule.feeds:
                raise ConfigError(f"Tree needs a rule as {name}, found a pre-aggregation: {rule}")
        if self.root.confidence_from is not None:
            raise ConfigError(f"Tree needs a root that asks for no confidence, found {self.root}")

    def minimum(self, faulty: int = 0) -> int:
        """The smallest n for which every node has enough children.

        A larger n may be dealt into groups that are too small for a rule: that is an error then.

        Which group an excluded client would have been in is not known, so it excuses no node.
        """
        n = 1
        while not self._suffices(grow(n, self.fanout), self.root):
            n += 1
        return n

    def breakdown(self, n: int) -> int:
        """One less than the fewest clients that break as many nodes as it takes."""
        return self._price(grow(n, self.fanout), self.root) - 1

    def levels(self, n: int) -> int:
        """Levels of nodes above n clients."""
        node, count = grow(n, self.fanout), 0
        while not isinstance(node, int):
            node, count = node[0], count + 1
        return count

    def filters(self, n: int) -> bool:
        """Return whether the rule directly above the clients rejects; of few clients, the root."""
        return self._filters(grow(n, self.fanout), self.root)

    @property
    def confidence_from(self) -> str | None:
        """What the leaves need; what is above them knows groups, not clients."""
        return self.leaf.confidence_from

    def masses(self, cohort: Cohort) -> Tensor:
        """The leaves' masses."""
        return self.leaf.masses(cohort)

    def run(self, updates: Columns, cohort: Cohort, state: State, executor: Executor) -> Aggregate:
        """Aggregate group by group, depth first."""
        tree = grow(cohort.n, self.fanout)
        cohort.require(str(self), self.minimum())
        mass = (self.masses(cohort) if cohort.mass is None else torch.tensor(cohort.mass)).tolist()
        walk = _Walk(
            self, updates, replace(cohort, faulty=0, late=0, skipped=0), mass, state, executor
        )
        top, _ = walk.visit(tree, "0", self.root)
        diagnostics = {
            **top.diagnostics,
            "tree-levels": self.levels(cohort.n),
            "tree-breakdown": self.breakdown(cohort.n),
        }
        return replace(top, diagnostics=diagnostics, state=walk.states, geometry=None)

    def _suffices(self, node: Node, rule: Aggregator) -> bool:
        if isinstance(node, int):
            return True
        return len(node) >= rule.minimum() and all(self._suffices(k, self.leaf) for k in node)

    def _filters(self, node: Node, rule: Aggregator) -> bool:
        assert not isinstance(node, int)
        if isinstance(node[0], int):
            return rule.filters(len(node))
        return any(self._filters(child, self.leaf) for child in node)

    def _price(self, node: Node, rule: Aggregator) -> int:
        if isinstance(node, int):
            return 1
        prices = sorted(self._price(child, self.leaf) for child in node)
        return sum(prices[: rule.breakdown(len(node)) + 1])


@dataclass(frozen=True)
class _Walk:
    """One round's way through the tree."""

    tree: Tree
    updates: Columns
    cohort: Cohort
    mass: Sequence[float]
    state: State
    executor: Executor
    states: dict[str, Any] = field(default_factory=dict)

    def visit(self, node: Node, path: str, rule: Aggregator) -> tuple[Aggregate, float]:
        """The node's outcome, as shares and verdicts over all clients, and its mass."""
        assert not isinstance(node, int)
        n = self.cohort.n
        if isinstance(node[0], int):
            order = self.cohort.shuffled("tree")
            rows = [order[position] for position in node if isinstance(position, int)]
            ids = tuple(self.cohort.ids[row] for row in rows)
            mass = tuple(self.mass[row] for row in rows)
            influence = torch.eye(n, dtype=torch.float64)[rows]
            columns: Columns = self.updates.select(rows)
            confidence = self.cohort.confidence
            if confidence is not None:
                confidence = tuple(confidence[row] for row in rows)
            rejected = torch.zeros(n, dtype=torch.bool)
        else:
            below = [
                self.visit(child, f"{path}/{k}", self.tree.leaf) for k, child in enumerate(node)
            ]
            rows, confidence = list(range(len(node))), None
            ids, mass = tuple(rows), tuple(weight for _, weight in below)
            influence = torch.stack([outcome.influence for outcome, _ in below])
            columns = Updates([outcome.delta for outcome, _ in below])
            rejected = torch.stack([outcome.rejected for outcome, _ in below]).any(dim=0)
        members = replace(self.cohort, ids=ids, num_examples=None, confidence=confidence, mass=mass)
        own = rule.run(columns, members, self.state.get(path, {}), self.executor)
        if own.state:
            self.states[path] = own.state
        if isinstance(node[0], int):
            rejected[rows] = own.rejected
        outcome = replace(own, influence=own.influence @ influence, rejected=rejected)
        return outcome, sum(mass)
