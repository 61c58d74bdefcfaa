"""Unusual tasks for ``[task] name = "tests.simulations.odd_tasks:..."``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.task import Task

FEATURES = 5


def examples(number: int, count: int, size: int = 40) -> TensorDataset:
    """Return examples of two classes around opposite points, different in every partition."""
    generator = torch.Generator().manual_seed(1000 * count + number)
    y = torch.arange(size) % 2
    x = torch.randn(size, FEATURES, generator=generator) + (3.0 * y - 1.5)[:, None]
    return TensorDataset(x, y)


def held_back() -> TensorDataset:
    """Return the test set."""
    return examples(999, 1000, 200)


def linear() -> nn.Module:
    return nn.Linear(FEATURES, 2)


two_classes = Task(linear, examples, held_back)


def adapted() -> nn.Module:
    """Return a frozen network of 17,000 numbers with a trained layer behind it."""
    backbone = nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, 128))
    for parameter in backbone.parameters():
        parameter.requires_grad = False
    return nn.Sequential(backbone, nn.Linear(128, 2))


frozen_backbone = Task(adapted, examples, held_back)


class Tied(nn.Module):
    """Two layers with one weight, a complex factor for each number, and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.factor = nn.Parameter(torch.ones(FEATURES, dtype=torch.complex64))
        self.norm, self.last = nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.second(torch.relu(self.first(x))) * self.factor
        return self.last(self.norm(mixed.real))


tied = Task(Tied, examples, held_back)


def first_output(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the first output."""
    return nn.functional.mse_loss(outputs[:, 0], targets.float())


regression = Task(linear, examples, held_back, first_output, {}, classifier=False)


def surprise(partitions: int, seed: int, partition: Any) -> Task:
    """Return a task with two classes in the test set and a third among the clients' labels."""

    def third(number: int, count: int) -> TensorDataset:
        x, y = examples(number, count).tensors
        return TensorDataset(x, torch.where(y == 1, 2, y))

    return Task(lambda: nn.Linear(FEATURES, 3), third, held_back, classes=2)


class Unreadable(Dataset[Any]):
    """Data that cannot be read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        raise OSError("disk failed")


def failing(partitions: int, seed: int, partition: Any) -> Task:
    """Return a task of two classes in which the data of client 3 cannot be read."""

    def part(number: int, count: int) -> Dataset[Any]:
        return Unreadable() if number == 3 else examples(number, count)

    return Task(linear, part, held_back)
