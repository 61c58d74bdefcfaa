"""A batch: inputs and targets on a device, and calls of a model with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hqde_fl.clients.user_code import defined_at, user_code
from hqde_fl.errors import TaskError

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


class BatchWithoutTargets(dict[Any, Any]):
    """The targets of a batch with names, none of which is that of the targets: all its entries."""


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
    """Return the model's outputs for inputs: one object, or ``Arguments`` to call it with.

    Raises
    ------
    TaskError
        If the model raises an exception or returns None.
    """
    part = f"the model ({type(model).__name__})"
    if type(inputs) is dict:  # the names of the batch may just not be those that forward expects
        part += ", given a dict as forward names none of its entries (rename one or the other),"
    with user_code(part, model, inputs=inputs):
        if isinstance(inputs, Arguments):
            outputs = model(*inputs.positional, **inputs.named)
        else:
            outputs = model(inputs)
    if outputs is None:
        place = defined_at(type(model).forward)
        raise TaskError(f"{part} returned None: does forward return its outputs?{place}")
    return outputs


def logits_of(outputs: Any) -> Any:
    """Return a classifier's scores: ``outputs.logits`` or ``outputs["logits"]``, else outputs."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU if it has none."""
    for module in model.modules():  # a third of the time of parameters(), in the same order
        for parameter in module._parameters.values():
            if parameter is not None:
                return parameter.device
    return torch.device("cpu")


def moves_itself(value: Any) -> bool:
    """Return True if a value's class has a method ``to``, as tensors and packed sequences have."""
    return callable(getattr(type(value), "to", None))


def map_tensors(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with a function applied to everything in it that can move to a device.

    Tuples, lists, mappings (which become dicts) and ``Arguments`` are copied; any other value is
    returned as it is.
    """
    if moves_itself(value):
        return change(value)
    if isinstance(value, Arguments):
        return Arguments(map_tensors(value.positional, change), map_tensors(value.named, change))
    if isinstance(value, Mapping):
        kind = BatchWithoutTargets if isinstance(value, BatchWithoutTargets) else dict
        return kind({key: map_tensors(entry, change) for key, entry in value.items()})
    if isinstance(value, tuple | list):
        parts = [map_tensors(entry, change) for entry in value]
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*parts)
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """Return a value with all tensors in it, and all that has a method ``to``, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    return map_tensors(value, lambda part: part.to(device))


def example_count(targets: Any) -> int:
    """Return the number of examples of a batch: the length of its targets, or 1 for a scalar.

    That of the first value in a mapping, or of the first tensor in a list of tensors.
    """
    if isinstance(targets, Tensor):
        return len(targets) if targets.ndim else 1
    if isinstance(targets, Mapping):
        return example_count(next(iter(targets.values()), 0))
    if isinstance(targets, tuple | list) and targets and isinstance(targets[0], Tensor):
        return example_count(targets[0]) if targets[0].ndim else len(targets)
    return len(targets) if isinstance(targets, Sized) else 1
