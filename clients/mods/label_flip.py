"""Label flip: honest training on wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from clients.mods.base import Fault
from clients.training import poison
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class LabelFlip(Fault):
    """Trains on wrong labels: y becomes classes - 1 - y, or one constant.

    Needs a client that trains with ``clients.training``, as ``ensemble_app`` does.

    Parameters
    ----------
    classes : int, default=10
        The number of classes, >= 2.
    to : int, optional
        The label that every example gets, in [0, classes). Without it the labels are reversed.
    keep : tuple of int, default=()
        Labels in [0, classes) that stay as they are.
    """

    classes: int = 10
    to: int | None = None
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ConfigError(f"LabelFlip.classes must be >= 2, found {self.classes}")
        if self.to is not None and not 0 <= self.to < self.classes:
            raise ConfigError(f"LabelFlip.to must be in [0, {self.classes}), found {self.to}")
        for label in self.keep:
            if not 0 <= label < self.classes:
                raise ConfigError(
                    f"LabelFlip.keep must hold labels in [0, {self.classes}), found {label}"
                )

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """The reply of honest training on wrong labels."""
        token = poison.set(self._flip)
        try:
            return call_next(message, context)
        finally:
            poison.reset(token)

    def _flip(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.isin(y, torch.tensor(self.keep, dtype=y.dtype, device=y.device))
        return x, torch.where(kept, y, self._wrong(y))

    def _wrong(self, y: Tensor) -> Tensor:
        if self.to is not None:
            return torch.full_like(y, self.to)
        largest = int(y.max())
        if largest >= self.classes:
            raise ConfigError(
                f"LabelFlip(classes={self.classes}) needs labels below {self.classes}, "
                f"found {largest}"
            )
        return self.classes - 1 - y
