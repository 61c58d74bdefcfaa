"""The metrics of a run that Prometheus and OpenTelemetry publish: their names and their values.

Names follow OpenTelemetry; Prometheus has ``_`` for ``.`` and the unit at the end. No metric is
labelled by client or by round, so that a run of any size has about a hundred series.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hqde_fl.monitor.schema import (
    Gpu,
    Host,
    Metric,
    Record,
    Reply,
    ResourceSample,
    Sent,
    Span,
    Start,
)

OUTCOMES = ("kept", "filtered", "rejected", "failed", "late", "missing", "skipped")

MAX_NAMES = 200
"""Different names of the user's own training metrics that are published."""

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A metric.

    Parameters
    ----------
    kind : str
        ``gauge``, or ``counter`` for what only grows.
    help : str
        One sentence about it.
    unit : str
        ``s``, ``By``, ``1`` for a ratio, or empty for a number of things.
    labels : tuple[str, ...]
        The names of its labels.
    """

    kind: Literal["gauge", "counter"]
    help: str
    unit: str = ""
    labels: Labels = ()


FAMILIES: dict[str, Family] = {
    "round": Family("gauge", "The last completed round."),
    "rounds": Family("gauge", "The number of the last round that is to be run."),
    "rounds.completed": Family("counter", "Rounds completed."),
    "rounds.void": Family("counter", "Rounds without an aggregate."),
    "rounds.duration": Family("counter", "Wall time of the completed rounds.", "s"),
    "privacy.epsilon": Family("gauge", "The epsilon that the run has spent.", "1"),
    "server.metric": Family(
        "gauge", "Metrics of the global model after the last round.", labels=("metric",)
    ),
    "clients.metric": Family(
        "gauge", "Means of the clients' metrics in the last round.", labels=("metric",)
    ),
    "training.metric": Family("gauge", "Last values of training metrics.", labels=("metric",)),
    "updates": Family("counter", "Clients that were asked to train.", labels=("outcome",)),
    "messages": Family(
        "counter", "Size of the serialised training messages and replies.", "By", ("direction",)
    ),
    "clients.in_flight": Family(
        "gauge", "Clients that were sent a message and have not replied.", labels=("task",)
    ),
    "phases.duration": Family("counter", "Time of the phases of rounds.", "s", ("phase",)),
    "clients.phases.duration": Family(
        "counter", "Time of the phases of clients, over all clients.", "s", ("phase",)
    ),
    "pool.tasks": Family("counter", "Tasks that ran on Ray.", "", ("task",)),
    "pool.duration": Family("counter", "Time of the tasks that ran on Ray.", "s", ("task",)),
    "pool.size": Family("counter", "Bytes of replies, and read by tasks.", "By", ("task",)),
    "pool.reruns": Family("counter", "Clients that ran again.", "", ("task",)),
    "cpu.in_use": Family(
        "gauge", "CPU cores in use, by the run's processes and on the host.", "", ("host", "of")
    ),
    "cpu.time": Family("counter", "CPU time of the run's processes.", "s", ("host",)),
    "cpu.cores": Family("gauge", "CPU cores of the host.", "", ("host",)),
    "memory": Family(
        "gauge", "Memory in use, by the run's processes and on the host.", "By", ("host", "of")
    ),
    "memory.size": Family("gauge", "Main memory of the host.", "By", ("host",)),
    "disk": Family(
        "counter", "Bytes that the run's processes read and wrote.", "By", ("host", "direction")
    ),
    "disk.free": Family("gauge", "Bytes left where the run directory is.", "By", ("host",)),
    "network": Family(
        "counter", "Bytes over all interfaces of the host.", "By", ("host", "direction")
    ),
    "gpu.utilization": Family("gauge", "Share of time in which it works.", "1", ("host", "gpu")),
    "gpu.memory": Family("gauge", "GPU memory in use.", "By", ("host", "gpu")),
}
"""The metrics by name; every name begins with ``PREFIX``."""

PREFIX = "hqde_fl."


class RunMetrics:
    """The present values of all metrics of a run; safe to use from several threads.

    Parameters
    ----------
    rounds : int
        The number of its last round.
    """

    def __init__(self, rounds: int) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in FAMILIES}
        self._flying: dict[str, set[int]] = {}
        self._set("rounds", rounds)
        self._set("round", 0)
        for name in ("rounds.completed", "rounds.void", "rounds.duration"):
            self._add(name, 0)
        for outcome in OUTCOMES:
            self._add("updates", 0, outcome)

    def values(self, name: str) -> dict[Labels, float]:
        """Return label values -> value of a metric."""
        with self._lock:
            return dict(self._values[name])

    def round(self, line: Mapping[str, Any]) -> None:
        """Add a line of ``rounds.jsonl``."""
        with self._lock:
            self._replace("server.metric", line["server"])
            if not line["round"]:
                return
            self._set("round", line["round"])
            self._add("rounds.completed", 1)
            self._add("rounds.void", bool(line.get("void")))
            self._add("rounds.duration", line["seconds"] or 0.0)
            if (epsilon := line.get("epsilon")) is not None:
                self._set("privacy.epsilon", epsilon)
            self._replace("clients.metric", {**line["clients-train"], **line["clients-evaluate"]})
            for outcome in OUTCOMES:
                self._add("updates", line[outcome], outcome)
            self._add("messages", line["bytes-down"], "to-clients")
            self._add("messages", line["bytes-up"], "from-clients")

    def pool(self, line: Mapping[str, Any]) -> None:
        """Add a line of ``pool.jsonl``."""
        counted = {"tasks": "tasks", "duration": "seconds", "size": "bytes", "reruns": "reruns"}
        with self._lock:
            for name, key in counted.items():
                self._add(f"pool.{name}", line[key], line["kind"])

    def record(self, record: Record) -> None:
        """Add a record of ``monitor.jsonl``."""
        with self._lock:
            match record:
                case Start():
                    self._flying.clear()
                case Host():
                    self._set("cpu.cores", record.cores, record.host)
                    self._set("memory.size", record.memory, record.host)
                case ResourceSample():
                    self._sample(record)
                case Span(parent="round"):
                    self._add("phases.duration", record.seconds, record.name)
                case Span(client=int()):
                    self._add("clients.phases.duration", record.seconds, record.name)
                case Metric():
                    self._metric(record)
                case Sent():
                    self._flying[record.task] = set(record.clients)
                    self._set("clients.in_flight", len(record.clients), record.task)
                case Reply():
                    flying = self._flying.setdefault(record.task, set())
                    flying.discard(record.client)
                    self._set("clients.in_flight", len(flying), record.task)

    def _metric(self, record: Metric) -> None:
        known = self._values["training.metric"]
        if (record.name,) in known or len(known) < MAX_NAMES:
            self._set("training.metric", record.value, record.name)

    def _sample(self, sample: ResourceSample) -> None:
        host = sample.host
        self._set("cpu.in_use", sample.cpu, host, "run")
        self._set("cpu.in_use", sample.host_cpu, host, "host")
        self._set("cpu.time", sample.cpu_seconds, host)
        self._set("memory", sample.memory, host, "run")
        self._set("memory", sample.host_memory, host, "host")
        self._set("disk.free", sample.disk_free, host)
        for name, direction, rate in (
            ("disk", "read", sample.read),
            ("disk", "written", sample.written),
            ("network", "received", sample.received),
            ("network", "sent", sample.sent),
        ):
            if rate is not None:
                self._add(name, rate * sample.seconds, host, direction)
        for index, gpu in enumerate(sample.gpus):
            self._gpu(gpu, host, str(index))

    def _gpu(self, gpu: Gpu, *labels: str) -> None:
        self._set("gpu.utilization", gpu.utilisation, *labels)
        self._set("gpu.memory", gpu.memory, *labels)

    def _set(self, name: str, value: float | None, *labels: str) -> None:
        """Set a value; None or a value that is not finite removes it."""
        if value is None or not math.isfinite(value):
            self._values[name].pop(labels, None)
        else:
            self._values[name][labels] = float(value)

    def _add(self, name: str, value: float, *labels: str) -> None:
        values = self._values[name]
        values[labels] = values.get(labels, 0.0) + max(0.0, float(value))

    def _replace(self, name: str, metrics: Mapping[str, Any]) -> None:
        self._values[name].clear()
        for metric, value in metrics.items():
            self._set(name, value, metric)
