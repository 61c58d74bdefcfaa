"""``create_hqde_system`` on 6,000 Fashion-MNIST images, against central training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.learning.data import fashion
from benchmarks.reporting import check
from hqde_fl import Seeds, create_hqde_system
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train

EXAMPLES = 6000
WORKERS, EPOCHS, BATCH, LR = 4, 3, 32, 3e-3
MIN_ACCURACY = 0.70


class SmallCNN(nn.Module):
    """A CNN: convolution 32, pooling, convolution 64, adaptive pooling, linear layer.

    Parameters
    ----------
    pooled : int
        Height and width of the adaptive pooling's output.
    """

    def __init__(self, pooled: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(pooled),
            nn.Flatten(),
            nn.Linear(64 * pooled**2, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the ten classes."""
        return self.layers(x)  # type: ignore[no-any-return]


def compare(quick: bool) -> list[dict[str, Any]]:
    """Print and return a row for each pooling size: federated and central accuracy, traffic."""
    data, test = fashion("train", EXAMPLES), fashion("test", 10_000)
    rows = []
    print(f"\ncreate_hqde_system, {EXAMPLES} Fashion-MNIST images, {EPOCHS} epochs, accuracy")
    head = f"{WORKERS} workers"
    print(f"{'adaptive pool':16s}{head:>12s}{'centrally':>12s}{'ahead':>8s}{'MB up':>8s}")
    for pooled in (4,) if quick else (4, 1):
        with create_hqde_system(
            SmallCNN,
            {"pooled": pooled},
            WORKERS,
            training_config={"learning_rate": LR},
            show_progress=False,
        ) as system:
            history = system.train(DataLoader(data, BATCH), EPOCHS)
        federated = system.evaluate(DataLoader(test, 500))["accuracy"]
        with reproducible(Seeds(0).integer("member", 0)):
            model = SmallCNN(pooled)
        task = Task(model=nn.Identity, partition=lambda i, n: data, test=lambda: test)
        training = Training(epochs=EPOCHS, batch_size=BATCH, optimizer="adamw", lr=LR)
        train(model, data, task, training, torch.Generator().manual_seed(0))
        central = evaluate([model], test, task)["accuracy"]
        row = {
            "part": "front",
            "adaptive pool": f"{pooled} x {pooled}",
            "federated": federated,
            "central": central,
            "ahead": central - federated,
            "megabytes up": sum(epoch["bytes-up"] for epoch in history) / 1e6,
        }
        rows.append(row)
        print(
            f"{row['adaptive pool']:16s}{federated:12.3f}{central:12.3f}{row['ahead']:8.3f}"
            f"{row['megabytes up']:8.2f}",
            flush=True,
        )
    return rows


def checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one check: that the federated accuracy of the first row exceeds ``MIN_ACCURACY``."""
    claim = (
        f"create_hqde_system, small CNN, {EXAMPLES} Fashion-MNIST images, {WORKERS} workers, "
        f"{EPOCHS} epochs: accuracy above"
    )
    return [check(claim, rows[0]["federated"], MIN_ACCURACY, strict=True)]
