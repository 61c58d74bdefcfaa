"""Garbage: random bytes instead of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, reply_without_training, with_changed_arrays
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Garbage(Fault):
    """The client sends random bytes under the names, shapes and dtypes of honest arrays.

    Parameters
    ----------
    size : int, default=0
        Bytes per array, >= 0; 0 for as many as the honest array has.
    """

    size: int = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"Garbage.size must be >= 0, found {self.size}")

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the model has arrays."""
        facts.require_arrays()

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return an untrained reply with random bytes in place of each array's bytes."""

        def noise(array: Array) -> Array:
            drawn = torch.randint(256, (self.size or len(array.data),), generator=generator)
            data = drawn.to(torch.uint8).numpy().tobytes()
            return Array(array.dtype, array.shape, array.stype, data)

        def replaced(record: ArrayRecord) -> ArrayRecord:
            return ArrayRecord({name: noise(array) for name, array in record.items()})

        return with_changed_arrays(
            message, reply_without_training(message, context, call_next), replaced
        )
