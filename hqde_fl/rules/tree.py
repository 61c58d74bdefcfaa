"""A tree of rules: clients in small groups, the groups' results in groups again, up to one root."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.rules.base import Aggregator, StepRunner
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.mean import Mean
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.rules.round_context import Need
from hqde_fl.rules.tree_plan import Node, PlannedNode, Planner, grow
from hqde_fl.rules.tree_report import NodeReport
from hqde_fl.updates import Columns, Updates

Inner = Literal["merge", "pass-through"]
"""Ways to treat the results of the leaf nodes below the root; see ``Tree``."""


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
    inner : "merge" or "pass-through"
        What the nodes between the leaf nodes and the root do. ``"merge"``, the default: they merge
        ``fanout`` results by ``leaf``. ``"pass-through"``: they hand on what they get, so that the
        root sees the result of every leaf node and can outvote some of them; it has ceil(n /
        fanout) children.
    """

    leaf: Aggregator = field(default_factory=Mean)
    root: Aggregator = field(default_factory=Mean)
    fanout: int = 4
    inner: Inner = "merge"

    def __post_init__(self) -> None:
        if self.fanout < 2:
            raise ConfigError(f"Tree needs fanout >= 2, found {self.fanout}")
        if self.inner not in (known := get_args(Inner)):
            raise UnknownNameError("way of a tree's inner nodes", str(self.inner), known)
        for name, rule in (("leaf", self.leaf), ("root", self.root)):
            if rule.is_preaggregation:
                raise ConfigError(f"Tree needs a rule as {name}, found a pre-aggregation: {rule}")
            if "history" in rule.needs:
                raise ConfigError(
                    f"Tree needs a {name} that remembers no clients, which change their places in "
                    f"each round, found {rule}"
                )
        if self.root.confidence_from is not None:
            raise ConfigError(f"Tree needs a root that asks for no confidence, found {self.root}")
        most = self.fanout  # children of the root, unless the tree grows by its leaf nodes alone
        grows = self.inner == "pass-through" and self.leaf.minimum() <= most
        if not grows and self.root.minimum() > most:
            raise ConfigError(
                f"Tree needs fanout >= {self.root.minimum()}, the fewest updates of its root "
                f"{self.root}, found {self.fanout}"
            )

    def minimum(self, faulty: int = 0) -> int:
        """Return the smallest n for which every node has enough children, whatever ``faulty`` is.

        A larger n may be divided into groups that are too small for a rule: that is an error then.
        The group of an excluded client is unknown, so it lowers no node's f.
        """
        n = 1
        while not self.fits(n):
            n += 1
        return n

    def fits(self, n: int) -> bool:
        """Return whether every node above n clients has enough children for its rule."""
        return self._suffices(self._grown(n), self.root)

    def breakdown(self, n: int) -> int:
        """Return one less than the smallest number of faulty clients that can break the root."""
        return self._breaking_clients(self._grown(n), self.root) - 1

    def sensitivity(self, n: int, norm: float) -> float | None:
        """Return 2 norm / n for a tree of plain means, which is their mean; None for all others."""
        plain = all(type(rule) is Mean for rule in (self.leaf, self.root))
        bounds = {rule.sensitivity(n, norm) for rule in (self.leaf, self.root)}
        return bounds.pop() if plain and len(bounds) == 1 else None

    def levels(self, n: int) -> int:
        """Return the number of levels of nodes above n clients."""
        node, count = self._grown(n), 0
        while not isinstance(node, int):
            node, count = node[0], count + 1
        return count

    def filters(self, n: int) -> bool:
        """Return whether the rule directly above n clients can filter, the root if n <= fanout."""
        return self._filters(self._grown(n), self.root)

    @property
    def confidence_from(self) -> str | None:
        """The source of the confidence that the leaf rule needs; None if it needs none."""
        return self.leaf.confidence_from

    @property
    def needs(self) -> frozenset[Need]:
        """The needs of its rules besides updates; their nodes are given it as it is."""
        return self.leaf.needs | self.root.needs

    def mean_weights(self, cohort: Cohort) -> Tensor:
        """Return the leaf rule's unnormalised client weights, (n,): ones if it is no mean."""
        return self.leaf.mean_weights(cohort)

    def run(
        self, updates: Columns, cohort: Cohort, state: State, run_steps: StepRunner
    ) -> Aggregate:
        """Return the aggregate of one round's updates, group by group, depth first."""
        top = self.planned(cohort)
        new_states: dict[str, Any] = {}
        reports: list[NodeReport] = []

        def visit(node: PlannedNode) -> Aggregate:
            below = [visit(child) for child in node.children]
            columns: Columns = (
                Updates([outcome.delta for outcome in below])
                if node.children
                else updates.select(node.rows)
            )
            started, clock = time.time(), time.perf_counter()
            own = node.rule.run(columns, node.cohort, state.get(node.path, {}), run_steps)
            seconds = time.perf_counter() - clock
            rows, d = columns.shape
            size = rows * d * columns.dtype.itemsize
            reports.append(NodeReport(node.path, node.level(), rows, seconds, size, started))
            if own.state:
                new_states[node.path] = own.state
            return node.merged(own, below, cohort.n)

        return self.finished(visit(top), cohort.n, new_states, reports)

    def planned(self, cohort: Cohort) -> PlannedNode:
        """Return the root of the tree over one round's clients, before any node has run.

        Raises ``BoundError`` if there are too few clients.
        """
        cohort.require(str(self), self.minimum())
        given = cohort.group_weights
        weights = self.mean_weights(cohort) if given is None else torch.tensor(given)
        present = replace(cohort, faulty=0, late=0, skipped=0)
        planner = Planner(present, weights.tolist(), self.leaf)
        return planner.plan(self._grown(cohort.n), "0", self.root)

    def finished(
        self, top: Aggregate, n: int, new_states: State, reports: Sequence[NodeReport]
    ) -> Aggregate:
        """Return the root's outcome as the tree's, with states and reports of all nodes."""
        diagnostics = {
            **top.diagnostics,
            "tree-levels": self.levels(n),
            "tree-breakdown": self.breakdown(n),
        }
        return replace(
            top, diagnostics=diagnostics, state=new_states, geometry=None, nodes=tuple(reports)
        )

    def _grown(self, n: int) -> Node:
        return grow(n, self.fanout, pass_through=self.inner == "pass-through")

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
