"""Stale: weights that were trained some rounds ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, message_entries, with_changed_arrays
from hqde_fl.clients.message_fields import array_record
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import uncopied_record

RECORD_PREFIX = "hqde.stale."
"""Prefix of the records in the client's state that hold trained models, the oldest first."""


@final
@dataclass(frozen=True)
class Stale(Fault):
    """The client trains honestly, but sends the model that it trained some rounds ago.

    Its weights undo the training of other clients since then. Its running statistics and counters
    are as old; frozen entries are sent as received. The client's ``Context.state`` keeps the
    last ``rounds`` models; until there are that many the oldest one is sent. Only rounds in which
    the client trained with this fault count; if the state is lost, as in a crash, it begins again.
    The metrics are those of the current round.

    Parameters
    ----------
    rounds : int, default=3
        Age of the weights in rounds, >= 1.
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
        """Return the honest reply with the weights trained ``rounds`` rounds ago, or the oldest."""
        reply = call_next(message, context)
        if reply.has_error() or len(reply.content.array_records) != 1:
            return reply
        earlier = _load_models(context)
        _, trained = array_record(reply)
        entries = message_entries(message)
        moving = {
            name: array
            for name, array in trained.items()
            if name not in entries or entries[name].role != "frozen"
        }
        oldest = earlier[0] if earlier else moving
        _store_models(context, [*earlier, uncopied_record(moving)][-self.rounds :])
        sent = {n: oldest.get(n, array) if n in moving else array for n, array in trained.items()}
        return with_changed_arrays(message, reply, lambda _: ArrayRecord(sent))


def _load_models(context: Context) -> list[ArrayRecord]:
    """Return the models that the client trained in earlier rounds, the oldest first."""
    records = context.state.array_records
    names = [name for name in records if name.startswith(RECORD_PREFIX)]
    names.sort(key=lambda name: int(name.removeprefix(RECORD_PREFIX)))
    return [records[name] for name in names]


def _store_models(context: Context, models: list[ArrayRecord]) -> None:
    for name in [name for name in context.state if name.startswith(RECORD_PREFIX)]:
        del context.state[name]
    for index, model in enumerate(models):
        context.state[f"{RECORD_PREFIX}{index}"] = model
