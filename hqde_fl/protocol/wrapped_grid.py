"""Grids around another Grid, for code that stands between the Strategy and the clients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.protocol.flower_internals import NodeInfo, Run
from hqde_fl.protocol.grid_protocols import (
    KeepsContexts,
    KeepsVirtualTime,
    KnowsPartitions,
    MeasuresCalls,
    MeasuresHosts,
)
from hqde_fl.protocol.partition_claims import IDENTITY, claimed_partition
from hqde_fl.protocol.reply_matching import with_nodes


@contextmanager
def contents_restored(messages: Sequence[Message]) -> Iterator[None]:
    """Give messages the contents back at the end of the block that they had at its beginning."""
    contents = [message.content for message in messages]
    try:
        yield
    finally:
        for message, content in zip(messages, contents, strict=True):
            message.content = content


class WrappedGrid(Grid):
    """A Grid that passes all but ``create_message`` and ``send_and_receive`` on to another Grid.

    It is a ``KnowsPartitions``, and whatever else ``grid_protocols`` has, if the Grid that it wraps
    is one.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the clients.
    same_nodes : bool
        False if this Grid has nodes of its own: it passes on nothing then that the wrapped Grid
        knows of single nodes. Contexts, which are the clients', it still passes on. By default
        True.
    """

    def __init__(self, grid: Grid, *, same_nodes: bool = True) -> None:
        self._grid = grid
        # Attributes of the object, not methods: the protocols are looked up on the object.
        if isinstance(grid, KeepsContexts):
            self.contexts, self.set_contexts = grid.contexts, grid.set_contexts
            self.changed_contexts = grid.changed_contexts
        if same_nodes:
            self._pass_on(grid)

    def _pass_on(self, grid: Grid) -> None:
        """Offer what the wrapped Grid knows of its nodes."""
        if isinstance(grid, KnowsPartitions):
            self.partition_of = grid.partition_of
        if isinstance(grid, MeasuresCalls):
            self.call_seconds = grid.call_seconds
        if isinstance(grid, MeasuresHosts):
            self.host_loads = grid.host_loads
        if isinstance(grid, KeepsVirtualTime):
            self.reply_times, self.round_time = grid.reply_times, grid.round_time

    def set_run(self, run: Run) -> None:
        """Set the run of the wrapped Grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the wrapped Grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message to the node ``dst_node_id``; it is not sent."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return Flower's ``NodeInfo`` of each connected node."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids; ``pull_messages`` returns the replies."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the wrapped Grid's replies to the messages with these ids, unchanged."""
        return self._grid.pull_messages(message_ids)

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages through the wrapped Grid and return the replies, which may be changed."""


class PartitionAwareGrid(WrappedGrid):
    """A wrapped Grid whose subclasses know the partition of a node wherever it can be known.

    If the wrapped Grid does not know the partitions, they are read from the nodes' replies to
    ``query.identity`` on the way to the server. The first node that claims a partition has it.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._partitions: dict[int, int] = {}
        self._partition_of = grid.partition_of if isinstance(grid, KnowsPartitions) else None

    def _partition(self, node: int) -> int | None:
        """Return the node's partition id, or None if it is not known."""
        if self._partition_of is not None:
            return self._partition_of(node)
        return self._partitions.get(node)

    def _note_identities(
        self, sent: Sequence[Message], replies: Iterable[Message]
    ) -> Iterable[Message]:
        """Return the replies unchanged; note the partition ids that nodes claim in them.

        They are noted while the replies are iterated over, and only if ``sent`` contains a
        ``query.identity``.
        """
        if any(message.metadata.message_type == IDENTITY for message in sent):
            return self._noted(sent, replies)
        return replies

    def _noted(self, sent: Sequence[Message], replies: Iterable[Message]) -> Iterator[Message]:
        taken = set(self._partitions.values())
        for node, reply in with_nodes(sent, replies):
            claimed = claimed_partition(reply, taken)
            if node is not None and claimed is not None:
                self._partitions[node] = claimed
                taken.add(claimed)
            yield reply
