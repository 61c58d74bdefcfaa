"""Infinity: infinite values among the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.faults.nan import overwrite_weights
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Infinity(Fault):
    """The client trains honestly, then replaces one weight, or a fraction of them, by infinity.

    Parameters
    ----------
    fraction : float, default=0.0
        Fraction of the weights to replace, in [0, 1]; at least one is. They are drawn in every
        round. A complex weight counts as two.
    negative : bool, default=False
        Write minus infinity.
    """

    fraction: float = 0.0
    negative: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"Infinity.fraction must be in [0, 1], found {self.fraction}")

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
        """Return the honest reply with ``fraction`` of its weights, at least one, infinite."""
        value = -math.inf if self.negative else math.inf

        def spoilt(start: State, trained: State) -> State:
            return overwrite_weights(trained, value, self.fraction, generator)

        return with_changed_state(message, call_next(message, context), spoilt)
