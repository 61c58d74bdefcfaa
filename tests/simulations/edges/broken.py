"""A fault whose own code fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults import Fault


@final
@dataclass(frozen=True)
class Broken(Fault):
    """A fault that raises an exception."""

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Raise an error."""
        raise ValueError("no luck")
