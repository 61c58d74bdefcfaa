"""The cases of ``benchmarks/claims.py``: clients, training, models and data of their shapes.

The data are drawn, as no time depends on what is in them: one pattern for each class, and noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.learning.drawn_examples import CLASSES, drawn_examples

TEST_EXAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """A published timing: its federation and its training.

    Parameters
    ----------
    clients, cohort, rounds : int
        Number of clients, of those asked in a round, and of rounds.
    quick_rounds : int
        The number of rounds with ``--quick``.
    examples, epochs, batch : int
        Training examples of a client, its epochs in a round, and the size of its batches.
    lr : float
        The learning rate of plain SGD.
    shape : tuple[int, ...]
        Shape of an example.
    published : str
        Which times were published, and for what machine.
    """

    clients: int
    cohort: int
    rounds: int
    quick_rounds: int
    examples: int
    epochs: int
    batch: int
    lr: float
    shape: tuple[int, ...]
    published: str


CASES = {
    "flute": Case(
        *(1000, 10, 100, 100, 60, 1, 10, 0.03, (784,)),
        "FLUTE (arXiv:2203.13789), LR_MNIST on a CPU: FLUTE 200 s, Flower 1.0 1,814 s",
    ),
    "blazefl": Case(
        *(100, 100, 5, 1, 500, 5, 50, 0.1, (3, 32, 32)),
        "blazefl's benchmark, CNN, two workers on its machine: threads 94 s, Flower 209 s",
    ),
    "pfl": Case(
        *(1000, 50, 150, 10, 50, 1, 10, 0.1, (3, 32, 32)),
        "pfl-research (arXiv:2404.06430), CIFAR-10 on a GPU, 1,500 rounds; here a tenth of them",
    ),
}


def new_model(case: str) -> nn.Module:
    """Return the model of a case, with the same weights in every process."""
    torch.manual_seed(0)
    if case == "flute":
        return nn.Linear(784, CLASSES)
    if case == "blazefl":  # PyTorch's tutorial on CIFAR-10, 62,006 numbers
        return nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, CLASSES),
        )
    return nn.Sequential(  # 1,626,442 numbers
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()),
        *(nn.Linear(12544, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES)),
    )


@lru_cache(maxsize=1000)
def examples(case: str, client: int) -> tuple[Tensor, Tensor]:
    """Return the examples and labels of a client, or with client -1 the test set."""
    count = CASES[case].examples if client >= 0 else TEST_EXAMPLES
    return drawn_examples(CASES[case].shape, count, client)
