"""A Grid on which clients drop out of rounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import final

from flwr.app import Error, Message
from flwr.serverapp import Grid

from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.protocol.flower_internals import ErrorCode, set_message_id
from hqde_fl.protocol.wrapped_grid import PartitionAwareGrid
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.heterogeneity.drop_out import DropOut

DROPPED_OUT = "dropped out (simulated)"
"""The reason in the error reply of a client that drops out."""


@final
class DropOutGrid(PartitionAwareGrid):
    """A Grid that gives an error reply for each client that drops out of a round.

    Such a client gets no training message, so that it does not train and its state stays as it is.
    Evaluation is not affected.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the clients.
    drop_out : DropOut
        The clients that drop out. A node whose partition is not known does not.
    seeds : Seeds
        The run's seeds.
    """

    def __init__(self, grid: Grid, drop_out: DropOut, seeds: Seeds) -> None:
        super().__init__(grid)
        self._drop_out, self._seeds = drop_out, seeds

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to the clients that stay; return all replies, those of drop-outs first."""
        sent = list(messages)
        dropped = [message for message in sent if is_training(message) and self._drops(message)]
        for message in dropped:
            set_message_id(message, f"dropped-{message.metadata.dst_node_id}")
        gone = {message.metadata.dst_node_id for message in dropped}
        left = [message for message in sent if message.metadata.dst_node_id not in gone]
        replies = self._grid.send_and_receive(left, timeout=timeout) if left else ()
        if dropped:
            return self._joined(dropped, replies)
        return self._note_identities(sent, replies)

    def _drops(self, message: Message) -> bool:
        partition = self._partition(message.metadata.dst_node_id)
        if partition is None:
            return False
        return self._drop_out.part(partition, server_round(message), self._seeds) is not None

    def _joined(self, dropped: Sequence[Message], replies: Iterable[Message]) -> Iterator[Message]:
        for message in dropped:
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            yield Message(Error(code, DROPPED_OUT), reply_to=message)
        yield from replies
