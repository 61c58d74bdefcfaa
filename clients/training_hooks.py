"""Hooks by which a fault changes a client's local training from within."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.task import Task

# A fault sets these around the client's training, in the process of the faulty client. Nothing that
# arrives in a message can set them.
poison: ContextVar[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None] = ContextVar(
    "poison", default=None
)
"""Changes every training batch ``(x, y)`` while set; a ``Poison`` also learns of the task first."""
idle: ContextVar[bool] = ContextVar("idle", default=False)
"""While true, ``train`` leaves the model unchanged and only reports a loss."""


class Poison(ABC):
    """A change of training batches that depends on the task."""

    @abstractmethod
    def begin(self, task: Task, data: Dataset[Any], model: nn.Module) -> None:
        """Prepare the change before ``model`` is trained on ``data`` for ``task``."""

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch to train on instead of ``(x, y)``."""
