"""n client updates as an (n, d) matrix that is walked in column tiles.

The matrix need not exist: an update may live in its own buffer, and a tile is cut from all of them
on demand. Whatever offers ``shape``, ``dtype``, ``device``, ``tile`` and ``select`` is a
``Columns``; a rule that feeds another rule is just another ``Columns``, evaluated tile by tile.
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

TILE_BYTES = 1 << 21
"""Bytes of one float64 tile: with what is made of it, it stays in a core's share of the cache."""

MIN_TILE_COLUMNS = 256
"""Columns a tile has at least: n x n work for each tile must not outweigh the tile itself."""


class Columns(Protocol):
    """Something with n rows and d columns, readable in tiles of columns."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that tiles come in."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tiles come from."""
        ...

    def tile(self, start: int, stop: int) -> Tensor:
        """Columns ``start:stop`` of all rows, (n, stop - start). Not to be written to."""
        ...

    def select(self, rows: Sequence[int]) -> Columns:
        """Some of the rows, in the given order."""
        ...


@dataclass(frozen=True, eq=False)
class Updates:
    """The updates of one round.

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
        """(n, d)."""
        return len(self.rows), self.rows[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that tiles come in: the rows' own, half precision widened to float32."""
        own = self.rows[0].dtype
        return own if own in (torch.float32, torch.float64) else torch.float32

    @property
    def device(self) -> torch.device:
        """The rows' device."""
        return self.rows[0].device

    def tile(self, start: int, stop: int) -> Tensor:
        """Columns ``start:stop`` of all rows."""
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
        """The rows for NumPy, where it can read them: it cuts and widens at a tenth of the cost."""
        if self.device.type != "cpu" or self.rows[0].dtype == torch.bfloat16:
            return None
        return [row.detach().numpy() for row in self.rows]

    def select(self, rows: Sequence[int]) -> Updates:
        """Some of the rows; nothing is copied."""
        return Updates([self.rows[i] for i in rows])


@dataclass(frozen=True, eq=False)
class MappedColumns:
    """Columns seen through a function of the tile: (n, c) -> (m, c).

    Parameters
    ----------
    source : Columns
        What the function reads.
    function : Callable[[Tensor], Tensor]
        Works column by column: it must not matter where a tile starts or ends.
    rows : int
        m.
    """

    source: Columns
    function: Callable[[Tensor], Tensor]
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """(m, d)."""
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
        """The function of the source's tile."""
        return self.function(self.source.tile(start, stop))

    def select(self, rows: Sequence[int]) -> Columns:
        """Some of the m rows."""
        return MappedColumns(self, partial(_rows, list(rows)), len(rows))


@dataclass(frozen=True, eq=False)
class StackedColumns:
    """Columns with more rows below: a rule's remembered vectors under this round's updates.

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
        """(n + a, d)."""
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
        """The source's tile with the vectors' columns below it."""
        top = self.source.tile(start, stop)
        return torch.cat([top, *(row[start:stop].to(top)[None] for row in self.below)])

    def select(self, rows: Sequence[int]) -> Columns:
        """Some of the rows."""
        return MappedColumns(self, partial(_rows, list(rows)), len(rows))


def _rows(chosen: list[int], tile: Tensor) -> Tensor:
    return tile[chosen]


def spans(columns: Columns, tile_bytes: int = TILE_BYTES) -> Iterator[tuple[int, int]]:
    """Column ranges whose float64 tile fits in ``tile_bytes``, but not below ``MIN_TILE_COLUMNS``."""
    rows, width = columns.shape
    step = max(MIN_TILE_COLUMNS, tile_bytes // (8 * max(rows, 1)) // 64 * 64)
    for start in range(0, width, step):
        yield start, min(start + step, width)
