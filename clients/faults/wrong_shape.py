"""Wrong shape: an array whose shape does not fit the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class WrongShape(Fault):
    """The client trains honestly, then sends one weight array in a wrong shape.

    Parameters
    ----------
    how : {"transpose", "truncate"}, default="transpose"
        ``transpose`` reverses the axes of the first array whose shape changes by it. If there is
        none, and for ``truncate``, the first array that has rows loses its last row.
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
        sent = self._misshape({}, weights)
        if all(sent[name].shape == weight.shape for name, weight in weights.items()):
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
        """Return the honest reply with one array of a wrong shape."""
        return with_changed_state(message, call_next(message, context), self._misshape)

    def _misshape(self, start: State, trained: State) -> State:
        arrays = {name: tensor for name, tensor in trained.items() if tensor.is_floating_point()}
        if self.how == "transpose":
            for name, tensor in arrays.items():
                if tensor.shape != tensor.shape[::-1]:
                    axes = tuple(reversed(range(tensor.dim())))
                    return {**trained, name: tensor.permute(axes)}
        for name, tensor in arrays.items():
            if tensor.dim() > 0 and len(tensor) > 0:
                return {**trained, name: tensor[:-1]}
        return trained
