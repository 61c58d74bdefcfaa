"""Updates in pieces, as a task reads them: a few arrays for each row, one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hqde_fl.updates import TILE_BYTES
from hqde_fl.updates.columns import tile_columns

TILES_PER_UNIT = 8
"""Shards hold a multiple of so many tiles: the stripe in which the executors sum tiles."""

MIN_SHARD_COLUMNS = 1 << 16
"""Columns of a shard, at least: Ray needs some 0.2 ms for each object."""

SHARDS_WANTED = 16
"""Shards into which updates are cut even if fewer would fit, so that many workers share them."""


def shard_edges(n: int, d: int, shard_bytes: int, tile_bytes: int = TILE_BYTES) -> tuple[int, ...]:
    """Return the first column of each shard of n updates of d numbers, and d.

    They depend on these numbers alone, never on the workers: the same updates are cut, summed and
    joined in the same way wherever the tasks run. Tiles lie in a shard as they would in the whole.

    Parameters
    ----------
    n, d : int
        The shape of the updates.
    shard_bytes : int
        Bytes of a shard of all updates in float32, at most; it is at least ``TILES_PER_UNIT`` tiles
        wide.
    tile_bytes : int
        Bytes of one float64 tile.
    """
    unit = TILES_PER_UNIT * tile_columns(n, tile_bytes)
    fitting = shard_bytes // (4 * max(n, 1))
    width = min(fitting, max(MIN_SHARD_COLUMNS, -(-d // SHARDS_WANTED)))
    step = max(1, width // unit) * unit
    return (*range(0, d, step), d)


def piece_edges(d: int, piece_bytes: int) -> tuple[int, ...]:
    """Return the first column of each piece of an update of d numbers, and d: one piece if it fits.

    Parameters
    ----------
    d : int
        Numbers in the update.
    piece_bytes : int
        Bytes of a piece in float32, at most.
    """
    return (*range(0, d, max(1, piece_bytes // 4)), d)


@dataclass(frozen=True, eq=False)
class ShardColumns:
    """``Columns`` over arrays that hold parts of the rows.

    Parameters
    ----------
    rows : Sequence[Sequence[NDArray]]
        For each row its parts, (w,) arrays of one float dtype. Never written to.
    edges : tuple[int, ...]
        The first column of each part, and the number of columns.
    """

    rows: Sequence[Sequence[npt.NDArray[Any]]]
    edges: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[npt.NDArray[Any]]]) -> ShardColumns:
        """Return the columns of rows whose parts have the same lengths."""
        return cls(rows, (0, *accumulate(len(part) for part in rows[0])))

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n, d)."""
        return len(self.rows), self.edges[-1]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The parts' dtype."""
        return torch.from_numpy(np.empty(0, self.rows[0][0].dtype)).dtype

    @property
    def device(self) -> torch.device:
        """The device of the tiles: the CPU."""
        return torch.device("cpu")

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of all rows, as a copy."""
        tile = np.empty((len(self.rows), stop - start), dtype=self.rows[0][0].dtype)
        first = bisect_right(self.edges, start) - 1
        for index, (left, right) in enumerate(pairwise(self.edges[first:]), start=first):
            if left >= stop:
                break
            low, high = max(start, left), min(stop, right)
            part = tile[:, low - start : high - start]
            np.stack([row[index][low - left : high - left] for row in self.rows], out=part)
        return torch.from_numpy(tile)

    def select(self, rows: Sequence[int]) -> ShardColumns:
        """Return the given rows; nothing is copied."""
        return ShardColumns([self.rows[i] for i in rows], self.edges)
