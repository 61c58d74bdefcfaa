"""n client updates as an (n, d) matrix that is read in column tiles.

The matrix need not exist: an update may have its own buffer, and a tile is cut from all of them on
demand. The output of a pre-aggregation is another ``Columns``, evaluated tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MANY_ROWS = 512
"""Rows up to which a tile of ``TILE_BYTES`` is at least as wide as high."""

TILE_BYTES = 1 << 21
"""Bytes of one float64 tile: with intermediate results it stays in a core's part of the cache."""

MIN_TILE_COLUMNS = 256
"""Columns in a tile, at least: the n x n work for a tile must not outweigh the tile itself."""


class Columns(Protocol):
    """An (n, d) matrix that can be read in tiles of columns."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n, d)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the tiles."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the tiles."""
        ...

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of all rows, (n, stop - start). Not to be written to."""
        ...

    def select(self, rows: Sequence[int]) -> Columns:
        """Return the given rows, in the given order, as columns."""
        ...


@dataclass(frozen=True, eq=False)
class Updates:
    """The updates of one round, one vector or matrix row for each client.

    Parameters
    ----------
    rows : Sequence[Tensor] or Tensor
        One tensor of d numbers for each client, all of one floating dtype and device, or one
        (n, d) matrix. Never written to.

    Raises
    ------
    ValueError
        If there is no row, or the rows differ in length, dtype or device.
    """

    rows: Sequence[Tensor] | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.rows, Tensor) and self.rows.ndim != 2:
            raise ValueError(f"Updates needs an (n, d) matrix, found {tuple(self.rows.shape)}")
        kinds = {(tuple(row.shape), row.dtype, row.device) for row in self.rows}
        shape, dtype, _ = next(iter(kinds), ((), torch.float32, None))
        if len(kinds) != 1 or len(shape) != 1 or shape[0] < 1 or not dtype.is_floating_point:
            raise ValueError(f"Updates needs rows of one shape (d,) and float dtype, found {kinds}")

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n, d)."""
        return len(self.rows), self.rows[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tiles: the rows' own, half precision widened to float32."""
        own = self.rows[0].dtype
        return own if own in (torch.float32, torch.float64) else torch.float32

    @property
    def device(self) -> torch.device:
        """The rows' device."""
        return self.rows[0].device

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of all rows, (n, stop - start)."""
        if isinstance(self.rows, Tensor):
            return self.rows[:, start:stop].to(self.dtype)
        if self._arrays is None:
            return torch.stack([row[start:stop] for row in self.rows]).to(self.dtype)
        tile = torch.empty(len(self.rows), stop - start, dtype=self.dtype)
        pieces = [row[start:stop] for row in self._arrays]
        np.concatenate(pieces, out=tile.numpy().reshape(-1))
        return tile

    @cached_property
    def _arrays(self) -> list[npt.NDArray[Any]] | None:
        """The rows as NumPy arrays, which cut and widen faster; None if NumPy cannot read them."""
        if self.device.type != "cpu" or self.rows[0].dtype == torch.bfloat16:
            return None
        return [row.detach().numpy() for row in self.rows]

    def select(self, rows: Sequence[int]) -> Updates:
        """Return the given rows; nothing is copied."""
        return Updates([self.rows[i] for i in rows])


@dataclass(frozen=True, eq=False)
class MappedColumns:
    """Columns that are a function of other columns: (n, c) tiles -> (m, c) tiles.

    Parameters
    ----------
    source : Columns
        The columns that the function reads.
    function : Callable[[Tensor], Tensor]
        A function that works column by column, so that the tiles' bounds do not matter.
    rows : int
        The number m of rows that it returns.
    """

    source: Columns
    function: Callable[[Tensor], Tensor]
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (m, d)."""
        return self.rows, self.source.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The source's dtype."""
        return self.source.dtype

    @property
    def device(self) -> torch.device:
        """The source's device."""
        return self.source.device

    def tile(self, start: int, stop: int) -> Tensor:
        """Return the function of the source's columns ``start:stop``."""
        return self.function(self.source.tile(start, stop))

    def select(self, rows: Sequence[int]) -> Columns:
        """Return the given rows, in the given order, as columns."""
        return MappedColumns(self, partial(_select_rows, list(rows)), len(rows))


@dataclass(frozen=True, eq=False)
class StackedColumns:
    """Columns with vectors as further rows below: a rule's memory under a round's updates.

    Parameters
    ----------
    source : Columns
        The rows on top.
    below : tuple[Tensor, ...]
        Vectors of d numbers.
    """

    source: Columns
    below: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n + a, d) with a vectors below."""
        n, d = self.source.shape
        return n + len(self.below), d

    @property
    def dtype(self) -> torch.dtype:
        """The source's dtype."""
        return self.source.dtype

    @property
    def device(self) -> torch.device:
        """The source's device."""
        return self.source.device

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of the source, with those of the vectors below."""
        top = self.source.tile(start, stop)
        return torch.cat([top, *(row[start:stop].to(top)[None] for row in self.below)])

    def select(self, rows: Sequence[int]) -> Columns:
        """Return the given rows, in the given order, as columns; the vectors only if among them."""
        if all(row < self.source.shape[0] for row in rows):
            return self.source.select(rows)
        return MappedColumns(self, partial(_select_rows, list(rows)), len(rows))


def _select_rows(chosen: list[int], tile: Tensor) -> Tensor:
    return tile[chosen]


def tile_columns(n: int, tile_bytes: int = TILE_BYTES) -> int:
    """Return the number of columns of a tile of n rows.

    A float64 tile fits in ``tile_bytes``, unless it would have less than ``MIN_TILE_COLUMNS``. Of
    more than ``MANY_ROWS`` rows it is up to four times as wide as high, or an n x n sum over the
    tiles would take a tenth longer to compute; it then fits in 16 times as many bytes.
    """
    step = tile_bytes // (8 * max(n, 1))
    if n > MANY_ROWS:
        step = max(step, min(4 * step * n // MANY_ROWS * n // MANY_ROWS, 16 * step))
    return max(MIN_TILE_COLUMNS, step // 64 * 64)


def spans(columns: Columns, tile_bytes: int = TILE_BYTES) -> Iterator[tuple[int, int]]:
    """Yield column ranges that cover all columns, one for each tile of ``tile_columns``."""
    n, d = columns.shape
    step = tile_columns(n, tile_bytes)
    for start in range(0, d, step):
        yield start, min(start + step, d)
