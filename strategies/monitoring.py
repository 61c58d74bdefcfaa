"""The callback that runs a monitor with a strategy, for Flower apps of your own."""

from __future__ import annotations

import os

from flwr.app import ArrayRecord

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.strategies.callbacks import Callback


class MonitorCallback(Callback):
    """Records a run with a ``PerformanceMonitor``, from its start to its end.

    Runs of experiments need none: ``[monitor]`` records them.

    Parameters
    ----------
    monitor : PerformanceMonitor, str or Path, optional
        The monitor, or the directory of a new one; by default a new one that keeps its records in
        memory.

    Attributes
    ----------
    monitor : PerformanceMonitor
        The monitor.
    """

    def __init__(self, monitor: PerformanceMonitor | str | os.PathLike[str] | None = None) -> None:
        if not isinstance(monitor, PerformanceMonitor):
            monitor = PerformanceMonitor(monitor)
        self.monitor = monitor

    def on_start(self, arrays: ArrayRecord, rounds: int) -> None:
        """Start the monitor."""
        self.monitor.start()

    def on_end(self, arrays: ArrayRecord) -> None:
        """Stop the monitor."""
        self.monitor.stop()

    def on_stop(self, error: BaseException) -> None:
        """Stop the monitor, and record why."""
        self.monitor.stop(f"{type(error).__name__}: {error}")
