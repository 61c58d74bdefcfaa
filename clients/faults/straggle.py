"""Straggle: an honest but delayed reply."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Straggle(Fault):
    """The client waits, then trains honestly; after the round's deadline its reply is late.

    An experiment in virtual time adds the seconds to the client's virtual time; nobody waits then.

    Parameters
    ----------
    seconds : float, default=60.0
        Seconds to wait, >= 0.
    """

    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ConfigError(f"Straggle.seconds must be finite and >= 0, found {self.seconds}")

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Wait for ``seconds``, then return the honest reply."""
        time.sleep(self.seconds)
        return call_next(message, context)
