"""Sums and peaks over the records of a monitor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hqde_fl.monitor.schema import Metric, Record, ResourceSample, Span


def summarize(records: Iterable[Record]) -> dict[str, Any]:
    """Return what records of one or several hosts come to.

    Returns
    -------
    dict[str, Any]
        ``seconds``: sampled time of the host with the most of it; ``cpu-seconds``: of the process
        trees of all hosts; ``peak-memory``: of a host's process tree; ``peak-gpu-memory`` and
        ``mean-gpu-utilisation``: of any GPU, and over all, None without one; ``spans`` and
        ``client-spans``: name -> seconds, summed over rounds, and over clients; ``metrics``:
        name -> last value.
    """
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    spans: dict[str, float] = {}
    client_spans: dict[str, float] = {}
    metrics: dict[str, float | None] = {}
    peak, gpu_memory, utilisation = 0, [], []
    for record in records:
        if isinstance(record, ResourceSample):
            seconds[record.host] = seconds.get(record.host, 0.0) + record.seconds
            cpu[record.host] = cpu.get(record.host, 0.0) + record.cpu * record.seconds
            peak = max(peak, record.memory)
            gpu_memory += [gpu.memory for gpu in record.gpus if gpu.memory is not None]
            utilisation += [g.utilisation for g in record.gpus if g.utilisation is not None]
        elif isinstance(record, Span):
            sums = spans if record.client is None else client_spans
            sums[record.name] = sums.get(record.name, 0.0) + record.seconds
        elif isinstance(record, Metric):
            metrics[record.name] = record.value
    return {
        "seconds": max(seconds.values(), default=0.0),
        "cpu-seconds": sum(cpu.values()),
        "peak-memory": peak,
        "peak-gpu-memory": max(gpu_memory, default=None),
        "mean-gpu-utilisation": sum(utilisation) / len(utilisation) if utilisation else None,
        "spans": spans,
        "client-spans": client_spans,
        "metrics": metrics,
    }
