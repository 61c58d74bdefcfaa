"""The base class of the built-in tasks, whose examples are divided once per process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache, partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.tasks.partition import Partitioner


class BuiltinTask(ABC):
    """A classification task that is part of hqde-fl; subclasses are frozen dataclasses."""

    classes: ClassVar[int] = 10

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
        )

    @abstractmethod
    def locate(self) -> Self:
        """Return the task with the absolute path of its data; ``DataError`` if there are none."""

    @abstractmethod
    def network(self) -> nn.Module:
        """Build a new model of the task, with random weights."""

    @abstractmethod
    def labels(self) -> NDArray[Any]:
        """Return the labels of all training examples."""

    @abstractmethod
    def examples(self, indices: Tensor) -> TensorDataset:
        """Return the training examples at some indices."""

    @abstractmethod
    def test(self) -> TensorDataset:
        """Return the test set, always the same object in a process."""


@lru_cache(maxsize=8)
def _split(
    task: BuiltinTask, partitioner: Partitioner, seed: int, count: int
) -> list[NDArray[np.int64]]:
    return partitioner.split(task.labels(), count, seed)


def _partition(
    task: BuiltinTask, partitioner: Partitioner, seed: int, number: int, count: int
) -> TensorDataset:
    if not 0 <= number < count:
        raise ConfigError(f"the partition must be in [0, {count}), found {number}")
    indices = _split(task, partitioner, seed, count)[number]
    return task.examples(torch.from_numpy(indices))
