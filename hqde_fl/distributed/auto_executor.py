"""Choose where updates are aggregated: in memory where they fit, else on Ray or from a file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import psutil
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import Executor, UpdateStore, default_executor
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.rules.tiling import Combined, S
from hqde_fl.updates import Columns, MappedColumns, StackedColumns
from hqde_fl.updates.update_file import UpdateFile, file_folder

_GROUP = Path("/sys/fs/cgroup")
"""Files of a container's memory limit."""


@final
@dataclass(frozen=True)
class AutoExecutor(Executor):
    """Aggregates in this process where a round's updates fit into memory, else from elsewhere.

    Before the replies of a round arrive, the size of all updates that are expected is compared with
    the free memory. If they do not fit, each update is moved as it arrives: into Ray's object store
    if this process is connected to a Ray, where ``MapReduce`` reads them, else into a temporary
    file that is mapped into memory. The results have the same bits as in memory.

    Parameters
    ----------
    memory : float, default=0.5
        Part of the free memory, in [0, 1], that the updates of a round may take in this process.
    folder : str, default=""
        Folder of that file, on a disk with room for all updates of a round. Empty: the system's
        folder for temporary files (``TMPDIR``), or ``/var/tmp`` if that one is in memory.
    """

    memory: float = 0.5
    folder: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.memory <= 1:
            raise ConfigError(f"AutoExecutor needs memory in [0, 1], found {self.memory}")
        if self.folder and not os.path.isdir(self.folder):
            raise ConfigError(f"AutoExecutor needs a folder that exists, found {self.folder!r}")

    def storage(
        self, n: int, d: int, dtype: torch.dtype, *, whole: bool = False, settled: bool = True
    ) -> UpdateStore | None:
        """Return a function that moves one update out of this process's memory; None if all fit.

        None also if the disk has no room for a file, but the memory has.

        Raises
        ------
        RunError
            If neither has.
        """
        size, free = n * d * dtype.itemsize, free_memory()
        if size <= self.memory * free:
            return None
        if settled and _has_ray():
            return _on_ray().storage(n, d, dtype, whole=whole)
        folder = self.folder or file_folder()
        if (room := shutil.disk_usage(folder).free) > size:
            return UpdateFile(n, d, dtype, folder)
        if size < free:
            return None
        raise RunError(
            f"the updates of a round take {size / 1e9:.1f} GB, found {free / 1e9:.1f} GB of free "
            f"memory and {room / 1e9:.1f} GB in {folder}: set AutoExecutor.folder "
            "(strategy.executor) to a folder of a larger disk"
        )

    def run(
        self,
        rule: Any,
        updates: Columns,
        cohort: Cohort,
        state: State,
        run_steps: Callable[..., Aggregate],
    ) -> Aggregate:
        """Return the aggregate of one round's updates, which are read where they are."""
        return _executor(updates).run(rule, updates, cohort, state, run_steps)

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """Return the sum of ``function(tile)`` over all tiles."""
        return _executor(columns).reduce(function, columns)

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """Return the (d,) result joined from ``function(tile)``, and its counts' sum or None."""
        return _executor(columns).combine(function, columns)


def free_memory() -> float:
    """Return the bytes of memory that this process may still take, within a container's limit."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no such file, or no limit ("max")
        limit = float((_GROUP / "memory.max").read_text())
        lines = (_GROUP / "memory.stat").read_text().splitlines()
        cached = sum(float(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        used = float((_GROUP / "memory.current").read_text()) - cached
        free = min(free, limit - used)
    return max(0.0, free)


def _executor(columns: Columns) -> Executor:
    """Return the executor that reads some columns where they are."""
    while isinstance(columns, MappedColumns | StackedColumns):
        columns = columns.source
    module = sys.modules.get("hqde_fl.distributed.stored_updates")
    if module is not None and isinstance(columns, module.StoredUpdates):
        return _on_ray()
    return default_executor(columns)


def _on_ray() -> Executor:
    from hqde_fl.distributed.mapreduce import MapReduce

    return MapReduce()


def _has_ray() -> bool:
    """Return True if this process is connected to a Ray, which is not imported for that."""
    ray: Any = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
