"""Num-examples: a lie about how much was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, with_claimed_examples


@final
@dataclass(frozen=True)
class NumExamples(Fault):
    """Trains honestly, but claims a false number of examples.

    Where updates are weighted by it, the client's own takes over the mean, or turns it to nonsense.

    Parameters
    ----------
    claim : float, default=1e9
        What it claims; anything goes, also negative numbers and (in a file, as strings) ``"nan"``
        and ``"inf"``. The default is the largest number that standard screening lets pass.
    """

    claim: float = 1e9

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """The honest reply with another number."""
        return with_claimed_examples(message, call_next(message, context), self.claim)
