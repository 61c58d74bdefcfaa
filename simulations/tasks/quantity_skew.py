"""Division by size alone: random samples whose sizes follow a power law or a Dirichlet draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.partition import Partitioner

Sizes = Literal["dirichlet", "power-law"]


@final
@dataclass(frozen=True)
class QuantitySkew(Partitioner):
    """Every client gets a random sample of the data, and clients differ in the size of theirs.

    Quantity skew of Li et al. (2022, "Federated learning on non-iid data silos", section 3.2).

    Parameters
    ----------
    sizes : {"dirichlet", "power-law"}, default="dirichlet"
        The clients' proportions of the data: one draw from a symmetric Dirichlet distribution, or
        k^-alpha for the k-th largest client, where which client is the k-th is drawn.
    alpha : float, default=0.5
        Finite and > 0. Concentration of the Dirichlet distribution, where small values are skewed;
        or exponent of the power law, where large values are.
    min_size : int, default=1
        Number of examples that every client gets at least, >= 1.
    seed : int, optional
        Seed >= 0 of the division; the run's seed is used if not given.
    """

    sizes: Sizes = "dirichlet"
    alpha: float = 0.5
    min_size: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.sizes not in (known := get_args(Sizes)):
            raise ConfigError(
                f"QuantitySkew.sizes must be one of {', '.join(known)}, found {self.sizes!r}"
            )
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"QuantitySkew.alpha must be finite and > 0, found {self.alpha}")
        if self.min_size < 1:
            raise ConfigError(f"QuantitySkew.min_size must be >= 1, found {self.min_size}")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"QuantitySkew.seed must be >= 0, found {self.seed}")

    def divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return parts of a random order of the examples, of ``_sizes``."""
        own = seeds if self.seed is None else Seeds(self.seed)
        order = own.numpy("partition", "order").permutation(len(labels))
        sizes = self._sizes(len(labels), partitions, own.numpy("partition", "sizes"))
        return np.split(order, np.cumsum(sizes)[:-1])

    def _sizes(
        self, examples: int, partitions: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the clients' sizes (partitions,), whose sum is the number of examples."""
        free = examples - partitions * self.min_size
        if free < 0:
            raise ConfigError(
                f"{self} needs {partitions * self.min_size} examples for {partitions} "
                f"partitions, found {examples}"
            )
        if self.sizes == "dirichlet":
            proportions = random.dirichlet(np.full(partitions, self.alpha))
        else:
            ranks = np.arange(1, partitions + 1, dtype=np.float64)
            proportions = random.permutation(ranks**-self.alpha)
            proportions /= proportions.sum()
        exact = proportions * free
        sizes = np.floor(exact).astype(np.int64)
        # largest remainders, so that the sizes differ from the exact ones by less than one
        order = np.argsort(sizes - exact, kind="stable")
        sizes[order[: free - int(sizes.sum())]] += 1
        return sizes + self.min_size
