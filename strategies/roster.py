"""Which nodes there are, and which partition each of them holds.

Node ids differ from run to run; partition ids do not. Whatever must come out the same for the same
seed (selection, the order in which updates are summed) goes by partition id. A partition id is a
client's own claim: it decides order and labels, never trust.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.errors import CohortError
from hqde_fl.protocol.grids import KnowsPartitions
from hqde_fl.strategies.round.reply_matching import ReplyMatcher

POLL_SECONDS = 0.2


class Roster:
    """The nodes of a run and their partition ids."""

    def __init__(self) -> None:
        self._partitions: dict[int, int] = {}
        self._asked: set[int] = set()
        self._seen: list[int] = []
        self._ordered: list[int] = []
        self._activated: dict[int, str] | None = None
        self.reconnected: frozenset[int] = frozenset()
        """Nodes that came back, or came new, since ``wait`` was called before."""

    def partition(self, node: int) -> int | None:
        """The node's partition id, where it is known."""
        return self._partitions.get(node)

    def identity(self, node: int) -> int:
        """What a rule knows the node by: its partition id where known, else its node id."""
        return self._partitions.get(node, node)

    def order(self, nodes: Iterable[int]) -> list[int]:
        """Nodes by partition id; those that have none come last, by node id."""
        return sorted(nodes, key=lambda node: (self._partitions.get(node, 1 << 64), node))

    def wait(self, grid: Grid, minimum: int, seconds: float, identify: float = 0.0) -> list[int]:
        """The connected nodes, in order, once there are ``minimum`` of them.

        Parameters
        ----------
        grid : Grid
            The way to the nodes.
        minimum : int
            How many to wait for.
        seconds : float
            How long to wait for them.
        identify : float
            Seconds to wait for what new nodes say of themselves; 0 does not ask them.

        Raises
        ------
        CohortError
            If they do not come within ``seconds``.
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
        if nodes != self._seen:  # a large population is not sorted again in every round
            if identify:
                self._identify(grid, nodes, identify)
            self._seen, self._ordered = nodes, self.order(nodes)
        return self._ordered

    def _connected(self, grid: Grid) -> list[int]:
        """Return the nodes that are connected, and note which of them have reconnected."""
        if isinstance(grid, KnowsPartitions):
            return list(grid.get_node_ids())
        activated = {node.node_id: node.last_activated_at for node in grid.get_nodes()}
        before = self._activated
        if before is not None:
            self.reconnected |= {node for node, at in activated.items() if before.get(node) != at}
        self._activated = activated
        return list(activated)

    def _identify(self, grid: Grid, nodes: Iterable[int], seconds: float) -> None:
        """Ask nodes that have not been asked before for their partition id.

        No answer, or one that another node gave first, leaves a node without one.
        """
        new = [node for node in nodes if node not in self._asked]
        self._asked.update(new)
        if isinstance(grid, KnowsPartitions):
            self._partitions |= {node: grid.partition_of(node) for node in new}
            return
        if not new:
            return
        question = RecordDict({"config": ConfigRecord()})
        messages = [Message(question, node, "query.identity") for node in new]
        matcher = ReplyMatcher(messages)
        for reply in grid.send_and_receive(messages, timeout=seconds):
            node = matcher.source(reply)
            if node is None or not reply.has_content() or matcher.envelope_error(reply, node):
                continue
            answer = reply.content.config_records.get("identity", ConfigRecord())
            claimed = answer.get("partition-id")
            known = isinstance(claimed, bool) or claimed in self._partitions.values()
            if isinstance(claimed, int) and not known:
                self._partitions[node] = claimed
