"""The layout of a model's arrays in one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """One array of a model.

    Parameters
    ----------
    name : str
        The array's key in the state dict.
    shape : tuple[int, ...]
        The array's dimensions; () for a scalar.
    dtype : str
        The array's dtype, in NumPy's spelling.
    offset : int or None
        Position of its first number in the flat vector; None for integer and boolean buffers, which
        no rule for floats may touch.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int | None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Positions of a model's arrays in one flat vector of its floating-point numbers.

    Parameters
    ----------
    entries : tuple[Entry, ...]
        The arrays, in the model's order.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, tuple[int, ...], str]]) -> Layout:
        """Return the layout of arrays, given as (name, shape, dtype) in their order."""
        entries, offset = [], 0
        for name, shape, dtype in arrays:
            floating = "float" in dtype
            entry = Entry(name, shape, dtype, offset if floating else None)
            entries.append(entry)
            offset += entry.size if floating else 0
        return cls(tuple(entries))

    @property
    def size(self) -> int:
        """The length d of the flat vector."""
        return sum(entry.size for entry in self.entries if entry.offset is not None)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the flat vector: float64 if the model has float64 numbers, else float32."""
        wide = any(entry.dtype == "float64" for entry in self.entries)
        return torch.float64 if wide else torch.float32

    def flatten(self, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the flat vector (d,) of a state dict, and its integer and boolean buffers."""
        flat = torch.empty(self.size, dtype=self.dtype)
        buffers = {}
        for entry in self.entries:
            if entry.offset is None:
                buffers[entry.name] = state[entry.name]
            else:
                flat[entry.offset : entry.offset + entry.size] = state[entry.name].flatten()
        return flat, buffers

    def restore(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict that ``flatten`` took apart, in the original order and dtypes."""
        state = {}
        for entry in self.entries:
            if entry.offset is None:
                state[entry.name] = buffers[entry.name]
            else:
                values = flat[entry.offset : entry.offset + entry.size]
                state[entry.name] = values.to(getattr(torch, entry.dtype)).reshape(entry.shape)
        return state
