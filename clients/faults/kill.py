"""Kill: the client's process ends."""

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
    """Ends its process instead of training, at once and without cleaning up.

    Not for engines that run the clients in the server's process: it would end that.

    Parameters
    ----------
    status : int, default=1
        The exit status of the process, in [0, 255].
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
        """Does not return."""
        os._exit(self.status)
