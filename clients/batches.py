"""From a data set to batches on a device, and from a batch into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hqde_fl.errors import DataError

Collate = Callable[[list[Any]], tuple[Any, Any]]
"""Examples of a data set -> (inputs, targets) of a batch."""


@dataclass(frozen=True)
class Arguments:
    """What a model is called with, where that is not one object.

    Parameters
    ----------
    positional : tuple
        By position.
    named : Mapping[str, Any]
        By name.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Parameters
    ----------
    inputs : Any
        What the model is called with: one object, a tensor mostly, or ``Arguments``.
    targets : Any
        What the loss compares its outputs with.
    size : int
        How many examples.
    """

    inputs: Any
    targets: Any
    size: int


def call_model(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs for the inputs of a batch."""
    if isinstance(inputs, Arguments):
        return model(*inputs.positional, **inputs.named)
    return model(inputs)


def logits_of(outputs: Any) -> Any:
    """A classifier's scores: its outputs, or what they have under the name ``logits_of``."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def to_device(value: Any, device: torch.device) -> Any:
    """A batch, or a part of one, with every tensor in it on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Arguments):
        return Arguments(to_device(value.positional, device), to_device(value.named, device))
    if isinstance(value, Mapping):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        parts = [to_device(each, device) for each in value]
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
    """Batches on a device; with a generator shuffled, and without a last batch of one.

    A batch of one has no variance, which batch normalisation refuses to train on.

    Parameters
    ----------
    data : Dataset
        A map-style data set, of ``(x, y)`` unless ``collate`` says otherwise; not empty.
    size : int
        Examples in a batch.
    device : torch.device
        Where the batches go.
    generator : torch.Generator, optional
        Shuffles the examples.
    collate : Callable, optional
        Makes a batch of examples; torch's own way if not given.
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
            parts = ((x[chosen], y[chosen]) for chosen in torch.split(order, size))
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
        here = min(size, examples - number * size)
        yield Batch(to_device(inputs, device), to_device(targets, device), here)
