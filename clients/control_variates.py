"""SCAFFOLD's correction of a client's gradients (Karimireddy et al. 2020, arXiv:1910.06378).

A client adds c - c_i to each gradient: c is the server's control variate, an estimate of the mean
gradient over all clients, and c_i the client's own. After K steps with learning rate eta, from the
server's model x to y, its new one is c_i - c + (x - y) / (K eta) (option II of algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from hqde_fl.updates.layout import to_numbers


@final
@dataclass(eq=False)
class ControlVariate:
    """The control variates of a training of one model, by the names of its weights.

    Parameters
    ----------
    server : Mapping[str, Tensor]
        The server's, a flat vector for each weight, complex numbers as pairs.
    own : Mapping[str, Tensor]
        The client's own; zero where there is none.
    """

    server: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    _starts: dict[str, Tensor] = field(default_factory=dict)
    _shifts: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    _change: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, model: nn.Module) -> None:
        """Prepare the correction of a model that has the server's weights."""
        for name, parameter in model.named_parameters():
            if name in self.server and parameter.requires_grad:
                start = parameter.detach().clone()
                shift = self._of(self.server, name) - self._of(self.own, name)
                self._starts[name] = start
                self._shifts.append((parameter, _shaped_as(shift, parameter)))

    @torch.no_grad()
    def correct(self) -> None:
        """Add c - c_i to the gradients; a weight without a gradient has the gradient zero."""
        for parameter, shift in self._shifts:
            if parameter.grad is None:
                parameter.grad = shift.clone()
            else:
                parameter.grad.add_(shift)

    def close(self, model: nn.Module, steps: int, rate: float) -> None:
        """Compute the change of the client's control variate after its steps.

        Parameters
        ----------
        model : nn.Module
            The trained model.
        steps : int
            The number of steps; after none, the client's stays.
        rate : float
            Their learning rate; with 0, the client's stays.
        """
        parameters = dict(model.named_parameters())
        for name, start in self._starts.items() if steps and rate else ():
            moved = to_numbers(start - parameters[name].detach())
            like = self.server[name]
            mean = moved.to(like.device, like.dtype) / (steps * rate)
            self._change[name] = mean - like

    @property
    def change(self) -> dict[str, Tensor]:
        """The new control variate minus the old one, by the names of the server's."""
        return {
            name: self._change.get(name, torch.zeros_like(value))
            for name, value in self.server.items()
        }

    @property
    def new(self) -> dict[str, Tensor]:
        """The client's new control variate."""
        return {name: self._of(self.own, name) + value for name, value in self.change.items()}

    def _of(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        known = values.get(name)
        fits = known is not None and known.shape == self.server[name].shape
        return known if known is not None and fits else torch.zeros_like(self.server[name])


def _shaped_as(numbers: Tensor, parameter: Tensor) -> Tensor:
    """Return a flat vector of real numbers with a weight's shape, dtype and device."""
    if parameter.is_complex():
        numbers = torch.view_as_complex(numbers.view(-1, 2).contiguous())
    return numbers.to(parameter.device, parameter.dtype).reshape(parameter.shape)


control_variates: ContextVar[dict[int, ControlVariate] | None] = ContextVar(
    "control_variates", default=None
)
"""Member -> the control variates of this training, set by ``ControlVariatesMod``; None without."""
