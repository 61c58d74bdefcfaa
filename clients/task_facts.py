"""What a model and a few examples tell of a task: what faults need to know before they can act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Batch, call_model, device_of, iterate_batches, logits_of
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluation_mode
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import reproducible
from hqde_fl.errors import ConfigError

EXAMPLES = 8
"""Examples that are looked at, spread evenly over the data set, which may be sorted by class."""

IGNORED = -100
"""The label that torch's losses leave out of account unless they are told another one."""


@final
@dataclass(eq=False)
class TaskFacts:
    """What a model and a few examples tell of a task.

    Nothing is built, loaded or computed before it is asked for, and nothing twice. An exception of
    the model's or the data set's own passes, and is kept as ``failure``: whoever asked is not to
    blame for it.

    Parameters
    ----------
    task : Task
        What is learnt.
    source : Callable[[], Dataset]
        Gives the data set that examples are taken from: a client's, or the server's test set.
    trained : nn.Module, optional
        A model of the task; a new one is built where it is needed and none is given.
    """

    task: Task
    source: Callable[[], Dataset[Any]]
    trained: nn.Module | None = None
    failure: Exception | None = field(default=None, init=False)

    @contextmanager
    def _theirs(self) -> Iterator[None]:
        """Run code of the task's, which may draw numbers that nobody else should miss."""
        try:
            with reproducible(0):
                yield
        except Exception as error:
            self.failure = error
            raise

    @cached_property
    def data(self) -> Dataset[Any]:
        """The data set."""
        with self._theirs():
            return self.source()

    @cached_property
    def model(self) -> nn.Module:
        """A model of the task."""
        if self.trained is not None:
            return self.trained
        with self._theirs():
            return self.task.model()

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The model's floating-point arrays: what an update can change."""
        state = self.model.state_dict()
        return {
            name: value
            for name, value in state.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }

    def require_weights(self) -> None:
        """Raise ``ConfigError`` unless the model has at least one floating-point number."""
        if not any(weight.numel() for weight in self.weights.values()):
            raise ConfigError("the model must have floating-point weights, found none")

    @cached_property
    def batch(self) -> Batch:
        """A few examples, in one batch."""
        data, device = self.data, device_of(self.model)
        with self._theirs():
            size = len(cast(Sized, data))
            if size == 0:
                raise ConfigError("at least 1 example is needed, found 0")
            sample = data_subset(data, [place * size // EXAMPLES for place in range(EXAMPLES)])
            return next(iterate_batches(sample, EXAMPLES, device, collate=self.task.collate))

    @cached_property
    def outputs(self) -> Any:
        """The model's outputs for these examples; what they have under the name ``logits_of``."""
        model, inputs = self.model, self.batch.inputs
        with self._theirs(), evaluation_mode([model]), torch.no_grad():
            return logits_of(call_model(model, inputs))

    @cached_property
    def labels(self) -> Tensor:
        """The targets of these examples.

        Raises
        ------
        ConfigError
            If they are no tensor.
        """
        targets = self.batch.targets
        if not isinstance(targets, Tensor):
            raise ConfigError(
                f"targets must be class numbers in a tensor, found {type(targets).__name__}"
            )
        return targets

    @cached_property
    def one_score(self) -> bool:
        """Whether the model gives one score for each target: two classes in one number."""
        outputs, labels = self.outputs, self.labels
        if not isinstance(outputs, Tensor) or not outputs.ndim or not labels.ndim:
            return False
        single = outputs.ndim == 1 or outputs.shape[1] == 1
        return single and (outputs.numel(), len(outputs)) == (labels.numel(), len(labels))

    @property
    def one_for_each(self) -> bool:
        """Whether there are several outputs with a target each: no single class is meant then."""
        outputs = self.outputs
        same = isinstance(outputs, Tensor) and outputs.shape == self.labels.shape
        return same and not self.one_score

    @cached_property
    def width(self) -> int | None:
        """How many classes the outputs are scores of, if they are (n, c, ...) or (n, ..., c)."""
        outputs, shape = self.outputs, self.labels.shape
        if not isinstance(outputs, Tensor):
            return None
        if shape[1:] == (1,):  # a column of labels
            shape = shape[:1]
        if not 0 < len(shape) == outputs.ndim - 1:
            return None
        if outputs.shape[:1] + outputs.shape[2:] == shape:
            return outputs.shape[1]
        return outputs.shape[-1] if outputs.shape[:-1] == shape else None

    @cached_property
    def classes(self) -> int | None:
        """The number of classes: the task's own, else the width of the model's outputs.

        One score for each target stands for the classes 0 and 1. None where the outputs do not
        tell.

        Raises
        ------
        ConfigError
            If the task is no classification.
        """
        if self.task.classes is not None:
            return self.task.classes
        if not self.task.classifier:
            raise ConfigError(
                "the task must be a classification, found Task(classifier=False) without classes"
            )
        return 2 if self.one_score else self.width

    def require_classes(self, stated: int | None = None) -> int:
        """The number of classes, at least 2.

        Parameters
        ----------
        stated : int, optional
            What somebody else says it is: must not contradict the task.

        Raises
        ------
        ConfigError
            If it is not known, too small, or another than stated.
        """
        found = self.classes
        classes = stated if found is None else found
        if classes is None:
            found_outputs, found_targets = map(shape_of, (self.outputs, self.labels))
            raise ConfigError(
                f"the number of classes must be known, found outputs {found_outputs} for targets "
                f"{found_targets}, which do not tell it: give Task(classes=...)"
            )
        if stated not in (None, classes):
            raise ConfigError(f"classes must be {classes}, as many as the task has, found {stated}")
        if classes < 2:
            raise ConfigError(f"the task must have at least 2 classes, found {classes}")
        return classes

    def require_two_classes(self) -> None:
        """Raise ``ConfigError`` unless labels with one score each are 0 and 1, as far as seen."""
        labels = self.labels
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise ConfigError(
                "with one score for each target the targets must be 0 or 1, found "
                f"{_values(labels)}; Task(classifier=False) says that they are no classes"
            )
        if not self.any_label(lambda some: some == 1):
            raise ConfigError("the task must have at least 2 classes, found no label but 0")

    def any_label(self, holds: Callable[[Tensor], Tensor]) -> bool:
        """Whether something holds of a label; only as many as it takes are looked at."""
        if bool(holds(self.labels).any()):
            return True
        found = iterate_batches(self.data, 256, self.labels.device, collate=self.task.collate)
        return any(bool(holds(batch.targets).any()) for batch in found)


def ignored_label(task: Task) -> int:
    """The label that a task's loss leaves out of account, as far as its loss says."""
    loss: Any = task.loss
    if isinstance(loss, partial) and "ignore_index" in loss.keywords:
        return int(loss.keywords["ignore_index"])
    return int(getattr(loss, "ignore_index", IGNORED))


def check_labels(labels: Tensor, classes: int, ignored: int, asker: str) -> None:
    """Raise ``ConfigError`` unless all labels are class numbers, or ignored.

    Parameters
    ----------
    labels : Tensor
        Class numbers of any shape and any type.
    classes : int
        How many classes there are.
    ignored : int
        A label that counts as none.
    asker : str
        Whoever needs them, for the message.
    """
    number = labels.to(torch.int64)
    whole = number == labels
    for fits, bound in (
        (whole, "whole numbers as labels"),
        (number < classes, f"labels below {classes}"),
        (number >= 0, "labels of at least 0"),
    ):
        wrong = ~fits & (number != ignored)
        if bool(wrong.any()):
            found = labels[wrong].flatten()[0].item()
            raise ConfigError(
                f"{asker} needs {bound}, found {found}; a label that counts as none has to be the "
                "loss's ignore_index"
            )


def shape_of(value: Any) -> str:
    """The shape of a tensor, or the type of anything else."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _values(labels: Tensor) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(labels.flatten().tolist()))[:3])
