"""The data set of a user's ``DataLoader``, divided among workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from hqde_fl.clients.batches import Collate
from hqde_fl.clients.data_forms import example_total
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds


@dataclass(frozen=True, eq=False)
class Portions:
    """A data set that is divided at random into portions of equal size, one per worker.

    Parameters
    ----------
    data : Dataset
        A map-style data set.
    seed : int
        Seed of the division.
    """

    data: Dataset[Any]
    seed: int

    def __call__(self, number: int, count: int) -> Dataset[Any]:
        """Return one worker's portion, ``number`` in [0, ``count``)."""
        order = Seeds(self.seed).numpy("portions").permutation(example_total(self.data))
        indices = np.sort(np.array_split(order, count)[number]).tolist()
        return data_subset(self.data, indices)


@dataclass(frozen=True, eq=False)
class LoaderData:
    """The parts of a ``DataLoader`` that training uses.

    Parameters
    ----------
    dataset : Dataset
        The loader's data set.
    batch_size : int
        The loader's batch size.
    collate : Callable
        The loader's ``collate_fn``.
    """

    dataset: Dataset[Any]
    batch_size: int
    collate: Any

    @classmethod
    def of(cls, loader: Any, workers: int) -> Self:
        """Read the parts of a loader that training uses.

        Raises
        ------
        ConfigError
            If it is not a ``DataLoader`` of a map-style data set with at least one example per
            worker, or if it has a sampler or batch sampler of its own.
        """
        if not isinstance(loader, DataLoader):
            raise ConfigError(f"train needs a torch DataLoader, found {type(loader).__name__}")
        data = loader.dataset
        if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
            raise ConfigError(
                "train needs a map-style data set behind the loader, with a length: workers get "
                f"portions of it; found {type(data).__name__}"
            )
        if loader.batch_size is None:
            raise ConfigError(
                "train needs a loader with a batch_size, found one with a batch sampler of its own "
                "or without batches"
            )
        total, sampler = example_total(data), loader.sampler
        plain = type(sampler) is SequentialSampler or (
            type(sampler) is RandomSampler
            and not sampler.replacement
            and sampler.num_samples == total
        )
        if not plain:
            raise ConfigError(
                "train divides the whole data set among the workers and shuffles it there, so the "
                f"loader's {type(sampler).__name__} would not act: put what it chooses into the "
                "data set (torch.utils.data.Subset)"
            )
        if total < workers:
            raise ConfigError(
                f"train needs at least 1 example for each of {workers} workers, found {total}"
            )
        return cls(data, loader.batch_size, loader.collate_fn)

    @property
    def task_collate(self) -> Collate | None:
        """The workers' collate function; None if it is torch's default."""
        return None if self.collate is default_collate else self.collate

    def same(self, other: LoaderData | None) -> bool:
        """Return True if two loaders have the same data set, batch size and collate function."""
        return (
            other is not None
            and self.dataset is other.dataset
            and (self.batch_size, self.collate) == (other.batch_size, other.collate)
        )
