"""Mean ranks of rules over conditions, Friedman's test and Nemenyi's critical difference.

J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.seeding import Seeds

MIN_CONDITIONS = 5
"""Fewest conditions for a test of the ranks."""

RESAMPLES = 9_999

ALPHA = 0.05


@dataclass(frozen=True)
class MeanRanks:
    """The ranks of some rules, averaged over conditions; rank 1 is the best.

    Parameters
    ----------
    ranks : Mapping[str, float]
        Rule -> its mean rank, the best first. Rules with equal values share the mean of their
        ranks.
    conditions : int
        Number of conditions.
    p : float or None
        p-value of Friedman's test, by permutation of the ranks within each condition, of the
        hypothesis that no rule is better than another; None of fewer than ``MIN_CONDITIONS``
        conditions.
    critical_difference : float or None
        Nemenyi's critical difference at 5 %: rules whose mean ranks differ by less are not told
        apart. None where ``p`` is.
    """

    ranks: Mapping[str, float]
    conditions: int
    p: float | None
    critical_difference: float | None


def mean_ranks(badness: Mapping[str, Sequence[float]]) -> MeanRanks | None:
    """Return the mean ranks of rules.

    Parameters
    ----------
    badness : Mapping[str, Sequence[float]]
        Rule -> one number for each condition, the same conditions for all; less is better.

    Returns
    -------
    MeanRanks or None
        None without a condition, or with fewer than two rules.
    """
    from scipy import stats

    count = len(next(iter(badness.values()), ()))
    if len(badness) < 2 or not count:
        return None
    ranks = stats.rankdata(np.array(list(badness.values()), dtype=float), axis=0)
    means = dict(zip(badness, ranks.mean(axis=1).tolist(), strict=True))
    ordered = dict(sorted(means.items(), key=lambda pair: pair[1]))
    if count < MIN_CONDITIONS:
        return MeanRanks(ordered, count, None, None)
    return MeanRanks(ordered, count, _friedman(ranks), _critical_difference(len(badness), count))


def _friedman(ranks: NDArray[Any]) -> float:
    """Return the p-value of Friedman's test of ranks (rules, conditions), by permutation."""
    from scipy import stats

    def spread(*samples: NDArray[Any], axis: int) -> NDArray[Any]:
        sums = [np.sum(sample, axis=axis) for sample in samples]
        return np.asarray(sum(np.square(total) for total in sums))

    result = stats.permutation_test(
        list(ranks),
        spread,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=256,
        alternative="greater",
        rng=Seeds(0).numpy("friedman"),
    )
    return float(result.pvalue)


def _critical_difference(rules: int, conditions: int) -> float:
    from scipy import stats

    quantile = float(stats.studentized_range.ppf(1 - ALPHA, rules, inf)) / sqrt(2)
    return quantile * sqrt(rules * (rules + 1) / (6 * conditions))
