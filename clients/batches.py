"""A batch: inputs and targets on a device, and calls of a model with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Collate = Callable[[list[Any]], Any]
"""A list of examples of a data set -> a batch, usually (inputs, targets)."""


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


def example_count(targets: Any) -> int:
    """Return the number of examples of a batch: the length of its targets, or 1 for a scalar.

    That of the first value in a mapping, or of the first tensor in a list of tensors.
    """
    if isinstance(targets, Tensor):
        return len(targets) if targets.ndim else 1
    if isinstance(targets, Mapping):
        return example_count(next(iter(targets.values())))
    if isinstance(targets, tuple | list) and targets and isinstance(targets[0], Tensor):
        return example_count(targets[0]) if targets[0].ndim else len(targets)
    return len(targets) if isinstance(targets, Sized) else 1
