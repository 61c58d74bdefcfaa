"""The two data sets: handwritten digits, and a part of Fashion-MNIST if its files exist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks import PARTITIONERS, Digits, FashionMnist
from hqde_fl.simulations.tasks.fashion_mnist import ENVIRONMENT
from hqde_fl.simulations.tasks.models import mlp

CLIENTS = 10
EXAMPLES, TEST_EXAMPLES = 3000, 2000
"""Numbers of Fashion-MNIST images that ten clients train on, and for the test."""
MEAN, DEVIATION = 0.286, 0.353
"""Mean and standard deviation of Fashion-MNIST's pixels in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A task with settings of its training.

    Parameters
    ----------
    name : str
        Name of the data set and of its division.
    task : Task
        The model, the clients' data and the test set.
    training : Training
        Settings of a client's training.
    rounds : int
        Number of rounds.
    """

    name: str
    task: Task
    training: Training
    rounds: int


def have_fashion() -> bool:
    """Return True if the directory of Fashion-MNIST's files is configured."""
    return bool(os.environ.get(ENVIRONMENT))


@lru_cache(maxsize=2)
def fashion(part: str, examples: int) -> TensorDataset:
    """Return a fixed random part of Fashion-MNIST, its pixels standardised.

    Parameters
    ----------
    part : {"train", "test"}
        The part of the data set.
    examples : int
        Number of images.
    """
    task = FashionMnist().locate()
    data = task.examples(torch.arange(60_000)) if part == "train" else task.test()
    order = Seeds(0).numpy("fashion", part).permutation(len(data))[:examples]
    x, y = data[torch.from_numpy(order)]
    return TensorDataset((x - MEAN) / DEVIATION, y)


def setting(data: str, division: dict[str, Any], seed: int, rounds: int) -> Setting:
    """Return a setting with digits or Fashion-MNIST, divided among ten clients.

    Parameters
    ----------
    data : {"digits", "fashion-mnist"}
        The data set.
    division : dict[str, Any]
        Name and parameters of the partitioner.
    seed : int
        Seed of the division.
    rounds : int
        Number of rounds.
    """
    name = f"{data}, {division['name']}" + "".join(
        f" {v}" for k, v in division.items() if k != "name"
    )
    if data == "digits":
        task = Digits().build(PARTITIONERS.build(division), seed)
        return Setting(name, task, Training(epochs=3, lr=0.2), rounds)
    train = fashion("train", EXAMPLES)
    labels = np.asarray(train.tensors[1])
    parts = PARTITIONERS.build(division).split(labels, CLIENTS, seed)
    task = Task(
        model=partial(mlp, 28 * 28, 64, 10),
        partition=partial(_portion, train, parts),
        test=partial(fashion, "test", TEST_EXAMPLES),
    )
    return Setting(name, task, Training(lr=0.1), rounds)


def _portion(data: TensorDataset, parts: Sequence[Any], number: int, count: int) -> TensorDataset:
    assert count == len(parts)
    return TensorDataset(*data[torch.from_numpy(np.asarray(parts[number]))])
