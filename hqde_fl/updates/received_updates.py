"""Updates read from the models that clients sent, without a copy.

A client sends its whole model; its update is the difference to the model that it was sent. Rules
read updates tile by tile, so the difference is taken in the tile: n models are in memory once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hqde_fl.updates import Columns, Updates

Flat = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ModelRows:
    """The models of several clients as rows of one array, besides other numbers.

    Parameters
    ----------
    numbers : NDArray
        (clients, columns) float32.
    runs : Sequence[tuple[int, int, int]]
        The places of the d numbers in a row, in their order: first number, last number + 1, column
        of the first.
    """

    numbers: Flat
    runs: Sequence[tuple[int, int, int]]

    def subtract(self, rows: slice, start: int, base: Flat, out: Flat) -> None:
        """Write to ``out`` the numbers from ``start`` on of some rows, minus ``base``."""
        stop = start + len(base)
        for first, last, column in self.runs:
            low, high = max(first, start), min(last, stop)
            if low < high:
                here = slice(low - start, high - start)
                taken = slice(column + low - first, column + high - first)
                np.subtract(self.numbers[rows, taken], base[here], out=out[:, here])


@dataclass(frozen=True, eq=False)
class ReceivedModel:
    """A model in float32 as one client sent it.

    Parameters
    ----------
    parts : tuple[NDArray, ...]
        Flat float32 arrays that are the d numbers, one after the other. Never written to.
    base : Tensor
        (d,) float32 on the CPU: the model that the client was sent.
    place : tuple[ModelRows, int], optional
        The rows among which the same numbers are, and the number of the row.
    """

    parts: tuple[Flat, ...]
    base: Tensor
    place: tuple[ModelRows, int] | None = None

    @cached_property
    def starts(self) -> list[int]:
        """The position of each part's first number, and d."""
        return [0, *accumulate(len(part) for part in self.parts)]

    def cut(self, start: int, stop: int) -> list[Flat]:
        """Return the numbers ``start:stop``, as slices of the parts."""
        pieces = []
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            first = self.starts[index]
            pieces.append(self.parts[index][start - first : stop - first])
            index += 1
            start = self.starts[index]
        return pieces

    def columns(self, rows: Sequence[Any]) -> Columns | None:
        """Return updates that are all kept where this model is as columns; None if they are not."""
        return None

    def delta(self) -> Tensor:
        """Return the update (d,), the model minus its base."""
        return torch.from_numpy(np.concatenate(self.parts) - self.base.numpy())


@dataclass(frozen=True, eq=False)
class ReceivedUpdates:
    """``Columns`` of the clients' updates, some of which are received models.

    Parameters
    ----------
    rows : Sequence[Tensor or ReceivedModel]
        One for each client: an update (d,), or a model that it sent.
    base : Tensor
        (d,) float32 on the CPU: the base of all received models.
    """

    rows: Sequence[Tensor | ReceivedModel]
    base: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n, d)."""
        return len(self.rows), len(self.base)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tiles: float32."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The device of the tiles: the CPU."""
        return self.base.device

    @cached_property
    def _model_rows(self) -> list[int]:
        return [index for index, row in enumerate(self.rows) if isinstance(row, ReceivedModel)]

    @cached_property
    def _groups(self) -> list[tuple[int, int, ModelRows, int]] | None:
        """First update, number of updates, models, first row; None if some are nowhere as rows."""
        groups: list[tuple[int, int, ModelRows, int]] = []
        for index, received in enumerate(self.rows):
            place = received.place if isinstance(received, ReceivedModel) else None
            if place is None:
                return None
            models, row = place
            if groups and groups[-1][2] is models and groups[-1][3] + groups[-1][1] == row:
                first, count, _, first_row = groups[-1]
                groups[-1] = first, count + 1, models, first_row
            else:
                groups.append((index, 1, models, row))
        return groups

    def _cut(self, index: int, start: int, stop: int) -> list[Flat]:
        row = self.rows[index]
        return row.cut(start, stop) if isinstance(row, ReceivedModel) else [row[start:stop].numpy()]

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of all updates, of models minus their base, as a copy."""
        n = len(self.rows)
        tile = np.empty((n, stop - start), dtype=np.float32)
        if (groups := self._groups) is not None:
            base = self.base[start:stop].numpy()
            for first, count, models, row in groups:
                out = tile[first : first + count]
                models.subtract(slice(row, row + count), start, base, out)
            return torch.from_numpy(tile)
        pieces = [piece for index in range(n) for piece in self._cut(index, start, stop)]
        np.concatenate(pieces, out=tile.reshape(-1))
        if len(self._model_rows) == n:
            np.subtract(tile, self.base[start:stop].numpy(), out=tile)
        else:
            tile[self._model_rows] -= self.base[start:stop].numpy()
        return torch.from_numpy(tile)

    def select(self, rows: Sequence[int]) -> ReceivedUpdates:
        """Return the given rows; nothing is copied."""
        return ReceivedUpdates([self.rows[i] for i in rows], self.base)


class StoredUpdate(ABC):
    """One client's update that is kept outside this process's memory."""

    @abstractmethod
    def delta(self) -> Tensor:
        """Return the update (d,), read back into this process."""

    @abstractmethod
    def columns(self, rows: Sequence[StoredUpdate]) -> Columns:
        """Return updates that are all kept in the same way as columns, without reading them."""


def received_columns(rows: Sequence[Tensor | ReceivedModel | StoredUpdate]) -> Columns:
    """Return the updates of a round as columns.

    Nothing is copied if the received models have one base, or if all updates are stored ones.

    Parameters
    ----------
    rows : Sequence[Tensor or ReceivedModel or StoredUpdate]
        Each client's update, or the model that it sent.
    """
    stored = [row for row in rows if isinstance(row, StoredUpdate)]
    if stored and len(stored) == len(rows):
        return stored[0].columns(stored)
    models = [row for row in rows if isinstance(row, ReceivedModel)]
    if models and (columns := models[0].columns(rows)) is not None:
        return columns
    here = [row.delta() if isinstance(row, StoredUpdate) else row for row in rows]
    bases = {id(row.base): row.base for row in here if isinstance(row, ReceivedModel)}
    if len(bases) == 1:
        return ReceivedUpdates(here, *bases.values())
    return Updates([row.delta() if isinstance(row, ReceivedModel) else row for row in here])
