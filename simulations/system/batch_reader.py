"""Reading of a ``DataLoader``'s batches as a model's inputs and targets."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from hqde_fl.clients.batches import Arguments, Batch, to_device

TARGETS = ("labels", "label", "targets", "target", "y")
"""Names of the entry that holds the targets of a batch that is a mapping, by priority."""


@dataclass(frozen=True)
class BatchReader:
    """A reader of a loader's batches as inputs and targets of a model.

    ``(x, y)`` are inputs and targets, ``(a, b, y)`` two inputs and targets. In a mapping ``labels``
    (or ``label``, ``targets``, ``target``, ``y``) are the targets and the other entries the inputs:
    keyword arguments if ``forward`` has parameters of these names, else one mapping. A batch that
    is a single tensor is both input and target, as for an autoencoder.

    Parameters
    ----------
    names : frozenset[str] or None
        Parameter names of the model's ``forward``; None if it takes any keyword.
    """

    names: frozenset[str] | None

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Build the reader of batches for a model."""
        parameters = inspect.signature(model.forward).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return cls(None)
        return cls(frozenset(parameter.name for parameter in parameters))

    def pair(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and the targets of a batch.

        The targets are the last entry of a tuple or list, or the entry of a mapping that is named
        in ``TARGETS``. A batch without targets is its own target.
        """
        if isinstance(batch, Mapping):
            key = next((name for name in TARGETS if name in batch), None)
            rest = {name: value for name, value in batch.items() if name != key}
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
        """Yield a loader's batches in its order, moved to a device."""
        for batch in loader:
            inputs, targets = self.pair(batch)
            size = _examples(targets)
            yield Batch(to_device(inputs, device), to_device(targets, device), size)


@dataclass(frozen=True)
class LoaderCollate:
    """A collate function that returns inputs and targets of a loader's own batches.

    Parameters
    ----------
    collate : Callable
        The loader's ``collate_fn``: examples -> batch.
    reader : BatchReader
        Splits the batch into inputs and targets.
    """

    collate: Any
    reader: BatchReader

    def __call__(self, examples: list[Any]) -> tuple[Any, Any]:
        """Return the inputs and targets of a batch of examples."""
        return self.reader.pair(self.collate(examples))


def _examples(targets: Any) -> int:
    """Return the number of examples of a batch: the length of its targets, or 1 for a scalar.

    That of the first value in a mapping, or of the first tensor in a list of tensors.
    """
    if isinstance(targets, Tensor):
        return len(targets) if targets.ndim else 1
    if isinstance(targets, Mapping):
        return _examples(next(iter(targets.values())))
    if isinstance(targets, tuple | list) and targets and isinstance(targets[0], Tensor):
        return _examples(targets[0]) if targets[0].ndim else len(targets)
    return len(targets) if isinstance(targets, Sized) else 1
