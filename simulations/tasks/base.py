"""The base class of the built-in tasks, whose examples are divided once per process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.partition import Partitioner


@dataclass(frozen=True)
class BuiltinTask(ABC):
    """A classification task that is part of hqde-fl; subclasses are frozen dataclasses.

    Parameters
    ----------
    validation : float, default=0.0
        Fraction of the training examples, in [0, 1), that no client gets: they are drawn by the
        run's seed before the data is divided, and the server validates the model on them.
    """

    classes: ClassVar[int] = 10

    validation: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ConfigError(
                f"{type(self).__name__}.validation must be in [0, 1), found {self.validation}"
            )

    def build(self, partitioner: Partitioner, seed: int) -> Task:
        """Build the task with training data divided by a partitioner.

        Parameters
        ----------
        partitioner : Partitioner
            Divides the training data.
        seed : int
            The run's seed.

        Raises
        ------
        DataError
            If the data files do not exist.
        """
        located = self.locate()
        return Task(
            model=located.network,
            partition=partial(_partition, located, partitioner, seed),
            test=located.test,
            classes=located.classes,
            validation=partial(_validation, located, seed) if self.validation else None,
        )

    @abstractmethod
    def locate(self) -> Self:
        """Return the task with the absolute path of its data; ``DataError`` if there are none."""

    @abstractmethod
    def network(self) -> nn.Module:
        """Build a new model of the task, with random weights."""

    @abstractmethod
    def table(self, part: Part) -> ExampleTable:
        """Return the training or the test examples, always the same object in a process."""

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return what the model takes (n, ...) of some rows of ``table``'s inputs (n, ...)."""
        return inputs

    def labels(self) -> NDArray[Any]:
        """Return the labels of all training examples."""
        return np.asarray(self.table("train").labels)

    def examples(self, indices: Tensor) -> TensorDataset:
        """Return the training examples at some indices."""
        table = self.table("train")
        return TensorDataset(self.prepare(table.inputs[indices]), table.labels[indices])

    def test(self) -> TensorDataset:
        """Return the test set, always the same object in a process."""
        return _test(self, torch.get_default_dtype())


@lru_cache(maxsize=2)
def _test(task: BuiltinTask, dtype: torch.dtype) -> TensorDataset:
    table = task.table("test")
    return TensorDataset(task.prepare(table.inputs), table.labels)


@lru_cache(maxsize=8)
def _split(
    task: BuiltinTask, partitioner: Partitioner, seed: int, count: int
) -> list[NDArray[np.int64]]:
    column = task.table("train").column(partitioner.divides_by)
    if not task.validation:
        return partitioner.split(column, count, seed)
    kept, _ = validation_split(len(column), task.validation, seed)
    return [kept[part] for part in partitioner.split(column[kept], count, seed)]


def validation_split(
    examples: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the examples that clients get, and of those that validate, in order.

    Parameters
    ----------
    examples : int
        Number n of training examples.
    fraction : float
        Fraction that validates, in (0, 1); of n examples round(fraction n), at least one.
    seed : int
        The run's seed.

    Raises
    ------
    ConfigError
        If no example would be left to train on.
    """
    count = max(1, round(fraction * examples))
    if count >= examples:
        raise ConfigError(
            f"task.validation must leave an example to train on, found {fraction} of {examples}"
        )
    order = Seeds(seed).numpy("validation").permutation(examples)
    return np.sort(order[count:]), np.sort(order[:count])


@lru_cache(maxsize=1)
def _validation(task: BuiltinTask, seed: int) -> TensorDataset:
    table = task.table("train")
    _, indices = validation_split(len(table), task.validation, seed)
    rows = torch.from_numpy(indices)
    return TensorDataset(task.prepare(table.inputs[rows]), table.labels[rows])


def _partition(
    task: BuiltinTask, partitioner: Partitioner, seed: int, number: int, count: int
) -> TensorDataset:
    if not 0 <= number < count:
        raise ConfigError(f"the partition must be in [0, {count}), found {number}")
    indices = _split(task, partitioner, seed, count)[number]
    return task.examples(torch.from_numpy(indices))
