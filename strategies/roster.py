"""The nodes of a run and their partition ids.

Node ids differ from run to run; partition ids do not. All that must be the same for the same seed
(selection, the order in which updates are summed) uses partition ids. A partition id is a client's
own claim: it decides order and labels, never trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.errors import CohortError
from hqde_fl.protocol.grid_protocols import KnowsPartitions
from hqde_fl.protocol.partition_claims import IDENTITY, claimed_edge, claimed_partition
from hqde_fl.protocol.reply_matching import ReplyMatcher

POLL_SECONDS = 0.2
"""Seconds between two looks at the connected nodes while others are waited for."""


class Roster:
    """The nodes of a run and their partition ids.

    Parameters
    ----------
    edges : int
        Number of edges to one of which each node has to belong by its own config; 0, the default:
        nodes are not asked for an edge. The first edge that a node names is its edge from then on.
    """

    def __init__(self, edges: int = 0) -> None:
        self._edges = edges
        self._claimed_edges: dict[int, int | str] = {}
        self._partitions: dict[int, int] = {}
        self._partition_of: Callable[[int], int] | None = None
        self._queried: set[int] = set()
        self._connected_nodes: list[int] = []
        self._ordered: list[int] = []
        self._activated: dict[int, str] | None = None
        self.reconnected: frozenset[int] = frozenset()
        """Nodes that reconnected, or connected first, between the last two calls of ``wait``."""

    def partition(self, node: int) -> int | None:
        """Return a node's partition id, or None if it is not known."""
        if self._partition_of is None:
            return self._partitions.get(node)
        try:
            return self._partition_of(node)
        except KeyError:
            return None

    def identity(self, node: int) -> int:
        """Return the id by which rules know a node: its partition id if known, else its node id."""
        partition = self.partition(node)
        return node if partition is None else partition

    def edge(self, node: int) -> int | str:
        """Return the edge that a node has named, or why it has named none."""
        return self._claimed_edges.get(node, "it did not reply when it was asked for its edge")

    def order(self, nodes: Iterable[int]) -> list[int]:
        """Return nodes sorted by partition id; those without one come last, by node id."""
        if self._partition_of is not None:
            return sorted(nodes, key=self.identity)
        return sorted(nodes, key=lambda node: (self._partitions.get(node, 1 << 64), node))

    def wait(self, grid: Grid, minimum: int, seconds: float, identify: float = 0.0) -> list[int]:
        """Wait for ``minimum`` nodes to connect and return all connected nodes by partition id.

        Parameters
        ----------
        grid : Grid
            Knows the connected nodes.
        minimum : int
            Number of nodes to wait for, >= 0.
        seconds : float
            Seconds to wait for them, >= 0.
        identify : float
            Seconds to wait for new nodes to report their partition ids; 0, the default, does not
            ask for them.

        Raises
        ------
        CohortError
            If fewer nodes are connected after ``seconds``.
        """
        end = time.monotonic() + seconds
        self.reconnected = frozenset()
        while len(nodes := self._connected(grid)) < minimum:
            if time.monotonic() > end:
                raise CohortError(
                    f"min_available_nodes={minimum} nodes did not connect within {seconds:g} s, "
                    f"found {len(nodes)}"
                )
            time.sleep(POLL_SECONDS)
        asked_again = self._edges and any(map(self._is_unknown, self.reconnected))
        # a large population is not sorted again in every round
        if nodes != self._connected_nodes or asked_again:
            if identify:
                self._identify(grid, nodes, identify)
            self._connected_nodes, self._ordered = nodes, self.order(nodes)
        return self._ordered

    def _connected(self, grid: Grid) -> list[int]:
        """Return the connected nodes, and add those that reconnected to ``reconnected``.

        A Grid that knows the partitions does not tell who reconnected: nothing is added.
        """
        if isinstance(grid, KnowsPartitions):
            return list(grid.get_node_ids())
        activated = {node.node_id: node.last_activated_at for node in grid.get_nodes()}
        before = self._activated
        if before is not None:
            self.reconnected |= {node for node, at in activated.items() if before.get(node) != at}
        self._activated = activated
        return list(activated)

    def _identify(self, grid: Grid, nodes: Iterable[int], seconds: float) -> None:
        """Ask nodes that were not asked before for their partition ids, for up to ``seconds``.

        A node that does not answer, or claims an id that another node claimed first, has none. If
        the Grid knows the partitions, it is asked instead of the nodes. For an edge the nodes
        themselves are asked, and those without one again when they have reconnected.
        """
        known = isinstance(grid, KnowsPartitions)
        if isinstance(grid, KnowsPartitions):
            self._partition_of = grid.partition_of  # a copy would grow with the population
        if known and not self._edges:
            return
        new = [node for node in nodes if self._is_unknown(node)]
        self._queried.update(new)
        if not new:
            return
        question = RecordDict({"config": ConfigRecord()})
        messages = [Message(question, node, IDENTITY) for node in new]
        matcher, taken = ReplyMatcher(messages), set(self._partitions.values())
        for reply in grid.send_and_receive(messages, timeout=seconds):
            node = matcher.source(reply)
            if node is None or matcher.envelope_error(reply, node):
                continue
            if self._edges:
                self._claimed_edges[node] = claimed_edge(reply, self._edges)
            claimed = None if known else claimed_partition(reply, taken)
            if claimed is not None and node not in self._partitions:
                self._partitions[node] = claimed
                taken.add(claimed)

    def _is_unknown(self, node: int) -> bool:
        """Return True if a node is to be asked: it never was, or it is back and needs an edge."""
        if node not in self._queried:
            return True
        return bool(self._edges) and node in self.reconnected and isinstance(self.edge(node), str)
