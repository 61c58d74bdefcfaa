"""NaN: NaN values among the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class NaN(Fault):
    """The client trains honestly, then replaces one weight, or a fraction of them, by NaN.

    Parameters
    ----------
    fraction : float, default=0.0
        Fraction of the weights to replace, in [0, 1]; at least one is. They are drawn in every
        round. A complex weight counts as two.
    """

    fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"NaN.fraction must be in [0, 1], found {self.fraction}")

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
        """Return the honest reply with ``fraction`` of its weights, at least one, NaN."""

        def spoilt(start: State, trained: State) -> State:
            return overwrite_weights(trained, float("nan"), self.fraction, generator)

        return with_changed_state(message, call_next(message, context), spoilt)


def overwrite_weights(
    trained: State, value: float, fraction: float, generator: torch.Generator
) -> State:
    """Return a state with a fraction of its numbers, at least one, set to ``value``.

    They are drawn at random; a state without any is returned as it is.
    """
    sizes = [tensor.numel() for tensor in trained.values()]
    total = sum(sizes)
    if total == 0:
        return trained
    hit = torch.zeros(total, dtype=torch.bool)
    count = max(1, round(fraction * total))
    hit[torch.randperm(total, generator=generator)[:count]] = True
    masks = torch.split(hit, sizes)
    return {
        name: tensor.masked_fill(mask.view(tensor.shape), value)
        for (name, tensor), mask in zip(trained.items(), masks, strict=True)
    }
