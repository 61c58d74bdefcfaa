"""Reading of batches as a model's inputs and targets, by the parameters of its ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from hqde_fl.clients.batches import Arguments, Batch, example_count, to_device

TARGETS = ("labels", "label", "targets", "target", "y")
"""Names of the entry that holds the targets of a batch with names, by priority."""


@dataclass(frozen=True)
class BatchReader:
    """A reader of batches as inputs and targets of a model.

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
            size = example_count(targets)
            yield Batch(to_device(inputs, device), to_device(targets, device), size)
