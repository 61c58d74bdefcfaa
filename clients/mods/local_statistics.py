"""Local statistics: each client keeps the statistics of its own data (FedBN)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.message_fields import array_record, is_training
from hqde_fl.protocol.members import (
    add_member_prefix,
    config_value,
    uncopied_record,
)
from hqde_fl.protocol.message_roles import BUFFERS, message_layouts

STATISTICS = "hqde.statistics"
"""Name in the client's state of its statistics."""


@final
@dataclass(frozen=True)
class LocalStatisticsMod:
    """A Flower mod that lets a client train and evaluate with its own statistics.

    It acts if the server's message asks for local buffers. The statistics of batch normalisation
    and other entries with that role are kept in ``Context.state``; the reply to a training message
    holds those that the server sent. Counters and weights are not affected (Li et al., 2021,
    arXiv:2102.07623, keep the weights of batch normalisation local too).
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Replace the statistics in a message by the client's own, and keep those of the reply."""
        if config_value(message, BUFFERS, str) != "local":
            return call_next(message, context)
        name, sent = array_record(message)
        kept = context.state.array_records.get(STATISTICS, ArrayRecord())
        known = {key: array for key, array in kept.items() if key in sent}
        own = copy.copy(message)
        own.content = RecordDict({**message.content, name: uncopied_record({**sent, **known})})
        reply = call_next(own, context)
        if not is_training(message) or reply.has_error() or len(reply.content.array_records) != 1:
            return reply
        name, trained = array_record(reply)
        local = [key for key in _statistics(message, sent) if key in trained]
        kept = ArrayRecord({**kept, **{key: trained[key] for key in local}})
        context.state[STATISTICS] = kept
        returned = uncopied_record({**trained, **{key: sent[key] for key in local}})
        return Message(RecordDict({**reply.content, name: returned}), reply_to=message)


def _statistics(message: Message, record: ArrayRecord) -> Mapping[str, Array]:
    """Return the statistics in the models of a training message, by their names in the record."""
    statistics: dict[str, Array] = {}
    for member, layout in message_layouts(message, record).items():
        names = {entry.name: entry for entry in layout.others if entry.role == "statistics"}
        keys = names if member is None else add_member_prefix(member, names)
        statistics |= {key: record[key] for key in keys}
    return statistics
