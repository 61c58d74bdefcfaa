"""Free ride: the client returns the global model untrained (Fraboni et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import (
    Fault,
    State,
    reply_without_training,
    with_changed_state,
    with_claimed_examples,
)
from hqde_fl.clients.faults.gaussian import add_noise
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class FreeRide(Fault):
    """The client sends the global model back untrained, disguised by noise if so configured.

    The update is zero, or the noise (arXiv:2006.11901); it slows training down. The metrics are
    those of an honest reply (see ``reply_without_training``), but for the number of examples if
    ``claim`` is set; everything but the weights is sent as received.

    Parameters
    ----------
    noise : float, default=0.0
        Standard deviation of the noise that disguises the update, >= 0.
    claim : int, default=0
        Number of examples claimed, >= 0; 0 for the partition's true number.
    """

    noise: float = 0.0
    claim: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ConfigError(f"FreeRide.noise must be finite and >= 0, found {self.noise}")
        if self.claim < 0:
            raise ConfigError(f"FreeRide.claim must be >= 0, found {self.claim}")

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return an untrained reply: the global weights, plus noise if ``noise`` > 0.

        It claims ``claim`` examples, or the partition's true number if that is 0.
        """

        def returned(start: State, trained: State) -> State:
            return add_noise(start, trained, self.noise, generator)

        reply = with_changed_state(
            message, reply_without_training(message, context, call_next), returned
        )
        return with_claimed_examples(message, reply, self.claim) if self.claim else reply
