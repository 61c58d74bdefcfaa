"""Num-examples: a false number of training examples."""

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
    """The client trains honestly, but claims a false number of examples.

    A mean weighted by that number then consists of the client's update alone, or becomes invalid.

    Parameters
    ----------
    claim : float, default=1e9
        The claimed number. Any float: negative, or (in a file, as strings) ``"nan"`` and ``"inf"``.
        The default is the largest number that default screening accepts.
    """

    claim: float = 1e9

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the honest reply with the claimed number of examples."""
        return with_claimed_examples(message, call_next(message, context), self.claim)
