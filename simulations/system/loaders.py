"""A user's ``DataLoader`` as the data of a federation: who gets what, and what a batch means."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from hqde_fl.clients.batches import Arguments, Batch, Collate, to_device
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

TARGETS = ("labels", "label", "targets", "target", "y")
"""The entries of a mapping that hold a batch's targets; the first that is there does."""


@dataclass(frozen=True)
class Reading:
    """What a loader's batch means to a model.

    ``(x, y)`` are inputs and targets, ``(a, b, y)`` two inputs and targets. Of a mapping,
    ``labels`` (or ``label``, ``targets``, ``target``, ``y``) are the targets and the rest is the
    input: as arguments by name, if ``forward`` has parameters of these names, else as one mapping.
    A batch that is one tensor is both input and target, as an autoencoder wants it.

    Parameters
    ----------
    names : frozenset[str] or None
        Parameters of the model's ``forward``; None if it takes any.
    """

    names: frozenset[str] | None

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """How batches are read for a model."""
        parameters = inspect.signature(model.forward).parameters.values()
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            return cls(None)
        return cls(frozenset(each.name for each in parameters))

    def pair(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets."""
        if isinstance(batch, Mapping):
            key = next((name for name in TARGETS if name in batch), None)
            rest = {name: each for name, each in batch.items() if name != key}
            return self._inputs(rest), batch if key is None else batch[key]
        if not isinstance(batch, tuple | list):
            return batch, batch
        if len(batch) < 2:
            return self._inputs(batch[0]), batch[0]
        *inputs, targets = batch
        return self._inputs(inputs[0]) if len(inputs) == 1 else Arguments(tuple(inputs)), targets

    def _inputs(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        named = self.names is None or not self.names.isdisjoint(value)
        return Arguments(named=dict(value)) if named else dict(value)

    def batches(self, loader: Iterable[Any], device: torch.device) -> Iterator[Batch]:
        """The loader's own batches, in its order."""
        for batch in loader:
            inputs, targets = self.pair(batch)
            size = _examples(targets)
            yield Batch(to_device(inputs, device), to_device(targets, device), size)


@dataclass(frozen=True)
class LoaderCollate:
    """The loader's ``collate_fn``, and then inputs and targets of what it makes.

    Parameters
    ----------
    collate : Callable
        Examples -> batch.
    reading : Reading
        What the batch means.
    """

    collate: Any
    reading: Reading

    def __call__(self, examples: list[Any]) -> tuple[Any, Any]:
        """Examples -> (inputs, targets)."""
        return self.reading.pair(self.collate(examples))


@dataclass(frozen=True, eq=False)
class Portions:
    """A data set divided at random into portions of equal size, one for each worker.

    Parameters
    ----------
    data : Dataset
        A map-style data set.
    seed : int
        Of the division.
    """

    data: Dataset[Any]
    seed: int

    def __call__(self, number: int, count: int) -> Dataset[Any]:
        """One worker's portion."""
        order = Seeds(self.seed).numpy("portions").permutation(len(cast(Sized, self.data)))
        indices = np.sort(np.array_split(order, count)[number]).tolist()
        data = self.data
        while type(data) is Subset:
            indices = [data.indices[index] for index in indices]
            data = data.dataset
        if type(data) is TensorDataset:
            return TensorDataset(*data[torch.as_tensor(indices)])
        return Subset(data, indices)


@dataclass(frozen=True, eq=False)
class Source:
    """What a loader says about training.

    Parameters
    ----------
    data : Dataset
        The data set behind it.
    batch_size : int
        Its batch size.
    collate : Callable
        Its ``collate_fn``.
    """

    data: Dataset[Any]
    batch_size: int
    collate: Any

    @classmethod
    def of(cls, loader: Any, workers: int) -> Self:
        """What can be known of a loader.

        Raises
        ------
        ConfigError
            If it is no ``DataLoader`` over a map-style data set with at least one example for each
            worker, or if it chooses its examples itself.
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
        sampler = loader.sampler
        plain = type(sampler) is SequentialSampler or (
            type(sampler) is RandomSampler
            and not sampler.replacement
            and sampler.num_samples == len(data)
        )
        if not plain:
            raise ConfigError(
                "train divides the whole data set among the workers and shuffles it there, so the "
                f"loader's {type(sampler).__name__} would not act: put what it chooses into the "
                "data set (torch.utils.data.Subset)"
            )
        if len(data) < workers:
            raise ConfigError(
                f"train needs at least 1 example for each of {workers} workers, found {len(data)}"
            )
        return cls(data, loader.batch_size, loader.collate_fn)

    def collate_for(self, reading: Reading) -> Collate | None:
        """How workers make batches; None where tensors can be sliced instead."""
        data = self.data
        while type(data) is Subset:
            data = data.dataset
        pairs = type(data) is TensorDataset and len(data.tensors) == 2
        if pairs and self.collate is default_collate:
            return None
        return LoaderCollate(self.collate, reading)

    def same(self, other: Source | None) -> bool:
        """Whether two loaders are alike in all that matters here."""
        return (
            other is not None
            and self.data is other.data
            and (self.batch_size, self.collate) == (other.batch_size, other.collate)
        )


def _examples(targets: Any) -> int:
    """How many examples the targets of a batch belong to."""
    if isinstance(targets, Tensor):
        return len(targets) if targets.ndim else 1
    if isinstance(targets, Mapping):
        return _examples(next(iter(targets.values())))
    if isinstance(targets, tuple | list) and targets and isinstance(targets[0], Tensor):
        return _examples(targets[0]) if targets[0].ndim else len(targets)
    return len(targets) if isinstance(targets, Sized) else 1
