"""Kill: the client ends its process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Kill(Fault):
    """The client ends its process instead of training, at once and without cleanup.

    Not for engines that run the clients in the server's process, which would end too.

    Parameters
    ----------
    status : int, default=1
        Exit status of the process, in [0, 255].
    """

    status: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.status <= 255:
            raise ConfigError(f"Kill.status must be in [0, 255], found {self.status}")

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """End the process with ``status``; never return."""
        os._exit(self.status)
