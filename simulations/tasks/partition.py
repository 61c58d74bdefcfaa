"""Division of the training data among the clients, by flwr-datasets' partitioners."""

from __future__ import annotations

import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.registry import Registry
from hqde_fl.seeding import Seeds

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner as FlowerPartitioner

LABEL, INDEX = "label", "index"


class Partitioner(ABC):
    """A way to divide labelled examples among clients."""

    @final
    def split(self, labels: NDArray[Any], partitions: int, seed: int) -> list[NDArray[np.int64]]:
        """Divide the examples and return the sorted indices of each partition.

        Partitions are disjoint, and none is empty.

        Parameters
        ----------
        labels : NDArray
            (n,) labels of the examples.
        partitions : int
            Number of partitions, in [1, n].
        seed : int
            The run's seed, which determines the partitions on any machine.

        Raises
        ------
        ConfigError
            If the examples cannot be divided in this way.
        """
        if not 1 <= partitions <= len(labels):
            raise ConfigError(
                f"partitions must be in [1, {len(labels)}], the number of examples, "
                f"found {partitions}"
            )
        parts = self._divide(labels, partitions, Seeds(seed))
        return _without_empty([np.sort(np.asarray(part, np.int64)) for part in parts])

    @abstractmethod
    def _divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return the indices of each partition, in any order."""


@dataclass(frozen=True)
class _FlowerDatasetsPartitioner(Partitioner):
    """A partitioner that uses one of flwr-datasets."""

    seed: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"{type(self).__name__}.seed must be >= 0, found {self.seed}")

    @final
    def _divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        if self.seed is None:
            order, seed = _shuffled(len(labels), seeds), seeds.integer("partition", "assign")
        else:
            order, seed = np.arange(len(labels)), self.seed
        with _quiet():
            from datasets import Dataset  # imported here because it is slow

            inner = self._build(len(labels), partitions, seed)
            inner.dataset = Dataset.from_dict({LABEL: labels[order], INDEX: order})
            try:
                return [
                    np.asarray(inner.load_partition(i)[INDEX], np.int64) for i in range(partitions)
                ]
            except ValueError as error:
                raise ConfigError(f"{self} cannot make {partitions} partitions: {error}") from error

    @abstractmethod
    def _build(self, examples: int, partitions: int, seed: int) -> FlowerPartitioner:
        """Build the partitioner of flwr-datasets."""


@final
@dataclass(frozen=True)
class Iid(Partitioner):
    """Every client gets a random sample of the same size.

    The result is that of flwr-datasets' ``IidPartitioner``, without its import, which takes
    seconds: on real nodes every message starts a new process.
    """

    def _divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        return np.array_split(_shuffled(len(labels), seeds), partitions)


@final
@dataclass(frozen=True)
class Dirichlet(_FlowerDatasetsPartitioner):
    """Each class is divided in proportions drawn from a Dirichlet distribution.

    A client without examples gets one example of the client that has most.

    Parameters
    ----------
    alpha : float, default=0.5
        Concentration, > 0: small values are heterogeneous, large ones iid.
    seed : int, optional
        Seed >= 0 of the division, which is then that of flwr-datasets with this seed (and
        ``min_partition_size=0``). The run's seed is used if not given.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"Dirichlet.alpha must be finite and > 0, found {self.alpha}")

    def _build(self, examples: int, partitions: int, seed: int) -> FlowerPartitioner:
        from flwr_datasets.partitioner import DirichletPartitioner

        return DirichletPartitioner(
            partitions, LABEL, float(self.alpha), min_partition_size=0, seed=seed
        )


@final
@dataclass(frozen=True)
class Pathological(_FlowerDatasetsPartitioner):
    """Every client has examples of a few classes only.

    Client i has the class i modulo the number of classes, and further classes that are drawn. With
    fewer clients than classes some classes may belong to no client.

    Parameters
    ----------
    classes_per_client : int, default=2
        Number of classes per client, in [1, number of classes].
    seed : int, optional
        As ``Dirichlet.seed``, for the mode ``first-deterministic``.
    """

    classes_per_client: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes_per_client < 1:
            raise ConfigError(
                f"Pathological.classes_per_client must be >= 1, found {self.classes_per_client}"
            )

    def _build(self, examples: int, partitions: int, seed: int) -> FlowerPartitioner:
        from flwr_datasets.partitioner import PathologicalPartitioner

        return PathologicalPartitioner(
            partitions,
            LABEL,
            self.classes_per_client,
            class_assignment_mode="first-deterministic",
            seed=seed,
        )


@final
@dataclass(frozen=True)
class Shard(_FlowerDatasetsPartitioner):
    """The examples, sorted by class, are cut into equal shards for the clients (McMahan 2017).

    The remainder of the division, fewer examples than there are shards, is left out.

    Parameters
    ----------
    shards_per_client : int, default=2
        Number of shards per client, >= 1; each shard needs at least one example.
    seed : int, optional
        As ``Dirichlet.seed``.
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shards_per_client < 1:
            raise ConfigError(
                f"Shard.shards_per_client must be >= 1, found {self.shards_per_client}"
            )

    def _build(self, examples: int, partitions: int, seed: int) -> FlowerPartitioner:
        from flwr_datasets.partitioner import ShardPartitioner

        if examples < (shards := partitions * self.shards_per_client):
            raise ConfigError(
                f"{self} needs {shards} examples for {partitions} partitions, found {examples}"
            )
        return ShardPartitioner(partitions, LABEL, self.shards_per_client, seed=seed)


PARTITIONERS: Registry[Partitioner] = Registry(
    "partitioner",
    Partitioner,  # type: ignore[type-abstract]
    {"dirichlet": Dirichlet, "iid": Iid, "pathological": Pathological, "shard": Shard},
)


def _shuffled(examples: int, seeds: Seeds) -> NDArray[np.int64]:
    """Return all indices in random order, as some partitioners divide the data in their order."""
    return seeds.numpy("partition", "order").permutation(examples)


def _without_empty(parts: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Give each empty part one index of the largest part, and return the list, changed in place."""
    for i, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(len(parts)), key=lambda j: len(parts[j]))
            parts[i], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings, and restore Python's random state."""
    state = random.getstate()  # importing ``datasets`` draws random numbers
    import datasets

    progress_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        if progress_bars:
            datasets.enable_progress_bars()
