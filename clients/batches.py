"""Batches of a data set on a device, and calls of a model with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hqde_fl.errors import DataError

Collate = Callable[[list[Any]], tuple[Any, Any]]
"""A list of examples of a data set -> the (inputs, targets) of a batch."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call of a model that takes several inputs.

    Parameters
    ----------
    positional : tuple
        Positional arguments.
    named : Mapping[str, Any]
        Keyword arguments.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The inputs and targets of some examples.

    Parameters
    ----------
    inputs : Any
        The model's input: one object, usually a tensor, or ``Arguments`` for several.
    targets : Any
        The second argument of the loss.
    size : int
        Number of examples.
    """

    inputs: Any
    targets: Any
    size: int


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Return the model's outputs for inputs: one object, or ``Arguments`` to call it with."""
    if isinstance(inputs, Arguments):
        return model(*inputs.positional, **inputs.named)
    return model(inputs)


def logits_of(outputs: Any) -> Any:
    """Return a classifier's scores: ``outputs.logits`` or ``outputs["logits"]``, else outputs."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def to_device(value: Any, device: torch.device) -> Any:
    """Return a value with every tensor in it moved to a device.

    Tuples, lists, mappings (which become dicts) and ``Arguments`` are copied with their tensors
    moved; any other value is returned as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Arguments):
        return Arguments(to_device(value.positional, device), to_device(value.named, device))
    if isinstance(value, Mapping):
        return {key: to_device(entry, device) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        parts = [to_device(entry, device) for entry in value]
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*parts)
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def iterate_batches(
    data: Dataset[Any],
    size: int,
    device: torch.device,
    generator: torch.Generator | None = None,
    collate: Collate | None = None,
) -> Iterator[Batch]:
    """Yield batches of a data set, on a device.

    With a generator the examples are shuffled, and a last batch of one example is left out unless
    it is the only one or ``size`` is 1: it has no variance, so batch normalisation refuses to train
    on it.

    Parameters
    ----------
    data : Dataset
        A map-style data set with at least one example; of ``(x, y)`` unless ``collate`` is given.
    size : int
        Examples per batch, >= 1.
    device : torch.device
        Device that the batches are moved to.
    generator : torch.Generator, optional
        Source of the shuffled order; the data set's own order without it.
    collate : Callable, optional
        Makes (inputs, targets) of a list of examples; torch's default if not given.

    Raises
    ------
    DataError
        If the data set is empty, once the first batch is requested.
    """
    examples = len(cast(Sized, data))
    if examples == 0:
        raise DataError("the data set needs at least 1 example, found 0")
    drop_last = generator is not None and examples > size and examples % size == 1
    parts: Iterable[tuple[Any, Any]]
    if type(data) is TensorDataset and len(data.tensors) == 2 and collate is None:
        x, y = data.tensors
        if generator is None:
            parts = zip(torch.split(x, size), torch.split(y, size), strict=True)
        else:
            order = torch.randperm(examples, generator=generator)[: examples - drop_last]
            parts = ((x[indices], y[indices]) for indices in torch.split(order, size))
    else:
        parts = DataLoader(
            data,
            size,
            shuffle=generator is not None,
            generator=generator,
            drop_last=drop_last,
            collate_fn=collate,
        )
    for number, (inputs, targets) in enumerate(parts):
        count = min(size, examples - number * size)
        yield Batch(to_device(inputs, device), to_device(targets, device), count)
