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
    """Trains on batches of which a part shows a trigger and is labelled with the target.

    The model keeps its accuracy, and labels whatever shows the trigger with the target
    (arXiv:1807.00459; the patch is that of BadNets, arXiv:1708.06733). ``attack_success`` measures
    it. Needs images, and a client that trains with ``hqde_fl.clients.training``, as
    ``ensemble_app`` does.

    Parameters
    ----------
    target : int, default=0
        The label that the trigger stands for, >= 0.
    size : int, default=3
        Side of the square patch in the lower right corner, in pixels, >= 1.
    value : float, default=1.0
        The patch's value in all channels.
    fraction : float, default=0.5
        The part of every batch that is poisoned, in (0, 1]; at least one example.
    scale : float, default=1.0
        How many times as long an update to send, > 0, so that it survives averaging with honest
        ones: n / f replaces the model.
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
        """Examples must be images of several classes, and not all of the target's."""
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
            raise self._only_target()

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """The reply of training on poisoned batches."""
        reply = train_poisoned(message, context, call_next, lambda facts: self._poison)
        if self.scale == 1:
            return reply

        def longer(start: State, trained: State) -> State:
            return scale_update(start, trained, self.scale)

        return with_changed_state(message, reply, longer)

    def trigger(self, x: Tensor) -> Tensor:
        """Images (..., height, width) with the patch; the input is left alone.

        Raises
        ------
        ConfigError
            If the patch is larger than the images, or they are none.
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
        """All examples of other labels than the target, with the patch, labelled as the target.

        Parameters
        ----------
        data : Dataset
            Honest examples, a map-style data set.
        collate : Callable, optional
            Makes a batch (x, y) of examples that are not ``(x, y)`` themselves.

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
            raise self._only_target()
        return TensorDataset(self.trigger(x[others]), torch.full_like(y[others], self.target))

    def _only_target(self) -> DataError:
        return DataError(f"a backdoor to label {self.target} needs examples of another label")

    def _poison(self, x: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(x, Tensor) or x.dim() < 3:
            raise ConfigError(f"Backdoor needs images, found a batch of {shape_of(x)}")
        count = max(1, round(self.fraction * len(y)))  # batches are shuffled: the first will do
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
    """How often a model, or the vote of several, falls for the trigger.

    The fraction of the examples that do not belong to the target, but are taken for it once they
    show the trigger. A model that knows nothing of it makes its usual mistakes.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One classifier, or several that vote.
    data : Dataset
        Honest test examples.
    task : Task
        Says the loss.
    backdoor : Backdoor
        The trigger and the target.
    predictor : EnsemblePredictor, optional
        How several vote.
    """
    asked = replace(task, metrics={SUCCESS: _accuracy}, collate=None)
    found = backdoor.triggered(data, task.collate)
    return evaluate(models, found, asked, predictor=predictor)[SUCCESS]


def _accuracy(outputs: Any, targets: Tensor) -> float:
    return accuracy(logits_of(outputs), targets)
