"""Seven parts of a user's own: rule, attack, codec, partitioner, selector, metric and task."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from neighbour import EXAMPLES, WIDTH
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl import Callback, Codec, Selection, Selector, Task
from hqde_fl.prediction import Vote
from hqde_fl.rules import Decision, Rule, Tolerant
from hqde_fl.simulations.attacks import Attack
from hqde_fl.simulations.tasks import PARTITIONERS, Partitioner
from hqde_fl.strategies.optimizers import ServerOptimizer


@dataclass(frozen=True)
class Shortest(Tolerant):
    """The mean of the n - f shortest updates."""

    scored = True

    def filters(self, n):
        return True

    def score(self, tile):
        return tile.double().square().sum(dim=1, keepdim=True)

    def decide(self, measured, cohort, state):
        kept = measured.score[:, 0].argsort()[: cohort.n - cohort.remaining(self.f)]
        mixing = torch.zeros(1, cohort.n, dtype=torch.float64)
        mixing[0, kept] = 1 / len(kept)
        return Decision(mixing=mixing, filtered=mixing[0] == 0)


@dataclass(frozen=True)
class Halved(Rule):
    """A pre-aggregation: every update times a half."""

    is_preaggregation = True

    def minimum(self, faulty=0):
        return 1

    def breakdown(self, n):
        return 0

    def output_rows(self, n):
        return n

    def decide(self, measured, cohort, state):
        return Decision(mixing=torch.eye(cohort.n, dtype=torch.float64) / 2)


@dataclass(frozen=True)
class Opposite(Attack):
    """All attackers send the same vector."""

    by: float = 1.0

    def forge(self, honest, f, knowledge):
        return torch.full((honest.shape[1],), self.by)


@dataclass(frozen=True)
class Half(Codec):
    """The numbers in half precision."""

    code: ClassVar[int] = 200

    def write(self, values, state, rng):
        return [values.astype("<f2")], {}

    @classmethod
    def read(cls, reader, size):
        return reader.array("<f2", size).astype(np.float32)


@dataclass(frozen=True)
class Stripes(Partitioner):
    """Every n-th example."""

    def divide(self, labels, partitions, seeds):
        return [np.arange(len(labels))[number::partitions] for number in range(partitions)]


@dataclass(frozen=True)
class First(Selector):
    """The first clients."""

    count: int

    def size(self, available):
        return min(self.count, available)

    def select(self, candidates, state, rng):
        return Selection(list(candidates.ids[: candidates.size]))


@dataclass(frozen=True)
class Step(ServerOptimizer):
    """The update times a factor."""

    factor: float = 1.0

    def step(self, delta, moments):
        return self.factor * delta, moments


@dataclass(frozen=True)
class Best(Vote):
    """The first member's prediction."""

    def combine(self, probabilities):
        return probabilities[0]


class Notes(Callback):
    """Prints a line after each round."""

    def on_round(self, record, arrays):
        print(f"noted round {record.round}")


def recall(outputs, targets):
    """Return the recall of class 0."""
    hits = outputs.argmax(dim=1)[targets == 0] == 0
    return float(hits.float().mean()) if len(hits) else 0.0


def task(partitions, seed, partition):
    """Return two classes of points."""
    x = torch.randn(EXAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed))
    y = (x[:, 0] > 0).long()
    parts = PARTITIONERS.build(partition).split(y.numpy(), partitions, seed)
    return Task(
        model=lambda: nn.Linear(WIDTH, 2),
        partition=lambda number, count: TensorDataset(x[parts[number]], y[parts[number]]),
        test=lambda: TensorDataset(x, y),
    )


class NoRule:
    """No subclass of a rule."""


class Undecorated(Tolerant):
    """No dataclass."""

    radius: float = 1.0

    def decide(self, measured, cohort, state):
        return Decision()


@dataclass(frozen=True)
class Unfinished(Tolerant):
    """Has no ``decide``."""


@dataclass(frozen=True)
class Fails(Tolerant):
    """Cannot be made."""

    def __post_init__(self):
        raise ValueError("f is wrong")

    def decide(self, measured, cohort, state):
        return Decision()


@dataclass(frozen=True)
class Taken(Half):
    """Has the code of a built-in codec."""

    code: ClassVar[int] = 1
