"""Neurotoxin: a backdoor in weights that honest clients hardly move (Zhang et al., 2022, ICML)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hqde_fl.clients.faults.backdoor import Backdoor
from hqde_fl.clients.faults.backdoor_base import BackdoorFault, Watch
from hqde_fl.clients.faults.base import State, numbers_of, with_changed_state
from hqde_fl.clients.faults.planted_backdoor import PlantedBackdoor, weights_of_models
from hqde_fl.clients.message_fields import array_record
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import uncopied_record

RECORD = "hqde.neurotoxin"
"""Name of the record in the client's state with the global weights that it received last."""


@final
@dataclass(frozen=True)
class Neurotoxin(PlantedBackdoor):
    """Neurotoxin: a backdoor trained only in weights that the last global step hardly moved.

    The ``top`` fraction of a model's weights that moved most from the last global model that the
    client received to the present one is left as received: gradients are masked in every step, and
    so is the update (arXiv:2206.10341). The backdoor so outlasts the attack, as honest clients
    do not overwrite it. The client's ``Context.state`` keeps the last global weights; in the first
    round nothing is masked. The attackers know their own data and the global models.

    Parameters
    ----------
    backdoor : BackdoorFault, default=Backdoor()
        The backdoor to plant.
    top : float, default=0.05
        Fraction of a model's weights that are left as they are, in (0, 1); at least one.
    """

    backdoor: BackdoorFault = field(default_factory=Backdoor)
    top: float = 0.05

    def __post_init__(self) -> None:
        self.check_backdoor()
        if not 0 < self.top < 1:
            raise ConfigError(f"Neurotoxin.top must be in (0, 1), found {self.top}")

    def train(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        watch: Watch | None = None,
    ) -> Message:
        """Return the backdoor's reply, its update masked; keep the present global weights."""
        models = weights_of_models(message)
        masks = self.masks(message, context, models)
        _, received = array_record(message)
        names = [name for model in models for name in model]
        context.state[RECORD] = uncopied_record({name: received[name] for name in names})
        waiting, hooks = iter(models), list[RemovableHandle]()

        def mask(model: nn.Module) -> Callable[[], None]:
            hooks.extend(_masked_gradients(model, next(waiting, []), masks))
            return watch(model) if watch is not None else lambda: None

        def masked(start: State, trained: State) -> State:
            return {
                name: torch.where(masks[name], start[name], tensor) if name in masks else tensor
                for name, tensor in trained.items()
            }

        try:
            reply = self.backdoor.train(message, context, call_next, mask)
        finally:
            for hook in hooks:  # the model is used again for other clients
                hook.remove()
        return with_changed_state(message, reply, masked)

    def masks(
        self, message: Message, context: Context, models: list[list[str]]
    ) -> Mapping[str, Tensor]:
        """Return name -> a mask of the numbers that stay as received; empty in the first round.

        A model whose weights have other shapes than in the last round has none, and so has one that
        has not moved.
        """
        if RECORD not in context.state.array_records:
            return {}
        _, received = array_record(message)
        earlier, masks = context.state.array_records[RECORD], dict[str, Tensor]()
        for names in models:
            if any(not _alike(earlier, received, name) for name in names):
                continue
            steps = {
                name: (numbers_of(received[name]) - numbers_of(earlier[name])).abs()
                for name in names
            }
            flat = torch.cat([step.flatten() for step in steps.values()])
            if not flat.any():
                continue
            chosen = torch.zeros(flat.shape, dtype=torch.bool)
            chosen[flat.topk(max(1, round(self.top * len(flat)))).indices] = True
            parts = chosen.split([step.numel() for step in steps.values()])
            for (name, step), part in zip(steps.items(), parts, strict=True):
                masks[name] = part.reshape(step.shape)
        return masks


def _alike(earlier: ArrayRecord, received: ArrayRecord, name: str) -> bool:
    if name not in earlier:
        return False
    one, other = earlier[name], received[name]
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _masked_gradients(
    model: nn.Module, names: list[str], masks: Mapping[str, Tensor]
) -> list[RemovableHandle]:
    """Mask the gradients of a model's parameters until the returned hooks are removed.

    A message names them as the model does, after the member's name in an ensemble. Complex
    parameters, whose masks are of pairs, keep their gradients; the update is masked all the same.
    """
    parameters, hooks = dict(model.named_parameters()), []
    for name in names:
        own = name if name in parameters else name.partition("/")[2]
        parameter = parameters.get(own)
        if parameter is None or name not in masks or masks[name].shape != parameter.shape:
            continue
        if parameter.requires_grad:
            kept = (~masks[name]).to(parameter.device)
            hooks.append(parameter.register_hook(lambda gradient, kept=kept: gradient * kept))
    return hooks
