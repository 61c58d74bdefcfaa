"""Names, files and tables that the code blocks of the documents suppose a reader to have.

Everything is as small as it can be.
"""

from __future__ import annotations

from typing import Any

LEARNING = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class MyModel(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(x)


def points(count):
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(count))
    return TensorDataset(x, x.argmax(dim=1))


train_loader = loader = DataLoader(points(96), batch_size=24)
validation_loader, test_loader, held_out_loader = (DataLoader(points(n), 24) for n in (30, 40, 50))
"""
"""A model and loaders."""

NAMES = {
    "README.md": LEARNING
    + """
from hqde_fl import HQDEStrategy, InlineGrid, Task, TrimmedMean, ensemble_app, to_record

grid = InlineGrid(ensemble_app(Task(MyModel, lambda number, count: points(40))), 6, {}, seed=1)
""",
    "docs/deploy.md": """
from pathlib import Path

from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from hqde_fl import Task

app = ServerApp()
Net = nn.Identity
""",
    "docs/distributed.md": """
import ray
import torch
from torch import nn

references = {client: ray.put(torch.randn(1_000_000)) for client in range(7)}
model = nn.Linear(3, 2)
better = nn.Linear(3, 2).state_dict()
""",
    "docs/ensembles.md": """
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl import ByzantineFilter, Ensemble, HQDEStrategy, Task, ensemble_app

task = Task(model=lambda: nn.Linear(2, 2), partition=lambda number, count: TensorDataset())
""",
    "docs/experiments.md": """
partition, labels, partitions, seed = {"name": "dirichlet", "alpha": 0.5}, [0, 1] * 50, 4, 7
""",
    "docs/how-to/own-training.md": LEARNING
    + """
network, data_of = MyModel, points


def train(model, examples):
    return 0.5
""",
    "docs/lora.md": """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear1, self.linear2, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.linear2(self.linear1(x).relu()))


loader = DataLoader(TensorDataset(torch.randn(64, 8), torch.arange(64) % 2), batch_size=16)
""",
    "docs/models.md": """
from torch import nn

model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.BatchNorm1d(2)})
""",
    "docs/monitoring.md": """
import hqde_fl

SMALL = {"task": {"name": "digits", "hidden": 8}, "clients": {"count": 3}, "rounds": 1}
hqde_fl.run(SMALL, out="runs/demo", report=False)
""",
    "docs/python.md": LEARNING
    + """
from hqde_fl import Callback

model, my_callback = MyModel, Callback()


def partition(number, count):
    return points(40)


def test():
    return points(50)
""",
    "docs/quantum.md": LEARNING
    + """
from hqde_fl import create_hqde_system

probabilities = torch.full((3, 4, 2), 0.5)
system = create_hqde_system(MyModel, num_workers=2, training_config={"members": 6})
system.train(loader, num_epochs=1)
""",
}
"""Page -> code that defines the names which its Python blocks use and do not define."""

FILES = {
    "docs/experiments.md": {
        "mine.py": '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from hqde_fl.clients.faults import Fault
from hqde_fl.codec import Codec
from hqde_fl.rules import Decision, Rule
from hqde_fl.selection import RoundRobin
from hqde_fl.strategies.callbacks import Callback


class Notes(Callback):
    """Does nothing."""


@dataclass(frozen=True)
class Nearest(Rule):
    """The mean."""

    radius: float = 1.0

    def minimum(self, faulty=0):
        return 1

    def breakdown(self, n):
        return 0

    def decide(self, measured, cohort, state):
        return Decision(mixing=torch.full((1, cohort.n), 1 / cohort.n, dtype=torch.float64))


@dataclass(frozen=True)
class Half(Codec):
    """Two bytes for each number."""

    code: ClassVar[int] = 200

    def write(self, values, state, rng):
        raise NotImplementedError

    @classmethod
    def read(cls, reader, size):
        raise NotImplementedError


@dataclass(frozen=True)
class First(RoundRobin):
    """In turn."""

    count: int = 1


@dataclass(frozen=True)
class Shift(Fault):
    """Honest."""

    def act(self, message, context, call_next, generator):
        return call_next(message, context)


def recall(outputs, targets):
    return float((outputs.argmax(dim=1) == targets).float().mean())
'''
    },
    "docs/python.md": {
        "study.toml": """
task = { name = "digits", hidden = 8 }
clients = { count = 7 }
"""
    },
}
"""Page -> name -> content of the files which its blocks name and do not show."""

REPLACED: dict[str, dict[str, str]] = {
    "docs/monitoring.md": {"127.0.0.1:9464": "127.0.0.1:0"},
}
"""Page -> text -> what replaces it when a Python block runs: ports that may be in use."""

TABLES: dict[str, list[dict[str, Any]]] = {
    "docs/distributed.md": [{"clients": {"count": 64}}],
    "docs/edges.md": [{"clients": {"count": 16}}, {"edges": {"groups": 4}}],
}
"""Page -> what a fragment of TOML may need beside it, as alternatives."""
