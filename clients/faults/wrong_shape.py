"""Wrong shape: an array whose shape does not fit the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import (
    Fault,
    State,
    weight_names,
    with_changed_arrays,
    with_replaced,
)
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.npy import decode_array
from hqde_fl.protocol.records import to_array


@final
@dataclass(frozen=True)
class WrongShape(Fault):
    """The client trains honestly, then sends one weight array in a wrong shape.

    Parameters
    ----------
    how : {"transpose", "truncate"}, default="transpose"
        ``transpose`` reverses the axes of the first weight array whose shape changes by it. If
        there is none, and for ``truncate``, the first one that has rows loses its last row.
    """

    how: Literal["transpose", "truncate"] = "transpose"

    def __post_init__(self) -> None:
        if self.how not in ("transpose", "truncate"):
            raise ConfigError(
                f"WrongShape.how must be 'transpose' or 'truncate', found {self.how!r}"
            )

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the model has a weight array whose shape can be changed."""
        weights = facts.weights
        if not self._misshape(weights):
            raise ConfigError(
                "the model must have a weight array with at least 1 row, found "
                f"{len(weights)} arrays without"
            )

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the honest reply with one weight array of a wrong shape, under all its names."""

        def misshape(record: ArrayRecord) -> ArrayRecord:
            weights = {n: decode_array(record[n]) for n in weight_names(message, record)}
            wrong = {name: to_array(tensor) for name, tensor in self._misshape(weights).items()}
            return with_replaced(message, record, wrong)

        return with_changed_arrays(message, call_next(message, context), misshape)

    def _misshape(self, weights: State) -> State:
        """Return the array to send in a wrong shape, by its name; nothing if there is none."""
        if self.how == "transpose":
            for name, tensor in weights.items():
                if tensor.shape != tensor.shape[::-1]:
                    return {name: tensor.permute(tuple(reversed(range(tensor.dim()))))}
        for name, tensor in weights.items():
            if tensor.dim() > 0 and len(tensor) > 0:
                return {name: tensor[:-1]}
        return {}
