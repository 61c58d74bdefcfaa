"""A linear regression for ``[task] name = "tests.simulations.line_task:regression"``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task

DIRECTION = torch.tensor([[1.0], [-2.0], [0.5]])


def rmse(outputs: Tensor, targets: Tensor) -> float:
    return float(functional.mse_loss(outputs, targets).sqrt())


def line_data(seed: int, count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    noise = 0.1 * torch.randn(count, 1, generator=generator)
    return TensorDataset(x, x @ DIRECTION + noise)


def regression(*, seed: int, **_: Any) -> Task:
    """Return a linear regression that is judged by its root mean square error."""
    return Task(
        model=lambda: nn.Linear(3, 1),
        partition=lambda number, count: line_data(1000 * seed + number, 24),
        test=lambda: line_data(999, 64),
        loss=functional.mse_loss,
        metrics={"rmse": rmse},
        classifier=False,
        primary="rmse",
    )
