"""Zero: a model of nothing but zeros."""

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
    """Does not train: sends weights that are all zero.

    It is the *weights* that are zero, as from a client that lost its memory, so its update is minus
    the global model. A client whose *update* is zero is a ``FreeRide``. The metrics are those of an
    honest reply, see ``reply_without_training``; integer and boolean buffers are sent as they are.
    """

    def check_task(self, facts: TaskFacts) -> None:
        """The model must have weights."""
        facts.require_weights()

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """A reply with zeros."""
        return with_changed_state(message, reply_without_training(message, context, call_next), _zeros)


def _zeros(start: State, trained: State) -> State:
    return {
        name: torch.zeros_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in trained.items()
    }
