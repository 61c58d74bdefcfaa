"""Crash: an exception instead of a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault
from hqde_fl.clients.message_fields import partition_of, server_round


@final
@dataclass(frozen=True)
class Crash(Fault):
    """The client raises an exception instead of training; Flower sends an error reply."""

    raises = True

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Raise ``RuntimeError`` with the partition and the round."""
        partition, _ = partition_of(context)
        raise RuntimeError(
            f"fault 'crash' of partition {partition} in round {server_round(message)}"
        )
