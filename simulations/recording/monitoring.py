"""Record a run by the monitor while it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import psutil
from flwr.serverapp import Grid

from hqde_fl.monitor.exporters import Exporters, make_exporters
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.experiment.sections import MonitorSection
from hqde_fl.simulations.recording.exporting import exported

ROOT_VARIABLE = "HQDE_FL_MONITOR_ROOT"
"""Environment variable with the id of the process that started a run's processes."""


@runtime_checkable
class SamplesHosts(Protocol):
    """A Grid whose clients run on hosts that it can sample."""

    def sample_hosts(self, monitor: PerformanceMonitor) -> Callable[[], None]:
        """Let the monitor record the hosts; return a function that ends it."""
        ...


def monitored(out: Path, settings: MonitorSection, grid: Grid) -> AbstractContextManager[None]:
    """Record a block in ``monitor.jsonl`` and ``monitor.parquet``, if ``[monitor]`` is enabled.

    Parameters
    ----------
    out : Path
        The run directory.
    settings : MonitorSection
        The table ``[monitor]``.
    grid : Grid
        The Grid of the run's engine.

    Raises
    ------
    ConfigError
        If a library that an exporter needs is not installed; nothing has been recorded then.
    """
    if not settings.enabled:
        return nullcontext()
    return _recorded(
        out, settings, grid, make_exporters(settings.prometheus, settings.opentelemetry)
    )


@contextmanager
def _recorded(
    out: Path, settings: MonitorSection, grid: Grid, exporters: Exporters
) -> Iterator[None]:
    monitor = PerformanceMonitor(out, interval=settings.interval, root=_root())
    with ExitStack() as stack:
        if exporters:
            stack.enter_context(exported(exporters, monitor, out))
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
