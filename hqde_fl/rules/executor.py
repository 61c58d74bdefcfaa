"""Executors: this thread, several threads or a torch device read the tiles of some columns.

An executor has two verbs: ``reduce`` sums a function of the tile over all tiles, ``combine`` writes
a function of the tile into the result's columns. Every rule runs on every executor, also on that of
``distributed.mapreduce``, which reads updates in tasks on Ray.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.rules.tiling import Combined, S, combine_tiles, reduce_tiles
from hqde_fl.updates import TILE_BYTES, Columns
from hqde_fl.updates.received_updates import ReceivedModel, StoredUpdate

MIN_THREADED_NUMBERS = 1 << 21
"""With fewer numbers in all updates, starting threads costs more than it saves."""


class UpdateStore(Protocol):
    """A place for the updates of a round; its text names the place."""

    def __call__(
        self, client: int, update: Tensor | ReceivedModel
    ) -> Tensor | ReceivedModel | StoredUpdate:
        """Return the update of the client with an id as it is stored."""
        ...


class Executor(ABC):
    """Applies a function to every tile of some columns."""

    @abstractmethod
    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """Return the sum of ``function(tile)`` over all tiles."""

    @abstractmethod
    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """Return the (d,) result joined from ``function(tile)``, and its counts' sum or None."""

    def run(
        self,
        rule: Any,
        updates: Columns,
        cohort: Cohort,
        state: State,
        run_steps: Callable[..., Aggregate],
    ) -> Aggregate:
        """Return the aggregate of one round's updates; call ``aggregate`` instead of this.

        Parameters
        ----------
        rule : Aggregator
            A rule, a chain or a tree.
        updates : Columns
            (n, d) finite updates.
        cohort : Cohort
            The n clients that sent them, with ``excused`` set.
        state : State
            The state that the rule returned last round; empty at first.
        run_steps : Callable[..., Aggregate]
            ``aggregation.run_steps``, which runs the rules that it consists of on an executor.
        """
        outcome: Aggregate = rule.run(updates, cohort, state, partial(run_steps, executor=self))
        return outcome

    def storage(
        self, n: int, d: int, dtype: torch.dtype, *, whole: bool = False, settled: bool = True
    ) -> UpdateStore | None:
        """Return a function that stores one client's update where this executor will read it.

        None, unless overridden: updates stay in this process.

        Parameters
        ----------
        n : int
            Number of updates that are expected.
        d : int
            Numbers in an update.
        dtype : torch.dtype
            Their dtype.
        whole : bool, default=False
            True if the rule reads a few updates at a time, whole, as a tree's nodes do; False if it
            reads all of them, a tile of columns at a time.
        settled : bool, default=True
            False if this process may look at whole updates before the rule does, to settle the
            roles of entries; then they must stay a ``Tensor`` or ``ReceivedModel``.
        """
        return None


@dataclass(frozen=True)
class SerialExecutor(Executor):
    """Reads one tile after the other in this thread.

    Parameters
    ----------
    tile_bytes : int, default=2 MiB
        Bytes of one float64 tile.
    """

    tile_bytes: int = TILE_BYTES

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """Return the sum of ``function(tile)`` over all tiles."""
        return reduce_tiles(function, columns, self.tile_bytes)

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """Return the (d,) result joined from ``function(tile)``, and its counts' sum or None."""
        return combine_tiles(function, columns, self.tile_bytes)


@dataclass(frozen=True)
class ThreadedExecutor(Executor):
    """Reads stripes of tiles on several threads.

    Parameters
    ----------
    threads : int, default=0
        The number of threads; 0 for as many as torch is set to use.
    tile_bytes : int, default=2 MiB
        Bytes of one float64 tile; each thread holds one at a time.
    """

    threads: int = 0
    tile_bytes: int = TILE_BYTES

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"ThreadedExecutor needs threads >= 0, found {self.threads}")

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """Return the sum of ``function(tile)`` over all tiles."""
        return reduce_tiles(function, columns, self.tile_bytes, self._count)

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """Return the (d,) result joined from ``function(tile)``, and its counts' sum or None."""
        return combine_tiles(function, columns, self.tile_bytes, self._count)

    @property
    def _count(self) -> int:
        return self.threads or one_library_thread.unlimited_threads()


@dataclass(frozen=True)
class TorchDevice(Executor):
    """Moves one tile after the other to a torch device and works on it there.

    Parameters
    ----------
    device : str, default="cuda"
        A name that torch knows: ``"cuda"``, ``"cuda:1"``, ``"cpu"`` and so on.
    tile_bytes : int, default=64 MiB
        Bytes of one float64 tile: accelerators want larger ones than a cache does.
    """

    device: str = "cuda"
    tile_bytes: int = 1 << 26

    def check(self) -> None:
        """Raise ``ConfigError`` unless this machine has the device, and it knows float64."""
        try:
            torch.zeros(1, dtype=torch.float64, device=self.device)
        except Exception as error:  # torch has no type of its own for it
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"TorchDevice.device must be one of this machine with float64, "
                f"found {self.device!r}: {reason}"
            ) from error

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """Return the sum of ``function(tile)`` over all tiles."""
        return reduce_tiles(function, columns, self.tile_bytes, device=torch.device(self.device))

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """Return the (d,) result on the columns' device, and its counts' sum on the CPU or None."""
        return combine_tiles(function, columns, self.tile_bytes, device=torch.device(self.device))


def default_executor(columns: Columns) -> Executor:
    """Return a threaded executor if the columns hold many numbers, else a serial one."""
    n, d = columns.shape
    return SerialExecutor() if n * d < MIN_THREADED_NUMBERS else ThreadedExecutor()
