"""A weighted mean of updates in which length buys no influence."""

from __future__ import annotations

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.geometry import Geometry


def bound_lengths(
    weights: Tensor, geometry: Geometry, longest: float, median: Tensor | None = None
) -> Tensor:
    """Return weights (n,) that sum to one, lowered for updates beyond a bound on their length.

    An update longer than ``longest`` median lengths counts as if it were that long. The weight that
    it loses goes to the geometric median of all updates, which is as robust as a rule can be. So as
    long as less than half of the clients are faulty, nothing they send moves the result arbitrarily
    far, whatever the weights are.

    Parameters
    ----------
    weights : Tensor
        (n,) float64, >= 0, with sum one.
    geometry : Geometry
        Distances and inner products of the updates.
    longest : float
        The bound, in median lengths; 0 for no bound.
    median : Tensor, optional
        (n,) weights of the geometric median; computed if not given.
    """
    lengths = geometry.norms()
    limit = longest * float(lengths.median())
    if longest == 0 or not bool((lengths > limit).any()):
        return weights
    kept = weights * shortening(lengths, limit)
    if median is None:
        median = GeometricMedian().weights(geometry)[0]
    return kept + (1 - kept.sum()) * median


def check_longest(rule: str, longest: float) -> None:
    """Raise ``ConfigError`` naming the rule if ``longest`` is negative or NaN."""
    if not longest >= 0:
        raise ConfigError(f"{rule} needs longest >= 0, found {longest}")


def normalised_weights(scores: Tensor) -> Tensor:
    """Return scores (n,) >= 0 divided by their sum; equal weights if all are zero."""
    largest = float(scores.max())
    if largest <= 0:
        return torch.full_like(scores, 1 / len(scores))
    scores = scores / largest  # their sum might overflow
    return scores / scores.sum()


def effective_clients(weights: Tensor) -> float:
    """Return 1 / sum of squared weights: n if all clients count the same, 1 if one counts alone."""
    return float(1 / (weights * weights).sum())
