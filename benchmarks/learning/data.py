"""The two data sets: handwritten digits, and some of Fashion-MNIST where its files are."""

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
"""Of Fashion-MNIST, for ten clients."""
MEAN, DEVIATION = 0.286, 0.353
"""Of its pixels, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What is learnt, and how.

    Parameters
    ----------
    name : str
        The data set and how it is divided.
    task : Task
        Model, portions and test set.
    training : Training
        Of a client.
    rounds : int
        How many.
    """

    name: str
    task: Task
    training: Training
    rounds: int


def have_fashion() -> bool:
    """Whether Fashion-MNIST can be read."""
    return bool(os.environ.get(ENVIRONMENT))


@lru_cache(maxsize=2)
def fashion(part: str, examples: int) -> TensorDataset:
    """Some of Fashion-MNIST, drawn at random but always the same; pixels about mean 0, variance 1.

    Parameters
    ----------
    part : str
        ``"train"`` or ``"test"``.
    examples : int
        How many.
    """
    task = FashionMnist().locate()
    data = task.examples(torch.arange(60_000)) if part == "train" else task.test()
    order = Seeds(0).numpy("fashion", part).permutation(len(data))[:examples]
    x, y = data[torch.from_numpy(order)]
    return TensorDataset((x - MEAN) / DEVIATION, y)


def setting(data: str, division: dict[str, Any], seed: int, rounds: int) -> Setting:
    """Digits or Fashion-MNIST, divided among ten clients.

    Parameters
    ----------
    data : str
        ``"digits"`` or ``"fashion-mnist"``.
    division : dict[str, Any]
        The partitioner's table.
    seed : int
        Of the division.
    rounds : int
        How many.
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
