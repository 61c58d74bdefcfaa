"""Aggregate on Ray: each task reads one shard of columns of all updates.

``reduce`` maps: a task for each shard returns the statistic's sum over the shard's tiles. It then
adds these sums in a tree of tasks, so that this process receives a single one. The rule decides
here, once. ``combine`` maps again: a task for each shard returns the result's columns.

How the columns are cut and in which order sums are added depends on the shape of the updates alone,
and each task computes on one thread. So the result has the same bits on any number of workers, and
when tasks or nodes die and are run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import Any, final

import numpy as np
import ray
import torch
from torch import Tensor

from hqde_fl.distributed.ray_tasks import (
    cpus,
    fetch,
    fetch_in_order,
    groups,
    require_ray,
    submit,
    submit_measured,
    task,
)
from hqde_fl.distributed.shards import ShardColumns, shard_edges
from hqde_fl.distributed.stored_updates import (
    SHARD_BYTES,
    StoredRow,
    StoredUpdates,
    UpdateCollector,
    recut,
    store_columns,
)
from hqde_fl.distributed.tree import run_tree
from hqde_fl.errors import ConfigError
from hqde_fl.monitor.spans import span
from hqde_fl.monitor.task_counters import TASKS, TaskCount
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import Executor, UpdateStore
from hqde_fl.rules.gram import sampled_spans
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.rules.tiling import Combined, S, combine_tiles, reduce_tiles
from hqde_fl.rules.tree import Tree
from hqde_fl.updates import TILE_BYTES, Columns, MappedColumns, StackedColumns

Layer = Callable[[Columns], Columns]
"""Makes columns of the columns below them, in one shard."""


@final
@dataclass(frozen=True)
class MapReduce(Executor):
    """Reads the updates in Ray tasks, a shard of columns in each.

    Parameters
    ----------
    shard_bytes : int, default=128 MiB
        Bytes of one shard of all updates in float32, about: a task has so much in memory.
    fanout : int, default=8
        Statistics that one task adds up, at least 2.
    at_once : int, default=0
        Tasks that run at one time, at most; 0 for as many as the cluster has CPUs.
    tile_bytes : int, default=2 MiB
        Bytes of one float64 tile.
    """

    shard_bytes: int = SHARD_BYTES
    fanout: int = 8
    at_once: int = 0
    tile_bytes: int = TILE_BYTES

    def __post_init__(self) -> None:
        least = {"shard_bytes": 1, "fanout": 2, "at_once": 0, "tile_bytes": 1}
        for name, bound in least.items():
            if (value := getattr(self, name)) < bound:
                raise ConfigError(f"MapReduce needs {name} >= {bound}, found {value}")

    def run(
        self,
        rule: Any,
        updates: Columns,
        cohort: Cohort,
        state: State,
        run_steps: Callable[..., Aggregate],
    ) -> Aggregate:
        """Return the aggregate of one round's updates, which are put into the object store first.

        Updates that are in it already are not put there again. The nodes of a tree are tasks.
        """
        with span("store updates", round=cohort.round):
            stored = self.stored(updates, cohort.ids)
        if isinstance(rule, Tree):
            if not isinstance(stored, StoredUpdates):
                stored = self.computed(self._in_shards(stored), cohort.ids)
            options = {"tile_bytes": self.tile_bytes, "at_once": self.at_once}
            return run_tree(rule, stored, cohort, state, **options)[0]
        return super().run(rule, stored, cohort, state, run_steps)

    def storage(
        self, n: int, d: int, dtype: torch.dtype, *, whole: bool = False, settled: bool = True
    ) -> UpdateStore | None:
        """Return a function that puts one client's update into the object store.

        An update that one task reads as a ``whole`` is one object if it fits into a shard. None
        unless roles are ``settled``.
        """
        require_ray("MapReduce")
        sizes = {"shard_bytes": self.shard_bytes, "tile_bytes": self.tile_bytes}
        return UpdateCollector(n, d, dtype, whole=whole, **sizes) if settled else None

    def stored(self, updates: Columns, clients: Sequence[int]) -> Columns:
        """Return updates as columns that are computed from the object store.

        Parameters
        ----------
        updates : Columns
            (n, d).
        clients : Sequence[int]
            The clients of the n rows.
        """
        require_ray("MapReduce")
        return store_columns(updates, clients, self.shard_bytes, self.tile_bytes)

    def computed(self, columns: Columns, clients: Sequence[int]) -> StoredUpdates:
        """Return columns that are computed from stored updates as stored updates of their own."""
        source = _stored_source(columns)
        assert source is not None
        m = columns.shape[0]
        calls = self._calls("rows", rows_of_shard, None, columns, returns=m)
        submitted = list(submit(calls, self._tasks))
        shards = [parts[:-1] for parts in submitted]
        tiles = [columns.tile(*span) for span in sampled_spans(columns.shape[1])]
        samples = torch.cat(tiles, dim=1).numpy()
        _count(fetch([parts[-1] for parts in submitted]))
        return StoredUpdates(
            [
                StoredRow(client, tuple(shard[row] for shard in shards), source.edges, samples[row])
                for row, client in enumerate(clients)
            ]
        )

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """Return the sum of ``function(tile)`` over all tiles.

        Columns that are not in the object store are read in this process.
        """
        if _stored_source(columns) is None:
            return reduce_tiles(function, columns, self.tile_bytes)
        columns = self._in_shards(columns)
        calls = self._calls("reduce", reduce_shard, function, columns)
        submitted = list(submit(calls, self._tasks))
        sums = [parts[0] for parts in submitted]
        while len(sums) > 1:
            sums = [_add.remote(*group) for group in groups(sums, self.fanout)]
        total: S = fetch(sums[0])
        _count(fetch([parts[-1] for parts in submitted]))
        return total

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """Return the (d,) result joined from ``function(tile)``, and its counts' sum or None.

        Columns that are not in the object store are read in this process.
        """
        if _stored_source(columns) is None:
            return combine_tiles(function, columns, self.tile_bytes)
        columns = self._in_shards(columns)
        result = torch.empty(columns.shape[1], dtype=columns.dtype)
        counted: list[Tensor] = []
        start = 0
        calls = self._calls("combine", combine_shard, function, columns)
        for (part, counts), task_count in fetch_in_order(calls, self._tasks):
            _count([task_count])
            result.numpy()[start : start + len(part)] = part
            start += len(part)
            if counts is not None:
                counted.append(counts)
        return result, reduce(add, counted) if counted else None

    def _in_shards(self, columns: Columns) -> Columns:
        """Return columns whose stored source is cut into shards that a task can read."""
        if isinstance(columns, MappedColumns | StackedColumns):
            return replace(columns, source=self._in_shards(columns.source))
        assert isinstance(columns, StoredUpdates)
        edges = shard_edges(*columns.shape, self.shard_bytes, self.tile_bytes)
        if columns.edges[1] <= 2 * edges[1]:  # cut for about as many updates
            return columns
        return recut(columns, edges, self._tasks)

    @property
    def _tasks(self) -> int:
        return self.at_once or cpus()

    def _calls(
        self, kind: str, work: Any, function: Any, columns: Columns, returns: int = 1
    ) -> Iterator[Callable[[], Any]]:
        """Yield a call for each shard, which submits the task that applies the function to it.

        The call returns references to the results of ``work``, and to what is counted of the task.
        """
        source = _stored_source(columns)
        assert source is not None
        shared = ray.put((function, self.tile_bytes))  # a function may hold an (m, n) matrix
        spread = {"scheduling_strategy": "SPREAD"} if _nodes() > 1 else {}
        for index, shard in enumerate(pairwise(source.edges)):
            layers = _layers(columns, shard)
            parts = [row.parts[index] for row in source.rows]
            yield partial(submit_measured, kind, returns, work, shared, layers, *parts, **spread)


def _stored_source(columns: Columns) -> StoredUpdates | None:
    """Return the stored updates that columns are computed from; None if there are none."""
    while isinstance(columns, MappedColumns | StackedColumns):
        columns = columns.source
    return columns if isinstance(columns, StoredUpdates) else None


def _layers(columns: Columns, span: tuple[int, int]) -> list[Layer]:
    """Return the layers between stored updates and columns, the lowest first, for one shard."""
    layers: list[Layer] = []
    while isinstance(columns, MappedColumns | StackedColumns):
        if isinstance(columns, MappedColumns):
            layers.append(partial(MappedColumns, function=columns.function, rows=columns.rows))
        else:  # a view would be sent with all of its vector
            below = tuple(row[slice(*span)].cpu().clone() for row in columns.below)
            layers.append(partial(StackedColumns, below=below))
        columns = columns.source
    return layers[::-1]


def _nodes() -> int:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] for node in nodes)


def _shard(layers: Sequence[Layer], rows: Sequence[Any]) -> Columns:
    columns: Columns = ShardColumns.of([[row] for row in rows])
    for layer in layers:
        columns = layer(columns)
    return columns


def reduce_shard(shared: tuple[Any, int], layers: Sequence[Layer], *rows: Any) -> Any:
    """Return the sum of a function of the tile over the tiles of one shard.

    Parameters
    ----------
    shared : tuple
        The function, and the bytes of a tile.
    layers : Sequence[Layer]
        Layers between the rows and the columns that the function sees.
    *rows : NDArray
        The shard's columns of each row.
    """
    function, tile_bytes = shared
    return reduce_tiles(function, _shard(layers, rows), tile_bytes)


def combine_shard(
    shared: tuple[Any, int], layers: Sequence[Layer], *rows: Any
) -> tuple[np.ndarray[Any, Any], Tensor | None]:
    """Return the result's columns of one shard and the counts' sum; see ``reduce_shard``."""
    function, tile_bytes = shared
    part, counts = combine_tiles(function, _shard(layers, rows), tile_bytes)
    return part.numpy(), counts


def rows_of_shard(shared: tuple[Any, int], layers: Sequence[Layer], *rows: Any) -> Any:
    """Return each row of one shard's columns, one alone if there is only one."""
    columns = _shard(layers, rows)
    computed = list(columns.tile(0, columns.shape[1]).numpy())
    return computed if len(computed) > 1 else computed[0]


def add_sums(*sums: Any) -> Any:
    """Return the sum of sums, from left to right."""
    return reduce(add, sums)


def _count(counts: Iterable[TaskCount]) -> None:
    for count in counts:
        TASKS.add(count)


_add = task(add_sums)
