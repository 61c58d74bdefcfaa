"""Metrics that clients and the server report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from flwr.app import MetricRecord


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the clients that report it, by name in sorted order."""
    names = sorted({name for reported in metrics for name in reported})
    values = {name: [reported[name] for reported in metrics if name in reported] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def spread_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how each metric is spread over the clients that report it, if several do.

    ``NAME-min`` and ``NAME-max`` are those of the worst and the best client, in whichever direction
    the metric is better, and ``NAME-variance`` is the variance over these clients: what the
    literature on fairness reports (Li et al. 2020, "Fair Resource Allocation in Federated
    Learning"). ``num-examples`` has none.
    """
    spread: dict[str, float] = {}
    for name in sorted({name for reported in metrics for name in reported} - {"num-examples"}):
        values = [reported[name] for reported in metrics if name in reported]
        if len(values) > 1:
            variance = statistics.pvariance(values) if all(map(math.isfinite, values)) else math.nan
            spread |= {
                f"{name}-min": min(values),
                f"{name}-max": max(values),
                f"{name}-variance": variance,
            }
    return spread


def scalar_metrics(metrics: MetricRecord) -> dict[str, float]:
    """Return the metrics that are single numbers; lists are left out."""
    return {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}
