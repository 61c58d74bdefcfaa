"""Sign flip: the update in the opposite direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.faults.scaling import scale_update
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class SignFlip(Fault):
    """The client trains honestly, then sends the negative update, scaled.

    The weights sent are w_global - scale (w_trained - w_global). Everything else, such as
    running statistics and frozen entries, is sent as trained.

    Parameters
    ----------
    scale : float, default=1.0
        Factor of the negative update, > 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"SignFlip.scale must be finite and > 0, found {self.scale}")

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the model has at least one number to train."""
        facts.require_weights()

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the honest reply with the update multiplied by ``-scale``."""

        def flip(start: State, trained: State) -> State:
            return scale_update(start, trained, -self.scale)

        return with_changed_state(message, call_next(message, context), flip)
