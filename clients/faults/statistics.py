"""Statistics: honest weights with false running variances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.updates.layout import Entry


@final
@dataclass(frozen=True)
class Statistics(Fault):
    """The client trains honestly, then multiplies each running variance by a factor.

    The weights are honest, so no rule that judges by the updates can tell; but a model normalises
    by its running variances, and one that is far off makes its outputs constant or enormous. In
    float16 a large factor overflows to infinity, which screening rejects.

    Parameters
    ----------
    factor : float, default=1e6
        Factor of each running variance, >= 0; also try 1e-6 and 0.
    """

    factor: float = 1e6

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise ConfigError(f"Statistics.factor must be finite and >= 0, found {self.factor}")

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the model keeps a running variance."""
        if not any(_is_variance(entry) and entry.numbers for entry in facts.layout.entries):
            raise ConfigError(
                "the model must have a running variance, as of batch normalisation, found none"
            )

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the honest reply with each running variance multiplied by ``factor``."""

        def multiply(start: State, trained: State) -> State:
            return {name: tensor.double() * self.factor for name, tensor in trained.items()}

        return with_changed_state(message, call_next(message, context), multiply, _is_variance)


def _is_variance(entry: Entry) -> bool:
    return entry.is_variance
