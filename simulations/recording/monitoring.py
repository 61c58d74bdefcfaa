"""Record a run by the monitor while it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import psutil
from flwr.serverapp import Grid

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.experiment.sections import MonitorSection

ROOT_VARIABLE = "HQDE_FL_MONITOR_ROOT"
"""Environment variable with the id of the process that started a run's processes."""


@runtime_checkable
class SamplesHosts(Protocol):
    """A Grid whose clients run on hosts that it can sample."""

    def sample_hosts(self, monitor: PerformanceMonitor) -> Callable[[], None]:
        """Let the monitor record the hosts; return a function that ends it."""
        ...


@contextmanager
def monitored(out: Path, settings: MonitorSection, grid: Grid) -> Iterator[None]:
    """Record the block in ``monitor.jsonl`` and ``monitor.parquet``, if ``[monitor]`` is enabled.

    Parameters
    ----------
    out : Path
        The run directory.
    settings : MonitorSection
        The table ``[monitor]``.
    grid : Grid
        The Grid of the run's engine.
    """
    if not settings.enabled:
        yield
        return
    monitor = PerformanceMonitor(out, interval=settings.interval, root=_root())
    with ExitStack() as stack:
        if isinstance(grid, SamplesHosts):
            stack.callback(grid.sample_hosts(monitor))
        monitor.start()
        reason = "finished"
        try:
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            with uninterrupted():
                monitor.stop(reason)


def _root() -> int:
    """Return the process whose tree is the run: the one that started it, if it is our ancestor."""
    started_by = os.environ.get(ROOT_VARIABLE, "")
    with suppress(psutil.Error):
        if started_by in {str(parent.pid) for parent in psutil.Process().parents()}:
            return int(started_by)
    return os.getpid()
