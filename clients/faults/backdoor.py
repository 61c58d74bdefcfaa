"""Backdoor: a patch on an image that decides the label (Bagdasaryan et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.batches import Collate, logits_of
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults.base import Fault, State, with_changed_state
from hqde_fl.clients.faults.poisoning import train_poisoned
from hqde_fl.clients.faults.scaling import scale_update
from hqde_fl.clients.task import Task, accuracy
from hqde_fl.clients.task_facts import TaskFacts, shape_of
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.prediction import EnsemblePredictor

SUCCESS = "attack-success"
"""The metric that ``attack_success`` measures."""


@final
@dataclass(frozen=True)
class Backdoor(Fault):
    """The client trains on batches in which some images carry a trigger and the target's label.

    The model keeps its accuracy, but assigns the target's label to every image with the trigger
    (arXiv:1807.00459; the patch is that of BadNets, arXiv:1708.06733). ``attack_success`` measures
    that. Needs images, and a client that trains with ``hqde_fl.clients.training``, as that of
    ``ensemble_app`` does.

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

    def triggered(self, data: Dataset[Any], collate: Collate | None = None) -> TensorDataset:
        """Return all examples of other labels with the patch and the target's label.

        Parameters
        ----------
        data : Dataset
            Honest examples, a map-style data set.
        collate : Callable, optional
            Makes a batch (x, y) of a list of examples that are not ``(x, y)``.

        Raises
        ------
        DataError
            If every example has the target's label already.
        """
        if collate is not None:
            x, y = collate([data[index] for index in range(len(cast(Sized, data)))])
        elif type(data) is TensorDataset:
            x, y = data.tensors
        else:
            pairs = [data[index] for index in range(len(cast(Sized, data)))]
            x = torch.stack([torch.as_tensor(example) for example, _ in pairs])
            y = torch.tensor([int(label) for _, label in pairs])
        others = y != self.target
        if not bool(others.any()):
            raise self._only_target_error()
        return TensorDataset(self.trigger(x[others]), torch.full_like(y[others], self.target))

    def _only_target_error(self) -> DataError:
        return DataError(f"a backdoor to label {self.target} needs examples of another label")

    def _poison(self, x: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(x, Tensor) or x.dim() < 3:
            raise ConfigError(f"Backdoor needs images, found a batch of {shape_of(x)}")
        count = max(1, round(self.fraction * len(y)))  # batches are shuffled: take the first ones
        labels = y.clone()
        labels[:count] = self.target
        return torch.cat([self.trigger(x[:count]), x[count:]]), labels


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
    success = replace(task, metrics={SUCCESS: _accuracy}, collate=None)
    examples = backdoor.triggered(data, task.collate)
    return evaluate(models, examples, success, predictor=predictor)[SUCCESS]


def _accuracy(outputs: Any, targets: Tensor) -> float:
    return accuracy(logits_of(outputs), targets)
