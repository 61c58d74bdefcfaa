"""A federation whose clients take given times, by the Grid's measurement or a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.protocol.wrapped_grid import WrappedGrid


class Timed(WrappedGrid):
    """A Grid that measures given seconds.

    Parameters
    ----------
    grid : Grid
        Knows the partitions.
    seconds : Sequence[float]
        Partition id -> the seconds that its client takes.
    virtual : bool
        True if a virtual clock tells them, so that who needs longer than the timeout is late.
    """

    def __init__(self, grid: Grid, seconds: Sequence[float], *, virtual: bool = False) -> None:
        super().__init__(grid)
        self.sent: list[Message] = []
        self._seconds, self._round, self._times = seconds, 0.0, dict[int, float]()
        self._virtual = virtual
        if virtual:
            self.reply_times, self.round_time = lambda: self._times, lambda: self._round
        else:
            self.call_seconds = self._fixed

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        messages = list(messages)
        self.sent += messages
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        if not self._virtual:
            return list(replies)
        limit = float("inf") if timeout is None else timeout
        self._times = {m.metadata.dst_node_id: self._of(m.metadata.dst_node_id) for m in messages}
        self._round = min(limit, max(self._times.values()))
        return [r for r in replies if self._times[r.metadata.src_node_id] <= limit]

    def _of(self, node: int) -> float:
        return self._seconds[self.partition_of(node)]

    def _fixed(self) -> Mapping[int, float]:
        return {node: self._of(node) for node in self.get_node_ids()}
