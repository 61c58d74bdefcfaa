"""A task whose model has as many numbers as ``task.numbers`` says, of which an example uses one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task


class Big(nn.Module):
    """A line through the origin with many more weights than it needs."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numbers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, 1) for inputs (n, 1)."""
        return x * self.weight[:1]


def task(*, numbers: int, **_: Any) -> Task:
    """Return the task for a model of ``numbers`` float32 weights."""
    x = torch.linspace(-1, 1, 8)[:, None]
    data = TensorDataset(x, 2 * x)
    return Task(
        model=lambda: Big(numbers),
        partition=lambda number, count: data,
        test=lambda: data,
        loss=functional.mse_loss,
        metrics={},
        classifier=False,
        primary="loss",
    )
