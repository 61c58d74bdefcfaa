"""The view of a Grid that one edge has: the nodes of its own group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.protocol.flower_internals import NodeInfo
from hqde_fl.protocol.grid_protocols import KeepsVirtualTime
from hqde_fl.protocol.wrapped_grid import WrappedGrid


@final
class GroupGrid(WrappedGrid):
    """A Grid of one group's nodes, whose messages another object sends.

    It keeps a virtual clock if the wrapped Grid does: that of its own nodes.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches all nodes.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.partition_of = self._identity
        self._clients: dict[int, int] = {}
        self._replies: Sequence[Message] = ()
        self.exchanged: tuple[Sequence[Message], Sequence[Message]] = ((), ())
        """The messages and replies that were handed over last."""
        self._replied: dict[int, float] = {}
        self._seconds = 0.0
        if isinstance(grid, KeepsVirtualTime):
            self.reply_times, self.round_time = self._reply_times, self._round_time

    def set_clients(self, clients: Mapping[int, int]) -> None:
        """Set the group: the node id of each connected node, and the id that rules know it by."""
        self._clients = dict(clients)

    def hand_over(self, sent: Sequence[Message], replies: Sequence[Message], limit: float) -> None:
        """Keep the replies that the next ``send_and_receive`` returns, and note their times.

        ``limit`` is the number of seconds after which replies were late.
        """
        self._replies, self.exchanged = replies, (sent, replies)
        if isinstance(self._grid, KeepsVirtualTime):
            times = self._grid.reply_times()
            nodes = [message.metadata.dst_node_id for message in sent]
            self._replied = {node: times[node] for node in nodes if node in times}
            in_time = [time for time in self._replied.values() if time <= limit]
            late = len(in_time) < len(nodes)
            self._seconds = limit if late else max(in_time, default=0.0)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies that were handed over, once; nothing is sent."""
        replies, self._replies = self._replies, ()
        return replies

    def get_node_ids(self) -> list[int]:
        """Return the ids of the group's connected nodes."""
        return list(self._clients)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return Flower's description of each of the group's connected nodes."""
        return [node for node in self._grid.get_nodes() if node.node_id in self._clients]

    def _identity(self, node: int) -> int:
        """Return the id that rules know a node by: its partition id where that is known."""
        return self._clients[node]

    def _reply_times(self) -> Mapping[int, float]:
        return self._replied

    def _round_time(self) -> float:
        return self._seconds
