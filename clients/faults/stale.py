"""Stale: what was trained some rounds ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, with_changed_arrays
from hqde_fl.clients.message_fields import array_record
from hqde_fl.errors import ConfigError

KEPT = "hqde.stale."
"""Prefix of the records in the client's state: what it trained, the oldest first."""


@final
@dataclass(frozen=True)
class Stale(Fault):
    """Trains honestly, but sends the weights that it trained some rounds ago.

    They are the full weights of then: they undo what the others have learnt since. The client's
    ``Context.state`` keeps as many models as ``rounds``; until there are that many the oldest one
    is sent. Rounds are those in which the client was asked to train and was stale; if the state is
    lost, as in a crash, it starts anew. The metrics are today's.

    Parameters
    ----------
    rounds : int, default=3
        How many rounds ago, >= 1.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"Stale.rounds must be >= 1, found {self.rounds}")

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """The reply with old weights."""
        reply = call_next(message, context)
        if reply.has_error() or len(reply.content.array_records) != 1:
            return reply
        kept = _kept(context)
        oldest = kept[0] if kept else array_record(reply)[1]
        _keep(context, [*kept, array_record(reply)[1]][-self.rounds :])
        return with_changed_arrays(message, reply, lambda trained: oldest)


def _kept(context: Context) -> list[ArrayRecord]:
    """What the client trained in earlier rounds, the oldest first."""
    records = context.state.array_records
    names = sorted(
        (name for name in records if name.startswith(KEPT)), key=lambda name: int(name[len(KEPT) :])
    )
    return [records[name] for name in names]


def _keep(context: Context, records: list[ArrayRecord]) -> None:
    for name in [name for name in context.state if name.startswith(KEPT)]:
        del context.state[name]
    for place, record in enumerate(records):
        context.state[f"{KEPT}{place}"] = record
