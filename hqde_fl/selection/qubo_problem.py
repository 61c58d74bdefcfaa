"""The choice of exactly k of n items as a quadratic problem over binary variables (QUBO)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hqde_fl.errors import ConfigError

Floats = NDArray[np.float64]
Pairs = Literal["mean", "sum"]
"""Measures of diversity: each item's mean diversity to the others chosen, or the sum over pairs."""


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the objective; the defaults are HQDE's coefficients.

    HQDE built its objective as a reward and minimised it. Here it is maximised: quality and
    diversity count for an item, cost against it.

    Parameters
    ----------
    quality : float
        Weight of an item's quality, >= 0.
    cost : float
        Weight of an item's cost, >= 0.
    diversity : float
        Weight of the diversity of two items, >= 0.
    pairs : "mean" or "sum"
        ``"mean"``: an item's diversity is its mean diversity to the others chosen, so that the
        weights mean the same for every k. ``"sum"``: every pair counts in full, as in HQDE.
    """

    quality: float = 10.0
    cost: float = 5.0
    diversity: float = 2.0
    pairs: Pairs = "mean"

    def __post_init__(self) -> None:
        check_weights("Weights", self)


def check_weights(owner: str, part: Any) -> None:
    """Raise ``ConfigError`` unless a part's ``quality`` and so on are weights of the objective."""
    for name in ("quality", "cost", "diversity"):
        value = getattr(part, name)
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{owner}.{name} must be a finite weight >= 0, found {value!r}")
    if part.pairs not in get_args(Pairs):
        raise ConfigError(f"{owner}.pairs must be 'mean' or 'sum', found {part.pairs!r}")


HQDE = Weights(pairs="sum")
"""HQDE's objective: quality x 10 - cost x 5 for each item, diversity x 2 for each pair."""


@dataclass(frozen=True, eq=False)
class SubsetProblem:
    """The choice of the ``size`` items for which the objective is largest.

    The objective of a subset S is the sum of ``linear[i]`` over S and of ``pairs[i, j]`` over the
    pairs i < j in S.

    Parameters
    ----------
    linear : array of n floats
        What each item counts.
    pairs : array of n x n floats
        What each pair counts; symmetric. The diagonal is ignored.
    size : int
        The number of items to choose, in [0, n].
    """

    linear: Floats
    pairs: Floats
    size: int

    def __post_init__(self) -> None:
        linear = np.array(self.linear, dtype=np.float64)
        pairs = np.array(self.pairs, dtype=np.float64)
        n = len(linear) if linear.ndim == 1 else -1
        if pairs.shape != (n, n):
            raise ConfigError(
                f"a subset problem needs n linear and n x n pair values, found shapes "
                f"{linear.shape} and {pairs.shape}"
            )
        np.fill_diagonal(pairs, 0.0)
        if not (np.isfinite(linear).all() and np.isfinite(pairs).all()):
            raise ConfigError("a subset problem needs finite values, found NaN or infinity")
        if not np.array_equal(pairs, pairs.T):
            raise ConfigError("a subset problem needs a symmetric matrix of pairs")
        if not 0 <= self.size <= n:
            raise ConfigError(f"size must be in [0, {n}], the number of items, found {self.size}")
        object.__setattr__(self, "linear", linear)
        object.__setattr__(self, "pairs", pairs)

    @classmethod
    def of(
        cls,
        quality: ArrayLike,
        cost: ArrayLike,
        diversity: ArrayLike,
        size: int,
        weights: Weights | None = None,
    ) -> Self:
        """Return the problem of items with a quality, a cost and pairwise diversity.

        Parameters
        ----------
        quality, cost : array of n floats
            Of each item.
        diversity : array of n x n floats
            Of each pair; symmetric.
        size : int
            The number of items to choose.
        weights : Weights, optional
            What the three count.
        """
        weights = weights or Weights()
        linear = weights.quality * np.asarray(quality, dtype=np.float64)
        linear = linear - weights.cost * np.asarray(cost, dtype=np.float64)
        scale = 1.0 if weights.pairs == "sum" else 2.0 / max(1, size - 1)
        return cls(linear, scale * weights.diversity * np.asarray(diversity, np.float64), size)

    @property
    def items(self) -> int:
        """The number of items to choose from."""
        return len(self.linear)

    def value(self, chosen: Sequence[int] | NDArray[Any]) -> float:
        """Return the objective of a subset, which may have any size."""
        rows = np.asarray(chosen, dtype=np.intp)
        pairs = self.pairs[np.ix_(rows, rows)].sum() / 2
        return float(self.linear[rows].sum() + pairs)

    def gains(self, chosen: Sequence[int] | NDArray[Any]) -> Floats:
        """Return what each item adds to a subset, or would take from it by leaving."""
        rows = np.asarray(chosen, dtype=np.intp)
        gains: Floats = self.linear + self.pairs[rows].sum(axis=0)
        return gains

    def reordered(self, order: NDArray[np.intp]) -> Self:
        """Return the same problem with its items in another order."""
        return type(self)(self.linear[order], self.pairs[np.ix_(order, order)], self.size)

    def after(self, chosen: Sequence[int], rest: Sequence[int]) -> Self:
        """Return the problem of the items ``rest`` once the items ``chosen`` are settled."""
        rows = np.asarray(rest, dtype=np.intp)
        linear, pairs = self.gains(chosen)[rows], self.pairs[np.ix_(rows, rows)]
        return type(self)(linear, pairs, self.size - len(chosen))
