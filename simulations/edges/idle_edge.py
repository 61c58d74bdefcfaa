"""Free-riding edges: those whose fault keeps them from training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.message_fields import array_record, partition_of
from hqde_fl.clients.training_hooks import idle
from hqde_fl.protocol.screening import NUM_EXAMPLES


@final
class IdleEdgeMod:
    """A Flower mod, the innermost one of an edge, that replies at once while the edge is to idle.

    The reply is the model that the edge was sent, with a claim of one example for each client.

    Parameters
    ----------
    clients : Sequence[int]
        The number of each edge's clients.
    """

    def __init__(self, clients: Sequence[int]) -> None:
        self._clients = clients

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Reply without training if a fault asks for it; pass on any other message."""
        if not idle.get():
            return call_next(message, context)
        name, record = array_record(message)
        edge, _ = partition_of(context)
        metrics = MetricRecord({NUM_EXAMPLES: self._clients[edge]})
        return Message(RecordDict({name: record, "metrics": metrics}), reply_to=message)
