"""Outputs of several models or batches, combined tensor by tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hqde_fl.errors import TaskError

Combine = Callable[[list[Tensor]], Tensor | None]
"""Several tensors -> one, or None if they cannot be combined."""


def combine_outputs(combine: Combine, outputs: Sequence[Any]) -> Any:
    """Return outputs of one structure, combined tensor by tensor.

    Outputs are tensors, mappings (also those of Hugging Face), tuples, lists, or objects with
    ``logits``. Of a mapping, what is no tensor is left out; in a tuple it becomes None, and of an
    object with ``logits`` only these are combined. Raises ``TaskError`` for anything else.
    """
    first = outputs[0]
    if not _is_structure(first):
        raise TaskError(
            "outputs of several models or batches are combined if they are tensors, mappings or "
            f"tuples of tensors, or objects with logits, found a {type(first).__name__}"
        )
    return _combined(combine, outputs)


def mean_outputs(outputs: Sequence[Any]) -> Any:
    """Return the mean of several models' outputs; those of a single model unchanged.

    Integers and truth values have no mean, and count as what is no tensor.
    """
    return outputs[0] if len(outputs) == 1 else combine_outputs(_mean, outputs)


def joined_batches(outputs: Sequence[Tensor], padding: float) -> Tensor:
    """Return batches' tensors (n, ...) joined along their first axis.

    Where other axes differ in length, the shorter tensors are padded at their ends.
    """
    if len({tensor.ndim for tensor in outputs}) > 1:
        shapes = " and ".join(sorted({str(tuple(tensor.shape)) for tensor in outputs}))
        raise TaskError(f"batches' outputs cannot be joined, found the shapes {shapes}")
    sizes = [max(lengths) for lengths in zip(*(o.shape[1:] for o in outputs), strict=True)]
    padded = []
    for tensor in outputs:
        missing = [size - own for size, own in zip(sizes, tensor.shape[1:], strict=True)]
        widths = [width for amount in reversed(missing) for width in (0, amount)]
        padded.append(functional.pad(tensor, widths, value=padding) if any(missing) else tensor)
    return torch.cat(padded)


def with_logits(outputs: Any, logits: Tensor) -> Any:
    """Return outputs with other logits: in their ``logits`` entry, or instead of a tensor."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return _like(outputs, {**outputs, "logits": logits})
    if not isinstance(outputs, Tensor) and hasattr(outputs, "logits"):
        changed = copy.copy(outputs)
        changed.logits = logits
        return changed
    return logits


def _is_structure(value: Any) -> bool:
    return isinstance(value, Tensor | Mapping | tuple | list) or hasattr(value, "logits")


def _combined(combine: Combine, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return combine(list(values))
    if isinstance(first, Mapping):
        parts = {name: _combined(combine, [value[name] for value in values]) for name in first}
        return _like(first, {name: part for name, part in parts.items() if part is not None})
    if isinstance(first, tuple | list):
        entries = [_combined(combine, part) for part in zip(*values, strict=True)]
        if hasattr(first, "_fields"):  # a named tuple
            return type(first)(*entries)
        return type(first)(entries)
    if hasattr(first, "logits"):
        return with_logits(first, _combined(combine, [value.logits for value in values]))
    return None


def _like(mapping: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """Return a mapping with other entries, of the same type if that can be built of them."""
    try:
        return type(mapping)(**entries)
    except TypeError:
        return entries


def _mean(tensors: list[Tensor]) -> Tensor | None:
    if not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        return None
    return torch.stack(tensors).mean(dim=0)
