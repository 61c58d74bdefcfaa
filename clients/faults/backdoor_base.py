"""The base class of backdoors, their poisoned batches, and the measure of their success."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Arguments, Batch, Collate, logits_of
from hqde_fl.clients.evaluation import evaluate_batches
from hqde_fl.clients.faults.base import Fault
from hqde_fl.clients.task import Task, accuracy
from hqde_fl.clients.task_facts import TaskFacts, shape_of
from hqde_fl.clients.user_code import description
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import EnsemblePredictor

SUCCESS = "attack-success"
"""The metric that ``attack_success`` measures."""

BATCH_SIZE = 1024
"""Examples per batch when a backdoor is tried."""

Watch = Callable[[nn.Module], Callable[[], None]]
"""Called with each model before its training; returns a function to call before every batch."""


class BackdoorFault(Fault):
    """A backdoor: the model is right but for certain inputs, which get the attacker's label.

    Concrete ones poison the data of the client (``PoisonedData``), or plant another backdoor in a
    way that survives averaging or is hard to detect.
    """

    @final
    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the reply of a training that plants the backdoor."""
        return self.train(message, context, call_next)

    @abstractmethod
    def train(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        watch: Watch | None = None,
    ) -> Message:
        """Return the reply of a training that plants the backdoor.

        Parameters
        ----------
        message, context, call_next
            The arguments of a Flower mod.
        watch : Watch, optional
            Watches the training of each model.
        """

    @abstractmethod
    def triggered(
        self, data: Dataset[Any], model: nn.Module, collate: Collate | None = None
    ) -> Iterator[Batch]:
        """Yield the inputs that should get the attacker's label, with that label, in batches.

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
            If no example can be used.
        """


def attack_success(
    models: Sequence[nn.Module],
    data: Dataset[Any],
    task: Task,
    backdoor: BackdoorFault,
    predictor: EnsemblePredictor | None = None,
) -> float:
    """Return the success rate of a backdoor on a model or an ensemble.

    It is the fraction of its inputs (``triggered``) that the model assigns to the attacker's label.
    A model without the backdoor makes its usual mistakes.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One classifier, or the members of an ensemble.
    data : Dataset
        Honest test examples.
    task : Task
        The task of the models.
    backdoor : BackdoorFault
        The backdoor.
    predictor : EnsemblePredictor, optional
        Combines the members' predictions; soft vote if not given.
    """
    success = replace(task, metrics={SUCCESS: _accuracy})
    batches = backdoor.triggered(data, models[0], task.collate)
    return evaluate_batches(models, batches, success, predictor)[SUCCESS]


def _accuracy(outputs: Any, targets: Tensor) -> float:
    return accuracy(logits_of(outputs), targets)


def require_class(fault: Fault, facts: TaskFacts, *labels: str) -> None:
    """Raise ``ConfigError`` unless a task has one class per example, and these labels.

    ``labels`` are names of the fault's parameters, each a class number of the task.
    """
    classes = facts.require_classes()
    for name in labels:
        if getattr(fault, name) >= classes:
            raise ConfigError(
                f"{type(fault).__name__}.{name} must be in [0, {classes}), "
                f"found {getattr(fault, name)}"
            )
    if facts.labels.ndim != 1 or facts.width is None:
        raise ConfigError(
            "an example must have one class number and a score for each class, found outputs "
            f"{shape_of(facts.outputs)} for targets {shape_of(facts.labels)}"
        )


def require_label(fault: Fault, *names: str) -> None:
    """Raise ``ConfigError`` unless these parameters of a fault are >= 0."""
    for name in names:
        if getattr(fault, name) < 0:
            raise ConfigError(
                f"{type(fault).__name__}.{name} must be >= 0, found {getattr(fault, name)}"
            )


def images_of(fault: Fault, inputs: Any) -> Tensor:
    """Return the images of a batch: the only tensor of its inputs with three dimensions or more.

    Raises ``ConfigError``, naming the fault, unless there is exactly one.
    """
    found = [
        value for value in entries_of(inputs) if isinstance(value, Tensor) and value.dim() >= 3
    ]
    if len(found) != 1:
        number = "one input of images, found several in" if found else "images, found"
        raise ConfigError(f"{type(fault).__name__} needs {number} a batch of {description(inputs)}")
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
