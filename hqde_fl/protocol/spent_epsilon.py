"""The epsilon that a client reports to have spent, which nobody can verify."""

from __future__ import annotations

import math
from collections.abc import Mapping

EPSILON = "epsilon"
"""Metric of a reply to a training message: the epsilon of all that the client has sent so far."""


def reported_epsilon(metrics: Mapping[str, float]) -> float | None:
    """Return the epsilon in a reply's metrics; None if there is none, or it is no such number."""
    value = metrics.get(EPSILON)
    return value if value is not None and math.isfinite(value) and value >= 0 else None
