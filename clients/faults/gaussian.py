"""Gaussian: the global model plus noise, instead of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.faults.base import Fault, State, reply_without_training, with_changed_state
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Gaussian(Fault):
    """The client sends the global weights plus N(0, sigma^2) noise, untrained.

    The noise of a complex weight is such a number in both of its parts. Everything but the weights
    is sent as received, and the metrics are those of an honest reply (see
    ``reply_without_training``).

    Parameters
    ----------
    sigma : float, default=0.5
        Standard deviation of the noise on every weight, > 0.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(f"Gaussian.sigma must be finite and > 0, found {self.sigma}")

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
        """Return an untrained reply: the global weights plus N(0, sigma^2) noise."""

        def noisy(start: State, trained: State) -> State:
            return add_noise(start, trained, self.sigma, generator)

        return with_changed_state(
            message, reply_without_training(message, context, call_next), noisy
        )


def add_noise(start: State, trained: State, sigma: float, generator: torch.Generator) -> State:
    """Return the numbers of ``start`` plus N(0, sigma^2) noise; no noise if sigma is 0."""

    def noisy(tensor: Tensor) -> Tensor:
        if sigma == 0:
            return tensor
        return tensor + sigma * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    return {name: noisy(start[name]) for name in trained}
