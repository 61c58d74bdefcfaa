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
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from hqde_fl.distributed.ray_tasks import cpus, fetch, require_ray, submit, task
from hqde_fl.distributed.shards import ShardColumns, piece_edges, shard_edges
from hqde_fl.errors import UpdateError
from hqde_fl.rules.gram import sampled_spans
from hqde_fl.updates import Columns, MappedColumns, StackedColumns, Updates
from hqde_fl.updates.received_updates import ReceivedModel, StoredUpdate

SHARD_BYTES = 1 << 27
"""Bytes of one shard of all updates, about: as much as a task reads."""


@dataclass(frozen=True, eq=False)
class StoredRow(StoredUpdate):
    """The update of one client in the object store.

    Parameters
    ----------
    client : int
        The client's id.
    parts : tuple[ObjectRef, ...]
        References to its shards, float32 or float64 arrays.
    edges : tuple[int, ...]
        The first column of each shard, and the number of columns.
    sample : NDArray
        The columns in ``sampled_spans``, one after the other.
    """

    client: int
    parts: tuple[Any, ...]
    edges: tuple[int, ...]
    sample: npt.NDArray[Any]

    def delta(self) -> Tensor:
        """Return the update (d,), read back into this process."""
        return torch.from_numpy(np.concatenate(fetch(list(self.parts))))

    def columns(self, rows: Sequence[StoredUpdate]) -> Columns:
        """Return updates as columns; they are read back if they are cut in different places."""
        stored = [row for row in rows if isinstance(row, StoredRow) and row.edges == self.edges]
        if len(stored) == len(rows):
            return StoredUpdates(stored)
        return Updates([row.delta() for row in rows])


@dataclass(frozen=True, eq=False)
class StoredUpdates:
    """``Columns`` of updates in the object store; ``MapReduce`` reads them shard by shard.

    Any other reader fetches the shards that a tile lies in, except for the columns from which a
    pivot is chosen: these are at hand.

    Parameters
    ----------
    rows : Sequence[StoredRow]
        The updates, which are cut in the same places.
    """

    rows: Sequence[StoredRow]

    @property
    def edges(self) -> tuple[int, ...]:
        """The first column of each shard, and the number of columns."""
        return self.rows[0].edges

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
                parts = fetch([row.parts[index] for row in self.rows])
                low, high = max(start, left) - left, min(stop, right) - left
                pieces.append(ShardColumns.of([[part] for part in parts]).tile(low, high))
        return torch.cat(pieces, dim=1)

    def select(self, rows: Sequence[int]) -> StoredUpdates:
        """Return the given rows; nothing is copied."""
        return StoredUpdates([self.rows[i] for i in rows])


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
    whole : bool, default=False
        True if a task reads a few updates, whole: then an update is one object if it fits into a
        shard. False if each task reads a shard of all updates.
    """

    def __init__(
        self,
        n: int,
        d: int,
        dtype: torch.dtype = torch.float32,
        *,
        shard_bytes: int = SHARD_BYTES,
        tile_bytes: int | None = None,
        whole: bool = False,
    ) -> None:
        require_ray("collecting updates in an object store")
        tile = {} if tile_bytes is None else {"tile_bytes": tile_bytes}
        if whole:
            self._edges = piece_edges(d, shard_bytes)
        else:
            self._edges = shard_edges(n, d, shard_bytes, **tile)
        self._dtype = dtype
        self._rows: list[StoredRow] = []
        self._cutting: list[Any] = []
        self._at_once = cpus()

    def __str__(self) -> str:
        return "Ray's object store"

    def __call__(self, client: int, update: Tensor | ReceivedModel) -> StoredRow:
        """Store one client's update, which may be a received model, and return it."""
        return self.store(client, update.delta() if isinstance(update, ReceivedModel) else update)

    def store(self, client: int, update: Any) -> StoredRow:
        """Store one client's update and return it.

        Parameters
        ----------
        client : int
            The client's id, which errors name.
        update : Tensor or NDArray
            (d,) numbers.

        Raises
        ------
        UpdateError
            If it has another shape or dtype.
        """
        sample, *parts = split_update(client, update, self._edges, self._dtype)
        return StoredRow(client, tuple(ray.put(part) for part in parts), self._edges, sample)

    def add(self, client: int, update: Any) -> None:
        """Store one client's update for ``columns``.

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
            self._rows.append(self.store(client, update))
            return
        if len(self._cutting) >= self._at_once:
            _, self._cutting = ray.wait(self._cutting, num_returns=1, fetch_local=False)
        split = _split.options(num_returns=len(self._edges))
        sample, *parts = split.remote(client, update, self._edges, self._dtype)
        self._cutting.append(sample)
        self._rows.append(StoredRow(client, tuple(parts), self._edges, sample))

    def columns(self) -> StoredUpdates:
        """Return the updates in the order in which they were added.

        Raises
        ------
        UpdateError
            If an update that was given by reference has another shape or dtype, could not be made,
            or is lost.
        """
        return StoredUpdates([_complete(row) for row in self._rows])


def store_columns(
    columns: Columns, clients: Sequence[int], shard_bytes: int, tile_bytes: int
) -> Columns:
    """Return columns that are computed from stored updates; one row at a time is copied.

    Parameters
    ----------
    columns : Columns
        (n, d); what is stored already is not stored again.
    clients : Sequence[int]
        The rows' clients.
    shard_bytes, tile_bytes : int
        See ``UpdateCollector``.
    """
    if isinstance(columns, StoredUpdates):
        return columns
    if isinstance(columns, MappedColumns | StackedColumns):
        rows = clients if len(clients) == columns.source.shape[0] else ()
        clients = rows or range(columns.source.shape[0])
        return replace(
            columns, source=store_columns(columns.source, clients, shard_bytes, tile_bytes)
        )
    n, d = columns.shape
    collector = UpdateCollector(n, d, columns.dtype, shard_bytes=shard_bytes, tile_bytes=tile_bytes)
    for row, client in enumerate(clients):
        collector.add(client, columns.select([row]).tile(0, d)[0])
    return collector.columns()


def recut(updates: StoredUpdates, edges: tuple[int, ...], at_once: int) -> StoredUpdates:
    """Return stored updates cut at other columns, by a task for each update.

    Parameters
    ----------
    updates : StoredUpdates
        (n, d).
    edges : tuple[int, ...]
        The first column of each new shard, and d.
    at_once : int
        Tasks that run at one time, at most.
    """
    cut = _recut.options(num_returns=len(edges) - 1)
    calls = (partial(cut.remote, edges, *row.parts) for row in updates.rows)
    parts = [p if isinstance(p, list) else [p] for p in submit(calls, at_once)]
    rows = zip(updates.rows, parts, strict=True)
    return StoredUpdates([replace(row, parts=tuple(p), edges=edges) for row, p in rows])


def _complete(row: StoredRow) -> StoredRow:
    """Return a row whose sample is here; raise ``UpdateError`` if it was not cut."""
    if not isinstance(row.sample, ray.ObjectRef):
        return row
    try:
        return replace(row, sample=ray.get(row.sample))
    except RayTaskError as error:
        if isinstance(error.cause, UpdateError):
            raise error.cause from None
        raise UpdateError(row.client, f"its task raised {error.cause!r}") from error
    except RayError as error:
        raise UpdateError(row.client, f"is lost ({type(error).__name__})") from error


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


def recut_update(edges: Sequence[int], *parts: npt.NDArray[Any]) -> Any:
    """Return the shards between ``edges`` of an update in parts; one alone if there is only one."""
    row = np.concatenate(parts)
    shards = [row[left:right] for left, right in pairwise(edges)]
    return shards if len(shards) > 1 else shards[0]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_split = task(split_update)
_recut = task(recut_update)
