"""Two clusters of numbers: where they part, and whether there are two rather than one."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from hqde_fl.seeding import Seeds

REFERENCES = 20
"""Uniform samples to which the gap statistic compares."""

LEAST = 1e-12
"""A sum of squares counts as at least this, in units of the squared range."""


def upper_cluster(values: Tensor) -> Tensor:
    """Return which numbers belong to the higher cluster by exact 2-means, (n,) bool; n >= 2."""
    ordered = np.sort(values.numpy())
    return values >= float(ordered[_split(ordered)])


def are_two_clusters(values: Tensor, seed: int, turn: int) -> bool:
    """Return whether numbers form two clusters rather than one.

    By the gap statistic (Tibshirani, Walther and Hastie, 2001) for one and two clusters; False if
    all are equal.

    Parameters
    ----------
    values : Tensor
        (n,) numbers, n >= 2.
    seed, turn : int
        Determine the uniform samples that they are compared to.
    """
    ordered = np.sort(values.numpy())
    spread = ordered[-1] - ordered[0]
    if not spread > 0:
        return False
    one, two = _spreads((ordered - ordered[0]) / spread)
    drawn = Seeds(seed).numpy("gap statistic", turn).random((REFERENCES, len(ordered)))
    logs = np.log([_spreads(np.sort(sample)) for sample in drawn])
    gaps = logs.mean(axis=0) - np.log([one, two])
    error = float(logs[:, 1].std()) * math.sqrt(1 + 1 / REFERENCES)
    return bool(gaps[0] < gaps[1] - error)


def _spreads(ordered: np.ndarray) -> tuple[float, float]:
    """Return the sums of squares about the means of one cluster and of two, at least ``LEAST``."""
    split = _split(ordered)
    parts = (ordered[:split], ordered[split:])
    two = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    one = float(((ordered - ordered.mean()) ** 2).sum())
    return max(one, LEAST), max(two, LEAST)


def _split(ordered: np.ndarray) -> int:
    """Return the index at which sorted numbers are divided into two clusters of least squares."""
    n = len(ordered)
    sizes = np.arange(1, n)
    below = np.cumsum(ordered)[:-1]
    total = ordered.sum()
    # the least sum of squares about two means is the largest sum of squared sums over sizes
    between = below**2 / sizes + (total - below) ** 2 / (n - sizes)
    return int(between.argmax()) + 1
