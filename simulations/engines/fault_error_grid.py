"""A Grid that ends the run when the code of a simulated fault raises an error.

Such an error is a defect of the experiment, not a faulty client that was detected. A client must
not be able to end a run by what it sends. So the text of ``FaultError`` is looked for only in error
replies of clients that the experiment makes faulty, and only for the fault each has in the round.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.faults.fault_errors import find_failure
from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.errors import RunError
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.wrapped_grid import PartitionAwareGrid

FaultsOf = Callable[[int], Mapping[int, str]]
"""(round) -> partition id -> name of the fault."""


@final
class FaultErrorGrid(PartitionAwareGrid):
    """A Grid that raises ``RunError`` when a client reports that the code of its fault failed.

    All other replies pass unchanged, even if they look like such a report but come from a client
    that does not have that fault in this round.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the clients.
    faults : Callable[[int], Mapping[int, str]]
        (round) -> partition id of each faulty client -> name of its local fault.
    """

    def __init__(self, grid: Grid, faults: FaultsOf) -> None:
        super().__init__(grid)
        self._faults = faults

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies, unchanged.

        While replies to training messages are iterated over, ``RunError`` is raised if a faulty
        client reports that the code of its fault failed.
        """
        sent = list(messages)
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        training = [message for message in sent if is_training(message)]
        if not training:
            return self._note_identities(sent, replies)
        return self._checked(training, replies)

    def _checked(self, sent: Sequence[Message], replies: Iterable[Message]) -> Iterator[Message]:
        number = server_round(sent[0])
        faults = self._faults(number)
        waiting = iter(replies)
        try:
            for node, reply in with_nodes(sent, waiting):
                partition = None if node is None else self._partition(node)
                if partition is not None and partition in faults and reply.has_error():
                    reason, name = str(reply.error.reason or ""), faults[partition]
                    if failure := find_failure(reason, name, partition, number):
                        raise RunError(failure)
                yield reply
        finally:  # now, not when the exception is forgotten: clients may still be at work
            if isinstance(waiting, Generator):
                waiting.close()
