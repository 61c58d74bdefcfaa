"""Properties of a task, inferred from a model and a few examples, that faults depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Batch, call_model, logits_of
from hqde_fl.clients.class_scores import ClassAxis
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluation_mode
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import roles_of

SAMPLE_SIZE = 8
"""Examples to look at, spread evenly over the data set, which may be sorted by class."""


@final
@dataclass(eq=False)
class TaskFacts:
    """Properties of a task that a model and a few examples show.

    Each is computed on first use, and once. An exception in the code of the model or the data set
    is raised on and kept as ``failure``: it is no error of the caller.

    Parameters
    ----------
    task : Task
        The model, data, loss and metrics.
    source : Callable[[], Dataset]
        Returns the data set to take examples from: a client's, or the server's test set.
    trained : nn.Module, optional
        A model of the task; a new one is built when needed if not given.
    """

    task: Task
    source: Callable[[], Dataset[Any]]
    trained: nn.Module | None = None
    failure: Exception | None = field(default=None, init=False)

    @contextmanager
    def _task_code(self) -> Iterator[None]:
        """Run a block of the task's code with seeded global generators, restored afterwards.

        An exception of the block is kept as ``failure`` and raised on.
        """
        try:
            with reproducible(0):
                yield
        except Exception as error:
            self.failure = error
            raise

    @cached_property
    def data(self) -> Dataset[Any]:
        """The data set that examples are taken from."""
        with self._task_code():
            return self.source()

    @cached_property
    def model(self) -> nn.Module:
        """``trained`` if it was given, else a new model of the task."""
        if self.trained is not None:
            return self.trained
        with self._task_code():
            return self.task.model()

    @cached_property
    def layout(self) -> Layout:
        """The model's entries with their roles.

        Raises
        ------
        ConfigError
            If an entry cannot be carried, or the model has no number to train.
        """
        roles, state = roles_of(self.model), self.model.state_dict()
        arrays = [
            (name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for name, value in state.items()
        ]
        return Layout.of(arrays, roles)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's weights by name, each tensor once."""
        state = self.model.state_dict()
        return {entry.name: state[entry.name] for entry in self.layout.weights}

    def require_weights(self) -> None:
        """Raise ``ConfigError`` unless the model has at least one number to train."""
        _ = self.layout

    def require_arrays(self) -> None:
        """Raise ``ConfigError`` unless the model has at least one array."""
        if not self.model.state_dict():
            raise ConfigError("the model must have at least 1 array, found none")

    @cached_property
    def batch(self) -> Batch:
        """A batch of ``SAMPLE_SIZE`` examples, evenly spread over ``data``, repeated if too few.

        Raises
        ------
        ConfigError
            If ``data`` is empty.
        """
        data, model = self.data, self.model
        with self._task_code():
            size = len(cast(Sized, data))
            if size == 0:
                raise ConfigError("at least 1 example is needed, found 0")
            indices = [number * size // SAMPLE_SIZE for number in range(SAMPLE_SIZE)]
            sample = data_subset(data, indices)
            return next(iterate_batches(sample, SAMPLE_SIZE, model, collate=self.task.collate))

    @cached_property
    def outputs(self) -> Any:
        """The model's outputs for ``batch`` in evaluation mode, or their ``logits`` if present."""
        model, inputs = self.model, self.batch.inputs
        with self._task_code(), evaluation_mode([model]), torch.no_grad():
            return logits_of(call_model(model, inputs))

    @cached_property
    def labels(self) -> Tensor:
        """The targets of ``batch``.

        Raises
        ------
        ConfigError
            If the targets are not a tensor.
        """
        targets = self.batch.targets
        if not isinstance(targets, Tensor):
            raise ConfigError(
                f"targets must be class numbers in a tensor, found {type(targets).__name__}"
            )
        return targets

    @cached_property
    def one_score(self) -> bool:
        """True if the model returns one number per target: the score of class 1 against 0."""
        outputs, labels = self.outputs, self.labels
        if not isinstance(outputs, Tensor) or not outputs.ndim or not labels.ndim:
            return False
        single = outputs.ndim == 1 or outputs.shape[1] == 1
        return single and (outputs.numel(), len(outputs)) == (labels.numel(), len(labels))

    @property
    def one_target_per_output(self) -> bool:
        """True if each of an example's several outputs has its own target (multi-label)."""
        outputs = self.outputs
        same = isinstance(outputs, Tensor) and outputs.shape == self.labels.shape
        return same and not self.one_score

    @cached_property
    def class_axis(self) -> int | None:
        """The axis of the outputs with the scores of the targets' classes; None if there is none.

        Outputs are (n, c, ...) or (n, ..., c) for targets (n, ...).
        """
        return ClassAxis(self.task.class_axis).find(self.outputs, self.labels)

    @property
    def width(self) -> int | None:
        """The number of class scores c; None if the outputs are no class scores."""
        if (axis := self.class_axis) is None:
            return None
        return cast(int, self.outputs.shape[axis])

    @cached_property
    def classes(self) -> int | None:
        """The number of classes: ``Task.classes``, else inferred from the model's outputs.

        One score per target means two classes. None if the outputs' shape fits neither that nor
        ``width``.

        Raises
        ------
        ConfigError
            If the task is not a classification.
        """
        if self.task.classes is not None:
            return self.task.classes
        if not self.task.classifier:
            raise ConfigError(
                "the task must be a classification, found Task(classifier=False) without classes"
            )
        return 2 if self.one_score else self.width

    def require_classes(self, stated: int | None = None) -> int:
        """Return the number of classes, which must be known and at least 2.

        Parameters
        ----------
        stated : int, optional
            The number that a fault's configuration states; it counts if the task's is unknown, and
            must not contradict the task.

        Raises
        ------
        ConfigError
            If the number is unknown, below 2, or differs from ``stated``.
        """
        classes = stated if self.classes is None else self.classes
        if classes is None:
            outputs, targets = map(shape_of, (self.outputs, self.labels))
            raise ConfigError(
                f"the number of classes must be known, found outputs {outputs} for targets "
                f"{targets}, which do not tell it: give Task(classes=...)"
            )
        if stated not in (None, classes):
            raise ConfigError(f"classes must be {classes}, as many as the task has, found {stated}")
        if classes < 2:
            raise ConfigError(f"the task must have at least 2 classes, found {classes}")
        return classes

    def require_two_classes(self) -> None:
        """Raise ``ConfigError`` unless the labels are 0 and 1, as one score per target requires.

        Values other than 0 and 1 are looked for in ``batch`` only; the label 1 must occur in the
        data.
        """
        labels = self.labels
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise ConfigError(
                "with one score for each target the targets must be 0 or 1, found "
                f"{_values(labels)}; Task(classifier=False) says that they are no classes"
            )
        if not self.any_label(lambda labels: labels == 1):
            raise ConfigError("the task must have at least 2 classes, found no label but 0")

    def any_label(self, holds: Callable[[Tensor], Tensor]) -> bool:
        """Return True if a condition holds for some label of the data.

        The condition maps a tensor of labels to a boolean one; ``batch`` is tried first, then all
        data until it holds.
        """
        if bool(holds(self.labels).any()):
            return True
        batches = iterate_batches(self.data, 256, self.model, collate=self.task.collate)
        return any(bool(holds(batch.targets).any()) for batch in batches)


def shape_of(value: Any) -> str:
    """Return the shape of a tensor, or the type name of any other value, as text."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _values(labels: Tensor) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(labels.flatten().tolist()))[:3])
