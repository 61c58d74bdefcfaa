"""Projected gradient descent around the global model (Wang et al., 2020, arXiv:2007.05084)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import nn

from hqde_fl.clients.faults.backdoor import Backdoor
from hqde_fl.clients.faults.backdoor_base import BackdoorFault, Watch
from hqde_fl.clients.faults.base import State, with_changed_state
from hqde_fl.clients.faults.planted_backdoor import (
    PlantedBackdoor,
    scaled_models,
    update_length,
    weights_of_models,
)
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class ProjectedBackdoor(PlantedBackdoor):
    """Projected: a backdoor whose training never leaves a ball around the global model.

    After every step the weights w become w_0 + min(1, radius / ||w - w_0||) (w - w_0), so that
    bounds on lengths find nothing and the training spends its length on the backdoor (PGD in
    arXiv:2007.05084; there with edge cases). In ``model-replacement`` it is the paper's PGD with
    replacement. The attackers know their own data.

    Parameters
    ----------
    backdoor : BackdoorFault, default=Backdoor()
        The backdoor to plant.
    radius : float, default=0.0
        Radius of the ball, >= 0; 0 for the length of the client's own honest update, which it
        trains first.
    """

    backdoor: BackdoorFault = field(default_factory=Backdoor)
    radius: float = 0.0

    def __post_init__(self) -> None:
        self.check_backdoor()
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise ConfigError(
                f"ProjectedBackdoor.radius must be finite and >= 0, found {self.radius}"
            )

    def train(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        watch: Watch | None = None,
    ) -> Message:
        """Return the backdoor's reply; no model's update is longer than its radius."""
        models = weights_of_models(message)
        radii = [self.radius] * len(models)
        if self.radius == 0:
            radii = _honest_lengths(message, call_next(message, context), models)
        waiting = iter(radii)

        def project(model: nn.Module) -> Callable[[], None]:
            outer = watch(model) if watch is not None else None
            ball = _Ball(model, next(waiting, math.inf))

            def before_batch() -> None:
                ball.project()
                if outer is not None:
                    outer()

            return before_batch

        def bounded(start: State, trained: State) -> State:
            factors = [
                min(1.0, radius / own) if (own := update_length(start, trained, names)) else 1.0
                for names, radius in zip(models, radii, strict=True)
            ]
            return scaled_models(start, trained, models, factors)

        reply = self.backdoor.train(message, context, call_next, project)
        return with_changed_state(message, reply, bounded)


def _honest_lengths(message: Message, reply: Message, models: list[list[str]]) -> list[float]:
    """Return the length of each model's update in a reply; infinity for an error reply."""
    lengths = [math.inf] * len(models)

    def note(start: State, trained: State) -> State:
        lengths[:] = [update_length(start, trained, names) for names in models]
        return trained

    with_changed_state(message, reply, note)
    return lengths


class _Ball:
    """A ball around a model's present weights, onto which it is projected."""

    def __init__(self, model: nn.Module, radius: float) -> None:
        self._radius = radius
        self._centre = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    @torch.no_grad()
    def project(self) -> None:
        """Move the weights to the nearest ones in the ball."""
        squares = [
            torch.linalg.vector_norm(weight - centre, dtype=_wide(weight)).abs() ** 2
            for weight, centre in self._centre
        ]
        own = math.sqrt(sum(float(square) for square in squares))
        if own > self._radius:
            for weight, centre in self._centre:
                weight.copy_(centre + (self._radius / own) * (weight - centre))


def _wide(weight: torch.Tensor) -> torch.dtype:
    return torch.complex128 if weight.is_complex() else torch.float64
