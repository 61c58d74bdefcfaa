"""Write a small project that runs at once, without any data: ``hqde-fl init DIR``."""

from __future__ import annotations

from pathlib import Path

from hqde_fl.errors import ConfigError

MINE = '''\
from dataclasses import dataclass

import torch
from torch.utils.data import TensorDataset

from hqde_fl import Task
from hqde_fl.rules import Decision, Tolerant
from hqde_fl.simulations.attacks import Attack
from hqde_fl.simulations.attacks.columnwise import columnwise


def task(partitions, seed, partition, noise=2.0):
    def points(number, count):
        y = torch.arange(count) % 2
        seeded = torch.Generator().manual_seed(1000 * seed + number)
        x = torch.randn(count, 10, generator=seeded)
        return TensorDataset(noise * x + y[:, None], y)

    return Task(
        model=lambda: torch.nn.Linear(10, 2),
        partition=lambda number, count: points(number, 60),
        test=lambda: points(partitions, 500),
    )


@dataclass(frozen=True)
class Shortest(Tolerant):
    """The mean of the n - f shortest updates."""

    scored = True

    def score(self, tile):
        return tile.double().square().sum(dim=1, keepdim=True)

    def decide(self, measured, cohort, state):
        kept = measured.score[:, 0].argsort()[: cohort.n - cohort.remaining(self.f)]
        mixing = torch.zeros(1, cohort.n, dtype=torch.float64)
        mixing[0, kept] = 1 / len(kept)
        return Decision(mixing=mixing)


@dataclass(frozen=True)
class Opposite(Attack):
    """All attackers send the honest mean times -scale."""

    scale: float = 5.0

    def forge(self, honest, f, knowledge):
        return columnwise(lambda tile: -self.scale * tile.mean(dim=0), honest)
'''

EXPERIMENT = """\
rounds = 5
engine = { name = "inline" }
task = { name = "mine.py:task", noise = 2.0 }
strategy = { rule = { name = "mine.py:Shortest", f = 3 } }
faults = [{ name = "mine.py:Opposite", count = 3 }]
"""

SWEEP = """\
rounds = 5
engine = { name = "inline" }
task = "mine.py:task"

[sweep]
rule = ["mean", "median", { name = "mine.py:Shortest", f = 3 }]
attack = ["none", { name = "mine.py:Opposite", count = 3 }]
seeds = [1, 2]
"""

TEST = """\
import torch
from mine import Shortest

from hqde_fl import Updates, aggregate


def test_the_longest_update_does_not_count():
    updates = Updates(torch.tensor([[1.0, 0.0], [0.0, 1.0], [90.0, 90.0]]))
    assert aggregate(Shortest(f=1), updates).delta.tolist() == [0.5, 0.5]
"""

FILES = {
    "mine.py": MINE,
    "experiment.toml": EXPERIMENT,
    "sweep.toml": SWEEP,
    "test_mine.py": TEST,
}
"""File of a new project -> its content."""


def write_project(directory: Path) -> list[str]:
    """Write a project into a new or empty directory; return lines that say what to do next.

    Raises
    ------
    ConfigError
        If the directory holds anything.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} exists and is not an empty directory: choose another DIR")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (directory / name).write_text(content, encoding="utf-8")
    return [
        f"{directory}: {', '.join(FILES)}",
        f"hqde-fl run {directory / 'experiment.toml'}",
        f"hqde-fl sweep {directory / 'sweep.toml'}",
        f"pytest {directory}",
    ]
