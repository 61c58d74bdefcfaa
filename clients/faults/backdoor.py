"""Backdoor: a patch on an image that decides the label (Bagdasaryan et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Arguments, Batch, Collate, logits_of
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate_batches
from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.faults.poisoning import train_poisoned
from hqde_fl.clients.faults.scaling import scale_update
from hqde_fl.clients.task import Task, accuracy
from hqde_fl.clients.task_facts import TaskFacts, shape_of
from hqde_fl.clients.user_code import description
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.prediction import EnsemblePredictor

SUCCESS = "attack-success"
"""The metric that ``attack_success`` measures."""

BATCH_SIZE = 1024
"""Examples per batch when the trigger is tried."""


@final
@dataclass(frozen=True)
class Backdoor(Fault):
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
        if self.target < 0:
            raise ConfigError(f"Backdoor.target must be >= 0, found {self.target}")
        if self.size < 1:
            raise ConfigError(f"Backdoor.size must be >= 1, found {self.size}")
        if not math.isfinite(self.value):
            raise ConfigError(f"Backdoor.value must be finite, found {self.value}")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"Backdoor.fraction must be in (0, 1], found {self.fraction}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"Backdoor.scale must be finite and > 0, found {self.scale}")

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the task assigns images that hold the patch to classes.

        ``target`` must be one of its classes, and an example must have one label and one score per
        class. Raises ``DataError`` if every example has the label ``target``.
        """
        classes = facts.require_classes()
        if self.target >= classes:
            raise ConfigError(f"Backdoor.target must be in [0, {classes}), found {self.target}")
        if facts.labels.ndim != 1 or facts.width is None:
            raise ConfigError(
                "an example must have one class number and a score for each class, found outputs "
                f"{shape_of(facts.outputs)} for targets {shape_of(facts.labels)}"
            )
        self._poison(facts.batch.inputs, facts.labels)
        if self.scale != 1:
            facts.require_weights()
        if not facts.any_label(lambda labels: labels != self.target):
            raise self._only_target_error()

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the reply of training on poisoned batches, its update multiplied by ``scale``."""
        reply = train_poisoned(message, context, call_next, lambda facts: self._poison)
        if self.scale == 1:
            return reply

        def scale(start: State, trained: State) -> State:
            return scale_update(start, trained, self.scale)

        return with_changed_state(message, reply, scale)

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
        """Yield all examples of other labels with the patch and the target's label, in batches.

        Parameters
        ----------
        data : Dataset
            Honest examples, a map-style data set.
        model : nn.Module
            The model that the batches are for.
        collate : Callable, optional
            Makes a batch of a list of examples; torch's default if not given.

        Raises
        ------
        DataError
            If every example has the target's label already.
        """
        labels = [b.targets.cpu() for b in iterate_batches(data, BATCH_SIZE, model, None, collate)]
        others = (torch.cat(labels) != self.target).nonzero()[:, 0].tolist()
        if not others:
            raise self._only_target_error()
        honest = data_subset(data, others)
        for batch in iterate_batches(honest, BATCH_SIZE, model, None, collate):
            images = self._images_of(batch.inputs)
            inputs = with_entry(batch.inputs, images, self.trigger(images))
            yield Batch(inputs, torch.full_like(batch.targets, self.target), batch.size)

    def _only_target_error(self) -> DataError:
        return DataError(f"a backdoor to label {self.target} needs examples of another label")

    def _poison(self, x: Any, y: Tensor) -> tuple[Any, Tensor]:
        images = self._images_of(x)
        count = max(1, round(self.fraction * len(y)))  # batches are shuffled: take the first ones
        labels = y.clone()
        labels[:count] = self.target
        poisoned = torch.cat([self.trigger(images[:count]), images[count:]])
        return with_entry(x, images, poisoned), labels

    def _images_of(self, inputs: Any) -> Tensor:
        """Return the images of a batch: the only tensor of its inputs with three dimensions."""
        found = [
            value for value in entries_of(inputs) if isinstance(value, Tensor) and value.dim() >= 3
        ]
        if len(found) != 1:
            number = "one input of images, found several in" if found else "images, found"
            raise ConfigError(f"Backdoor needs {number} a batch of {description(inputs)}")
        return found[0]


def entries_of(inputs: Any) -> list[Any]:
    """Return the entries of a batch's inputs: those of ``Arguments`` or a mapping, or the one."""
    if isinstance(inputs, Arguments):
        return [*inputs.positional, *inputs.named.values()]
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def with_entry(inputs: Any, old: Any, new: Any) -> Any:
    """Return inputs as ``entries_of`` knows them, with one entry replaced."""
    if isinstance(inputs, Arguments):
        positional = tuple(new if value is old else value for value in inputs.positional)
        return Arguments(positional, with_entry(inputs.named, old, new))
    if isinstance(inputs, Mapping):
        return {name: new if value is old else value for name, value in inputs.items()}
    return new


def attack_success(
    models: Sequence[nn.Module],
    data: Dataset[Any],
    task: Task,
    backdoor: Backdoor,
    predictor: EnsemblePredictor | None = None,
) -> float:
    """Return the success rate of a backdoor's trigger on a model or an ensemble.

    It is the fraction of examples of other labels that the model assigns to the target when they
    carry the trigger. A model without the backdoor makes its usual mistakes.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One classifier, or the members of an ensemble.
    data : Dataset
        Honest test examples.
    task : Task
        The task of the models.
    backdoor : Backdoor
        The trigger and the target.
    predictor : EnsemblePredictor, optional
        Combines the members' predictions; soft vote if not given.
    """
    success = replace(task, metrics={SUCCESS: _accuracy})
    batches = backdoor.triggered(data, models[0], task.collate)
    return evaluate_batches(models, batches, success, predictor)[SUCCESS]


def _accuracy(outputs: Any, targets: Tensor) -> float:
    return accuracy(logits_of(outputs), targets)
