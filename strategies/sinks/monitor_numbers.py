"""The numbers of a monitor, for sinks: phases of a round, training metrics, resources."""

from __future__ import annotations

import math
import threading

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Metric, Record, Span
from hqde_fl.monitor.spans import active_recorders


class MonitorNumbers:
    """Collects what is recorded in this process between two rounds.

    It is a recorder for ``hqde_fl.monitor.spans.activate``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, float] = {}

    def add(self, record: Record) -> None:
        """Take a record."""
        with self._lock:
            match record:
                case Span(parent="round"):
                    key = f"phases/{record.name}"
                    self._numbers[key] = self._numbers.get(key, 0.0) + record.seconds
                case Metric(value=float(value)) if math.isfinite(value):
                    self._numbers[f"metrics/{record.name}"] = value

    def take(self) -> dict[str, float]:
        """Return what has been collected since the last call, and the latest resources.

        Returns
        -------
        dict[str, float]
            ``phases/NAME``: seconds; ``metrics/NAME``: the last value; ``resources/...``: of the
            run's processes on this host, if a ``PerformanceMonitor`` is active.
        """
        with self._lock:
            numbers, self._numbers = self._numbers, {}
        return numbers | _resources()


def _resources() -> dict[str, float]:
    """Return the resources in the latest sample of the active monitor; none without one."""
    monitors = [one for one in active_recorders() if isinstance(one, PerformanceMonitor)]
    sample = monitors[0].latest if monitors else None
    if sample is None:
        return {}
    numbers = {"cpu-cores": sample.cpu, "memory-bytes": float(sample.memory)}
    for index, gpu in enumerate(sample.gpus):
        if gpu.utilisation is not None:
            numbers[f"gpu-{index}-utilisation"] = gpu.utilisation
        if gpu.memory is not None:
            numbers[f"gpu-{index}-memory-bytes"] = float(gpu.memory)
    return {f"resources/{name}": value for name, value in numbers.items()}
