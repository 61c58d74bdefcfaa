"""Batches of a data set, read for a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hqde_fl.clients.batch_reader import BatchReader
from hqde_fl.clients.batches import Batch, Collate, device_of, to_device
from hqde_fl.errors import DataError


def iterate_batches(
    data: Dataset[Any],
    size: int,
    model: nn.Module,
    generator: torch.Generator | None = None,
    collate: Collate | None = None,
) -> Iterator[Batch]:
    """Yield batches of a data set as inputs and targets of a model, on the model's device.

    With a generator the examples are shuffled, and a last batch of one example is left out unless
    it is the only one or ``size`` is 1: it has no variance, so batch normalisation refuses to train
    on it.

    Parameters
    ----------
    data : Dataset
        A map-style data set with at least one example, of any kind that ``BatchReader`` reads.
    size : int
        Examples per batch, >= 1.
    model : nn.Module
        The model that the batches are for.
    generator : torch.Generator, optional
        Source of the shuffled order; the data set's own order without it.
    collate : Callable, optional
        Makes a batch of a list of examples; torch's default if not given.

    Raises
    ------
    DataError
        If the data set is empty, once the first batch is requested.
    """
    examples = len(cast(Sized, data))
    if examples == 0:
        raise DataError("the data set needs at least 1 example, found 0")
    drop_last = generator is not None and examples > size and examples % size == 1
    parts: Iterable[Any]
    if type(data) is TensorDataset and collate is None:
        tensors = data.tensors
        if generator is None:
            parts = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
        else:
            order = torch.randperm(examples, generator=generator)[: examples - drop_last]
            parts = (
                tuple(tensor[indices] for tensor in tensors) for indices in torch.split(order, size)
            )
    else:
        parts = DataLoader(
            data,
            size,
            shuffle=generator is not None,
            generator=generator,
            drop_last=drop_last,
            collate_fn=collate,
        )
    reader, device = BatchReader.of(model), device_of(model)
    for number, batch in enumerate(parts):
        inputs, targets = reader.pair(batch)
        count = min(size, examples - number * size)
        yield Batch(to_device(inputs, device), to_device(targets, device), count)
