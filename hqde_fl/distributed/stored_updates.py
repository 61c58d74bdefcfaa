"""Clients' updates in Ray's object store, cut into shards of columns.

A process that collects updates holds one of them at a time: ``UpdateCollector.add`` cuts it, puts
the shards into the object store and keeps references. Ray moves objects to disk when the store is
full. Updates that Ray tasks or actors have returned are cut where they lie, without passing through
this process.

Objects that this process puts are lost only with its own node. Shards that a task has cut are made
again from the client's object if their node dies; if that object is lost too, the ``UpdateError``
names the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from hqde_fl.distributed.ray_tasks import cpus, fetch, require_ray, task
from hqde_fl.distributed.shards import ShardColumns, shard_edges
from hqde_fl.errors import UpdateError
from hqde_fl.rules.gram import sampled_spans
from hqde_fl.updates import Columns

SHARD_BYTES = 1 << 27
"""Bytes of one shard of all updates, about: as much as a task reads."""


@dataclass(frozen=True, eq=False)
class StoredRow:
    """The update of one client in the object store.

    Parameters
    ----------
    client : int
        The client's id.
    parts : tuple[ObjectRef, ...]
        References to its shards, float32 or float64 arrays.
    sample : NDArray
        The columns in ``sampled_spans``, one after the other.
    """

    client: int
    parts: tuple[Any, ...]
    sample: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class StoredUpdates:
    """``Columns`` of updates in the object store; ``MapReduce`` reads them shard by shard.

    Any other reader gets a tile by a task that cuts it, which is right but slow, except for the
    columns from which a pivot is chosen: these are at hand.

    Parameters
    ----------
    rows : Sequence[StoredRow]
        The updates.
    edges : tuple[int, ...]
        The first column of each shard, and the number of columns.
    """

    rows: Sequence[StoredRow]
    edges: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n, d)."""
        return len(self.rows), self.edges[-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tiles, float32 or float64."""
        return torch.from_numpy(self.rows[0].sample[:0].copy()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the tiles: the CPU."""
        return torch.device("cpu")

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of all rows, (n, stop - start)."""
        place = 0
        for low, high in sampled_spans(self.edges[-1]):
            if low <= start and stop <= high:
                cut = slice(place + start - low, place + stop - low)
                return torch.from_numpy(np.stack([row.sample[cut] for row in self.rows]))
            place += high - low
        pieces = []
        for index, (left, right) in enumerate(pairwise(self.edges)):
            if left < stop and start < right:
                span = max(start, left) - left, min(stop, right) - left
                pieces.append(_cut.remote(*span, *(row.parts[index] for row in self.rows)))
        return torch.from_numpy(np.concatenate(fetch(pieces), axis=1))

    def select(self, rows: Sequence[int]) -> StoredUpdates:
        """Return the given rows; nothing is copied."""
        return StoredUpdates([self.rows[i] for i in rows], self.edges)


class UpdateCollector:
    """Puts clients' updates into the object store, one at a time.

    Parameters
    ----------
    n : int
        Number of updates that are expected: it decides how wide a shard is.
    d : int
        Numbers in an update.
    dtype : torch.dtype
        The updates' dtype: float64, or float32, to which float16 and bfloat16 are widened.
    shard_bytes : int
        Bytes of one shard of all updates, about.
    tile_bytes : int, optional
        Bytes of one float64 tile of the executor that will read them.
    """

    def __init__(
        self,
        n: int,
        d: int,
        dtype: torch.dtype = torch.float32,
        *,
        shard_bytes: int = SHARD_BYTES,
        tile_bytes: int | None = None,
    ) -> None:
        require_ray("collecting updates in an object store")
        tile = {} if tile_bytes is None else {"tile_bytes": tile_bytes}
        self._edges = shard_edges(n, d, shard_bytes, **tile)
        self._dtype = dtype
        self._rows: list[tuple[int, tuple[Any, ...], Any]] = []
        self._cutting: list[Any] = []
        self._at_once = cpus()

    def add(self, client: int, update: Any) -> None:
        """Store one client's update.

        Parameters
        ----------
        client : int
            The client's id, which errors name.
        update : Tensor or NDArray or ObjectRef
            (d,) numbers, or a reference to them.

        Raises
        ------
        UpdateError
            If it has another shape or dtype. For a reference, ``columns`` raises it.
        """
        if not isinstance(update, ray.ObjectRef):
            sample, *parts = split_update(client, update, self._edges, self._dtype)
            self._rows.append((client, tuple(ray.put(part) for part in parts), sample))
            return
        if len(self._cutting) >= self._at_once:
            _, self._cutting = ray.wait(self._cutting, num_returns=1, fetch_local=False)
        split = _split.options(num_returns=len(self._edges))
        sample, *parts = split.remote(client, update, self._edges, self._dtype)
        self._cutting.append(sample)
        self._rows.append((client, tuple(parts), sample))

    def columns(self) -> StoredUpdates:
        """Return the updates in the order in which they were added.

        Raises
        ------
        UpdateError
            If an update that was given by reference has another shape or dtype, could not be made,
            or is lost.
        """
        return StoredUpdates([self._row(*row) for row in self._rows], self._edges)

    def _row(self, client: int, parts: tuple[Any, ...], sample: Any) -> StoredRow:
        if isinstance(sample, ray.ObjectRef):
            try:
                sample = ray.get(sample)
            except RayTaskError as error:
                if isinstance(error.cause, UpdateError):
                    raise error.cause from None
                raise UpdateError(client, f"its task raised {error.cause!r}") from error
            except RayError as error:
                raise UpdateError(client, f"is lost ({type(error).__name__})") from error
        return StoredRow(client, parts, sample)


def store_columns(
    columns: Columns, clients: Sequence[int], shard_bytes: int, tile_bytes: int
) -> StoredUpdates:
    """Return columns as stored updates; one row at a time is copied.

    Parameters
    ----------
    columns : Columns
        (n, d); they are returned as they are if they are stored already.
    clients : Sequence[int]
        The rows' clients.
    shard_bytes, tile_bytes : int
        See ``UpdateCollector``.
    """
    if isinstance(columns, StoredUpdates):
        return columns
    n, d = columns.shape
    collector = UpdateCollector(n, d, columns.dtype, shard_bytes=shard_bytes, tile_bytes=tile_bytes)
    for row, client in enumerate(clients):
        collector.add(client, columns.select([row]).tile(0, d)[0])
    return collector.columns()


def split_update(
    client: int, update: Any, edges: Sequence[int], dtype: torch.dtype
) -> list[npt.NDArray[Any]]:
    """Return the sampled columns of an update, and its shards; raise ``UpdateError``."""
    expected = f"expected ({edges[-1]},) {_name(dtype)}"
    if isinstance(update, np.ndarray):
        try:
            update = torch.from_numpy(update if update.flags.writeable else update.copy())
        except TypeError:
            raise UpdateError(client, f"{expected}, found dtype {update.dtype}") from None
    if not isinstance(update, Tensor):
        raise UpdateError(client, f"{expected}, found {type(update).__name__}")
    widened = dtype if update.dtype in (torch.float16, torch.bfloat16) else update.dtype
    if update.shape != (edges[-1],) or widened != dtype:
        raise UpdateError(client, f"{expected}, found {tuple(update.shape)} {_name(update.dtype)}")
    row = update.detach().to("cpu", dtype).numpy()
    sample = np.concatenate([row[slice(*span)] for span in sampled_spans(edges[-1])])
    return [sample, *(row[left:right] for left, right in pairwise(edges))]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cut(start: int, stop: int, *rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return columns ``start:stop`` of one shard of some rows."""
    return ShardColumns.of([[row] for row in rows]).tile(start, stop).numpy()


_split = task(split_update)
_cut = task(cut)
