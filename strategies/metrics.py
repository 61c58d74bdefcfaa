"""Metrics that clients and the server report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import MetricRecord


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the clients that report it, by name in sorted order."""
    names = sorted({name for reported in metrics for name in reported})
    values = {name: [reported[name] for reported in metrics if name in reported] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def scalar_metrics(metrics: MetricRecord) -> dict[str, float]:
    """Return the metrics that are single numbers; lists are left out."""
    return {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}
