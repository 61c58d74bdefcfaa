"""The time that each client's reply took, by the virtual clock of a Grid or by a real one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import final

from flwr.serverapp import Grid

from hqde_fl.protocol.grid_protocols import KeepsVirtualTime, MeasuresCalls, MeasuresHosts


@final
class ReplyTimes:
    """Measures the replies to a round's messages.

    Parameters
    ----------
    grid : Grid
        Delivers the messages; it may keep a virtual clock, or know how long each client ran.
    deadline : float
        Seconds that the round waits for replies.
    """

    def __init__(self, grid: Grid, deadline: float) -> None:
        self.deadline = deadline
        # looked at once: asking an object for a protocol is slow, and is needed for every client
        self._clock = grid if isinstance(grid, KeepsVirtualTime) else None
        self._calls = grid if isinstance(grid, MeasuresCalls) else None
        self._hosts = grid if isinstance(grid, MeasuresHosts) else None
        self._sent = self._last = time.monotonic()
        self._arrived: dict[int, float] = {}

    def start(self) -> None:
        """Note that the messages are sent now."""
        self._sent = self._last = time.monotonic()

    def record_reply(self, node: int, at: float | None = None) -> None:
        """Note that the reply of a node has arrived: now, or ``at`` a monotonic time."""
        self._last = time.monotonic() if at is None else at
        self._arrived[node] = self._last - self._sent

    def record_end(self) -> None:
        """Note that the round waits for no more replies."""
        self._last = time.monotonic()

    def arrival(self, node: int) -> float | None:
        """Return the real seconds from message to reply; None if there is no reply."""
        return self._arrived.get(node)

    @property
    def virtual(self) -> Mapping[int, float] | None:
        """Node -> virtual seconds from message to reply, also of replies that came too late.

        None if the Grid keeps no virtual clock.
        """
        return None if self._clock is None else self._clock.reply_times()

    @property
    def virtual_round(self) -> float | None:
        """Virtual seconds of the round; None if the Grid keeps no virtual clock."""
        return None if self._clock is None else self._clock.round_time()

    def round_seconds(self) -> float:
        """Return the seconds of the round, virtual ones where there is a virtual clock."""
        virtual = self.virtual_round
        return self._last - self._sent if virtual is None else virtual

    def seconds(self, node: int) -> float | None:
        """Return the seconds that a client took, by the best clock that there is.

        That is the virtual clock; else the seconds that its call ran, where the Grid measures them
        (a simulated client may wait for others on the same machine); else those to its reply. None
        if it has not replied.
        """
        if (virtual := self.virtual) is not None:
            return virtual.get(node)
        if self._calls is not None:
            return self._calls.call_seconds().get(node, self.arrival(node))
        return self.arrival(node)

    def host_load(self, node: int) -> float:
        """Return the load of the machine on which a client ran, in [0, 1].

        0 if the Grid does not measure it, and in virtual time, where all clients share a machine.
        """
        if self._clock is None and self._hosts is not None:
            return self._hosts.host_loads().get(node, 0.0)
        return 0.0
