"""Scaling: an enlarged update (model replacement, Bagdasaryan et al., 2020)."""

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


@final
@dataclass(frozen=True)
class Scaling(Fault):
    """The client trains honestly, then sends its update multiplied by a factor.

    The weights sent are w_global + scale (w_trained - w_global). With scale = n / f the f clients'
    mean update replaces the mean of all n (arXiv:1807.00459). Everything else, such as running
    statistics and frozen entries, is sent as trained.

    Parameters
    ----------
    scale : float, default=10.0
        Factor of the update, > 0.
    """

    scale: float = 10.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"Scaling.scale must be finite and > 0, found {self.scale}")

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
        """Return the honest reply with the scaled update."""

        def scale(start: State, trained: State) -> State:
            return scale_update(start, trained, self.scale)

        return with_changed_state(message, call_next(message, context), scale)


def scale_update(start: State, trained: State, scale: float) -> State:
    """Return ``start + scale (trained - start)`` for each name."""
    return {
        name: torch.add(start[name], tensor - start[name], alpha=scale)
        for name, tensor in trained.items()
    }
