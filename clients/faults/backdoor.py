"""Backdoor: a patch on an image that decides the label (Bagdasaryan et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Batch, Collate
from hqde_fl.clients.faults.backdoor_base import (
    images_of,
    require_class,
    require_label,
    with_entry,
)
from hqde_fl.clients.faults.poisoned_data import PoisonedData, examples_with, relabelled
from hqde_fl.clients.faults.poisoning import Change
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, DataError


@final
@dataclass(frozen=True)
class Backdoor(PoisonedData):
    """The client trains on batches in which some images carry a trigger and the target's label.

    The model keeps its accuracy, but assigns the target's label to every image with the trigger
    (arXiv:1807.00459; the patch is that of BadNets, arXiv:1708.06733). ``attack_success`` measures
    that. Needs a batch with one input of images, and a client that trains with
    ``hqde_fl.clients.training``, as that of ``ensemble_app`` does.

    Parameters
    ----------
    target : int, default=0
        The label of images with the trigger, >= 0.
    size : int, default=3
        Side of the square patch in the lower right corner, in pixels, >= 1.
    value : float, default=1.0
        Value of the patch in all channels.
    fraction : float, default=0.5
        Fraction of every batch that is poisoned, in (0, 1]; at least one example.
    scale : float, default=1.0
        Factor of the update, > 0, so that it survives averaging with honest updates: with n / f it
        replaces the model.
    """

    target: int = 0
    size: int = 3
    value: float = 1.0
    fraction: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_label(self, "target")
        if self.size < 1:
            raise ConfigError(f"Backdoor.size must be >= 1, found {self.size}")
        if not math.isfinite(self.value):
            raise ConfigError(f"Backdoor.value must be finite, found {self.value}")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"Backdoor.fraction must be in (0, 1], found {self.fraction}")
        self.check_numbers()

    @property
    def poisoned(self) -> float:  # type: ignore[override]
        """The fraction of every batch that is poisoned, ``fraction``."""
        return self.fraction

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the task assigns images that hold the patch to classes.

        ``target`` must be one of its classes, and an example must have one label and one score per
        class. Raises ``DataError`` if every example has the label ``target``.
        """
        require_class(self, facts, "target")
        self._poison(facts.batch.inputs, facts.labels)
        if self.scale != 1:
            facts.require_weights()
        require_other_label(facts, self.target)

    def poison(self, facts: TaskFacts, client: int) -> Change:
        """Return the change that puts the trigger on the first examples of a batch."""
        return self._poison

    def trigger(self, x: Tensor) -> Tensor:
        """Return a copy of images (..., height, width) with the patch.

        Raises
        ------
        ConfigError
            If the patch is larger than the images, or ``x`` has fewer than two dimensions.
        """
        if x.dim() < 2 or min(x.shape[-2:]) < self.size:
            raise ConfigError(
                f"Backdoor(size={self.size}) needs images of at least {self.size} x {self.size} "
                f"pixels, found the shape {tuple(x.shape)}"
            )
        patched = x.clone()
        patched[..., -self.size :, -self.size :] = self.value
        return patched

    def triggered(
        self, data: Dataset[Any], model: nn.Module, collate: Collate | None = None
    ) -> Iterator[Batch]:
        """Yield all examples of other labels with the patch and the target's label, in batches."""
        for batch in examples_with(
            data, model, collate, lambda b: b.targets != self.target, only_target(self.target)
        ):
            images = images_of(self, batch.inputs)
            inputs = with_entry(batch.inputs, images, self.trigger(images))
            yield relabelled(batch, inputs, self.target)

    def _poison(self, x: Any, y: Tensor) -> tuple[Any, Tensor]:
        return self.poison_first(x, y, self.trigger)


def only_target(target: int) -> str:
    """Return the message of the error about data of which every example has the target's label."""
    return f"a backdoor to label {target} needs examples of another label"


def require_other_label(facts: TaskFacts, target: int) -> None:
    """Raise ``DataError`` if every example of a task has the label ``target``."""
    if not facts.any_label(lambda labels: labels != target):
        raise DataError(only_target(target))
