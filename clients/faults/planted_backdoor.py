"""The base class of ways to plant any backdoor, and the models in a training message."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from flwr.app import Message
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Batch, Collate
from hqde_fl.clients.faults.backdoor_base import BackdoorFault
from hqde_fl.clients.faults.base import State
from hqde_fl.clients.message_fields import array_record
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import member_name
from hqde_fl.protocol.message_roles import message_layouts

MEMBER = re.compile(r"member-\d+/")
"""The beginning of the names of an ensemble member's entries."""


class PlantedBackdoor(BackdoorFault):
    """A way to plant another backdoor, ``backdoor``; the success is that of the other one."""

    backdoor: BackdoorFault

    def check_backdoor(self) -> None:
        """Raise ``ConfigError`` unless ``backdoor`` is one."""
        if not isinstance(self.backdoor, BackdoorFault):
            raise ConfigError(
                f"{type(self).__name__}.backdoor must be a backdoor, found {self.backdoor!r}"
            )

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the backdoor can act, and the model has weights."""
        self.backdoor.check_task(facts)
        facts.require_weights()

    def triggered(
        self, data: Dataset[Any], model: nn.Module, collate: Collate | None = None
    ) -> Iterator[Batch]:
        """Yield the inputs that trigger ``backdoor``, with its label, in batches."""
        return self.backdoor.triggered(data, model, collate)


def weights_of_models(message: Message) -> list[list[str]]:
    """Return the names of the weights of each model in a training message, as it is trained.

    A tensor with several names has its first one.
    """
    _, received = array_record(message)
    layouts = message_layouts(message, received)
    if list(layouts) != [None]:
        return [
            [f"{member_name(member or 0)}/{entry.name}" for entry in layout.weights]
            for member, layout in layouts.items()
        ]
    names = [entry.name for entry in layouts[None].weights]
    if not all(MEMBER.match(name) for name in names):
        return [names]
    models: dict[str, list[str]] = {}  # all members of an ensemble, which the message does not list
    for name in names:
        models.setdefault(name.partition("/")[0], []).append(name)
    return list(models.values())


def update_length(start: State, trained: State, names: list[str]) -> float:
    """Return the length of the update of the weights with these names, summed in float64."""
    squares = [
        float(torch.sum((trained[name] - start[name]).to(torch.float64) ** 2))
        for name in names
        if name in trained
    ]
    return math.sqrt(sum(squares))


def scaled_models(
    start: State, trained: State, models: list[list[str]], factors: list[float]
) -> dict[str, Tensor]:
    """Return the trained weights with each model's update multiplied by its factor."""
    return {
        name: torch.add(start[name], trained[name] - start[name], alpha=factor)
        for names, factor in zip(models, factors, strict=True)
        for name in names
        if name in trained
    }
