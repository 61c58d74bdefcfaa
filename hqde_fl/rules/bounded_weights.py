"""A weighted mean of updates in which length buys no influence."""

from __future__ import annotations

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.geometry import Geometry


def bounded(
    weights: Tensor, geometry: Geometry, longest: float, median: Tensor | None = None
) -> Tensor:
    """Weights (n,) that still sum to one, and with which no update pulls beyond its bound.

    An update longer than ``longest`` median lengths counts as if it were that long. What its weight
    loses thereby goes to the geometric median of all updates, which is as robust as a rule can be.
    So as long as less than half of the clients are faulty, nothing they send moves the result
    arbitrarily far, however the weights came about.

    Parameters
    ----------
    weights : Tensor
        (n,) float64, none negative, sum one.
    geometry : Geometry
        Of the updates.
    longest : float
        In median lengths; 0 for no bound.
    median : Tensor, optional
        (n,) weights of the geometric median, if they are known already.
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
    """Raise ``ConfigError`` unless it is a number of median lengths, or 0."""
    if not longest >= 0:
        raise ConfigError(f"{rule} needs longest >= 0, found {longest}")


def shared(claims: Tensor) -> Tensor:
    """Claims (n,), none negative, over their sum; equal shares where nobody has a claim."""
    largest = float(claims.max())
    if largest <= 0:
        return torch.full_like(claims, 1 / len(claims))
    claims = claims / largest
    return claims / claims.sum()


def effective(weights: Tensor) -> float:
    """How many clients a weighted mean amounts to: 1 / sum of squares, n if all count the same."""
    return float(1 / (weights * weights).sum())
