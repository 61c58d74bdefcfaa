"""A Grid around another one, for whoever stands between the Strategy and the clients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.simulations.engines.flower_internals import NodeInfo, Run

IDENTITY = "query.identity"
"""The type of the message that asks a node for its partition id."""


FaultsOf = Callable[[int], Mapping[int, str]]
"""(round) -> partition id -> name of the fault."""


def with_nodes(
    sent: Sequence[Message], replies: Iterable[Message]
) -> Iterator[tuple[int | None, Message]]:
    """Yield each reply with the node whose message it answers; None if it answers none of them."""
    asked = {m.metadata.message_id: m.metadata.dst_node_id for m in sent}
    for reply in replies:
        yield asked.get(reply.metadata.reply_to_message_id), reply


class WrappedGrid(Grid):
    """Passes everything on but ``send_and_receive``, which is the round itself.

    Which partition a node has is what the wrapped grid knows. Where it does not, the clients'
    answers to ``query.identity``, on their way to the server, tell: the first node that claims a
    partition has it.

    Parameters
    ----------
    grid : Grid
        The clients.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._partitions: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._grid, name)

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes, and what is known of them."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, whose replies pass untouched."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies as they are."""
        return self._grid.pull_messages(message_ids)

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and receive the replies."""

    def _partition(self, node: int) -> int | None:
        """The node's partition id, where it is known."""
        if hasattr(self._grid, "partition_of"):
            return int(self._grid.partition_of(node))
        return self._partitions.get(node)

    def _overheard(self, sent: Sequence[Message], replies: Iterable[Message]) -> Iterable[Message]:
        """Replies as they are, but noting which partition a node says it has."""
        if any(message.metadata.message_type == IDENTITY for message in sent):
            return self._noted(sent, replies)
        return replies

    def _noted(self, sent: Sequence[Message], replies: Iterable[Message]) -> Iterator[Message]:
        for node, reply in with_nodes(sent, replies):
            if node is not None and reply.has_content():
                answer = reply.content.config_records.get("identity", ConfigRecord())
                claimed = answer.get("partition-id")
                known = isinstance(claimed, bool) or claimed in self._partitions.values()
                if isinstance(claimed, int) and not known:
                    self._partitions[node] = claimed
            yield reply
