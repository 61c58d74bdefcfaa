"""A fault whose own code fails ends the run, with its name: it is no faulty client that was caught.

A client cannot end a run by what it sends. So the server looks for the sentence of ``FaultError``
only in the error replies of clients that the experiment itself makes faulty, and only for the fault
that each of them has in the round.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.faults.fault_errors import find_failure
from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.errors import RunError
from hqde_fl.simulations.engines.wrapped_grid import FaultsOf, WrappedGrid, with_nodes


@final
class FaultErrorGrid(WrappedGrid):
    """A Grid on which a round ends with a ``RunError`` when a fault reports that it failed itself.

    All other replies pass untouched, also those that look like such a report but come from a client
    that has no such fault in this round.

    Parameters
    ----------
    grid : Grid
        The clients.
    faults : Callable[[int], Mapping[int, str]]
        (round) -> who has which local fault, by partition id.
    """

    def __init__(self, grid: Grid, faults: FaultsOf) -> None:
        super().__init__(grid)
        self._faults = faults

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and receive the replies."""
        sent = list(messages)
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        training = [message for message in sent if is_training(message)]
        return self._watched(training, replies) if training else self._overheard(sent, replies)

    def _watched(self, sent: Sequence[Message], replies: Iterable[Message]) -> Iterator[Message]:
        number = server_round(sent[0])
        faults = self._faults(number)
        waiting = iter(replies)
        try:
            for node, reply in with_nodes(sent, waiting):
                partition = None if node is None else self._partition(node)
                if partition is not None and partition in faults and reply.has_error():
                    reason, name = str(reply.error.reason or ""), faults[partition]
                    if found := find_failure(reason, name, partition, number):
                        raise RunError(found)
                yield reply
        finally:  # now, not when the exception is forgotten: clients may still be at work
            if isinstance(waiting, Generator):
                waiting.close()
