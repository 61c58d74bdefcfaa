"""Division of the training data among the clients, by flwr-datasets' partitioners."""

from __future__ import annotations

import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import WARNING
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.registry import Registry
from hqde_fl.seeding import Seeds
from hqde_fl.simulations import catalogue
from hqde_fl.simulations.tasks.label_classes import classes_of

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner as FlowerPartitioner

LABEL, INDEX = "label", "index"


class Partitioner(ABC):
    """A way to divide labelled examples among clients."""

    @property
    def divides_by(self) -> str:
        """The column of a built-in task's data that ``split`` is given: the labels."""
        return "label"

    @final
    def split(self, labels: NDArray[Any], partitions: int, seed: int) -> list[NDArray[np.int64]]:
        """Divide the examples and return the sorted indices of each partition.

        Partitions are disjoint, and none is empty.

        Parameters
        ----------
        labels : NDArray
            (n,) labels of the examples: numbers or names.
        partitions : int
            Number of partitions, in [1, n].
        seed : int
            The run's seed, which determines the partitions on any machine.

        Raises
        ------
        ConfigError
            If the examples cannot be divided in this way.
        """
        labels = np.asarray(labels)
        n = len(labels)
        if not 1 <= partitions <= n:
            raise ConfigError(
                f"partitions must be in [1, {n}], the number of examples, found {partitions}"
            )
        parts = [np.sort(part) for part in self.divide(labels, partitions, Seeds(seed))]
        if len(parts) != partitions:
            raise ConfigError(f"{self}.divide must return {partitions} parts, found {len(parts)}")
        for part in filter(len, parts):
            if part.ndim != 1 or part.dtype.kind not in "iu" or not 0 <= part[0] <= part[-1] < n:
                raise ConfigError(
                    f"{self}.divide must return indices in [0, {n - 1}], "
                    f"found {part.dtype} from {part.min()} to {part.max()}"
                )
        return _without_empty([part.astype(np.int64, copy=False) for part in parts])

    @abstractmethod
    def divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return the indices of each partition, in any order; call ``split`` instead of this.

        Parameters
        ----------
        labels : NDArray
            (n,) labels of the examples.
        partitions : int
            Number of partitions, in [1, n].
        seeds : Seeds
            The source of random numbers, as ``seeds.numpy("partition")``.
        """


@dataclass(frozen=True)
class _FlowerDatasetsPartitioner(Partitioner):
    """A partitioner that divides by class, and uses one of flwr-datasets."""

    seed: int | None = field(default=None, kw_only=True)
    bins: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.bins is not None and self.bins < 2:
            raise ConfigError(f"{type(self).__name__}.bins must be >= 2, found {self.bins}")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"{type(self).__name__}.seed must be >= 0, found {self.seed}")

    def __str__(self) -> str:
        """Return the name with the parameters that are set."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in values.items())})"

    @final
    def divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return the partitions of flwr-datasets' partitioner; log a warning if it drops examples.

        ``ConfigError`` is raised if it would drop most of them.
        """
        classes = classes_of(labels, self.bins, str(self))
        if self.seed is None:
            order, seed = _shuffled(len(labels), seeds), seeds.integer("partition", "assign")
        else:
            order, seed = np.arange(len(labels)), self.seed
        with _quiet():
            from datasets import Dataset  # imported here because it is slow

            inner = self._build(len(labels), partitions, seed)
            inner.dataset = Dataset.from_dict({LABEL: classes[order], INDEX: order})
            try:
                parts = [
                    np.asarray(inner.load_partition(i)[INDEX], np.int64) for i in range(partitions)
                ]
            except ValueError as error:
                raise ConfigError(f"{self} cannot make {partitions} partitions: {error}") from error
        self._report_dropped(classes, parts)
        return parts

    def _report_dropped(self, classes: NDArray[Any], parts: list[NDArray[np.int64]]) -> None:
        """Log a warning if whole classes are in no partition; refuse it if they are most of all."""
        kept = np.concatenate(parts)
        without = len(np.unique(classes)) - len(np.unique(classes[kept]))
        dropped = len(classes) - len(kept)
        if not without:
            return
        text = (
            f"{self} gives {dropped} of {len(classes)} examples to no client: {without} of "
            f"{len(np.unique(classes))} classes have none among {len(parts)} clients"
        )
        if dropped > len(classes) / 2:
            raise ConfigError(f"{text}. More clients, or more classes per client, are needed")
        log(WARNING, "%s", text)

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

    def divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return parts of a random order whose sizes differ by one at most."""
        return np.array_split(_shuffled(len(labels), seeds), partitions)


@final
@dataclass(frozen=True)
class Dirichlet(_FlowerDatasetsPartitioner):
    """Each class is divided in proportions drawn from a Dirichlet distribution.

    A client without examples gets one example of the client that has most. Labels that are no
    classes, as those of a regression, are refused unless there are ``bins``.

    Parameters
    ----------
    alpha : float, default=0.5
        Concentration, > 0: small values are heterogeneous, large ones iid.
    seed : int, optional
        Seed >= 0 of the division, which is then that of flwr-datasets with this seed (and
        ``min_partition_size=0``). The run's seed is used if not given.
    bins : int, optional
        Divide by so many quantiles of the labels, >= 2, instead of by classes.
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
    fewer clients than classes some classes may belong to no client: a warning says how many
    examples these are, and more than half of all are refused.

    Parameters
    ----------
    classes_per_client : int, default=2
        Number of classes per client, in [1, number of classes].
    seed : int, optional
        As ``Dirichlet.seed``, for the mode ``first-deterministic``.
    bins : int, optional
        As ``Dirichlet.bins``.
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
    bins : int, optional
        As ``Dirichlet.bins``.
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


PARTITIONERS: Registry[Partitioner] = catalogue.PARTITIONERS


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
