"""Division by gamma-similarity: a part of the data is dealt iid, the rest sorted by label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.partition import Partitioner


@final
@dataclass(frozen=True)
class GammaSimilarity(Partitioner):
    """A fraction gamma of the data is dealt iid; the rest is sorted by label and cut equally.

    The division of Karimireddy et al. (2020, "SCAFFOLD", s % similarity) and of the benchmarks of
    byzfl: gamma = 1 is iid, gamma = 0 its "extreme" division. Client i gets the i-th piece of both.
    Labels may be classes or numbers.

    Parameters
    ----------
    gamma : float, default=0.5
        Fraction of the examples that is dealt iid, in [0, 1]; of n examples floor(gamma n).
    seed : int, optional
        Seed >= 0 of the division; the run's seed is used if not given.
    """

    gamma: float = 0.5
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and 0 <= self.gamma <= 1):
            raise ConfigError(f"GammaSimilarity.gamma must be in [0, 1], found {self.gamma}")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"GammaSimilarity.seed must be >= 0, found {self.seed}")

    def divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return the i-th piece of the iid part and of the sorted part for each client i."""
        if labels.size != len(labels):
            raise ConfigError(
                f"{self} needs one label for each example, found labels of shape {labels.shape}"
            )
        own = seeds if self.seed is None else Seeds(self.seed)
        order = own.numpy("partition", "order").permutation(len(labels))
        mixed, rest = np.split(order, [int(self.gamma * len(labels))])
        rest = np.sort(rest)  # examples of one label stay in the order of the data
        rest = rest[np.argsort(labels.reshape(len(labels))[rest], kind="stable")]
        pieces = zip(
            np.array_split(mixed, partitions), np.array_split(rest, partitions), strict=True
        )
        return [np.concatenate(pair) for pair in pieces]
