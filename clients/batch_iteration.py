"""Batches of a data set or a loader, read for a model."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    TensorDataset,
    default_collate,
    default_convert,
)

from hqde_fl.clients.batch_reader import BatchReader
from hqde_fl.clients.batches import Batch, Collate, device_of, example_count, to_device
from hqde_fl.clients.collation import StackExamples, UserCollate
from hqde_fl.clients.data_forms import (
    check_loader,
    check_map_style,
    example_total,
    in_torch_format,
    loader_with,
)
from hqde_fl.clients.user_code import user_code
from hqde_fl.code_origin import origin_in_text
from hqde_fl.errors import DataError, HQDEError, TaskError
from hqde_fl.terminal_text import describe_error

_READS = ("__getitem__", "__getitems__")
"""Methods of a data set that read examples."""


def iterate_batches(
    data: Dataset[Any],
    size: int,
    model: nn.Module,
    generator: torch.Generator | None = None,
    collate: Collate | None = None,
    order: Tensor | None = None,
) -> Iterator[Batch]:
    """Yield batches of a data set as inputs and targets of a model, on the model's device.

    With a generator the examples are shuffled, and a last batch of one example is left out unless
    it is the only one or ``size`` is 1: it has no variance, so batch normalisation refuses to train
    on it.

    Parameters
    ----------
    data : Dataset
        A map-style data set with at least one example, of any kind that ``BatchReader`` reads. A
        ``datasets.Dataset`` without a format is read as torch tensors unless ``collate`` is given.
    size : int
        Examples per batch, >= 1.
    model : nn.Module
        The model that the batches are for.
    generator : torch.Generator, optional
        Source of the shuffled order; the data set's own order without it.
    collate : Callable, optional
        Makes a batch of a list of examples; torch's default if not given.
    order : Tensor, optional
        The indices of the examples to read, in their order, instead of all of them; such as the
        rest of a ``shuffled_order``. ``generator`` does not shuffle then.

    Raises
    ------
    DataError
        If the data set is empty, once the first batch is requested.
    TaskError
        If the data set or ``collate`` fail, or ``forward`` cannot be called with what they give.
    """
    tensors = data.tensors if type(data) is TensorDataset else ()
    examples = len(tensors[0]) if tensors else example_total(data)
    if examples == 0:
        raise DataError("the data set needs at least 1 example, found 0")
    reader, device = BatchReader.of(model), device_of(model)
    drop_last = order is None and generator is not None and _drops_last(examples, size)
    parts: Iterable[Any]
    if tensors and collate is None:
        if generator is None and order is None:
            parts = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
        else:
            if order is None:
                order = torch.randperm(examples, generator=generator)[: examples - drop_last]
            parts = (
                [_examples(tensor, order[first : first + size]) for tensor in tensors]
                for first in range(0, len(order), size)
            )
    else:
        stacks = collate is None or collate is default_collate
        loader = DataLoader(
            in_torch_format(data) if stacks else data,
            size,
            shuffle=None if order is not None else generator is not None,
            sampler=None if order is None else order.tolist(),
            generator=generator,
            drop_last=drop_last,
            collate_fn=_collate(collate, reader),
        )
        parts = _loaded(loader)
    if order is not None:
        examples = len(order)
    for number, batch in enumerate(parts):
        inputs, targets = reader.pair(batch)
        count = min(size, examples - number * size)
        yield Batch(to_device(inputs, device), to_device(targets, device), count)


def _examples(tensor: Tensor, indices: Tensor) -> Tensor:
    """Return the examples at some indices, in the memory format that indexing gives them."""
    # a quarter of the time of indexing, which keeps other formats, such as channels last
    return tensor.index_select(0, indices) if tensor.is_contiguous() else tensor[indices]


def shuffled_batches(examples: int, size: int) -> int:
    """Return the number of batches that ``iterate_batches`` yields with a generator."""
    return -(-examples // size) - _drops_last(examples, size)


def shuffled_order(examples: int, size: int, generator: torch.Generator) -> Tensor:
    """Return the order of a pass: that in which ``iterate_batches`` reads a ``TensorDataset``.

    A last batch of one example is left out as there.

    Parameters
    ----------
    examples : int
        The number of examples, >= 1.
    size : int
        Examples per batch, >= 1.
    generator : torch.Generator
        Source of the order.
    """
    order = torch.randperm(examples, generator=generator)
    return order[: examples - _drops_last(examples, size)]


def _drops_last(examples: int, size: int) -> bool:
    return examples > size and examples % size == 1


def read_loader(
    loader: Iterable[Any], model: nn.Module, *, labelled: bool = True
) -> Iterator[Batch]:
    """Yield a loader's batches in its order as inputs and targets of a model, on its device.

    Parameters
    ----------
    loader : Iterable
        A ``DataLoader``, or any batches.
    model : nn.Module
        The model that the batches are for.
    labelled : bool, default=True
        False if the batches may have no targets.
    """
    check_loader(loader)
    reader, device = BatchReader.of(model), device_of(model)
    sizes: Iterator[int | None] = repeat(None)
    if isinstance(loader, DataLoader):
        sizes = chain(_batch_sizes(loader), sizes)
        loader = _readable(loader, reader)
    for batch, size in zip(_loaded(loader), sizes, strict=False):
        inputs, targets = reader.pair(batch, labelled=labelled)
        count = example_count(targets) if size is None else size
        yield Batch(to_device(inputs, device), to_device(targets, device), count)


def _collate(collate: Collate | None, reader: BatchReader) -> Collate:
    if collate is None or collate is default_collate:
        return StackExamples(reader)
    return UserCollate(collate)


def _readable(loader: DataLoader[Any], reader: BatchReader) -> DataLoader[Any]:
    """Return a loader of the same batches that reads and stacks as ``iterate_batches`` does."""
    if isinstance(loader.dataset, Mapping):
        check_map_style(loader.dataset)
    data, collate = loader.dataset, loader.collate_fn
    if collate in (default_collate, default_convert):  # the user's may expect lists
        data = in_torch_format(data)
    # a copy has neither the processes that the loader keeps nor what a subclass counts
    keep = loader.persistent_workers or type(loader) is not DataLoader
    if keep and data is loader.dataset:
        return loader
    return loader_with(loader, data, _collate(collate, reader))


def _loaded(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield a loader's batches; exceptions of the data set become ``TaskError``."""
    with user_code("the data set"):
        batches = iter(loader)
    while True:
        with user_code("the data set"):
            try:
                batch = next(batches)
            except StopIteration as error:
                frames = traceback.walk_tb(error.__traceback__)
                if any(frame.f_code.co_name in _READS for frame, _ in frames):
                    raise  # by a mistake in the data set: it is not the end of the batches
                return
            except Exception as error:
                lines = str(error).strip().splitlines()
                if not lines or "DataLoader worker process" not in lines[0]:
                    raise
                text = lines[-1]  # of the traceback in a process that loads data
                if isinstance(error, HQDEError):
                    raise TaskError(text.partition(": ")[2]) from error
                place = origin_in_text(str(error))
                raise TaskError(f"the data set raised {describe_error(text)}{place}") from error
        yield batch


def _batch_sizes(loader: DataLoader[Any]) -> Iterator[int]:
    """Yield the sizes of a loader's batches as far as they are known beforehand."""
    batches = loader.batch_sampler
    if type(batches) is BatchSampler and isinstance(batches.sampler, Sized):
        whole, rest = divmod(len(batches.sampler), batches.batch_size)
        yield from repeat(batches.batch_size, whole)
        if rest:
            yield rest
    elif isinstance(batches, Sequence):
        yield from map(len, batches)
