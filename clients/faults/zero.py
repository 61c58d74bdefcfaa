"""Zero: a model whose weights are all zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, State, reply_without_training, with_changed_state
from hqde_fl.clients.task_facts import TaskFacts


@final
@dataclass(frozen=True)
class Zero(Fault):
    """The client sends weights that are all zero, untrained.

    As its *weights* are zero, its *update* is the negative global model. A client whose update is
    zero is a ``FreeRide``. The metrics are those of an honest reply (see
    ``reply_without_training``); everything but the weights is sent as received.
    """

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
        """Return a reply whose weights are zero."""
        return with_changed_state(
            message, reply_without_training(message, context, call_next), _zeros
        )


def _zeros(start: State, trained: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
