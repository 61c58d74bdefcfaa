"""How the training data are divided among the clients: flwr-datasets' partitioners, by name."""

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
from hqde_fl.registry import Catalogue
from hqde_fl.seeding import Seeds

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner as FlowerPartitioner

LABEL, INDEX = "label", "index"


class Partitioner(ABC):
    """A way to divide labelled examples among clients."""

    @final
    def split(self, labels: NDArray[Any], partitions: int, seed: int) -> list[NDArray[np.int64]]:
        """The indices of each partition, sorted; disjoint, and none empty.

        Parameters
        ----------
        labels : NDArray
            The examples' labels, (n,).
        partitions : int
            How many, in [1, n].
        seed : int
            The run's seed: the same seed gives the same partitions, everywhere.

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
        """The indices that each partition gets, in any order."""


@dataclass(frozen=True)
class _Flowers(Partitioner):
    """As a partitioner of flwr-datasets does it."""

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
            from datasets import Dataset  # slow to import, so not before it is needed

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
        """The partitioner of flwr-datasets."""


@final
@dataclass(frozen=True)
class Iid(Partitioner):
    """Every client gets a random sample of the same size.

    The same as flwr-datasets' ``IidPartitioner``, without the seconds that it takes to import: on
    real nodes every message starts a new process.
    """

    def _divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        return np.array_split(_shuffled(len(labels), seeds), partitions)


@final
@dataclass(frozen=True)
class Dirichlet(_Flowers):
    """Each class is divided in proportions drawn from a Dirichlet distribution.

    A client that would get nothing gets one example of the client that has most.

    Parameters
    ----------
    alpha : float, default=0.5
        Concentration, > 0: small is heterogeneous, large is iid.
    seed : int, optional
        >= 0: the division that flwr-datasets makes with this seed (and ``min_partition_size=0``),
        whatever the seed of the run. By default the run's seed decides.
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
class Pathological(_Flowers):
    """Every client sees a few classes only.

    Client i has class i modulo their number, the others are drawn. With fewer clients than classes
    some classes may be seen by nobody.

    Parameters
    ----------
    classes_per_client : int, default=2
        In [1, number of classes].
    seed : int, optional
        As ``Dirichlet.seed``, of mode ``first-deterministic``.
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
class Shard(_Flowers):
    """The examples, sorted by class, are cut into equal shards that are dealt out (McMahan 2017).

    Up to one example per shard, the remainder of the division, is left out.

    Parameters
    ----------
    shards_per_client : int, default=2
        At least 1, and at least one example for each shard.
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


PARTITIONERS: Catalogue[Partitioner] = Catalogue(
    "partitioner",
    Partitioner,  # type: ignore[type-abstract]
    {"dirichlet": Dirichlet, "iid": Iid, "pathological": Pathological, "shard": Shard},
)


def _shuffled(examples: int, seeds: Seeds) -> NDArray[np.int64]:
    """All indices in random order: some partitioners cut the data as they lie."""
    return seeds.numpy("partition", "order").permutation(examples)


def _without_empty(parts: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Give each empty part one element of the largest."""
    for i, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(len(parts)), key=lambda j: len(parts[j]))
            parts[i], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave no trace: no progress bars, no advice meant for the partitioners' direct users."""
    state = random.getstate()  # importing ``datasets`` draws from it
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        if shown:
            datasets.enable_progress_bars()
