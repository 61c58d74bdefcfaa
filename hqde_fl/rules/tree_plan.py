"""The nodes of a tree of rules over one round's clients, before any of them has run.

Which clients a node has below it, and their weights, follow from the cohort alone. So the nodes can
run anywhere, one after the other in this process or as tasks of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch

from hqde_fl.rules.base import Aggregator
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Aggregate

Node = tuple["Node", ...] | int
"""Children, or a position in the shuffled cohort."""


def grow(n: int, fanout: int, *, pass_through: bool = False) -> Node:
    """Return a tree over positions 0 .. n - 1 with ceil(log_fanout n) levels, at least one.

    The children of each level are divided among the fewest nodes that hold them, as evenly as
    possible. With ``pass_through`` the nodes above the leaf nodes are one, the root.
    """
    level: list[Node] = list(range(n))
    while True:
        leaf_level = isinstance(level[0], int)
        count = -(-len(level) // fanout) if leaf_level or not pass_through else 1
        edges = [round(k * len(level) / count) for k in range(count + 1)]
        level = [tuple(level[start:stop]) for start, stop in pairwise(edges)]
        if count == 1:
            return level[0]


@dataclass(frozen=True, eq=False)
class PlannedNode:
    """A node of a tree, with what its rule will be told of the rows that it merges.

    Parameters
    ----------
    path : str
        The node's place, for instance ``"0/2"`` for the root's third child.
    rule : Aggregator
        Its rule.
    cohort : Cohort
        Its rows: clients in a leaf node, else the nodes below it.
    rows : tuple[int, ...]
        In a leaf node the rows of the round's updates that it merges, else empty.
    children : tuple[PlannedNode, ...]
        The nodes below it; empty for a leaf node.
    """

    path: str
    rule: Aggregator
    cohort: Cohort
    rows: tuple[int, ...] = ()
    children: tuple[PlannedNode, ...] = ()

    @property
    def weight(self) -> float:
        """The sum of the client weights below it."""
        return sum(self.cohort.group_weights or ())

    @property
    def confidence(self) -> float:
        """The mean confidence in what it merges; 0 if there is none."""
        known = self.cohort.confidence or (0.0,)
        return sum(known) / len(known)

    def level(self) -> int:
        """Return the number of levels of nodes below it."""
        return 1 + self.children[0].level() if self.children else 0

    def nodes(self) -> Iterator[PlannedNode]:
        """Yield all nodes, each after those below it."""
        for child in self.children:
            yield from child.nodes()
        yield self

    def merged(self, own: Aggregate, below: Sequence[Aggregate], n: int) -> Aggregate:
        """Return the node's outcome with influence and filtered clients over all n clients.

        Parameters
        ----------
        own : Aggregate
            The outcome of its rule over its rows.
        below : Sequence[Aggregate]
            The merged outcomes of its children.
        n : int
            The number of clients of the round.
        """
        if self.children:
            influence = own.influence @ torch.stack([outcome.influence for outcome in below])
            filtered = torch.stack([outcome.filtered for outcome in below]).any(dim=0)
        else:
            rows = list(self.rows)
            influence = torch.zeros(n, dtype=torch.float64)
            influence[rows] = own.influence
            filtered = torch.zeros(n, dtype=torch.bool)
            filtered[rows] = own.filtered
        return replace(own, influence=influence, filtered=filtered)


@dataclass(frozen=True)
class Planner:
    """Plans the nodes of a tree for one round.

    Parameters
    ----------
    cohort : Cohort
        The round's clients.
    weights : Sequence[float]
        Their weights in a mean.
    leaf : Aggregator
        The rule of every node below the root.
    """

    cohort: Cohort
    weights: Sequence[float]
    leaf: Aggregator

    @cached_property
    def _order(self) -> list[int]:
        return self.cohort.shuffled("tree")

    def plan(self, node: Node, path: str, rule: Aggregator) -> PlannedNode:
        """Return a planned node with all nodes below it."""
        assert not isinstance(node, int)
        confidence: tuple[float, ...] | None = None
        if isinstance(node[0], int):
            rows = tuple(self._order[position] for position in node if isinstance(position, int))
            ids = tuple(self.cohort.ids[row] for row in rows)
            weights = tuple(self.weights[row] for row in rows)
            children: tuple[PlannedNode, ...] = ()
            if self.cohort.confidence is not None:
                confidence = tuple(self.cohort.confidence[row] for row in rows)
        else:
            children = tuple(
                self.plan(child, f"{path}/{k}", self.leaf) for k, child in enumerate(node)
            )
            rows, ids = (), tuple(range(len(node)))
            weights = tuple(child.weight for child in children)
            if self.cohort.confidence is not None:
                confidence = tuple(child.confidence for child in children)
        group = replace(
            self.cohort, ids=ids, num_examples=None, confidence=confidence, group_weights=weights
        )
        return PlannedNode(path, rule, group, rows, children)
